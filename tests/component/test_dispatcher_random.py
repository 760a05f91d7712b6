"""The dispatcher under random interleavings in virtual time: nothing hangs, nothing leaks, no answer is another's.

Each seed is one story of clients that come and leave, with keys and priorities of their own and rows that Infinity
refuses; of gates, sizes, a CPU hold beside busy neighbours; of workers that come up, drain, die, lose connections,
answer slowly, or in a way that can't be told apart. In any order, and often at the same instant.
"""

import asyncio
import random
from collections.abc import Callable

import orjson
import pytest

from supervisor.core.payload import Inference
from supervisor.proxy.dispatcher import QueueLimits, ServedModel
from supervisor.proxy.jobs import Reply, WorkerLost
from supervisor.proxy.refusals import Reason
from tests.support import fake_infinity
from tests.support.dispatching import Client, Sent, Worker, World

pytestmark = pytest.mark.looptime

MODELS = ("a", "b", "c")
# The workers of this one count tokens, not characters: nothing of theirs can be told apart.
TOKENS = "c"
# What may become of a request here besides its answer.
LEGITIMATE = {
    Reason.QUEUE_FULL,
    Reason.PREDICTED_WAIT,
    Reason.PAUSED,
    Reason.DEADLINE_EXCEEDED,
    Reason.WORKER_UNAVAILABLE,
    Reason.POISON_INPUT,  # two workers died under it by chance, while it was alone there
}
STORIES = 100
CORES = 2.0
REFUSED = Reply(400, b'{"error":{"message":"a bad row"}}', {"content-type": "application/json"})
OPTIONS: dict[Inference, list[dict[str, object]]] = {
    Inference.EMBEDDINGS: [{}, {}, {}, {"encoding_format": "base64"}, {"dimensions": 2}, {"user": "u"}],
    Inference.RERANK: [{}, {"top_n": 2}, {"return_documents": True}],
    Inference.CLASSIFY: [{}, {}, {"raw_scores": True}],
}


def in_tokens(answer: bytes, rows: int) -> bytes:
    """The answer to so many rows, its usage counting one token for each."""
    read = orjson.loads(answer)
    return orjson.dumps({**read, "usage": dict.fromkeys(read["usage"], rows)})


