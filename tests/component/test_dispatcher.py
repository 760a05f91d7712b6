"""The dispatcher in virtual time: gate, window, order, deadlines, clients that leave, limits, what it reports."""

import asyncio

import orjson
import pytest

from supervisor.core.payload import Inference
from supervisor.proxy.dispatcher import ServedModel
from supervisor.proxy.jobs import Reply
from supervisor.proxy.refusals import Reason, Refusal
from tests.support.dispatching import World, world

pytestmark = pytest.mark.looptime


async def test_requests_leave_in_order_within_the_window() -> None:
    """With a window of 2, two parts are at the worker, however small, and the rest waits in order."""
    async with world() as w:
        w.order(4, 2)
        worker = w.up()
        sizes = (("a", 2), ("b", 4), ("c", 1), ("d", 4), ("e", 1))
        clients = [w.ask(rows=n, name=name, endpoint=Inference.RERANK) for name, n in sizes]
        await w.settle()
        assert worker.order == ["a0", "b0"]
        assert w.dispatcher.totals.inflight_inputs == 6
        assert w.dispatcher.totals.queued_requests == 3
        await asyncio.gather(*(c.task for c in clients))
        assert worker.order == ["a0", "b0", "c0", "d0", "e0"]
        assert [sent.at for sent in worker.sent] == [0, 0, 1, 1, 2]
        assert all(c.right for c in clients)
        w.check_empty()


@pytest.mark.parametrize("endpoint", [Inference.EMBEDDINGS, Inference.RERANK, Inference.CLASSIFY])
async def test_a_large_request_is_split_and_merged(endpoint: Inference) -> None:
    """100 rows leave in parts of at most 16, two at a time, and come back as one answer."""
    async with world() as w:
        worker = w.up()
        options = {"top_n": 7} if endpoint is Inference.RERANK else {}
        client = w.ask(rows=100, endpoint=endpoint, **options)
        await client
        assert client.right
        assert [len(sent.rows) for sent in worker.sent] == [16] * 6 + [4]
        assert client.answered_at == pytest.approx(4.0)
        w.check_empty()


async def test_the_batch_size_holds_from_the_next_part_on() -> None:
    """A smaller batch size acts on the parts of a request that is half done."""
    async with world() as w:
        w.order(16, 1)
        worker = w.up()
        client = w.ask(rows=40)
        await asyncio.sleep(0.5)
        w.order(4, 1)
        await client
        assert client.right
        assert [len(sent.rows) for sent in worker.sent] == [16, 4, 4, 4, 4, 4, 4]


async def test_a_part_that_fits_the_batch_is_the_original_body() -> None:
    """What needs no splitting is not written anew."""
    async with world() as w:
        worker = w.up()
        client = w.ask(rows=16, endpoint=Inference.RERANK, top_n=3)
        await client
        assert client.right
        assert orjson.loads(worker.sent[0].body)["top_n"] == 3


async def test_the_gate_holds_and_releases_in_order() -> None:
    """While paused nothing leaves and nobody is refused; afterwards everything leaves in the order it came."""
    async with world() as w:
        w.order(2, 1, paused=True)
        worker = w.up()
        clients = [w.ask(name=name) for name in "pqrst"]
        await asyncio.sleep(30)
        assert worker.sent == []
        assert w.dispatcher.totals.queued_requests == 5
        assert w.dispatcher.totals.oldest_wait_s == pytest.approx(30)
        w.order(2, 1)
        await asyncio.gather(*(c.task for c in clients))
        assert [sent.rows for sent in worker.sent] == [["p0", "q0"], ["r0", "s0"], ["t0"]]
        assert [sent.at for sent in worker.sent] == [30, 31, 32]


async def test_a_closed_gate_stops_the_parts_of_a_request_that_is_half_done() -> None:
    """What is in flight ends, its other parts are held; the client notices nothing but time."""
    async with world() as w:
        w.order(4, 1)
        worker = w.up()
        client = w.ask(rows=12)
        await asyncio.sleep(0.5)
        w.order(4, 1, paused=True)
        await asyncio.sleep(200)
        assert len(worker.sent) == 1
        assert not client.done, "max_wait is for requests of which nothing was sent"
        w.order(4, 1)
        await client
        assert client.right


