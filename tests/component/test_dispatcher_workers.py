"""The dispatcher and workers that come and go: loads, crashes, drains, back-off, and the trickle past a closed gate."""

import asyncio
import random
from contextlib import AbstractContextManager

import pytest

from supervisor.core.endpoint import Endpoint
from supervisor.core.payload import Inference
from supervisor.proxy.dispatcher import ServedModel
from supervisor.proxy.jobs import Reply, WorkerLost
from supervisor.proxy.lane import Lane
from supervisor.proxy.part import Part
from supervisor.proxy.pump import Pump
from supervisor.proxy.refusals import Reason
from tests.support.dispatching import Sent, World, all_of, lost, world

pytestmark = pytest.mark.looptime


# -- coming ---------------------------------------------------------------------------------------------------------


async def test_a_request_for_a_sleeping_model_asks_for_it_and_waits() -> None:
    """Each request says that its model is wanted; all are answered once it is there."""
    async with world() as w:
        clients = [w.ask(name=name) for name in "pqr"]
        await asyncio.sleep(100)
        assert w.demanded == ["a", "a", "a"]
        worker = w.up()
        await asyncio.gather(*(c.task for c in clients))
        assert [sent.rows for sent in worker.sent] == [["p0", "q0", "r0"]]
        assert all(c.right for c in clients)


async def test_the_only_waiter_leaves_during_a_load() -> None:
    """Then nothing waits any more, and a worker that comes up has nothing to do."""
    async with world() as w:
        client = w.ask()
        await asyncio.sleep(1)
        client.leave()
        await w.settle()
        w.check_empty()
        assert w.up().sent == []


async def test_unreadable_bodies_wake_the_first_model_only_when_nothing_is_ready() -> None:
    """Any worker can refuse them: the one that is ready is taken."""
    async with world("a", "b") as w:
        nameless = w.ask(None)
        await w.settle()
        assert w.demanded == ["a"]
        nameless.leave()
        w.up("b")
        await w.ask(None)
        assert w.demanded == ["a"]


async def test_a_nameless_request_is_for_the_only_model() -> None:
    """With one model it is that one; with several, Infinity's own refusal in Infinity's own words."""
    async with world() as w:
        w.up()
        assert (await w.ask(raw=b'{"input": "x"}')).status == 200
        w.dispatcher.configure([ServedModel("a"), ServedModel("b")], w.limits)
        refusal = await w.ask(raw=b'{"input": "x"}')
        assert refusal.reason is Reason.UNKNOWN_MODEL
        assert "`default/not-specified` not found. Available model names are ['a', 'b']" in str(refusal)


# -- going ----------------------------------------------------------------------------------------------------------


async def test_parts_of_a_worker_that_died_are_sent_again_first_and_in_order() -> None:
    """Clients notice nothing: what was in flight goes before what waited, rows in their order."""
    async with world() as w:
        w.order(4, 2)
        w.up(seconds=10)
        sizes = (("p", 8), ("q", 6), ("r", 1))
        clients = [w.ask(rows=n, name=name, endpoint=Inference.RERANK, priority="normal") for name, n in sizes]
        await asyncio.sleep(3)
        w.dispatcher.detach("a")
        await w.settle()
        assert w.dispatcher.totals.queued_inputs == 15
        assert w.demanded == ["a"]
        await asyncio.sleep(5)
        again = w.up()
        await asyncio.gather(*(c.task for c in clients))
        assert again.order == ["p0", "p4", "q0", "q4", "r0"]
        assert all(c.right for c in clients)
        w.check_empty()


async def test_a_request_that_is_half_done_keeps_what_it_has() -> None:
    """Only the rows without an answer are sent to the next worker."""
    async with world() as w:
        w.order(4, 1)
        w.up()
        client = w.ask(rows=12)
        await asyncio.sleep(1.5)
        w.dispatcher.detach("a")
        again = w.up()
        await client
        assert client.right
        assert again.order == ["x2", "x6"], "x10, x11, x0 and x1 went first and were answered"
        assert [len(sent.rows) for sent in again.sent] == [4, 4]


