"""A thousand stories of requests, loads, unloads, crashes, reloads and clients that leave, in any order.

Everything behind the proxy's HTTP is the production code; only the clock and the worker programs are not real. What
must hold in each: nobody hangs, nobody gets a 5xx that is not due, no model has two processes but while a restart
brings up the next one, no answer is another's, no worker is stopped while it has parts, and in the end nothing is left.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervisor.config import Settings
from supervisor.config.load import load
from supervisor.core.model import ModelState
from supervisor.errors import SupervisorError
from supervisor.proxy.jobs import Reply
from supervisor.proxy.refusals import Reason, Refusal
from tests.support import virtual_loop
from tests.support.daemon import CPU_OFF
from tests.support.quiet_log import only_errors
from tests.support.simulated_house import Client, House, house
from tests.support.simulated_program import Programs, Script

STORIES, AT_ONCE = 1000, 50
# So many are told in any run, the others with --long: a story takes 40 to 70 ms.
USUALLY = 150
MODELS = ("a", "b", "c")
ALIAS = "also-b"
DRAIN_TIMEOUT = 30
# Crashes of one model in a story: so many in a row that the longest back-off stays below `max_wait`.
MOST_CRASHES = 4
# A fault of ours is logged, and the client gets an answer all the same.
OUR_FAULTS = ("tick_failed", "part_failed", "worker_task_failed", "worker_task_died")

Written = dict[str, Any]


def config(**more: Any) -> Written:
    """Three models with room for them."""
    models = [{"name": name, "model_id": "any/model", "engine": "debugengine", "device": "cpu"} for name in MODELS]
    models[1]["aliases"] = [ALIAS]
    base: Written = {
        "models": models,
        "infinity": {"start_timeout": 40, "drain_timeout": DRAIN_TIMEOUT, "stop_timeout": 5},
        "resource_monitor": {**CPU_OFF, "cpu_hold_target": None},
    }
    return {**base, **more}


def written() -> list[Written]:
    """What a reload may find: other time-outs, sizes, order, aliases, launch settings; one model less."""
    less, renamed, relaunched, other = config(), config(), config(), config()
    less["models"] = less["models"][:2]
    renamed["models"][1]["aliases"] = []
    relaunched["models"][2]["env"] = {"A": "1"}
    other["models"][0]["args"] = ["--no-model-warmup"]
    other["models"].reverse()
    return [
        config(),
        config(batch_controller={"max_batch_size": 4, "initial_batch_size": 2}),
        config(infinity={"start_timeout": 50, "drain_timeout": DRAIN_TIMEOUT, "stop_timeout": 6}),
        less,
        renamed,
        relaunched,
        other,
    ]


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Settings]]:
    """The settings by how many models may be in memory; the first of them is where a story begins."""
    folder = tmp_path_factory.mktemp("configs")

    def read(document: Written) -> Settings:
        path = folder / "supervisor.yaml"
        path.write_text(yaml.safe_dump(document))
        return load(path)

    rooms = {room: {"max_models_in_memory": room} for room in (2, 3)}
    return {
        room: [read({**each, "model_memory_manager": memory}) for each in written()] for room, memory in rooms.items()
    }


@pytest.fixture(autouse=True)
def log() -> Iterator[list[dict[str, Any]]]:
    """What goes wrong is told; nothing else."""
    with only_errors() as seen:
        yield seen
    assert [event for event in seen if event["event"] in OUR_FAULTS] == []


class Story:
    """One story: acts at random moments, then peace, in which everybody is answered; or a stop in the middle of it."""

    def __init__(self, it: House, chance: random.Random, configs: list[Settings], room: int) -> None:
        self.it, self.chance, self.configs, self.room = it, chance, configs, room
        self.clients: list[Client] = []
        self.operators: list[asyncio.Task[None]] = []
        self.crashes: Counter[str] = Counter()
        self.deaths: list[tuple[float, str]] = []
        self.stopped_at: float | None = None

    async def run(self) -> None:
        """Things happen, then peace, unless this is one of the stories that end at once."""
        acts = [self.come] * 10 + [self.leave, self.leave, self.load, self.unload, self.unload, self.restart]
        acts += [self.crash, self.crash, self.reload, self.reload]
        for _ in range(30):
            self.chance.choice(acts)()
            await asyncio.sleep(self.chance.choice([0.0, 0.0, 0.001, 0.02, 0.1, 0.4]))
            assert self.it.programs.faults == []
            loaded = {program.model for program in self.it.programs.alive()} & self.it.pool.views().keys()
            assert len(loaded) <= self.room
        if self.chance.random() < 0.8:
            await self.peace()
        self.stopped_at = self.it.loop.time()

    # -- what may happen ----------------------------------------------------------------------------------------------

    def come(self) -> None:
        """A few requests, some with a deadline, some whose answers take a while to write."""
        for _ in range(self.chance.choice([1, 1, 3])):
            name, rows = f"n{len(self.clients)}-", self.chance.choice([1, 1, 2, 20])
            client = self.it.ask(
                self.chance.choice([*MODELS, ALIAS]),
                [f"{name}{row}" for row in range(rows)],
                within=self.chance.choice([None, None, None, 0.5, 5.0]),
                writing=self.chance.choice([0.0, 0.0, 0.3]),
            )
            self.clients.append(client)

    def leave(self) -> None:
        """Somebody closes the connection, whether waiting, running or answered."""
        if self.clients:
            self.chance.choice(self.clients).task.cancel()

    def load(self) -> None:
        """An operator's load."""
        self._ordered(self.it.control.load(self.chance.choice(MODELS)))

    def unload(self) -> None:
        """An operator's unload."""
        model = self.chance.choice(MODELS)
        self._ordered(self.it.control.unload(model), gone=model)

    def restart(self) -> None:
        """An operator's restart: the next process may come up beside the one that serves."""
        model = self.chance.choice(MODELS)
        self._ordered(self.it.control.restart(model), beside=model)

    def reload(self) -> None:
        """The file has changed."""
        self.it.next = self.chance.choice(self.configs)
        self._ordered(self.it.control.reload())

    def crash(self) -> None:
        """A program ends by itself, or is killed by somebody."""
        alive = [program for program in self.it.programs.alive() if self.crashes[program.model] < MOST_CRASHES]
        if alive:
            program = self.chance.choice(alive)
            self.crashes[program.model] += 1
            self.deaths.append((self.it.loop.time(), program.model))
            program.end(self.chance.choice([1, -9]))

    def _ordered(self, outcome: Coroutine[Any, Any, Any], gone: str = "", beside: str = "") -> None:
        """An operator waits for the outcome; if it is good, what ran of the model `gone` has ended.

        Meanwhile the model `beside` may have a process more.
        """

        async def wait() -> None:
            before = self.it.programs.alive(gone) if gone else []
            self.it.programs.beside[beside] += 1
            try:
                await outcome
            except SupervisorError:
                return
            finally:
                self.it.programs.beside[beside] -= 1
            assert not any(program.alive for program in before)

        self.operators.append(asyncio.create_task(wait()))

    # -- what must hold -----------------------------------------------------------------------------------------------

    async def peace(self) -> None:
        """The first config again, what was given up is loaded by an operator: now everybody is answered, and anew."""
        self.it.next = self.configs[0]
        async with asyncio.timeout(300):
            await asyncio.gather(*self.operators)
            await self.it.control.reload()
            for name, view in self.it.pool.views().items():
                if view.state is ModelState.FAILED:
                    self._ordered(self.it.control.load(name))
            await asyncio.wait([client.task for client in self.clients] or [asyncio.create_task(asyncio.sleep(0))])
            last = [self.it.ask(model, [f"the last of {model}"]) for model in MODELS]
            await asyncio.wait([client.task for client in last])
            await asyncio.gather(*self.operators)
        for client in last:
            self.check(client)

    def check_all(self) -> None:
        """Everybody has what is right, or a refusal that is due."""
        assert self.it.programs.faults == []
        for task in self.operators:
            assert task.cancelled() or task.result() is None
        for client in self.clients:
            self.check(client)

    def check(self, client: Client) -> None:
        """One client: an answer of its own, a refusal that is due, or it left."""
        outcome = client.outcome
        if outcome is None:
            return
        model = "b" if client.model == ALIAS else client.model
        if isinstance(outcome, Reply):
            assert client.right(model), (client, outcome)
        else:
            assert self.is_due(client, model, outcome), (client, outcome.reason, str(outcome), self.it.states[model])
        if client.deadline is not None:
            assert client.told_at is not None
            assert client.told_at <= client.deadline + 0.01

    def is_due(self, client: Client, model: str, refusal: Refusal) -> bool:
        """Whether what happened while this client waited is a reason for this refusal."""
        assert client.told_at is not None
        since, until = client.arrived, client.told_at
        configured = self.it.was_configured(client.model, since, until)
        match refusal.reason:
            case Reason.UNKNOWN_MODEL:
                return not configured
            case Reason.DEADLINE_EXCEEDED | Reason.PREDICTED_WAIT:
                return client.deadline is not None
            case Reason.WORKER_UNAVAILABLE:
                backing_off = client.deadline is not None and self.it.was(model, ModelState.BACKOFF, since, until)
                given_up = self.it.was(model, ModelState.FAILED, since, until)
                # A model whose load failed makes nobody leave for a while, so it may find no place.
                alone = self.room < len(MODELS) and self.it.load_failed(model, until)
                return not configured or backing_off or given_up or alone
            case Reason.POISON_INPUT:
                return sum(name == model and since <= at <= until for at, name in self.deaths) >= 2
            case Reason.DRAINING:
                return self.stopped_at is not None and until >= self.stopped_at + DRAIN_TIMEOUT
        return False