class Story:
    """One random story in one world."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        limits = QueueLimits(max_requests=60, max_wait=self.chance.choice([5.0, 60.0, 1000.0]))
        self.world = World(tuple(ServedModel(name) for name in MODELS), limits)
        self.clients: list[Client] = []
        self.drains: list[asyncio.Task[bool]] = []
        self.names = 0
        self.bad: set[str] = set()
        self.others = 0.0
        self.host = self.world.loop.create_task(self.cpu())

    async def run(self) -> None:
        """Things happen, then peace: every request that still has a client is answered."""
        acts = [self.come] * 8 + [self.leave, self.leave, self.gates, self.gates, self.up, self.up, self.up]
        acts += [self.down, self.drain, self.trouble, self.trickle, self.neighbours]
        for _ in range(60):
            self.chance.choice(acts)()
            if self.chance.random() < 0.6:
                await asyncio.sleep(self.chance.choice([0.0, 0.01, 0.3, 2.0]))
            await self.world.settle()
            self.world.loosened = False
            self.check_sums()
        await self.peace()

    async def end(self) -> None:
        """The host stands still, and nobody serves any more."""
        self.host.cancel()
        await self.world.dispatcher.close()

    async def cpu(self) -> None:
        """The host's cores, looked at ten times a second: each worker that runs something takes one, if it is free."""
        while True:
            await asyncio.sleep(0.1)
            own = min(CORES - self.others, float(sum(bool(worker.running) for worker in self.world.workers)))
            self.world.own_cpu += own * 0.1
            self.world.dispatcher.observe_cpu(own + self.others, CORES, self.world.now)

    # -- what may happen --------------------------------------------------------------------------------------------

    def come(self) -> None:
        """A few requests, now and then one with a deadline, a word about its urgency, or a row that is refused."""
        for _ in range(self.chance.choice([1, 1, 2, 5])):
            self.names += 1
            endpoint = self.chance.choice([*[Inference.EMBEDDINGS] * 3, Inference.RERANK, Inference.CLASSIFY])
            model, rows = self.chance.choice(MODELS), self.chance.choice([1, 1, 1, 2, 3, 7, 40])
            name = f"n{self.names}." + "x" * self.chance.choice([0, 0, 10, 300])
            client = self.world.ask(
                model,
                rows,
                name=name,
                within=self.chance.choice([None, None, None, 0.5, 5.0]),
                writing=self.chance.choice([0.0, 0.0, 0.4]),
                endpoint=endpoint,
                client=self.chance.choice(["", "shop", "archive"]),
                priority=self.chance.choice([None, None, "interactive", "normal", "bulk", "Nonsense"]),
                **self.chance.choice(OPTIONS[endpoint]),
            )
            if self.chance.random() < 0.1:
                self.bad.add(f"{name}{self.chance.randrange(rows)}")
                client.expected = b""
            elif model == TOKENS:
                client.expected = in_tokens(client.expected, rows)
            self.clients.append(client)

    def leave(self) -> None:
        """Somebody closes the connection, whether waiting, running or answered."""
        if self.clients:
            self.chance.choice(self.clients).leave()

    def gates(self) -> None:
        """Other orders."""
        batch, window = self.chance.choice([1, 2, 5, 16]), self.chance.choice([1, 2, 4])
        paused, closed = self.chance.random() < 0.3, self.chance.choice(["", "", "a", "bc"])
        seconds, hold = self.chance.choice([None, 0.05, 0.2]), self.chance.choice([None, None, 30.0, 83.0])
        self.world.order(batch, window, paused=paused, closed=closed, seconds=seconds, hold=hold)

    def neighbours(self) -> None:
        """Other programs use more of the host, or less."""
        self.others = self.chance.choice([0.0, 0.5, 1.7, 2.0])

    def trickle(self) -> None:
        """Paused, and one part may pass."""
        self.world.order(self.chance.choice([2, 5]), 1, paused=True, trickle=self.chance.choice([1, 2]))

    def up(self) -> None:
        """A worker comes up, or goes on after a drain, or is replaced."""
        worker = self.bring(self.chance.choice(MODELS), self.chance.choice([0.001, 0.01, 0.5, 3.0]))
        if self.chance.random() < 0.2:
            worker.script = self.clumsy(worker)
        elif self.chance.random() < 0.2:
            worker.script = self.muddled(worker)

    def bring(self, model: str, seconds: float) -> Worker:
        """A worker that refuses what is bad and counts as its model does."""
        worker = self.world.up(model, seconds)
        worker.script = lambda sent: self.judged(sent, model)
        return worker

    def judged(self, sent: Sent, model: str) -> Reply | None:
        """A refusal for a row that is refused, tokens where those are counted."""
        if not self.bad.isdisjoint(sent.rows):
            return REFUSED
        if model != TOKENS:
            return None
        answer = fake_infinity.answer(sent.endpoint.value, sent.body, model=model)[1]
        return Reply(200, in_tokens(answer, len(sent.rows)))

    def clumsy(self, worker: Worker) -> Callable[[Sent], Reply | None]:
        """A worker that loses a connection now and then."""

        def script(sent: Sent) -> Reply | None:
            if self.chance.random() < 0.2:
                raise WorkerLost("reset", sent=self.chance.random() < 0.5)
            return self.judged(sent, worker.endpoint.model)

        return script

    def muddled(self, worker: Worker) -> Callable[[Sent], Reply | None]:
        """A worker that now and then forgets a row where the rows are of several requests."""

        def script(sent: Sent) -> Reply | None:
            reply = self.judged(sent, worker.endpoint.model)
            if reply is not None or len({row.split(".")[0] for row in sent.rows}) == 1 or self.chance.random() < 0.5:
                return reply
            answer = orjson.loads(fake_infinity.answer(sent.endpoint.value, sent.body, model=worker.endpoint.model)[1])
            answer["data"].pop()
            return Reply(200, orjson.dumps(answer))

        return script

    def down(self) -> None:
        """A worker dies."""
        self.world.dispatcher.detach(self.chance.choice(MODELS))

    def drain(self) -> None:
        """A worker is to be stopped; whether it is then, is another matter."""
        model, stop = self.chance.choice(MODELS), self.chance.random() < 0.7

        async def unload() -> bool:
            drained = await self.world.dispatcher.drain(model, self.chance.choice([0.1, 2.0, 30.0]))
            if stop:
                self.world.dispatcher.detach(model)
            return drained

        self.drains.append(self.world.loop.create_task(unload()))

    def trouble(self) -> None:
        """Back-off, failure, or their end."""
        model = self.chance.choice(MODELS)
        if self.chance.random() < 0.3:
            self.world.dispatcher.available(model)
        else:
            self.world.dispatcher.unavailable(model, "no luck", self.chance.choice([1.0, 30.0, None]))

    # -- what must hold ---------------------------------------------------------------------------------------------

    def check_sums(self) -> None:
        """The figures are the sums over what is really there."""
        total = self.world.dispatcher.totals
        jobs = [c.job for c in self.clients if c.job is not None and not c.done]
        waiting = [job for job in jobs if job.waiting]
        assert total.queued_requests == len(waiting) == self.world.dispatcher.reserved[0]
        assert total.queued_bytes == self.world.dispatcher.reserved[1]
        assert total.queued_inputs == sum(piece.rows for job in waiting for piece in job.waiting)
        assert total.leases == sum(job.leased for job in jobs)
        assert total.inflight_inputs == sum(sum(w.running) for w in self.world.workers)
        self.world.check_lanes()

    async def peace(self) -> None:
        """Open gates, good workers: everybody gets an answer, and the right one; nothing is left.

        In one story of four it is a peace beside neighbours who use the whole host.
        """
        for model in MODELS:
            self.world.dispatcher.detach(model)
        await asyncio.gather(*self.drains)
        hold = 83.0 if self.chance.random() < 0.25 else None
        self.others = CORES if hold else 0.0
        self.world.order(16, 2, hold=hold)
        workers: list[Worker] = [self.bring(model, 1.0) for model in MODELS]
        outcomes = await asyncio.wait_for(
            asyncio.gather(*(c.task for c in self.clients), return_exceptions=True), timeout=500
        )
        reached = {row for worker in self.world.workers for sent in worker.sent for row in sent.rows}
        for client, outcome in zip(self.clients, outcomes, strict=True):
            if isinstance(outcome, asyncio.CancelledError):
                continue
            if isinstance(outcome, Reply):
                assert (outcome is REFUSED) is (not client.expected), client.name
                assert outcome is REFUSED or client.right, client.name
            else:
                assert client.refusal.reason in LEGITIMATE
                assert client.refusal.reason is not Reason.PREDICTED_WAIT or f"{client.name}0" not in reached
            if client.deadline is not None:
                assert client.told_at is not None
                assert client.told_at <= client.deadline + 0.05, client.name
        await asyncio.sleep(10)
        assert not any(worker.running for worker in workers)
        self.world.check_lanes()
        self.world.check_empty()