async def test_smaller_parts_after_a_crash() -> None:
    """A part that comes back is cut anew when the batch size has shrunk meanwhile."""
    async with world() as w:
        w.order(8, 1)
        w.up()
        client = w.ask(rows=8)
        await asyncio.sleep(0.5)
        w.dispatcher.detach("a")
        w.order(3, 1)
        again = w.up()
        await client
        assert client.right
        assert [len(sent.rows) for sent in again.sent] == [3, 3, 2]


async def test_being_stopped_by_us_does_not_count_against_a_part() -> None:
    """A worker that is drained, however often, is no sign of a bad part."""
    async with world() as w:
        client = w.ask()
        for _ in range(5):
            w.up(seconds=50)
            await asyncio.sleep(1)
            assert not await w.dispatcher.drain("a", 2)
            w.dispatcher.detach("a")
        w.up()
        await client
        assert client.right


async def test_a_lost_connection_pauses_the_lane_and_sends_again() -> None:
    """The worker may be ending: its parts wait a moment, in order, and go to it or to the next one."""
    async with world() as w:
        w.order(2, 1)
        worker = w.up()
        failures = iter([True, False])

        def once(sent: Sent) -> None:
            if next(failures, False):
                raise WorkerLost("reset", sent=True)

        worker.script = once
        clients = [w.ask(rows=4, name="p"), w.ask(name="q")]
        await asyncio.gather(*(c.task for c in clients))
        assert worker.order == ["p0", "p0", "p2", "q0"]
        assert worker.sent[1].at == pytest.approx(1.25)
        assert all(c.right for c in clients)


async def test_a_worker_that_can_not_be_reached_is_tried_until_max_wait() -> None:
    """What was never sent is not at fault: it waits, with growing pauses, and is told that the worker is in trouble."""
    async with world(max_wait=60) as w:
        worker = w.up(seconds=0)
        worker.script = lost(sent=False)
        client = w.ask()
        await client
        assert client.refusal.reason is Reason.WORKER_UNAVAILABLE
        assert 8 < len(worker.sent) < 20
        w.check_empty()


async def test_a_fault_of_ours_is_a_500_and_leaves_nothing_behind() -> None:
    """Whatever breaks in the way to a worker, the window is not taken for ever."""
    async with world() as w:
        w.order(1, 1)
        worker = w.up()

        def broken(sent: Sent) -> None:
            if sent.rows == ["p0"]:
                raise RuntimeError("a bug")

        worker.script = broken
        first, second = w.ask(name="p"), w.ask(name="q")
        await asyncio.gather(first.task, second.task)
        assert first.refusal.reason is Reason.INTERNAL
        assert second.right
        w.check_empty()


async def test_the_window_and_queue_after_a_worker_is_replaced_without_detach() -> None:
    """An attach of another worker takes back what the one before had."""
    async with world() as w:
        first = w.up(seconds=100)
        client = w.ask()
        await asyncio.sleep(1)
        second = w.up()
        await client
        assert client.right
        assert (len(first.sent), len(second.sent)) == (1, 1)


# -- draining -------------------------------------------------------------------------------------------------------


async def test_drain_lets_half_done_requests_finish_and_holds_the_others() -> None:
    """Nobody loses its place: the long one ends, what came later waits for the next worker."""
    async with world() as w:
        w.order(4, 1)
        worker = w.up()
        long, waiting = w.ask(rows=12, name="l"), w.ask(name="w")
        await asyncio.sleep(0.5)
        drained = asyncio.create_task(w.dispatcher.drain("a", 30))
        late = w.ask(name="late")
        assert await drained
        assert w.now == pytest.approx(3.0)
        assert long.right
        assert worker.order == ["l10", "l2", "l6"]
        assert "a" in w.demanded, "somebody came while it was drained"
        w.dispatcher.detach("a")
        again = w.up()
        await asyncio.gather(waiting.task, late.task)
        assert [sent.rows for sent in again.sent] == [["w0", "late0"]]
        w.check_empty()


