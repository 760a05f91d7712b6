"""The dispatcher in virtual time: whose turn it is, who is refused before it waits, and the CPU hold between them."""

import asyncio
import itertools

import pytest

from supervisor.proxy.jobs import SHORTEST, Asker
from supervisor.proxy.refusals import Reason, Refusal
from tests.support.dispatching import Worker, World, all_of, world

pytestmark = pytest.mark.looptime


# -- turns ----------------------------------------------------------------------------------------------------------


async def test_a_large_request_delays_a_line_by_a_part_or_two() -> None:
    """A one-line query behind 2,048 inputs waits for what is at the worker, no more."""
    async with world() as w:
        w.order(32, 2)
        worker = w.up()
        bulk = w.ask(rows=2048, name="bulk", client="archive")
        await asyncio.sleep(10.5)
        line = w.ask(name="line", client="shop")
        await line
        assert line.right
        assert line.answered_at is not None
        assert line.answered_at - 10.5 <= 3.0
        await bulk
        assert bulk.right
        assert len(worker.sent) == 65


async def test_clients_take_turns_by_what_they_cost() -> None:
    """One that sends a thousand requests and one that sends a few get the same while both wait."""
    async with world(max_wait=1000) as w:
        w.order(4, 1)
        worker = w.up()
        crowd = [w.ask(rows=4, name=f"crowd{i}.", client="crowd") for i in range(60)]
        few = [w.ask(rows=4, name=f"few{i}.", client="few") for i in range(5)]
        await all_of(*few)
        served = [sent.rows[0].startswith("crowd") for sent in worker.sent]
        assert served.count(True) <= 7
        await all_of(*crowd)
        assert all(client.right for client in crowd + few)
        w.check_empty()


async def test_bulk_keeps_a_share_beside_a_flood_of_lines() -> None:
    """With more single lines than can be served, bulk still gets at least a twentieth."""
    async with world(max_wait=1000) as w:
        w.order(8, 1)
        worker = w.up()
        bulk = w.ask(rows=300, name="b", client="archive", priority="bulk")
        lines = [w.ask(name=f"i{i}.", client=f"c{i % 7}") for i in range(2000)]
        await asyncio.sleep(150)
        rows = list(itertools.chain.from_iterable(sent.rows for sent in worker.sent))
        share = sum(row.startswith("b") for row in rows) / len(rows)
        assert 0.05 <= share <= 0.2
        for client in [bulk, *lines]:
            client.leave()


async def test_the_header_says_how_urgent_a_request_is() -> None:
    """x-priority moves a request to another class than its size would."""
    async with world() as w:
        w.order(1, 1)
        worker = w.up()
        blocker = w.ask(name="blocker", client="z")
        await w.settle()
        bulk = w.ask(name="bulk", client="a", priority="bulk")
        line = w.ask(name="line", client="b")
        urgent = w.ask(rows=6, name="urgent", client="c", priority="interactive")
        await all_of(blocker, bulk, line, urgent)
        order = [name.rstrip("0123456789") for name in worker.order]
        assert order.index("bulk") > 1
        assert order.index("urgent") < 4
        assert sorted(order) == ["blocker", "bulk", "line", *["urgent"] * 6]


# -- refused before waiting -----------------------------------------------------------------------------------------


async def warm(w: World, seconds: float = 1.0) -> Worker:
    """A worker whose pace is known: eight rows in `seconds`."""
    w.order(8, 1)
    worker = w.up(seconds=seconds)
    await all_of(*[w.ask(rows=8, name=f"warm{i}.") for i in range(8)])
    return worker


async def test_a_wait_beyond_the_clients_deadline_is_refused_at_once() -> None:
    """Who can't be served in the time he gives is told so before he waits, and costs nothing."""
    async with world() as w:
        worker = await warm(w)
        waiting = [w.ask(rows=8, name=f"n{i}.") for i in range(10)]
        await w.settle()
        sent = len(worker.sent)
        late = w.ask(rows=8, name="late", within=5.0)
        await late
        assert late.refusal.reason is Reason.PREDICTED_WAIT
        assert late.answered_at == w.now
        in_time = w.ask(rows=8, name="in.time", within=30.0)
        await all_of(in_time, *waiting)
        assert in_time.right
        assert not any(row.startswith("late") for part in worker.sent[sent:] for row in part.rows)
        w.check_empty()


async def test_a_line_is_taken_where_a_crowd_of_another_client_waits() -> None:
    """The forecast follows the fair order: another client's thousand requests are not all before this one."""
    async with world() as w:
        await warm(w)
        crowd = [w.ask(rows=8, name=f"n{i}.", client="crowd") for i in range(40)]
        await w.settle()
        line = w.ask(name="line", client="shop", within=4.0)
        await line
        assert line.right
        for client in crowd:
            client.leave()


async def test_more_than_max_wait_of_work_is_refused_before_the_body_is_read() -> None:
    """Without a deadline of its own a request is refused when it would wait longer than queue.max_wait."""
    async with world(max_wait=10.0) as w:
        await warm(w)
        waiting = [w.ask(rows=8, name=f"n{i}.") for i in range(14)]
        await w.settle()
        before = w.dispatcher.reserved
        with pytest.raises(Refusal) as refused:
            w.dispatcher.admit(8 * SHORTEST, Asker(priority="normal"))
        assert refused.value.reason is Reason.PREDICTED_WAIT
        assert w.dispatcher.reserved == before
        w.dispatcher.end(w.dispatcher.admit(8 * SHORTEST), None)  # small, so perhaps a line: the fair order has room
        for client in waiting:
            client.leave()