async def test_one_models_gate_leaves_the_others_open() -> None:
    """A full GPU closes the lanes of its own models only."""
    async with world("a", "b") as w:
        w.order(closed="a")
        a, b = w.up("a"), w.up("b")
        held, free = w.ask("a"), w.ask("b")
        await free
        assert (len(a.sent), len(b.sent), held.done) == (0, 1, False)
        held.leave()


async def test_a_request_larger_than_the_window_that_cant_be_split_goes_alone() -> None:
    """Thirty images that only Infinity can judge, with room for eight: not beside anything else, and not never."""
    async with world() as w:
        w.order(4, 2)
        worker = w.up()
        w.loosened = True
        w.check_part = lambda *_: None  # type: ignore[method-assign] # the window can't hold here
        small, images = w.ask(), w.ask(rows=30, endpoint=Inference.IMAGES)
        later = w.ask(name="l", priority="normal")
        await w.settle()
        assert [len(sent.rows) for sent in worker.sent] == [1]
        await small
        await w.settle()
        assert [len(sent.rows) for sent in worker.sent] == [1, 30]
        await asyncio.gather(images.task, later.task)
        assert worker.sent[2].at >= worker.sent[1].at + 1


async def test_lines_that_keep_coming_do_not_keep_such_a_request_waiting() -> None:
    """Each of them would fit beside the others and is of a higher class, and yet it gets its turn."""
    async with world() as w:
        w.order(4, 2)
        w.up()
        w.check_part = lambda *_: None  # type: ignore[method-assign] # the window can't hold here
        lines = [w.ask(name="l0.", client="shop")]
        await w.settle()
        images = w.ask(name="i", rows=30, endpoint=Inference.IMAGES, client="archive")
        for i in range(1, 60):
            lines.append(w.ask(name=f"l{i}.", client="shop"))
            await asyncio.sleep(0.1)
        assert images.done
        assert images.answered_at is not None
        assert images.answered_at <= 4.0
        await asyncio.gather(*(line.task for line in lines))


# -- deadlines ------------------------------------------------------------------------------------------------------


async def test_max_wait_while_paused_is_503_paused_to_the_second() -> None:
    """Held too long: refused when max_wait is over, even while a part of somebody else runs for 100 s."""
    async with world(max_wait=60) as w:
        w.order(1, 1)
        w.up(seconds=100)
        running = w.ask(name="r")
        await asyncio.sleep(5)
        held = w.ask()
        await asyncio.sleep(1)
        w.order(1, 1, paused=True)
        await held
        assert held.refusal.reason is Reason.PAUSED
        assert w.now == pytest.approx(65, abs=0.01)
        await running
        assert running.right
        w.check_empty()


async def test_without_hold_a_pause_refuses_what_waits_and_what_comes() -> None:
    """At once, before a body is read; what is half done at the worker ends, and afterwards all are taken again."""
    async with world(hold=False) as w:
        w.order(4, 1)
        w.up(seconds=10)
        running = w.ask(name="r", rows=6)
        held = w.ask()
        await asyncio.sleep(1)
        w.order(4, 1, paused=True)
        await held
        assert held.refusal.reason is Reason.PAUSED
        with pytest.raises(Refusal, match="to protect the host"):
            w.dispatcher.admit(10)
        with pytest.raises(Refusal):
            w.dispatcher.check_accepting()
        assert w.now == pytest.approx(1, abs=0.01)
        assert not running.done
        await asyncio.sleep(20)
        w.order(4, 1)
        w.dispatcher.check_accepting()
        await running
        assert running.right
        w.check_empty()


async def test_max_wait_behind_others_is_504() -> None:
    """Not paused, only busy: the deadline is what was exceeded."""
    async with world(max_wait=60) as w:
        w.order(1, 1)
        w.up(seconds=100)
        w.ask(name="r")
        held = w.ask()
        await held
        assert held.refusal.reason is Reason.DEADLINE_EXCEEDED
        assert w.now == pytest.approx(60, abs=0.01)


async def test_max_wait_stands_still_while_no_worker_is_ready() -> None:
    """Loading counts for nothing, before and in between; the wait goes on where it stopped."""
    async with world(max_wait=60) as w:
        w.order(paused=True)
        client = w.ask()
        await asyncio.sleep(200)
        w.up()
        await asyncio.sleep(40)
        w.dispatcher.detach("a")
        await asyncio.sleep(200)
        w.up()
        await asyncio.sleep(19)
        assert not client.done
        await client
        assert client.refusal.reason is Reason.PAUSED
        assert w.now == pytest.approx(460, abs=0.01)