@pytest.mark.parametrize("seed", range(STORIES))
async def test_a_random_story_ends_well(seed: int) -> None:
    """Whatever happens in whatever order: sums hold at every step, and in the end everybody has what is right."""
    story = Story(seed)
    try:
        await story.run()
    finally:
        await story.end()


@pytest.mark.parametrize("seed", range(30))
async def test_requests_racing_an_idle_unload(seed: int) -> None:
    """25 unloads and reloads each, with requests at every instant around them: all are answered, none is refused."""
    chance = random.Random(seed)
    world = World()
    clients: list[Client] = []

    async def unload_and_load() -> None:
        while True:
            await asyncio.sleep(chance.uniform(0.0, 0.2))
            await world.dispatcher.drain("a", 30)
            await asyncio.sleep(chance.choice([0.0, 0.05]))
            world.dispatcher.detach("a")
            await asyncio.sleep(chance.choice([0.0, 0.1]))
            world.up(seconds=0.01)

    cycles = asyncio.create_task(unload_and_load())
    for _ in range(60):
        clients.append(world.ask(rows=chance.choice([1, 40])))
        await asyncio.sleep(chance.choice([0.0, 0.0, 0.03, 0.1, 0.2]))
    await asyncio.wait_for(asyncio.gather(*(c.task for c in clients)), timeout=100)
    cycles.cancel()
    assert all(c.right for c in clients)
    world.check_empty()
    await world.dispatcher.close()