async def test_drain_of_an_idle_worker_is_done_at_once_and_stays() -> None:
    """Between drain and stop nothing slips in: the request that races an unload waits for the next worker."""
    async with world() as w:
        worker = w.up()
        assert await w.dispatcher.drain("a", 30)
        client = w.ask()
        await asyncio.sleep(5)
        assert worker.sent == []
        w.dispatcher.detach("a")
        assert w.demanded == ["a", "a"]
        w.up()
        await client
        assert client.right


async def test_drain_gives_up_after_its_timeout() -> None:
    """A part that takes longer is said to be there still; the request's other rows wait for the next worker."""
    async with world() as w:
        w.order(4, 1)
        worker = w.up(seconds=60)
        client = w.ask(rows=12)
        await asyncio.sleep(1)
        assert not await w.dispatcher.drain("a", 10)
        assert w.now == pytest.approx(11)
        await asyncio.sleep(55)
        assert worker.order == ["x10"], "its answer came, but nothing more is sent"
        w.dispatcher.detach("a")
        assert w.dispatcher.totals.leases == 0
        again = w.up()
        await client
        assert client.right
        assert again.order == ["x2", "x6"]
        w.check_empty()


async def test_the_lease_lasts_until_the_last_byte_of_the_answer() -> None:
    """A worker is not stopped under a client that still reads."""
    async with world() as w:
        w.up()
        client = w.ask(writing=7.0)
        await asyncio.sleep(2)
        assert w.dispatcher.demand()["a"].leases == 1
        assert await w.dispatcher.drain("a", 30)
        assert w.now == pytest.approx(8.0)
        assert client.right


async def test_a_client_that_leaves_ends_its_lease() -> None:
    """Drain does not wait for somebody who is gone, only for what is at the worker."""
    async with world() as w:
        w.order(4, 1)
        w.up(seconds=5)
        client = w.ask(rows=100)
        await asyncio.sleep(1)
        client.leave()
        assert await w.dispatcher.drain("a", 30)
        assert w.now == pytest.approx(5.0)


async def test_attach_during_a_drain_ends_it() -> None:
    """The worker is wanted after all: requests go on with it, and the drain says that it did not end."""
    async with world() as w:
        worker = w.up(seconds=5)
        first = w.ask()
        await asyncio.sleep(1)
        drained = asyncio.create_task(w.dispatcher.drain("a", 30))
        await asyncio.sleep(1)
        waiting = w.ask(name="w")
        w.dispatcher.attach(worker.endpoint)
        assert not await drained
        await asyncio.gather(first.task, waiting.task)
        assert len(w.workers) == 1, "the same worker, the same connections"
        assert worker.sent[1].at == pytest.approx(2.0)


async def test_models_nobody_configured_are_ignored() -> None:
    """The pool may be a step behind the configuration."""
    async with world() as w:
        w.dispatcher.attach(Endpoint("zz", "127.0.0.1", 1, "k"))
        assert await w.dispatcher.drain("zz", 1)
        w.dispatcher.detach("zz")
        w.dispatcher.detach("a")
        w.dispatcher.unavailable("zz", "no", None)
        w.dispatcher.available("zz")
        w.dispatcher.refuse_waiting("zz", "no", 1.0)
        assert w.dispatcher.ready_worker() is None


# -- unavailable ----------------------------------------------------------------------------------------------------


async def test_back_off_is_waited_for_when_it_ends_in_time() -> None:
    """Who can wait waits; who can't is told when to come back."""
    async with world(max_wait=60) as w:
        patient, hasty = w.ask(), w.ask(within=10)
        await w.settle()
        w.dispatcher.unavailable("a", "crashed", 30.0)
        await hasty
        assert hasty.refusal.reason is Reason.WORKER_UNAVAILABLE
        assert hasty.refusal.retry_after == pytest.approx(30)
        assert "crashed" in str(hasty.refusal)
        assert "x-should-retry" not in hasty.refusal.headers(random.Random(1))
        also_hasty = await w.ask(within=29)
        assert also_hasty.reason is Reason.WORKER_UNAVAILABLE
        await asyncio.sleep(31)
        in_time = w.ask(within=29)
        await w.settle()
        assert not in_time.done, "the next attempt has begun"
        w.up()
        await asyncio.gather(patient.task, in_time.task)
        assert patient.right


