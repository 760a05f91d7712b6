"""The sizes of one lane's parts, at times that are written here: what is learned of parts, and what it allows next.

What a lane has learned shows in the core-seconds it expects: while no CPU was measured, those are the part's seconds.
"""

import asyncio
from typing import cast

import orjson
import pytest

from supervisor.core.body import read_body
from supervisor.core.fair_queue import Priority
from supervisor.core.model import LaneOrders
from supervisor.core.payload import Inference, understand
from supervisor.proxy.admission import Admission, QueueLimits
from supervisor.proxy.jobs import Asker, Job, Reply
from supervisor.proxy.part import Part
from supervisor.proxy.refusals import Refusal
from supervisor.proxy.sizing import Sizing

TAUGHT = 100.0
"""When a sizing that was `taught` has been idle for a while."""


def job(
    rows: int = 1,
    longest: int = 100,
    priority: Priority = Priority.NORMAL,
    endpoint: Inference = Inference.EMBEDDINGS,
) -> Job:
    """A request for so many rows of so many characters each."""
    body = read_body(orjson.dumps({"model": "a", "input": ["x" * longest] * rows}), "application/json")
    place = Admission(QueueLimits(), lambda: 0.0).reserve(len(body.raw))
    nobody = cast("asyncio.Future[Reply | Refusal]", None)  # waits for its outcome
    return Job(1, endpoint, understand(endpoint, body, "a"), Asker(), priority, place, 0.0, nobody)


def part(
    rows: int = 1,
    longest: int = 100,
    priority: Priority = Priority.NORMAL,
    endpoint: Inference = Inference.EMBEDDINGS,
    *,
    sent_at: float = 0.0,
) -> Part:
    """All of such a request, at the worker since then."""
    return Part([job(rows, longest, priority, endpoint).take(rows)], sent_at)


def taught(*seen: tuple[int, int, float], endpoint: Inference = Inference.EMBEDDINGS, times: int = 1) -> Sizing:
    """Has seen parts of so many rows, so many characters and so many seconds, each alone at the worker."""
    sizing, now = Sizing(0.0), 0.0
    for rows, longest, seconds in seen * times:
        sizing.answered(part(rows, longest, endpoint=endpoint, sent_at=now), False, now + seconds)
        now += seconds
    assert now <= TAUGHT
    return sizing


def costs(sizing: Sizing, endpoint: Inference = Inference.EMBEDDINGS) -> object:
    """What it expects of parts of several kinds, to compare with what another does."""
    shapes = [(1, 40), (8, 100), (23, 400), (16, 2000)]
    return pytest.approx([sizing.core_seconds(part(*shape, endpoint=endpoint)) for shape in shapes], rel=1e-6)


# -- how many rows --------------------------------------------------------------------------------------------------


def test_without_a_time_for_parts_the_batch_size_alone_bounds_them() -> None:
    """Known to be slow or unknown, long or short."""
    orders = LaneOrders(batch_size=24, part_seconds=None)
    for sizing in (Sizing(0.0), taught((1, 100, 5.0))):
        for longest in (1, 50_000):
            assert sizing.rows(Inference.EMBEDDINGS, longest, orders) == 24


def test_parts_take_about_the_time_that_is_ordered() -> None:
    """10 ms and 10 ms a row: 9 rows in 0.1 s, 19 in 0.2 s, never more than the batch size."""
    sizing = taught((1, 100, 0.02), (16, 100, 0.17), times=10)
    for seconds, batch_size, rows in [(0.1, 64, 9), (0.2, 64, 19), (0.2, 12, 12)]:
        orders = LaneOrders(batch_size=batch_size, part_seconds=seconds)
        assert sizing.rows(Inference.EMBEDDINGS, 100, orders) == pytest.approx(rows, abs=1)
    assert sizing.rows(Inference.EMBEDDINGS, 1000, LaneOrders(batch_size=64, part_seconds=0.2)) <= 3


def test_each_endpoint_has_sizes_of_its_own() -> None:
    """What embeddings take says nothing about a classifier."""
    sizing = taught((1, 100, 0.5), times=5)
    orders = LaneOrders(batch_size=16, part_seconds=0.2)
    assert sizing.rows(Inference.EMBEDDINGS, 100, orders) == 1
    assert sizing.rows(Inference.CLASSIFY, 100, orders) == Sizing(0.0).rows(Inference.CLASSIFY, 100, orders) > 1
    assert costs(sizing, Inference.CLASSIFY) == costs(Sizing(0.0), Inference.CLASSIFY).expected  # type: ignore[attr-defined]
