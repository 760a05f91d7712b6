"""What becomes of rows that were at a worker when it went down: replayed, halved, and in the end one is to blame."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from supervisor.core.suspicion import DEATHS_BY_OTHERS, REMEMBERED_FOR
from supervisor.proxy.jobs import Reply, WorkerLost
from supervisor.proxy.refusals import Reason
from tests.support.dispatching import Sent, Worker, World, world

pytestmark = pytest.mark.looptime


class Mortal:
    """Workers of one model that die under some parts; each death brings the next one up."""

    def __init__(self, w: World, dies: Callable[[Sent], bool], *, killed: bool = False) -> None:
        self.w, self.dies, self.killed = w, dies, killed
        self.deaths: list[list[str]] = []
        self.up()

    def up(self) -> Worker:
        worker = self.w.up()
        worker.script = self.script
        return worker

    def script(self, sent: Sent) -> Reply | None:
        """The connection breaks first; that the process has ended, and how, is known a little later."""
        if not self.dies(sent):
            return None
        self.deaths.append(sent.rows)
        self.w.loop.call_later(0.01, self.bury)
        raise WorkerLost("reset", sent=True)

    def bury(self) -> None:
        self.w.dispatcher.detach("a", self.killed)
        self.up()


async def test_one_bad_input_among_many_is_found_and_the_others_are_answered() -> None:
    """A part that kills twice is halved down to the guilty input; the requests it left with get their answers."""
    async with world() as w:
        w.order(16, 2)
        workers = Mortal(w, lambda sent: "bad0" in sent.rows)
        running = w.ask(rows=1, name="first")  # while it runs, the others gather and leave together
        others = [w.ask(name=f"n{i}.") for i in range(15)]
        bad = w.ask(name="bad")
        await asyncio.gather(*(c.task for c in [running, bad, *others]))
        assert bad.refusal.reason is Reason.POISON_INPUT
        assert bad.refusal.status == 500
        assert all(c.right for c in [running, *others])
        sizes = [len(rows) for rows in workers.deaths]
        assert sizes[0] == 15
        assert sizes[-1] == 1
        assert all(after <= before for before, after in pairwise(sizes))
        assert len(sizes) <= 6, "the innocent halves were answered"
        assert workers.deaths[-1] == ["bad0"]
        w.check_empty()


async def test_the_index_of_a_guilty_input_is_the_clients() -> None:
    """Rows leave longest first; the refusal names the place that the client gave it. The whole request fails, once."""
    async with world() as w:
        w.order(4, 1)
        Mortal(w, lambda sent: "x2" in sent.rows)
        client = w.ask(rows=12)
        await client
        assert client.refusal.reason is Reason.POISON_INPUT
        assert "Input 2 of this request" in str(client.refusal)
        w.check_empty()


async def test_what_is_too_much_together_is_cured_by_halving() -> None:
    """A worker that can't take more than four rows at once: everybody is answered, nobody blamed."""
    async with world() as w:
        w.order(16, 2)
        workers = Mortal(w, lambda sent: len(sent.rows) > 4)
        clients = [w.ask(rows=16, name="p"), w.ask(rows=16, name="q")]
        await asyncio.gather(*(c.task for c in clients))
        assert all(c.right for c in clients)
        assert len(workers.deaths) <= 8
        w.check_empty()


async def test_a_guilty_input_is_remembered_for_an_hour() -> None:
    """The same text again is refused before it takes the next worker down; an hour later it is tried again."""
    async with world() as w:
        w.order(4, 1)
        workers = Mortal(w, lambda sent: "bad0" in sent.rows)
        first = w.ask(name="bad")
        await first
        assert first.refusal.reason is Reason.POISON_INPUT
        assert len(workers.deaths) == 2
        again, other = w.ask(name="bad", rows=3), w.ask(name="good")
        await asyncio.gather(again.task, other.task)
        assert again.refusal.reason is Reason.POISON_INPUT
        assert other.right
        assert len(workers.deaths) == 2
        await asyncio.sleep(REMEMBERED_FOR)
        workers.dies = lambda sent: False
        later = w.ask(name="bad")
        await later
        assert later.right
        w.check_empty()


async def test_kills_by_others_are_not_held_against_an_input_so_soon() -> None:
    """SIGKILL is an operator, or the kernel for want of memory: a single input is to blame only after more of those."""
    async with world() as w:
        w.order(1, 1)
        workers = Mortal(w, lambda sent: True, killed=True)
        client = w.ask()
        await client
        assert client.refusal.reason is Reason.POISON_INPUT
        assert len(workers.deaths) == DEATHS_BY_OTHERS


async def test_who_was_there_by_chance_is_cleared() -> None:
    """Two parts were at the worker: both come back, one at a time, and only the one that kills again is blamed."""
    async with world() as w:
        w.order(1, 2)
        Mortal(w, lambda sent: "bad0" in sent.rows)
        bad, good = w.ask(name="bad"), w.ask(name="good")
        await asyncio.gather(bad.task, good.task)
        assert bad.refusal.reason is Reason.POISON_INPUT
        assert good.right
        w.check_empty()


