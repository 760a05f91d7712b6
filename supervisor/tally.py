"""Counters and histograms as plain numbers: what counting a request costs, and how a scrape reads it.

Owns the series of one metric and their arithmetic; names and labels are the caller's. prometheus-client's own `Counter`
and `Histogram` lock at every step, for threads: here all counting and scraping is done on the event loop's thread.
"""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """So much more; what is negative or not a number counts nothing, for a counter never falls."""
        if amount > 0.0:
            self.value += amount


class Spread:
    """One series of a histogram: how many values came up to each bound, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # each its own values only; the last is what is beyond all bounds
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One more value; what is negative or not a number counts as 0, for a sum never falls."""
        if not value >= 0.0:
            value = 0.0
        self.counts[bisect_left(self._bounds, value)] += 1  # left: a value on a bound belongs under it (`le`)
        self.sum += value


S = TypeVar("S", Count, Spread)


class Tally(Collector, Generic[S]):
    """One metric: its series by their label values, in the order in which they were first asked for."""

    def __init__(self, name: str, help: str, labels: tuple[str, ...]) -> None:
        self._name = name
        self._help = help
        self._labels = labels
        self._model_at = labels.index("model") if "model" in labels else None
        self._series: dict[tuple[str, ...], S] = {}

    def at(self, *values: str) -> S:
        """The series with these label values, made at 0 if it is new. It counts until `keep_models` drops it."""
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {self._labels}, not {len(values)} of them")
            series = self._series[values] = self._new()
        return series

    def keep_models(self, models: frozenset[str]) -> None:
        """Drop the series of all models but these; what counts under no model stays."""
        at = self._model_at
        if at is not None:
            self._series = {v: series for v, series in self._series.items() if not v[at] or v[at] in models}

    @abstractmethod
    def collect(self) -> Iterator[Metric]:
        """The metric with all its series, for a scrape."""

    @abstractmethod
    def _new(self) -> S:
        """A series at 0."""


class CounterTally(Tally[Count]):
    """A counter; `name` is without the `_total` that a scrape shows."""

    def collect(self) -> Iterator[Metric]:
        """One sample for each series."""
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, count in self._series.items():
            family.add_metric(values, count.value)
        yield family

    def _new(self) -> Count:
        return Count()


class HistogramTally(Tally[Spread]):
    """A histogram with these upper bounds, which are inclusive and rise; `+Inf` is added to them."""

    def __init__(self, name: str, help: str, bounds: tuple[float, ...], labels: tuple[str, ...]) -> None:
        self._bounds = bounds
        super().__init__(name, help, labels)

    def collect(self) -> Iterator[Metric]:
        """For each series how many were at or under each bound, their number and their sum."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        shown = [*map(str, self._bounds), "+Inf"]
        for values, spread in self._series.items():
            family.add_metric(values, list(zip(shown, accumulate(spread.counts), strict=True)), spread.sum)
        yield family

    def _new(self) -> Spread:
        return Spread(self._bounds)
