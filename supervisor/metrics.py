"""Prometheus metrics: what is counted as it happens, and what is read off the last status.

Owns a registry of its own and every metric's name. The data plane and the workers call the small methods here for each
request, load and restart, all on the event loop's thread; gauges are made from the last status document when somebody
scrapes. Label values come from the configuration and from our own words, never from a client.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric

from supervisor import __version__
from supervisor.core.model import ModelState, Rung, Signal
from supervisor.tally import Count, CounterTally, HistogramTally, Spread

PREFIX = "infinity_supervisor"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # of what `Metrics.render` returns

_OTHER = "other"
_ENDPOINTS = ("embeddings", "rerank", "classify", "embeddings_image", "embeddings_audio", "models", "health", _OTHER)
# The label for an endpoint's name or path; every other path counts as "other".
_ENDPOINT_LABELS = {f"{lead}{name}": name for name in _ENDPOINTS for lead in ("", "/", "/v1/")}

# A one-line query of a small model takes 5 to 20 ms; a 2,048-input request on a slow host takes minutes.
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
# From "went straight through" to the default `queue.max_wait` and, for loads, `start_timeout`.
WAIT_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
# The debug engine is up in seconds, a real model in 25, a large one from a slow disk in minutes.
LOAD_BUCKETS = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Described(NamedTuple):
    """One metric as documentation lists it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


T = TypeVar("T", CounterTally, HistogramTally)


class Metrics:
    """Everything that `/metrics` shows; implements the proxy's observer and the pool's hooks.

    A model that is not configured counts under the label value "", a path that is no known endpoint under "other".
    """

    def __init__(self, models: Iterable[str] = ()) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._described: list[Described] = []
        self._models: frozenset[str] = frozenset()
        self._tallies: list[CounterTally | HistogramTally] = []
        # What a request counts in, found without a look at its labels; only what clients cannot make up is kept here.
        self._of_requests: dict[tuple[str, str | None, int], tuple[Count, Spread]] = {}
        self._requests = self._counter("requests", "Requests answered.", "endpoint", "model", "code")
        self._durations = self._histogram(
            "request_duration_seconds", "From a request's head to its last byte.", REQUEST_BUCKETS, "endpoint", "model"
        )
        self._waits = self._histogram(
            "queue_wait_seconds", "From a request's arrival until its first part leaves.", WAIT_BUCKETS
        ).at()
        self._refused = self._counter("refused", "Requests the supervisor itself refused.", "reason")
        self._inputs = self._counter("inputs", "Inputs answered by workers.", "model")
        self._transitions = self._counter("rung_transitions", "Changes of the rung.", "from", "to", "signal")
        self._paused = self._counter("paused_seconds", "Time the gate was closed.").at()
        self._loads = self._counter("model_loads", "Loads that made a model ready.", "model")
        self._unloads = self._counter("model_unloads", "Unloads, by what caused them.", "model", "cause")
        self._restarts = self._counter("worker_restarts", "Restarts of workers, by what caused them.", "model", "cause")
        self._load_seconds = self._histogram("model_load_seconds", "From start to ready.", LOAD_BUCKETS, "model")
        self._gauges = StatusGauges()
        self._described += self._gauges.described()
        self.registry.register(self._gauges)
        ProcessCollector(namespace=PREFIX, registry=self.registry)
        self.set_models(models)

    # -- the proxy's observer ----------------------------------------------------------------------------------------

    def request_done(self, endpoint: str, model: str | None, code: int, seconds: float) -> None:
        """A request was answered with this status code, `seconds` after its head came."""
        found = self._of_requests.get((endpoint, model, code)) or self._of_request(endpoint, model, code)
        number, durations = found
        number.inc()
        durations.observe(seconds)

    def queue_waited(self, seconds: float) -> None:
        """A request's first part left after waiting this long."""
        self._waits.observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused by us; `reason` is the one in `x-supervisor-reason`."""
        self._refused.at(reason).inc()

    def inputs_done(self, model: str, n: int) -> None:
        """A worker answered `n` inputs."""
        self._inputs.at(self._model(model)).inc(n)

    # -- the pool's hooks --------------------------------------------------------------------------------------------

    def on_load(self, model: str, seconds: float) -> None:
        """A model became ready, `seconds` after its worker was started."""
        self._loads.at(self._model(model)).inc()
        self._load_seconds.at(self._model(model)).observe(seconds)

    def on_unload(self, model: str, cause: str) -> None:
        """A model was unloaded."""
        self._unloads.at(self._model(model), cause).inc()

    def on_restart(self, model: str, cause: str) -> None:
        """A worker was restarted: it crashed, was recycled, or an operator asked."""
        self._restarts.at(self._model(model), cause).inc()

    # -- the controller's reports ------------------------------------------------------------------------------------

    def transition(self, before: Rung, after: Rung, signal: Signal | None) -> None:
        """The host's rung changed; `signal` is the one that decided."""
        self._transitions.at(before.label, after.label, signal.value if signal else "").inc()

    def paused_for(self, seconds: float) -> None:
        """The gate was closed for so much longer."""
        self._paused.inc(seconds)

    def observe_status(self, status: Mapping[str, Any]) -> None:
        """Keep this status document (the contract's shape): the gauges of the next scrape are read off it."""
        self._gauges.status = status

    def set_models(self, models: Iterable[str]) -> None:
        """These models are configured from now on; the series of all others go."""
        self._models = frozenset(models)
        self._of_requests.clear()  # some of these series go
        for tally in self._tallies:
            tally.keep_models(self._models)
        for model in self._models:  # a counter that begins at 0 has a rate from its first event on
            self._inputs.at(model)
            self._loads.at(model)

    # -- the scrape --------------------------------------------------------------------------------------------------

    def render(self) -> bytes:
        """The text exposition format, version 0.0.4 (`CONTENT_TYPE`)."""
        return prometheus_client.generate_latest(self.registry)

    def described(self) -> list[Described]:
        """Every metric of our own with its exposed name: what the documentation must list."""
        return sorted(self._described)

    def _model(self, name: str | None) -> str:
        return name if name is not None and name in self._models else ""

    def _of_request(self, endpoint: str, model: str | None, code: int) -> tuple[Count, Spread]:
        path = _ENDPOINT_LABELS.get(endpoint, _OTHER)
        name = self._model(model)
        found = self._requests.at(path, name, str(code)), self._durations.at(path, name)
        if endpoint in _ENDPOINT_LABELS and name == (model or ""):
            self._of_requests[endpoint, model, code] = found
        return found

    def _counter(self, name: str, help: str, *labels: str) -> CounterTally:
        self._described.append(Described(f"{PREFIX}_{name}_total", "counter", labels, help))
        return self._registered(CounterTally(f"{PREFIX}_{name}", help, labels))

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...], *labels: str) -> HistogramTally:
        self._described.append(Described(f"{PREFIX}_{name}", "histogram", labels, help))
        return self._registered(HistogramTally(f"{PREFIX}_{name}", help, buckets, labels))

    def _registered(self, tally: T) -> T:
        self._tallies.append(tally)
        self.registry.register(tally)
        return tally


