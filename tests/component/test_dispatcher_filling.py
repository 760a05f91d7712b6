"""The dispatcher in virtual time: whose rows share a part, when rows of several lengths wait."""

import asyncio
import random

import orjson
import pytest

from supervisor.core.payload import Inference
from supervisor.proxy.jobs import Reply
from supervisor.proxy.sizing import Batch, Sizing
from tests.support.dispatching import Client, Sent, Worker, World, all_of, world

pytestmark = pytest.mark.looptime

SHORT, NEAR, LONG = 100, 150, 1000


def asks(w: World, *lengths: int, priority: str | None = None) -> list[Client]:
    """A request of one row for each length, in this order, each from a client of its own."""
    return [
        w.ask(name=chr(ord("a") + i) * length, client=f"c{i}", priority=priority) for i, length in enumerate(lengths)
    ]


async def learn(w: World) -> None:
    """What a part takes: 50 ms and 0.1 ms for each character of each row, so that company matters."""
    worker = w.up()
    worker.takes = lambda sent: 0.05 + 1e-4 * len(sent.rows) * max(map(len, sent.rows))
    for rows in (1, 2, 4, 8) * 3:
        for length in (SHORT, NEAR, LONG):
            await all_of(w.ask(rows=rows, name="w" * length))
    del worker.sent[:]


async def parts(w: World, first: Client, *others: Client) -> list[str]:
    """The first letters of the rows of each part that left once the worker had answered what it was busy with."""
    await all_of(first, *others)
    assert all(client.right for client in others)
    w.check_lanes()
    w.check_empty()
    return ["".join(row[0] for row in sent.rows) for sent in w.workers[0].sent[1:]]


async def test_rows_of_one_length_leave_together_past_others() -> None:
    """Every other one is ten times as long: two parts without padding instead of two with nearly half."""
    async with world() as w:
        w.order(4, 1)
        await learn(w)
        busy = w.ask(name="z")
        await w.settle()
        assert await parts(w, busy, *asks(w, *(SHORT, LONG) * 4)) == ["aceg", "bdfh"]


async def test_a_part_is_filled_with_the_nearest_lengths_first() -> None:
    """Not with what came next."""
    async with world() as w:
        w.order(3, 1)
        await learn(w)
        busy = w.ask(name="z")
        await w.settle()
        assert await parts(w, busy, *asks(w, SHORT, 300, 500, NEAR, SHORT)) == ["aed", "bc"]


async def test_short_rows_do_not_join_long_ones_where_padding_costs_more_than_a_part_of_their_own() -> None:
    """Six short rows padded to 1,000 characters would take 0.6 s more; alone they take 0.11 s."""
    async with world() as w:
        w.order(8, 1)
        await learn(w)
        busy = w.ask(name="z")
        await w.settle()
        assert await parts(w, busy, *asks(w, LONG, *(SHORT,) * 6)) == ["a", "bcdefg"]


async def test_few_rows_join_where_a_part_of_their_own_would_cost_more() -> None:
    """100 characters padded to 150 are 5 ms more, a part of its own 50 ms."""
    async with world() as w:
        w.order(8, 1)
        await learn(w)
        busy = w.ask(name="z")
        await w.settle()
        assert await parts(w, busy, *asks(w, NEAR, SHORT)) == ["ab"]


