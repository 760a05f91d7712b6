"""The arithmetic of the benchmarks: what is done with numbers once they are measured. No clock, no I/O."""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple


class Spread(NamedTuple):
    """Median, least and largest of a few values."""

    median: float
    least: float
    most: float


def spread(values: Iterable[float]) -> Spread | None:
    """The spread of `values`; None when there are none."""
    known = list(values)
    return Spread(median(known), min(known), max(known)) if known else None


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of all are not above; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def ratio(value: float, base: float) -> float:
    """`value` over `base`: 1 when both are 0, infinite when only the base is."""
    if base == 0:
        return 1.0 if value == 0 else math.inf
    return value / base


class Span(NamedTuple):
    """One request: when it was sent and when its answer was complete, in seconds of one clock; `work` in inputs."""

    sent: float
    ended: float
    work: float


def work_within(spans: Iterable[Span], begin: float, end: float) -> float:
    """The work done between `begin` and `end`, where a request that straddles a border counts by its share in time.

    Counting whole answers would be off by whole requests: at 4 clients with 32 inputs each, by 14 % of a minute's work.
    """
    done = 0.0
    for span in spans:
        inside = min(span.ended, end) - max(span.sent, begin)
        if span.ended > span.sent and inside > 0:
            done += span.work * inside / (span.ended - span.sent)
    return done


class CpuSample(NamedTuple):
    """Counters of the host at `at` seconds: ticks in which a core was busy, and all ticks."""

    at: float
    busy: int
    total: int


def busy_percent(samples: Sequence[CpuSample], begin: float, end: float) -> float:
    """The mean busy share of all cores between the samples next to `begin` and `end`, in percent; NaN without two."""
    inside = [s for s in samples if begin <= s.at <= end]
    if len(inside) < 2 or inside[-1].total == inside[0].total:
        return math.nan
    return 100 * (inside[-1].busy - inside[0].busy) / (inside[-1].total - inside[0].total)


def windows(samples: Sequence[CpuSample], seconds: float, begin: float, end: float) -> list[float]:
    """The busy percent of every window of `seconds` that lies between `begin` and `end`; one begins at each sample."""
    result = []
    last = 0
    inside = [s for s in samples if begin <= s.at <= end]
    for first in inside:
        # Samples are late by a millisecond or two: a window may be that much shorter.
        while last < len(inside) and inside[last].at - first.at < seconds * 0.98:
            last += 1
        if last == len(inside):
            break
        if inside[last].total > first.total:
            result.append(100 * (inside[last].busy - first.busy) / (inside[last].total - first.total))
    return result


def percent_above(values: Sequence[float], limit: float) -> float:
    """How many percent of `values` are above `limit`; NaN of nothing."""
    return 100 * sum(value > limit for value in values) / len(values) if values else math.nan


def quiet_since(samples: Sequence[CpuSample], limit: float, seconds: float) -> float | None:
    """When the host became idle: the first sample from which `seconds` on less than `limit` percent was busy; or None.

    From there on the first tenth of a second counts by itself as well, so that a busy end is not hidden in the mean.
    """
    for first in samples:
        whole = windows([s for s in samples if s.at >= first.at], seconds, first.at, first.at + seconds * 1.5)
        start = windows([s for s in samples if s.at >= first.at], seconds / 5, first.at, first.at + seconds)
        if whole and start and whole[0] < limit and start[0] < limit:
            return first.at
    return None
