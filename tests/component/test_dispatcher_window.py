"""The dispatcher in virtual time: how much is at a worker at once, and what does not leave beside what."""

import asyncio

import pytest

from tests.support.dispatching import Worker, all_of, world

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize(("seconds", "most"), [(0.008, 4), (0.15, 2)])
async def test_full_parts_of_milliseconds_need_no_proof(seconds: float, most: int) -> None:
    """Beyond two, parts leave at once where they are full and short; long ones wait until a trial has shown a gain."""
    async with world() as w:
        w.order(8, 4, seconds=0.2)
        worker = w.up(seconds=seconds)
        for i in range(12):  # what parts take is learned
            await all_of(w.ask(rows=8, name=f"warm{i}."))
        del worker.sent[:]
        large = w.ask(rows=80, name="large")
        await w.settle()
        assert len(worker.running) == most
        await large
        assert large.right


def taking(worker: Worker, seconds: dict[str, float]) -> None:
    """Parts take as long as the first letter of their first row says."""
    worker.takes = lambda sent: seconds[sent.rows[0][0]]


@pytest.mark.parametrize(("seconds", "waits"), [(0.3, True), (0.02, False)])
async def test_long_parts_do_not_follow_a_query_into_its_batch(seconds: float, waits: bool) -> None:
    """A worker that was free has not begun with a query yet when bulk comes right behind it, and would run both."""
    async with world() as w:
        w.order(8, 2, seconds=1.0)
        worker = w.up()
        taking(worker, {"b": seconds, "q": 0.01})
        for i in range(6):
            await all_of(w.ask(rows=8, name=f"b{i}.", priority="bulk"))
        del worker.sent[:]
        query = w.ask(name="q")
        bulk = w.ask(rows=32, name="b", priority="bulk")
        await w.settle()
        assert worker.order == (["q0"] if waits else ["q0", "b10"])  # the longest rows first
        await all_of(query)
        await w.settle()
        assert worker.order[:2] == ["q0", "b10"]
        assert len(worker.running) == 2
        await all_of(bulk)
        assert bulk.right
        w.check_empty()


async def test_bulk_of_unknown_length_waits_for_a_query_too() -> None:
    """What nobody has seen yet may take long."""
    async with world() as w:
        w.order(8, 2)
        worker = w.up(seconds=0.01)
        query = w.ask(name="q")
        bulk = w.ask(rows=8, name="b", priority="bulk")
        await w.settle()
        assert worker.order == ["q0"]
        await all_of(query, bulk)


async def test_a_query_follows_bulk_and_bulk_a_query_that_was_staged() -> None:
    """A query never waits for the bulk before it; behind it the worker is kept busy, for it is read by then."""
    async with world() as w:
        w.order(8, 2, seconds=1.0)
        worker = w.up()
        taking(worker, {"b": 0.3, "q": 0.2})
        for i in range(6):
            await all_of(w.ask(rows=8, name=f"b{i}.", priority="bulk"))
        del worker.sent[:]
        first = w.ask(rows=8, name="b", priority="bulk")
        query = w.ask(name="q")
        second = w.ask(rows=8, name="bb", priority="bulk")
        await w.settle()
        assert worker.order == ["b0", "q0"]
        await asyncio.sleep(0.31)
        assert worker.order == ["b0", "q0", "bb0"]
        await all_of(first, query, second)


async def test_parts_that_are_not_full_wait_for_a_place() -> None:
    """Short as they are, ten lines beside two running parts gather and leave as one."""
    async with world() as w:
        w.order(32, 4, seconds=0.2)
        worker = w.up(seconds=0.008)
        for i in range(12):
            await all_of(w.ask(rows=32, name=f"warm{i}."))
        del worker.sent[:]
        lines = [w.ask(name=f"n{i}.") for i in range(12)]
        await all_of(*lines)
        assert sorted(len(sent.rows) for sent in worker.sent) == [1, 1, 10]
