"""Models that share a worker, in virtual time: lanes of their own, and together what takes the worker down."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable

import orjson
import pytest

from supervisor.core.payload import Inference
from supervisor.proxy.admission import QueueLimits
from supervisor.proxy.jobs import Reply, WorkerLost
from supervisor.proxy.refusals import Reason
from supervisor.proxy.served_model import ServedModel
from supervisor.proxy.worker_memory import Peaks
from tests.support.dispatching import Client, Sent, Worker, World, all_of
from tests.support.simulated_memory import LOADED, MIB

pytestmark = pytest.mark.looptime

GROUP = (ServedModel("a", group="g"), ServedModel("b", group="g"))


@contextlib.asynccontextmanager
async def together(*more: ServedModel, peaks: Peaks | None = None) -> AsyncIterator[World]:
    """A world with "a" and "b" in one process, and perhaps others."""
    made = World((*GROUP, *more), QueueLimits(), peaks)
    try:
        yield made
    finally:
        await made.dispatcher.close()


class Process:
    """The one worker of "a" and "b": a part that kills takes all down; the next one is up at once.

    `deaths` has the rows that killed, and what the other model had there.
    """

    def __init__(self, w: World, dies: Callable[[Sent], bool]) -> None:
        self.w, self.dies = w, dies
        self.deaths: list[tuple[list[str], int]] = []
        self.workers: dict[str, Worker] = {}
        self.up()

    def up(self) -> None:
        self.workers = {}
        for model in "ab":
            self.workers[model] = worker = self.w.up(model)
            worker.script = lambda sent, model=model: self.script(model, sent)  # type: ignore[misc]

    def script(self, model: str, sent: Sent) -> Reply | None:
        """The connection breaks first; that the process has ended is known a little later."""
        if not self.dies(sent):
            return None
        beside = sum(len(worker.running) for name, worker in self.workers.items() if name != model)
        self.deaths.append((sent.rows, beside))
        self.w.loop.call_later(0.01, self.bury)
        raise WorkerLost("reset", sent=True)

    def bury(self) -> None:
        for model in "ab":
            self.w.dispatcher.detach(model)
        self.up()


async def test_requests_of_one_model_wait_for_nobody_elses_batch() -> None:
    """A part of 100 s of one model: the other's requests go in and out meanwhile, with a window of their own."""
    async with together() as w:
        w.order(16, 1)
        w.up("a", seconds=100)
        w.up("b", seconds=0.1)
        slow = w.ask("a", 16)
        await asyncio.sleep(1)
        quick = [w.ask("b", 3, name=f"q{i}.") for i in range(20)]
        await all_of(*quick)
        assert all(client.right for client in quick)
        assert not slow.done
        await slow
        w.check_empty()


@pytest.mark.parametrize("window", [1, 2])
async def test_only_the_input_that_kills_is_blamed(window: int) -> None:
    """Nobody knows which model took the process down, so suspects are alone in it: who was there by chance is answered.

    The other model is busy all the time, and all of its requests are answered, too.
    """
    async with together() as w:
        w.order(4, window)
        process = Process(w, lambda sent: "bad0" in sent.rows)
        bad = w.ask("a", name="bad")
        neighbours = [w.ask("a", 3, name=f"n{i}.") for i in range(3)]
        bystanders = []
        while not bad.done:
            bystanders.append(w.ask("b", name=f"b{len(bystanders)}."))
            await asyncio.sleep(0.3)
        await all_of(*neighbours, *bystanders)
        assert bad.refusal.reason is Reason.POISON_INPUT
        assert [c.task for c in (*neighbours, *bystanders) if not c.right] == [], process.deaths
        assert [beside for _, beside in process.deaths[1:]] == [0] * len(process.deaths[1:])
        assert process.deaths[-1][0] == ["bad0"]
        w.check_empty()


async def test_nothing_is_sent_to_a_process_that_may_be_going_down() -> None:
    """A broken connection of one model is seen before the end of the process: meanwhile the others wait, too."""
    async with together() as w:
        w.order(4, 2)
        process = Process(w, lambda sent: sent.rows == ["bad0"])
        dying = process.workers["b"]
        bad = w.ask("a", name="bad")
        await asyncio.sleep(1.005)
        assert process.deaths
        late = w.ask("b", name="late")
        await w.settle()
        assert not dying.sent
        await late
        assert late.right
        lanes = {lane.model.name: lane for lane in w.dispatcher._lanes}
        assert not lanes["b"].suspects.known
        await bad
        assert bad.refusal.reason is Reason.POISON_INPUT


async def test_both_models_may_have_a_bad_input_at_once() -> None:
    """Suspects of two models take turns: each is found, nobody else is blamed, nothing waits for ever."""
    async with together() as w:
        w.order(4, 2)
        Process(w, lambda sent: any(row.startswith("bad") for row in sent.rows))
        bad = [w.ask("a", name="bad"), w.ask("b", name="badly")]
        good = [w.ask(model, 2, name=f"{model}{i}.") for model in "ab" for i in range(4)]
        await all_of(*bad, *good)
        assert [client.refusal.reason for client in bad] == [Reason.POISON_INPUT] * 2
        assert all(client.right for client in good)
        w.check_empty()


async def test_bystanders_of_a_known_death_are_no_suspects() -> None:
    """The watchdog knows which model stands still: the other one's parts come back as from a drained worker."""
    async with together() as w:
        w.order(4, 2)
        w.up("a", seconds=1000)
        w.up("b", seconds=5)
        stuck, innocent = w.ask("a"), w.ask("b", 2)
        await asyncio.sleep(1)
        await w.dispatcher.drain("b", 0)  # what the pool does with the others of a dead worker
        w.dispatcher.detach("a")
        w.dispatcher.detach("b")
        lanes = {lane.model.name: lane for lane in w.dispatcher._lanes}
        assert len(lanes["a"].suspects.known) == 1
        assert not lanes["b"].suspects.known
        for model in "ab":
            w.up(model)
        await all_of(stuck, innocent)
        assert stuck.right
        assert innocent.right
        w.check_empty()