async def test_each_of_many_gets_its_own_max_wait() -> None:
    """One timer for a lane serves all that wait in it, to the moment."""
    async with world(max_wait=10) as w:
        w.order(paused=True)
        w.up()
        clients = []
        for _ in range(20):
            clients.append(w.ask())
            await asyncio.sleep(0.7)
        await asyncio.gather(*(c.task for c in clients))
        assert [c.answered_at for c in clients] == pytest.approx([0.7 * i + 10 for i in range(20)], abs=0.01)
        w.check_empty()


async def test_a_wait_for_a_worker_that_never_comes_ends() -> None:
    """Nobody says that the load failed: after twice start_timeout the client is told."""
    async with world(start_timeout=300) as w:
        client = w.ask()
        await client
        assert client.refusal.reason is Reason.WORKER_UNAVAILABLE
        assert w.now == pytest.approx(600, abs=0.01)
        w.check_empty()


@pytest.mark.parametrize("state", ["loading", "paused", "busy", "running"])
async def test_the_clients_own_deadline_always_runs(state: str) -> None:
    """Whatever the model does, x-request-timeout-ms ends the wait, and nothing more of the request leaves."""
    async with world() as w:
        w.order(1, 1, paused=state == "paused")
        if state != "loading":
            worker = w.up(seconds=100)
            if state == "busy":
                w.ask(name="first")
        client = w.ask(rows=5, within=7.5)
        await client
        assert client.refusal.reason is Reason.DEADLINE_EXCEEDED
        assert client.answered_at == pytest.approx(7.5)
        await asyncio.sleep(150)
        if state != "loading":
            assert len(worker.sent) == {"paused": 0, "busy": 1, "running": 1}[state]
        w.check_empty()


# -- clients that leave ---------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_takes_its_queued_work_with_it() -> None:
    """Its place is free at once, and the worker never hears of it."""
    async with world(max_requests=3) as w:
        w.order(1, 1)
        worker = w.up()
        first, gone, last = w.ask(name="f"), w.ask(name="g", rows=50), w.ask(name="l")
        await w.settle()
        gone.leave()
        await w.settle()
        assert w.dispatcher.totals.queued_inputs == 1
        await asyncio.gather(first.task, last.task)
        assert worker.order == ["f0", "l0"]
        w.check_empty()


async def test_what_is_at_the_worker_still_counts_after_its_client_left() -> None:
    """Infinity can't be told to stop: the window stays taken until the part is answered."""
    async with world() as w:
        w.order(1, 1)
        worker = w.up(seconds=10)
        gone, next_ = w.ask(name="g", rows=3), w.ask(name="n")
        await asyncio.sleep(1)
        gone.leave()
        await asyncio.sleep(1)
        total = w.dispatcher.totals
        assert (total.inflight_inputs, total.leases, total.queued_inputs) == (1, 0, 1)
        await next_
        assert [sent.at for sent in worker.sent] == [0, 10]
        assert worker.order == ["g0", "n0"]
        w.check_empty()


async def test_a_blocker_that_leaves_lets_the_next_one_pass_at_once() -> None:
    """A request that goes whole and did not fit waited at the head; when its client leaves, the one behind it goes."""
    async with world() as w:
        w.order(4, 2)
        worker = w.up(seconds=10)
        w.ask(name="r", rows=4, priority="normal")
        big = w.ask(name="b", rows=8, endpoint=Inference.AUDIO)
        small = w.ask(name="t", rows=2, priority="normal")
        await asyncio.sleep(1)
        assert worker.order == ["r0"]
        big.leave()
        await w.settle()
        assert worker.order == ["r0", "t0"]
        assert worker.sent[-1].at == pytest.approx(1.0)
        await small