class StatusGauges(prometheus_client.registry.Collector):
    """Gauges made from a status document at the time of the scrape: what is Missing or gone has no series."""

    def __init__(self) -> None:
        self.status: Mapping[str, Any] = {}

    def described(self) -> list[Described]:
        """The gauges as documentation lists them."""
        return [Described(family.name, "gauge", labels, family.documentation) for family, labels, _ in self._families()]

    def collect(self) -> Iterator[Metric]:
        """One family after the other, without those that have no value now."""
        for family, _, values in self._families():
            for labels, value in values:
                family.add_metric(labels, value)
            if family.samples:
                yield family

    def _families(self) -> Iterator[tuple[GaugeMetricFamily, tuple[str, ...], list[tuple[list[str], float]]]]:
        status = self.status
        models = status.get("models", ())

        def gauge(
            name: str, help: str, labels: tuple[str, ...], values: Iterable[tuple[list[str], float | None]]
        ) -> tuple[GaugeMetricFamily, tuple[str, ...], list[tuple[list[str], float]]]:
            known = [(label, float(value)) for label, value in values if value is not None]
            return GaugeMetricFamily(f"{PREFIX}_{name}", help, labels=labels), labels, known

        yield gauge(
            "build_info",
            "The version that runs; always 1.",
            ("version", "python"),
            [([__version__, platform.python_version()], 1.0)],
        )
        yield gauge(
            "signal_ratio",
            "Readings, 0 to 1; absent while they are missing.",
            ("signal",),
            (
                ([name], None if entry.get("percent") is None else entry["percent"] / 100)
                for name, entry in status.get("signals", {}).items()
            ),
        )
        yield gauge(
            "rung",
            "1 for the rung that the host is on, 0 for the others.",
            ("rung",),
            (([rung.label], float(rung.label == status["rung"])) for rung in Rung if "rung" in status),
        )
        yield gauge("batch_size", "Inputs in a part, at most.", (), [([], status.get("batch", {}).get("size"))])
        yield gauge("queue_requests", "Requests that wait.", (), [([], status.get("queue", {}).get("requests"))])
        yield gauge(
            "spare_memory_bytes",
            "Memory of the warm spare; absent while there is none.",
            (),
            [([], status.get("spare", {}).get("memory_bytes"))],
        )
        yield gauge(
            "model_state",
            "1 for the state that the model's worker is in, 0 for the others.",
            ("model", "state"),
            (([m["name"], state.value], float(m["state"] == state.value)) for m in models for state in ModelState),
        )
        yield gauge(
            "model_memory_bytes",
            "Memory of the model's processes; absent while there are none.",
            ("model",),
            (([m["name"]], m.get("memory_bytes")) for m in models),
        )
