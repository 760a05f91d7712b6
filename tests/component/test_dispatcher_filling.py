"""The dispatcher in virtual time: whose rows share a part, when rows of several lengths wait."""

import pytest

from supervisor.proxy.jobs import Reply
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