# -- failing parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 422, 500])
async def test_one_part_that_fails_fails_the_request_once_with_infinitys_own_answer(status: int) -> None:
    """Status, body and headers are the worker's; the parts that wait are dropped."""
    async with world() as w:
        w.order(2, 1)
        worker = w.up()
        refusal = Reply(status, b'{"error": "of its own"}', {"content-type": "application/json"})
        worker.script = lambda sent: refusal if "x14" in sent.rows else None  # x10 to x19 are longer and go first
        client = w.ask(rows=20)
        assert await client is refusal
        await asyncio.sleep(5)
        assert len(worker.sent) == 3
        w.check_empty()


async def test_answers_that_do_not_fit_together_are_refused() -> None:
    """A part answered with too few rows must not shift the others."""
    async with world() as w:
        w.order(2, 1)
        worker = w.up()
        short = Reply(200, b'{"object":"list","data":[],"usage":{}}')
        worker.script = lambda sent: short if "x2" in sent.rows else None
        client = w.ask(rows=6)
        await client
        assert client.refusal.reason is Reason.WORKER_UNAVAILABLE


# -- limits ---------------------------------------------------------------------------------------------------------


async def test_a_burst_gets_exactly_as_many_places_as_there_are() -> None:
    """50 at once into a queue for 10: ten wait, the others are told so at once and told when to come back."""
    async with world(max_requests=10) as w:
        w.order(paused=True)
        w.up()
        clients = [w.ask() for _ in range(50)]
        await w.settle()
        refused = [c for c in clients if c.done]
        assert len(refused) == 40
        assert {c.refusal.reason for c in refused} == {Reason.QUEUE_FULL}
        assert w.dispatcher.reserved[0] == 10
        w.order()
        await asyncio.gather(*(c.task for c in clients))
        assert sum(c.right for c in clients if c not in refused) == 10
        w.check_empty()


async def test_bytes_are_bounded_too_and_what_is_in_flight_does_not_count() -> None:
    """A request keeps its bytes until the last of it has left for a worker."""
    async with world(max_bytes=1000) as w:
        w.order(8, 1)
        w.up()
        place = w.dispatcher.admit(900)
        with pytest.raises(Refusal) as full:
            w.dispatcher.admit(101)
        assert full.value.reason is Reason.QUEUE_FULL
        with pytest.raises(Refusal) as never:
            w.dispatcher.admit(1001)
        assert never.value.reason is Reason.TOO_LARGE
        with pytest.raises(Refusal):
            place.grow(101)
        place.grow(50)
        assert w.dispatcher.reserved == (1, 950)
        w.dispatcher.end(place, None)
        client = w.ask(rows=12)
        await w.settle()
        assert w.dispatcher.reserved[0] == 1, "four rows still wait"
        await asyncio.sleep(1.5)
        assert w.dispatcher.reserved == (0, 0)
        await client
        w.check_empty()


async def test_retry_after_follows_the_pace_of_the_queue() -> None:
    """At two inputs a second and 20 waiting, a refused client is told about ten seconds."""
    async with world(max_requests=20) as w:
        w.order(1, 1)
        w.up(seconds=0.5)
        for _ in range(60):
            w.ask()
            await asyncio.sleep(0.5)
        for _ in range(22):
            w.ask()
        await w.settle()
        with pytest.raises(Refusal) as full:
            w.dispatcher.admit(1)
        assert full.value.retry_after == pytest.approx(10, rel=0.3)


# -- names ----------------------------------------------------------------------------------------------------------


async def test_models_are_found_by_name_and_alias_only() -> None:
    """An unknown name is refused with the names there are, also where there is one model only."""
    models = (ServedModel("org/m", ("nick", "Org/M-old")), ServedModel("embeddings"))
    w = World(models)
    w.up("org/m", seconds=0)
    w.up("embeddings", seconds=0)
    for name, canonical in (("org/m", "org/m"), ("nick", "org/m"), ("Org/M-old", "org/m"), ("embeddings",) * 2):
        outcome = await w.ask(name)
        assert orjson.loads(outcome.body)["model"] == canonical
    for name in ("ORG/M", "", "m"):
        outcome = await w.ask(name)
        assert outcome.reason is Reason.UNKNOWN_MODEL
        assert f"`{name}` not found. Available model names are ['org/m', 'embeddings']" in str(outcome)
    await w.dispatcher.close()