def scripts(chance: random.Random) -> Programs:
    """Programs of many kinds: quick and slow, some that can't start, some whose end is seen late."""

    def script(model: str, number: int) -> Script:
        return Script(
            start=chance.choice([0.05, 0.3, 1.5]),
            fails=3 if chance.random() < 0.05 else None,
            part=chance.choice([0.005, 0.05, 0.5]),
            stop=chance.choice([0.01, 0.2]),
            dies=chance.choice([0.001, 0.02]),
            seen=chance.choice([0.0, 0.001, 0.05]),
            port_held=chance.choice([0.0, 0.0, 0.3]),
        )

    return Programs(script)


async def tell(seed: int, folder: Path, configs: dict[int, list[Settings]]) -> None:
    """One story, from an empty host to an empty host."""
    chance = random.Random(seed)
    room = chance.choice([2, 3, 3, 3])
    async with house(folder, configs[room][0], scripts(chance)) as it:
        story = Story(it, chance, configs[room], room)
        await story.run()
    for task in story.operators:
        task.cancel()  # by the admin API, which closes with the service
    async with asyncio.timeout(5):
        await asyncio.wait([*story.operators, *(client.task for client in story.clients)])
    story.check_all()
    assert it.programs.alive() == []
    assert it.pool._around.taken == set()
    total = it.dispatcher.totals
    assert (total.queued_requests, total.inflight_parts, total.leases, *it.dispatcher.reserved) == (0, 0, 0, 0, 0)
    await asyncio.sleep(1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    "first",
    [pytest.param(first, marks=[pytest.mark.long] * (first >= USUALLY)) for first in range(0, STORIES, AT_ONCE)],
)
def test_a_story_ends_well(first: int, tmp_path: Path, configs: dict[int, list[Settings]]) -> None:
    """Fifty stories, one after the other; a failure names its seed."""
    for seed in range(first, first + AT_ONCE):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            virtual_loop.run(tell(seed, folder, configs))
        except BaseException as error:
            error.add_note(f"in story {seed}")
            raise