async def test_a_back_off_longer_than_max_wait_is_refused() -> None:
    """Nobody is kept waiting for something that can't come in time."""
    async with world(max_wait=20) as w:
        client = w.ask()
        await w.settle()
        w.dispatcher.unavailable("a", "crashed", 30.0)
        await client
        assert client.refusal.reason is Reason.WORKER_UNAVAILABLE


async def test_failed_refuses_until_somebody_intervenes() -> None:
    """All that wait and all that come, with the reason; afterwards requests wait again."""
    async with world("a", "b") as w:
        waiting, other = w.ask("a"), w.ask("b")
        await w.settle()
        w.dispatcher.unavailable("a", "no such folder: /models/a", None)
        await waiting
        assert waiting.refusal.reason is Reason.WORKER_UNAVAILABLE
        await asyncio.sleep(1000 - 500)
        late = await w.ask("a")
        assert "no such folder" in str(late)
        for told in (waiting.refusal, late):  # not within seconds, and not by a library behind its caller's back
            headers = told.headers(random.Random(1))
            assert 40 <= int(headers["Retry-After"]) <= 60
            assert headers["x-should-retry"] == "false"
        assert not other.done
        w.dispatcher.available("a")
        hopeful = w.ask("a")
        await w.settle()
        assert not hopeful.done
        w.dispatcher.unavailable("a", "again", None)
        w.up("a")
        assert (await w.ask("a")).status == 200
        other.leave()


async def test_refuse_waiting_ends_those_that_wait_now() -> None:
    """A model that does not fit into memory: they are told, the next ones try again."""
    async with world() as w:
        client = w.ask()
        await w.settle()
        w.dispatcher.refuse_waiting("a", "needs 3 GB, 1 GB is left", 12.0)
        await client
        assert client.refusal.retry_after == 12.0
        later = w.ask()
        await w.settle()
        assert not later.done
        later.leave()


# -- any worker -----------------------------------------------------------------------------------------------------


async def test_any_ready_worker_in_the_order_of_the_configuration() -> None:
    """For what is no inference: the first that is ready, a draining one is not."""
    async with world("a", "b") as w:
        waiter = asyncio.create_task(w.dispatcher.wait_for_worker(30))
        await asyncio.sleep(5)
        w.up("b")
        assert (found := await waiter) is not None
        assert found.model == "b"
        w.up("a")
        assert w.dispatcher.ready_worker().model == "a"  # type: ignore[union-attr]
        await w.dispatcher.drain("a", 1)
        assert w.dispatcher.ready_worker().model == "b"  # type: ignore[union-attr]
        w.dispatcher.detach("b")
        started = w.now
        assert await w.dispatcher.wait_for_worker(3) is None
        assert w.now == pytest.approx(started + 3)


def visit(w: World) -> AbstractContextManager[None]:
    """A visit to a worker that has just come up."""
    w.up("a")
    worker = w.dispatcher.ready_worker()
    assert worker is not None
    return w.dispatcher.visit(worker)


async def test_a_visitor_holds_the_worker_until_its_last_byte_and_keeps_it_no_warmer() -> None:
    """What is passed through as it is (a page, metrics) is not cut off by an unload that comes in the middle."""
    async with world("a") as w:
        with visit(w):
            assert w.dispatcher.demand()["a"].leases == 1
            draining = asyncio.create_task(w.dispatcher.drain("a", 60))
            await asyncio.sleep(5)
            assert not draining.done()
        assert await draining
        assert (w.dispatcher.demand()["a"].leases, w.dispatcher.demand()["a"].last_used) == (0, None)


async def test_a_visitor_of_a_worker_that_is_gone_does_not_hold_the_next_one() -> None:
    """Its stream has ended with the worker, whenever it finds out."""
    async with world("a") as w:
        with visit(w):
            w.dispatcher.detach("a")
            w.up("a")
            assert w.dispatcher.demand()["a"].leases == 0
            assert await w.dispatcher.drain("a", 1)


