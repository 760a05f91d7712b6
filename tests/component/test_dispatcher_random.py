"""The dispatcher under random interleavings in virtual time: nothing hangs, nothing leaks, no answer is another's.

Each seed is one story of clients that come and leave, gates, batch sizes, workers that come up, drain, die, lose
connections and answer slowly, in any order and often at the same instant.
"""

import asyncio
import random

import pytest

from supervisor.core.payload import Inference
from supervisor.proxy.dispatcher import QueueLimits, ServedModel
from supervisor.proxy.jobs import Reply, WorkerLost
from supervisor.proxy.refusals import Reason
from tests.support.dispatching import Client, Sent, Worker, World

pytestmark = pytest.mark.looptime

MODELS = ("a", "b", "c")
# What may become of a request here besides its answer.
LEGITIMATE = {Reason.QUEUE_FULL, Reason.PAUSED, Reason.DEADLINE_EXCEEDED, Reason.WORKER_UNAVAILABLE}
STORIES = 100


class Story:
    """One random story in one world."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        limits = QueueLimits(max_requests=60, max_wait=self.chance.choice([5.0, 60.0, 1000.0]))
        self.world = World(tuple(ServedModel(name) for name in MODELS), limits)
        self.clients: list[Client] = []
        self.drains: list[asyncio.Task[bool]] = []
        self.names = 0

    async def run(self) -> None:
        """Things happen, then peace: every request that still has a client is answered."""
        acts = [self.come] * 8 + [self.leave, self.leave, self.gates, self.gates, self.up, self.up, self.up]
        acts += [self.down, self.drain, self.trouble, self.trickle]
        for _ in range(60):
            self.chance.choice(acts)()
            if self.chance.random() < 0.6:
                await asyncio.sleep(self.chance.choice([0.0, 0.01, 0.3, 2.0]))
            await self.world.settle()
            self.world.loosened = False
            self.check_sums()
        await self.peace()

    # -- what may happen --------------------------------------------------------------------------------------------

    def come(self) -> None:
        """A few requests, now and then one with a deadline."""
        for _ in range(self.chance.choice([1, 1, 2, 5])):
            self.names += 1
            endpoint = self.chance.choice([Inference.EMBEDDINGS, Inference.RERANK, Inference.CLASSIFY])
            self.clients.append(
                self.world.ask(
                    self.chance.choice(MODELS),
                    self.chance.choice([1, 1, 2, 3, 7, 40]),
                    name=f"n{self.names}.",
                    within=self.chance.choice([None, None, None, 0.5, 5.0]),
                    writing=self.chance.choice([0.0, 0.0, 0.4]),
                    endpoint=endpoint,
                )
            )

    def leave(self) -> None:
        """Somebody closes the connection, whether waiting, running or answered."""
        if self.clients:
            self.chance.choice(self.clients).leave()

    def gates(self) -> None:
        """Other orders."""
        batch, window = self.chance.choice([1, 2, 5, 16]), self.chance.choice([1, 2, 4])
        paused, closed = self.chance.random() < 0.3, self.chance.choice(["", "", "a", "bc"])
        self.world.order(batch, window, paused=paused, closed=closed)

    def trickle(self) -> None:
        """Paused, and one part may pass."""
        self.world.order(self.chance.choice([2, 5]), 1, paused=True, trickle=self.chance.choice([1, 2]))

    def up(self) -> None:
        """A worker comes up, or goes on after a drain, or is replaced."""
        worker = self.world.up(self.chance.choice(MODELS), self.chance.choice([0.001, 0.01, 0.5, 3.0]))
        if self.chance.random() < 0.2:
            worker.script = self.clumsy

    def clumsy(self, sent: Sent) -> Reply | None:
        """A worker that loses a connection now and then."""
        if self.chance.random() < 0.2:
            raise WorkerLost("reset", sent=self.chance.random() < 0.5)
        return None

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

    async def peace(self) -> None:
        """Open gates, good workers: everybody gets an answer, and the right one; nothing is left."""
        for model in MODELS:
            self.world.dispatcher.detach(model)
        await asyncio.gather(*self.drains)
        self.world.order(16, 2)
        workers: list[Worker] = [self.world.up(model) for model in MODELS]
        outcomes = await asyncio.wait_for(
            asyncio.gather(*(c.task for c in self.clients), return_exceptions=True), timeout=500
        )
        for client, outcome in zip(self.clients, outcomes, strict=True):
            if isinstance(outcome, Reply):
                assert client.right, client.name
            elif not isinstance(outcome, asyncio.CancelledError):
                assert client.refusal.reason in LEGITIMATE
        await asyncio.sleep(10)
        assert not any(worker.running for worker in workers)
        self.world.check_empty()


@pytest.mark.parametrize("seed", range(STORIES))
async def test_a_random_story_ends_well(seed: int) -> None:
    """Whatever happens in whatever order: sums hold at every step, and in the end everybody has what is right."""
    story = Story(seed)
    try:
        await story.run()
    finally:
        await story.world.dispatcher.close()


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