async def test_who_waits_for_a_suspect_goes_on_when_its_client_leaves() -> None:
    """A suspect waits for an empty process, the others wait for it: when it is gone, they are not left waiting."""
    async with together() as w:
        w.order(1, 1)
        process = Process(w, lambda sent: sent.rows == ["bad0"])
        bad = w.ask("a", name="bad")
        await asyncio.sleep(1.001)
        assert process.deaths
        process.dies = lambda sent: False
        first = w.ask("b", name="first")
        process.workers["b"].seconds = 10
        second = w.ask("b", name="second")
        await asyncio.sleep(1)
        bad.leave()
        await all_of(first, second)
        assert first.right
        assert second.right


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_kills_everybody_gets_an_answer(seed: int) -> None:
    """Random requests, deaths and leaving clients of both models: each has its answer or is rightly blamed."""
    chance = random.Random(seed)
    async with together(ServedModel("c")) as w:
        w.order(4, 2)
        w.up("c")
        lives = [1]

        def dies(sent: Sent) -> bool:
            by_chance = lives[0] > 0 and chance.random() < 0.1
            lives[0] -= by_chance
            return by_chance or "bad0" in sent.rows

        Process(w, dies)
        clients: list[Client] = []
        for number in range(40):
            name = "bad" if chance.random() < 0.05 else f"n{number}."
            clients.append(w.ask(chance.choice("abc"), chance.choice([1, 1, 3, 9]), name=name))
            await asyncio.sleep(chance.choice([0, 0.2, 1]))
            if chance.random() < 0.05:
                clients.pop().leave()
        async with asyncio.timeout(600):
            await all_of(*clients)
        for client in clients:
            assert client.right or (client.name == "bad" and client.refusal.reason is Reason.POISON_INPUT), client.task
        await asyncio.sleep(30)  # what was sent of those that left is answered, too
        w.check_empty()


class SharedMemory:
    """The peaks of the one process: what runs of either model takes so many bytes for each row."""

    def __init__(self, per_row: dict[str, int]) -> None:
        self.per_row = per_row
        self.running: dict[int, int] = {}
        self.highest = 0

    def place(self, worker: Worker, seconds: float) -> None:
        """This model's parts take memory from now on."""

        def takes(sent: Sent) -> float:
            self.running[id(sent)] = len(sent.rows) * self.per_row[worker.endpoint.model]
            self.highest = max(self.highest, self._held())
            return seconds

        def script(sent: Sent) -> Reply | None:
            del self.running[id(sent)]
            return None

        worker.takes, worker.script = takes, script

    def _held(self) -> int:
        return LOADED + sum(self.running.values())

    def start(self, pid: int) -> int | None:
        self.highest = self._held()
        return self.highest

    def peak(self, pid: int) -> int | None:
        return max(self.highest, self._held())

    def level(self, pid: int) -> int | None:
        return self._held()

    def forget(self, pid: int) -> None:
        """Nothing is remembered here."""


async def test_what_a_part_takes_is_measured_while_the_other_model_is_idle() -> None:
    """Both have the same process: a part that shares it with another model's tells nothing of what it takes itself."""
    memory = SharedMemory({"a": MIB, "b": 400 * MIB})
    async with together(peaks=memory) as w:
        for model, seconds in (("a", 0.3), ("b", 0.7)):
            memory.place(w.up(model), seconds)
        clients = []
        for second in range(60):
            w.order(4, 1, room=64 << 30, last=64 << 30, ever=64 << 30)
            clients += [w.ask("a", raw=orjson.dumps({"model": "a", "input": ["x" * 500]})) for _ in range(2)]
            if second % 3:
                clients.append(w.ask("b", raw=orjson.dumps({"model": "b", "input": ["y" * 500]})))
            await asyncio.sleep(1)
        await all_of(*clients)
        (learned,) = (lane.room._memory[Inference.EMBEDDINGS] for lane in w.dispatcher._lanes if lane.model.name == "a")
        predicted = learned.predict(1, 500)
        assert predicted is not None
        assert predicted < 100 * MIB
        w.check_empty()


async def test_a_trial_has_the_process_for_itself_and_gets_its_turn() -> None:
    """A row that has to be tried first waits for the other model's parts, and these, however many, wait for it."""
    memory = SharedMemory({"a": MIB, "b": 100 * MIB})
    async with together(peaks=memory) as w:
        for model in "ab":
            memory.place(w.up(model), 0.2)
        w.order(4, 2, room=1 << 30, last=1 << 30, ever=1 << 30)
        long = w.ask("a", raw=orjson.dumps({"model": "a", "input": ["x" * 100_000]}))
        others: list[Client] = []
        alone: list[bool] = []
        while not long.done:
            others.append(w.ask("b", raw=orjson.dumps({"model": "b", "input": ["y" * 50]})))
            w.order(4, 2, room=1 << 30, last=1 << 30, ever=1 << 30)
            trials = [sent for sent in w.workers[0].sent if len(sent.rows[0]) < 100_000]
            if len(trials) > len(alone):
                alone.append(not w.workers[1].running)
            await asyncio.sleep(0.05)
        assert long.right
        assert alone
        assert all(alone)
        await all_of(*others)
        assert all(client.right for client in others)
        w.check_empty()