async def test_configure_adds_renames_and_removes() -> None:
    """A reload: known lanes go on untouched, what waits for a removed model is refused, what runs of it ends."""
    async with world("a", "b") as w:
        w.order(2, 1)
        worker = w.up("b", seconds=10)
        running, waiting = w.ask("b", rows=2, name="r"), w.ask("b", name="w")
        await w.settle()
        w.dispatcher.configure([ServedModel("a"), ServedModel("c", ("b2",))], w.limits)
        await w.settle()
        assert waiting.refusal.reason is Reason.WORKER_UNAVAILABLE
        assert (await w.ask("b")).reason is Reason.UNKNOWN_MODEL
        assert sorted(w.dispatcher.demand()) == ["a", "c"]
        drained = asyncio.create_task(w.dispatcher.drain("b", 30))
        await running
        assert running.right
        assert await drained
        w.dispatcher.detach("b")
        await w.settle()
        assert worker.closed
        w.check_empty()


# -- reports --------------------------------------------------------------------------------------------------------


async def test_demand_tells_what_is_wanted_and_what_is_on_its_way() -> None:
    """Queue, flight, leases and uses of each model, and their sum."""
    async with world("a", "b") as w:
        w.order(4, 1)
        w.up("a", seconds=10)
        w.ask("a", rows=6)
        waiting = w.ask("a", name="w")
        w.ask("b", rows=3)
        await asyncio.sleep(2)
        a, b = w.dispatcher.demand()["a"], w.dispatcher.demand()["b"]
        assert (a.queued_requests, a.queued_inputs, a.inflight_parts, a.inflight_inputs) == (2, 3, 1, 4)
        assert (a.leases, a.uses, a.last_used, a.oldest_wait_s) == (1, 1, 0.0, 2.0)
        assert (b.queued_requests, b.queued_inputs, b.leases, b.uses, b.last_used) == (1, 3, 0, 0, None)
        assert b.queued_bytes > 0
        assert w.dispatcher.totals.queued_inputs == 6
        assert w.demanded == ["b"], "the one without a worker"
        waiting.leave()


async def test_the_longest_part_is_seen_while_it_runs_and_shortly_after() -> None:
    """The ladder waits longer for CPU while a long row of ours runs."""
    async with world("a", "b") as w:
        w.up("a", seconds=10)
        w.up("b", seconds=1)
        w.ask("a")
        await asyncio.sleep(4)
        w.ask("b")
        assert w.dispatcher.longest_part(w.now) == pytest.approx(4)
        await asyncio.sleep(7)
        assert w.dispatcher.longest_part(w.now) == pytest.approx(10)
        await asyncio.sleep(2)
        assert w.dispatcher.longest_part(w.now) == 0.0


async def test_the_observer_hears_of_waits_and_inputs() -> None:
    """The wait of each request once, the inputs of each part that was answered."""
    async with world() as w:
        w.order(4, 1, paused=True)
        w.up()
        client = w.ask(rows=10)
        await asyncio.sleep(3)
        w.order(4, 1)
        await client
        assert w.counter.waits == [3.0]
        assert w.counter.inputs == {"a": 10}


# -- the end --------------------------------------------------------------------------------------------------------


async def test_draining_refuses_the_new_and_answers_the_old() -> None:
    """After begin_drain nobody comes in; those inside get their answers."""
    async with world() as w:
        w.order(1, 1)
        w.up()
        inside = [w.ask() for _ in range(3)]
        await w.settle()
        place = w.dispatcher.admit(10)
        w.dispatcher.begin_drain()
        late = w.ask()
        await late
        assert late.refusal.reason is Reason.DRAINING
        finished = asyncio.create_task(w.dispatcher.finish(60))
        await asyncio.gather(*(c.task for c in inside))
        await w.settle()
        assert not finished.done(), "a body is still being read"
        w.dispatcher.end(place, None)
        assert await finished
        assert all(c.right for c in inside)
        assert w.now == pytest.approx(3.0)


async def test_finish_refuses_what_is_left() -> None:
    """A gate that stays closed must not keep the service from stopping."""
    async with world() as w:
        w.order(paused=True)
        w.up()
        held = [w.ask() for _ in range(3)]
        await w.settle()
        w.dispatcher.begin_drain()
        assert not await w.dispatcher.finish(20)
        await asyncio.gather(*(c.task for c in held))
        assert {c.refusal.reason for c in held} == {Reason.DRAINING}
        assert w.now == pytest.approx(20)
        w.check_empty()