async def test_a_rare_length_leaves_in_its_turn() -> None:
    """It is not overtaken for ever by a stream of those who fill each other's parts."""
    async with world() as w:
        w.order(4, 1)
        await learn(w)
        clients = [w.ask(name="s" * SHORT, client=f"c{i % 5}") for i in range(12)]
        await w.settle()
        rare = w.ask(name="r" * LONG, client="rare")
        for i in range(60):
            clients.append(w.ask(name="s" * SHORT, client=f"c{i % 5}"))
            clients.append(w.ask(name="s" * SHORT, client=f"c{i % 5}"))
            if not rare.done:
                await clients[4 * (i // 4)].task
        await all_of(rare, *clients)
        order = "".join(letter for sent in w.workers[0].sent for letter in {row[0] for row in sent.rows})
        assert order.index("r") <= 4


def mixed(w: World, client: str, *lengths: int) -> Client:
    """A request of rows of these lengths."""
    raw = orjson.dumps({"model": "a", "input": [client * length for length in lengths]})
    return w.ask(raw=raw, client=client, priority="normal")


def rows_of(w: World) -> list[list[int]]:
    """The lengths of the rows of each part, after the first."""
    return [[len(row) for row in sent.rows] for sent in w.workers[0].sent[1:]]


async def test_requests_of_long_and_short_rows_are_divided_so_that_no_part_is_padded() -> None:
    """Two of them share two parts of one length each, instead of one part each that is nearly half padding."""
    async with world() as w:
        w.order(4, 1)
        await learn(w)
        busy = w.ask(name="z")
        await w.settle()
        await parts(w, busy, mixed(w, "a", SHORT, LONG, SHORT, LONG), mixed(w, "b", LONG, SHORT, LONG, SHORT))
        assert rows_of(w) == [[LONG] * 4, [SHORT] * 4]


async def test_a_request_is_not_divided_where_that_gains_nothing() -> None:
    """Nobody fills its parts, or the padding is too little: it leaves as its client wrote it."""
    async with world() as w:
        w.order(4, 1)
        await learn(w)
        busy = w.ask(name="z")
        await w.settle()
        alone = mixed(w, "a", SHORT, NEAR, SHORT)
        await parts(w, busy, alone)
        assert rows_of(w) == [[SHORT, NEAR, SHORT]]
        del w.workers[0].sent[:]
        busy = w.ask(name="z")
        await w.settle()
        await parts(w, busy, mixed(w, "a", 100, 106, 100, 106), mixed(w, "b", 106, 100, 106, 100))
        assert rows_of(w) == [[100, 106, 100, 106], [106, 100, 106, 100]]


async def test_the_rest_of_a_request_fills_the_part_that_its_first_rows_began() -> None:
    """Where nobody else has such rows: one piece of it, not two."""
    async with world() as w:
        w.order(8, 1)
        await learn(w)
        busy = w.ask(name="z")
        await w.settle()
        one = mixed(w, "a", *(LONG,) * 2, *(SHORT,) * 10)
        other = mixed(w, "b", *(LONG,) * 5, *(SHORT,) * 3)
        await parts(w, busy, one, other)
        assert sorted(map(sorted, rows_of(w))) == [[SHORT] * 5, [SHORT] * 8, [LONG] * 7]


async def test_lengths_are_counted_through_cancels_and_worker_errors() -> None:
    """Whoever leaves, is put back or must go alone: the queue's figures are those of its jobs."""
    async with world() as w:
        w.order(4, 1)
        await learn(w)
        worker = w.workers[0]
        busy = w.ask(name="z")
        await w.settle()
        clients = asks(w, *(SHORT, LONG, NEAR) * 3)
        await w.settle()
        clients.pop(4).leave()
        clients.pop(1).leave()
        await w.settle()
        w.check_lanes()
        refused = fails_together(worker)
        await all_of(busy, *clients)
        assert refused, "no part was shared"
        assert all(client.right for client in clients)
        w.check_empty()


async def test_lengths_are_counted_where_the_rest_of_a_job_waits_while_its_first_rows_are_refused() -> None:
    """From then on all of it goes alone."""
    async with world() as w:
        w.order(4, 1)
        await learn(w)
        busy = w.ask(name="z")
        await w.settle()
        one = w.ask(name="o" * NEAR, client="one", priority="normal")
        many = w.ask(rows=7, priority="normal", name="m" * NEAR, client="many")
        refused = fails_together(w.workers[0])
        order = await parts(w, busy, one, many)
        assert refused == [4]
        assert sorted(order[0]) == ["m", "m", "m", "o"]
        assert sorted(order[1:]) == ["mmm", "mmmm", "o"]


def fails_together(worker: Worker) -> list[int]:
    """Parts of several clients get a 400 from now on; how many rows each had."""
    refused: list[int] = []

    def script(sent: Sent) -> Reply | None:
        if len({row[0] for row in sent.rows}) == 1:
            return None
        refused.append(len(sent.rows))
        return Reply(400, b'{"error": {"message": "no", "type": "x", "code": 400}}', {})

    worker.script = script
    return refused


async def test_with_one_part_running_and_one_staged_mixed_lengths_wait_for_their_likes() -> None:
    """The third place is for a part of one class; a mixed one would be padding, and 70 ms later there is better."""
    async with world() as w:
        w.order(4, 4)
        await learn(w)
        clients = asks(w, NEAR, NEAR)
        await w.settle()
        clients += asks(w, NEAR, SHORT, LONG, LONG)
        await w.settle()
        assert len(w.workers[0].running) == 2, "full, but of three classes"
        clients += asks(w, NEAR, NEAR, NEAR)
        await w.settle()
        assert w.workers[0].running == [1, 1, 4]
        await all_of(*clients)
        assert all(client.right for client in clients)
        w.check_empty()


def test_company_is_waited_for_only_where_padding_costs() -> None:
    """A model whose rows cost nothing beside its overhead (the debug engine) is never kept waiting for it."""
    free, dear = Sizing(0.0), Sizing(0.0)
    for sizing, price in ((free, 0.0), (dear, 25e-6)):
        for n in range(1, 40):
            sizing._cost[Inference.EMBEDDINGS].note(n % 32 + 1, 80, 0.008 + price * (n % 32 + 1) * 80)
    assert not free.padding_matters(Inference.EMBEDDINGS, Batch(32, 80))
    assert dear.padding_matters(Inference.EMBEDDINGS, Batch(32, 80))


@pytest.mark.parametrize("window", [2, 4])
async def test_many_requests_of_mixed_lengths_leave_in_parts_with_little_padding(window: int) -> None:
    """16 clients with 32 rows of 50 to 90 characters each, again and again: the parts are full and nearly all text.

    What is divided already gives rows of any of its lengths to others' parts, not only those that are next.
    """
    rng = random.Random(4)
    async with world() as w:
        w.order(32, window)
        await learn(w)

        async def client(number: int) -> None:
            for turn in range(12):
                asked = mixed(w, f"{chr(97 + number)}{turn}", *(rng.randint(50, 90) for _ in range(32)))
                await asked
                assert asked.right
                w.check_lanes()

        await asyncio.gather(*(client(number) for number in range(16)))
        w.check_empty()
        steady = w.workers[0].sent[16:-16]
        text = sum(len(row) for sent in steady for row in sent.rows)
        padded = sum(len(sent.rows) * max(map(len, sent.rows)) for sent in steady)
        rows = sum(len(sent.rows) for sent in steady) / len(steady)
        assert text / padded > 0.94, text / padded
        assert rows > 30.5, rows