@pytest.mark.parametrize("state", ["paused", "absent", "idle"])
async def test_nothing_is_foretold_where_nobody_knows(state: str) -> None:
    """A closed gate, a model that loads and an idle one refuse nobody by forecast."""
    async with world(max_wait=5.0) as w:
        await warm(w)
        if state != "idle":
            waiting = [w.ask(rows=8, name=f"n{i}.") for i in range(14)]
            await w.settle()
            w.order(8, 1, paused=True) if state == "paused" else w.dispatcher.detach("a")
            for client in waiting[9:]:
                client.leave()
        place = w.dispatcher.admit(100, Asker(deadline=w.now + 3.0))
        w.dispatcher.end(place, None)


async def test_the_pace_does_not_count_the_time_of_a_closed_gate() -> None:
    """After a long pause the forecast is that of before: nobody is refused because others were held."""
    async with world(max_wait=100.0) as w:
        await warm(w)
        held = [w.ask(rows=8, name=f"n{i}.") for i in range(6)]
        await w.settle()
        w.order(8, 1, paused=True)
        await asyncio.sleep(60)
        w.order(8, 1)
        await asyncio.sleep(1.5)
        late = w.ask(rows=8, name="late", within=12.0)
        await all_of(late, *held)
        assert late.right, late.task.result()


# -- the hold -------------------------------------------------------------------------------------------------------


class Host:
    """Two cores; the worker uses both while it runs a part. Told to the dispatcher ten times a second."""

    def __init__(self, w: World, worker: Worker, others: float = 0.0) -> None:
        self.w, self.worker, self.others = w, worker, others
        self.busy: list[float] = []

    async def run(self, seconds: float) -> None:
        """Let time pass, in steps of 10 ms."""
        used = 0.0
        for step in range(round(seconds * 100)):
            await asyncio.sleep(0.01)
            own = 0.02 if self.worker.running else 0.0
            self.w.own_cpu += own
            used += own
            if step % 10 == 9:
                self.busy.append(min(2.0, used / 0.1 + self.others))
                self.w.dispatcher.observe_cpu(self.busy[-1], 2.0, self.w.now)
                used = 0.0


async def test_the_hold_keeps_the_cpu_at_its_target_while_work_waits() -> None:
    """At 60 % the worker runs three fifths of the time, and every second has its pauses."""
    async with world() as w:
        w.order(8, 1, seconds=0.2, hold=60.0)
        worker = w.up()
        worker.takes = lambda sent: 0.02 * len(sent.rows)
        host = Host(w, worker)
        clients = [w.ask(rows=8, name=f"n{i}.") for i in range(400)]
        await host.run(20)
        seconds = [sum(host.busy[i : i + 10]) / 20 for i in range(50, len(host.busy) - 10)]
        assert 0.55 <= sum(seconds) / len(seconds) <= 0.65
        assert max(seconds) <= 0.75
        for client in clients:
            client.leave()


async def test_others_are_subtracted_and_something_always_progresses() -> None:
    """Beside others who take everything, parts still leave, at most two seconds apart, and status can say why."""
    async with world() as w:
        w.order(2, 1, seconds=0.2, hold=83.0)
        worker = w.up()
        worker.takes = lambda sent: 0.05 * len(sent.rows)
        clients = [w.ask(rows=2, name=f"n{i}.") for i in range(100)]
        host = Host(w, worker, others=2.0)
        await host.run(30)
        assert w.dispatcher.external_load
        moments = [sent.at for sent in worker.sent if sent.at > 5]
        assert max(b - a for a, b in itertools.pairwise(moments)) <= 2.0
        assert len(moments) <= 25 / 0.5, "but no more than the floor pays for"
        for client in clients:
            client.leave()


async def test_models_that_wait_for_the_cpu_take_turns() -> None:
    """One model's backlog does not keep the others' parts from leaving."""
    async with world("a", "b", "c") as w:
        w.order(8, 2, seconds=0.2, hold=50.0)
        workers = [w.up(name) for name in "abc"]
        for worker in workers:
            worker.takes = lambda sent: 0.02 * len(sent.rows)
        clients = [w.ask(name, rows=8, name=f"{name}{i}.") for i in range(80) for name in ("a", "b", "c")]
        host = Host(w, workers[0])
        await host.run(15)
        counts = [len(worker.sent) for worker in workers]
        assert min(counts) >= 0.6 * max(counts)
        for client in clients:
            client.leave()


async def test_without_a_target_nothing_is_held() -> None:
    """Hold off: parts leave as fast as they are answered, whatever the CPU shows."""
    async with world() as w:
        w.order(8, 2, hold=None)
        worker = w.up(seconds=0.1)
        w.dispatcher.observe_cpu(2.0, 2.0, w.now)
        clients = [w.ask(rows=8, name=f"n{i}.") for i in range(20)]
        await all_of(*clients)
        assert len(worker.sent) == 20
        assert w.now == pytest.approx(1.0)


# -- what is not begun ------------------------------------------------------------------------------------------------


async def test_what_can_not_be_done_in_time_is_not_begun() -> None:
    """A request that would have to begin by now to be done in time gets its 504 before the work, not after it."""
    async with world() as w:
        w.order(8, 1)
        worker = w.up(seconds=1.0)
        await all_of(*[w.ask(rows=8, name=f"warm{i}.") for i in range(4)])
        running = w.ask(rows=8, name="running")
        await w.settle()
        worker.seconds = 4.0  # from the next part on: it takes longer than could be foreseen
        slow = w.ask(rows=8, name="slow")
        late = w.ask(rows=8, name="late", within=5.5)
        await late
        assert late.refusal.reason is Reason.DEADLINE_EXCEEDED
        assert late.answered_at is not None
        assert late.job is not None
        assert 3.5 <= late.answered_at - late.job.arrived < 5.5
        await all_of(running, slow)
        assert not any(row.startswith("late") for sent in worker.sent for row in sent.rows)
        w.check_empty()