# -- trickle --------------------------------------------------------------------------------------------------------


async def test_trickle_lets_one_small_part_pass_for_each_order() -> None:
    """Paused for long: one part of the oldest request each time the orders are given, so nothing is ever dead."""
    async with world("a", "b", max_wait=1000) as w:
        w.order(4, 1, paused=True)
        a, b = w.up("a", seconds=0.3), w.up("b", seconds=0.3)
        young, old = w.ask("b", rows=2, name="o"), w.ask("a", rows=5, name="y")
        for tick in range(1, 8):
            await asyncio.sleep(1)
            assert len(a.sent) + len(b.sent) == tick - 1
            w.order(4, 1, paused=True, trickle=1)
        await asyncio.gather(old.task, young.task)
        assert young.right
        assert old.right
        assert [sent.at for sent in b.sent] == [1, 2]
        assert [len(sent.rows) for sent in a.sent] == [1] * 5
        w.check_empty()


async def test_trickle_does_not_add_up() -> None:
    """Ten quiet ticks let one part pass when a request comes, not ten."""
    async with world(max_wait=1000) as w:
        worker = w.up(seconds=0.1)
        for _ in range(10):
            w.order(4, 1, paused=True, trickle=2)
            await asyncio.sleep(1)
        client = w.ask(rows=9)
        await asyncio.sleep(5)
        assert [len(sent.rows) for sent in worker.sent] == [2]
        w.order(4, 1, paused=True)
        await asyncio.sleep(5)
        assert len(worker.sent) == 1
        client.leave()


async def test_trickle_waits_while_a_part_is_at_the_worker() -> None:
    """A slow row is progress: small parts must not pile up behind it on a host in trouble."""
    async with world(max_wait=1000) as w:
        worker = w.up(seconds=3.5)
        client = w.ask(rows=3)
        w.order(4, 1, paused=True, trickle=1)
        for _ in range(12):
            await asyncio.sleep(1)
            w.order(4, 1, paused=True, trickle=1)
        await client
        assert [sent.at for sent in worker.sent] == [0, 4, 8]


async def test_trickle_passes_a_gate_of_one_model() -> None:
    """GPU memory closes one lane: it too is never dead, and the open one is not affected."""
    async with world("a", "b") as w:
        w.order(4, 1, closed="a")
        a = w.up("a", seconds=0.1)
        w.up("b", seconds=0.1)
        held = w.ask("a", rows=2)
        await w.ask("b")
        w.order(4, 1, closed="a", trickle=1)
        await asyncio.sleep(1)
        w.order(4, 1, closed="a", trickle=1)
        await held
        assert [len(sent.rows) for sent in a.sent] == [1, 1]


async def test_trickle_lets_a_request_that_cant_be_split_pass_whole() -> None:
    """Three images can't be made smaller: never dead goes before small."""
    async with world() as w:
        w.check_part = lambda *_: None  # type: ignore[method-assign] # larger than the trickle, as it must be
        w.order(4, 1, paused=True)
        worker = w.up()
        client = w.ask(rows=3, endpoint=Inference.IMAGES)
        await w.settle()
        w.order(4, 1, paused=True, trickle=1)
        await client
        assert [len(sent.rows) for sent in worker.sent] == [3]


async def test_a_fault_of_ours_in_an_answer_is_answered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clients are told, whatever went wrong between the worker and them, and the next ones are served."""
    async with world() as w:
        w.up()
        real = Pump._hand_out

        def broken(self: Pump, lane: Lane, part: Part, reply: Reply) -> None:
            monkeypatch.setattr(Pump, "_hand_out", real)
            raise KeyError("length")

        monkeypatch.setattr(Pump, "_hand_out", broken)
        w.order(2, 1)
        first, second = w.ask(rows=2), w.ask(rows=2)
        await all_of(first, second)
        assert first.refusal.reason is Reason.INTERNAL
        assert second.right
        w.check_empty()