async def test_a_suspect_travels_alone() -> None:
    """While rows under suspicion are at the worker nothing else is, and with them only their like."""
    async with world() as w:
        w.order(4, 2)
        worker = w.up()
        suspect = w.ask(rows=4, name="s")
        await w.settle()
        w.dispatcher.detach("a")
        worker = w.up()
        later = [w.ask(name=f"n{i}") for i in range(4)]
        await w.settle()
        assert [sent.rows for sent in worker.sent] == [["s0", "s1", "s2", "s3"]]
        await asyncio.gather(suspect.task, *(c.task for c in later))
        assert suspect.right
        assert all(c.right for c in later)
        w.check_empty()


async def test_a_worker_that_says_too_many_is_asked_again_and_doubted() -> None:
    """429 from a worker is no answer to anybody: the part is sent again; and whoever watches the worker is told."""
    async with world() as w:
        worker = w.up()
        full = iter([True, True])
        worker.script = lambda sent: Reply(429, b"{}") if next(full, False) else None
        client = w.ask()
        await asyncio.sleep(1.1)
        assert w.dispatcher.work("a").refused_at == pytest.approx(1.0)
        await client
        assert client.right
        assert len(worker.sent) == 3
        w.check_empty()


async def test_what_a_worker_was_given_and_has_finished() -> None:
    """The age of its oldest part and its last answer; nothing of a worker that was there before."""
    async with world() as w:
        w.order(1, 2)
        w.up(seconds=5)
        clients = [w.ask() for _ in range(3)]
        await asyncio.sleep(1)
        work = w.dispatcher.work("a")
        assert (work.sent_at, work.answered_at) == (0.0, None)
        await asyncio.sleep(4.5)
        work = w.dispatcher.work("a")
        assert work.answered_at == pytest.approx(5.0)
        w.dispatcher.detach("a")
        assert w.dispatcher.work("a").sent_at is None
        w.up()
        assert w.dispatcher.work("a").answered_at is None
        await asyncio.gather(*(c.task for c in clients))
        assert w.dispatcher.work("nobody").sent_at is None


async def test_a_client_that_gives_up_and_tries_again_is_recognised() -> None:
    """Its timeout is shorter than a restart: each try is a new request, and the deaths are counted all the same."""
    async with world() as w:
        w.order(4, 1)
        workers = Mortal(w, lambda sent: "bad0" in sent.rows)
        for _ in range(2):
            client = w.ask(name="bad")
            await asyncio.sleep(1.001)
            client.leave()
            await asyncio.sleep(1)
        assert len(workers.deaths) == 2
        again = w.ask(name="bad")
        await again
        assert again.refusal.reason is Reason.POISON_INPUT
        assert len(workers.deaths) == 2
        w.check_empty()


async def test_who_is_recognised_and_answered_is_cleared() -> None:
    """A row that was there by chance, and whose client left, is nobody's suspect once a worker has answered it."""
    async with world() as w:
        w.order(4, 1)
        deaths = iter([True])
        Mortal(w, lambda sent: next(deaths, False))
        client = w.ask(name="good")
        await asyncio.sleep(1.001)
        client.leave()
        await asyncio.sleep(1)
        again = w.ask(name="good")
        await again
        assert again.right
        third = w.ask(name="good")
        assert third.job is None or third.job.waiting[0].suspicion is None
        await third
        assert third.right
        w.check_empty()


async def test_our_own_kill_of_a_busy_worker_is_no_death_of_the_input() -> None:
    """A drain ran out and the worker was killed: its connections break first, and nobody is accused of that."""
    async with world() as w:
        client = w.ask()
        for _ in range(4):
            worker = w.up(seconds=50)
            await asyncio.sleep(1)
            assert not await w.dispatcher.drain("a", 2)

            def broken(sent: Sent) -> Reply | None:
                raise WorkerLost("reset", sent=True)

            worker.script = broken
            await asyncio.sleep(60)
            w.dispatcher.detach("a")
        w.up()
        await client
        assert client.right


async def test_who_waited_behind_a_dead_worker_waits_anew() -> None:
    """The 41 s until a zombie is found do not count against `max_wait` of those that are still to be served."""
    async with world(max_wait=60) as w:
        w.order(1, 1)
        w.up(seconds=1000)
        clients = [w.ask() for _ in range(3)]
        for _ in range(2):
            await asyncio.sleep(41)
            w.dispatcher.detach("a")
            w.up(seconds=1000)
        w.dispatcher.detach("a")
        w.up()
        await asyncio.gather(*(c.task for c in clients))
        assert all(c.right or c.refusal.reason is Reason.POISON_INPUT for c in clients)
        assert sum(c.right for c in clients) >= 2
