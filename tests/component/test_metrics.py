"""Prometheus metrics: names, values, bounded labels, and a format that Prometheus' own tool accepts."""

import math
import shutil
import subprocess
import weakref
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from supervisor.core.model import ModelState, Rung, Signal
from supervisor.metrics import CONTENT_TYPE, WAIT_BUCKETS, Metrics
from supervisor.tally import CounterTally
from tests.support.fake_control import status

PREFIX = "infinity_supervisor_"
# name -> labels: the contract's metrics.
CONTRACT = {
    "signal_ratio": {"signal"},
    "rung": {"rung"},
    "rung_transitions_total": {"from", "to", "signal"},
    "paused_seconds_total": set(),
    "batch_size": set(),
    "requests_total": {"endpoint", "model", "code"},
    "request_duration_seconds": {"endpoint", "model"},
    "queue_wait_seconds": set(),
    "queue_requests": set(),
    "refused_total": {"reason"},
    "inputs_total": {"model"},
    "model_state": {"model", "state"},
    "model_loads_total": {"model"},
    "model_unloads_total": {"model", "cause"},
    "worker_restarts_total": {"model", "cause"},
    "model_memory_bytes": {"model"},
    "spare_memory_bytes": set(),
    "model_load_seconds": {"model"},
}


@pytest.fixture
def metrics() -> Metrics:
    """Metrics with one event of each kind in them."""
    metrics = Metrics(["minilm", "other"])
    metrics.observe_status(status())
    metrics.request_done("/v1/embeddings", "minilm", 200, 0.02)
    metrics.queue_waited(0.001)
    metrics.refused("paused")
    metrics.inputs_done("minilm", 12)
    metrics.on_load("minilm", 4.2)
    metrics.on_unload("minilm", "idle")
    metrics.on_restart("minilm", "crash")
    metrics.transition(Rung.NORMAL, Rung.PAUSE, Signal.MEMORY)
    metrics.paused_for(1.5)
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of a scrape, by name without prefix and labels."""
    return {
        (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """One sample's value, None when there is no such series."""
    return samples(metrics).get((name, frozenset(labels.items())))


def buckets(metrics: Metrics, name: str, **labels: str) -> dict[str, float]:
    """One histogram's buckets: upper bound to how many values were not above it, in the order of the scrape."""
    known = samples(metrics).items()
    return {
        dict(found)["le"]: number
        for (sample, found), number in known
        if sample == f"{name}_bucket" and found >= frozenset(labels.items())
    }


def models_of(metrics: Metrics) -> set[str]:
    """Every value of the label `model` in a scrape."""
    return {value for _, labels in samples(metrics) for key, value in labels if key == "model"}


def test_every_metric_of_the_contract_is_there_with_its_labels(metrics: Metrics) -> None:
    """Names and labels are the contract's, and all of them are described."""
    described = {item.name.removeprefix(PREFIX): set(item.labels) for item in metrics.described()}
    assert {name: described.get(name) for name in CONTRACT} == CONTRACT
    assert all(item.name.startswith(PREFIX) and item.help for item in metrics.described())
    shown = {name.removesuffix("_count") for name, _ in samples(metrics)}
    assert set(CONTRACT) <= shown


def test_what_is_shown_is_described(metrics: Metrics) -> None:
    """Nothing of our own is exposed that the documentation would not know of."""
    described = {item.name.removeprefix(PREFIX) for item in metrics.described()}
    shown = {
        name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        for name, _ in samples(metrics)
        if not name.startswith("process_")
    }
    assert shown == described


def test_events_are_counted(metrics: Metrics) -> None:
    """Each small method moves its metric by what it was told."""
    metrics.request_done("embeddings", "minilm", 200, 0.3)
    assert value(metrics, "requests_total", endpoint="embeddings", model="minilm", code="200") == 2
    assert value(metrics, "request_duration_seconds_sum", endpoint="embeddings", model="minilm") == pytest.approx(0.32)
    assert value(metrics, "queue_wait_seconds_count") == 1
    assert value(metrics, "refused_total", reason="paused") == 1
    assert value(metrics, "inputs_total", model="minilm") == 12
    assert value(metrics, "model_loads_total", model="minilm") == 1
    assert value(metrics, "model_load_seconds_sum", model="minilm") == 4.2
    assert value(metrics, "model_unloads_total", model="minilm", cause="idle") == 1
    assert value(metrics, "worker_restarts_total", model="minilm", cause="crash") == 1
    assert value(metrics, "rung_transitions_total", **{"from": "normal", "to": "pause", "signal": "memory"}) == 1
    assert value(metrics, "paused_seconds_total") == 1.5


def test_the_text_of_counters_and_histograms() -> None:
    """To the byte, series in the order in which they began; without labels, a series is there from the beginning."""
    metrics = Metrics()
    metrics.queue_waited(0.003)
    metrics.queue_waited(0.5)
    metrics.refused("queue_full")
    metrics.refused("paused")
    metrics.refused("queue_full")
    ours = [line for line in metrics.render().decode().splitlines() if "_wait_" in line or "_refused" in line]
    counts = zip(WAIT_BUCKETS, [0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2], strict=True)
    assert ours == [
        "# HELP infinity_supervisor_queue_wait_seconds From a request's arrival until its first part leaves.",
        "# TYPE infinity_supervisor_queue_wait_seconds histogram",
        *(f'infinity_supervisor_queue_wait_seconds_bucket{{le="{bound}"}} {count}.0' for bound, count in counts),
        'infinity_supervisor_queue_wait_seconds_bucket{le="+Inf"} 2.0',
        "infinity_supervisor_queue_wait_seconds_count 2.0",
        "infinity_supervisor_queue_wait_seconds_sum 0.503",
        "# HELP infinity_supervisor_refused_total Requests the supervisor itself refused.",
        "# TYPE infinity_supervisor_refused_total counter",
        'infinity_supervisor_refused_total{reason="queue_full"} 2.0',
        'infinity_supervisor_refused_total{reason="paused"} 1.0',
    ]
    untouched = Metrics()
    assert (value(untouched, "queue_wait_seconds_count"), value(untouched, "queue_wait_seconds_sum")) == (0, 0)


@pytest.mark.parametrize("bound", WAIT_BUCKETS)
def test_a_value_on_a_bound_is_under_it(bound: float) -> None:
    """Upper bounds are inclusive (`le`), and whatever is above the value's bound counts it as well."""
    metrics = Metrics()
    metrics.queue_waited(bound)
    assert buckets(metrics, "queue_wait_seconds") == {
        **{str(other): float(other >= bound) for other in WAIT_BUCKETS},
        "+Inf": 1,
    }


def test_a_value_beyond_all_bounds_is_counted() -> None:
    """A request of an hour is in `+Inf` only, and in number and sum."""
    metrics = Metrics(["minilm"])
    metrics.request_done("embeddings", "minilm", 200, 3600.0)
    metrics.request_done("embeddings", "minilm", 200, 0.1)
    labels = {"endpoint": "embeddings", "model": "minilm"}
    known = buckets(metrics, "request_duration_seconds", **labels)
    assert (known["0.05"], known["0.1"], known["300.0"], known["+Inf"]) == (0, 1, 1, 2)
    assert value(metrics, "request_duration_seconds_count", **labels) == 2
    assert value(metrics, "request_duration_seconds_sum", **labels) == pytest.approx(3600.1)


@pytest.mark.parametrize("nonsense", [-1.0, -math.inf, math.nan])
def test_nonsense_does_no_lasting_harm(nonsense: float) -> None:
    """A negative duration or none at all: the event counts, at 0; no sum and no counter falls or is lost."""
    metrics = Metrics(["minilm"])
    for seconds in (2.0, nonsense, 3.0):
        metrics.queue_waited(seconds)
        metrics.paused_for(seconds)
    assert value(metrics, "queue_wait_seconds_sum") == 5
    assert value(metrics, "queue_wait_seconds_count") == 3
    assert buckets(metrics, "queue_wait_seconds")["0.001"] == 1
    assert value(metrics, "paused_seconds_total") == 5


def test_series_have_as_many_values_as_labels() -> None:
    """One too many would vanish from the scrape without a word."""
    with pytest.raises(ValueError, match="2 of them"):
        CounterTally("things", "Things.", ("kind",)).at("one", "two")


def test_gauges_follow_the_last_status(metrics: Metrics) -> None:
    """Ratios are 0 to 1, exactly one rung and one state per model are 1, and a missing signal has no series."""
    assert value(metrics, "signal_ratio", signal="memory") == pytest.approx(0.912)
    assert value(metrics, "signal_ratio", signal="gpu") is None
    rungs = {rung.label: value(metrics, "rung", rung=rung.label) for rung in Rung}
    assert rungs == {"normal": 0, "warn": 0, "shrink": 0, "pause": 1, "unload": 0}
    assert value(metrics, "batch_size") == 14
    assert value(metrics, "queue_requests") == 12
    assert value(metrics, "spare_memory_bytes") == 367001600
    states = {state: value(metrics, "model_state", model="minilm", state=state.value) for state in ModelState}
    assert states == {state: float(state is ModelState.READY) for state in ModelState}
    assert value(metrics, "model_memory_bytes", model="minilm") == 660602880
    assert value(metrics, "model_memory_bytes", model="<script>alert(1)</script>") is None


def test_before_the_first_tick_there_are_no_gauges_of_it() -> None:
    """A scrape before the first status shows counters and the build, and invents no readings."""
    metrics = Metrics(["minilm"])
    names = {name for name, _ in samples(metrics)}
    assert {"build_info", "paused_seconds_total", "inputs_total", "model_loads_total"} <= names
    assert not {"signal_ratio", "rung", "batch_size", "queue_requests", "model_state"} & names


def test_clients_cannot_make_label_values(metrics: Metrics) -> None:
    """Whatever paths and model names clients send, the number of series stays as it is."""
    metrics.request_done("/docs", "nobody", 404, 0.1)
    before = len(samples(metrics))
    for number in range(500):
        metrics.request_done(f"/docs/{number}", f"model-{number}", 404, 0.1)
        metrics.request_done("/v1/embeddings", None, 404, 0.1)
        metrics.inputs_done(f"model-{number}", 1)
    assert value(metrics, "requests_total", endpoint="other", model="", code="404") == 501
    assert value(metrics, "requests_total", endpoint="embeddings", model="", code="404") == 500
    assert len(samples(metrics)) <= before + 40
    assert models_of(metrics) <= {"", "minilm", "other", *(model["name"] for model in status()["models"])}


def test_requests_are_told_apart_by_endpoint_model_and_code() -> None:
    """One of each kind after the other, three times: none counts as another."""
    metrics = Metrics(["minilm", "other"])
    kinds = [(e, m, c) for e in ("embeddings", "rerank") for m in ("minilm", "other", None) for c in (200, 503)]
    for endpoint, model, code in kinds * 3:
        metrics.request_done(endpoint, model, code, 0.1)
    known = samples(metrics)
    assert {key: number for key, number in known.items() if key[0] == "requests_total"} == {
        ("requests_total", frozenset({"endpoint": e, "model": m or "", "code": str(c)}.items())): 3 for e, m, c in kinds
    }
    durations = [number for (name, _), number in known.items() if name == "request_duration_seconds_count"]
    assert durations == [6] * 6  # of both codes together


def test_nothing_that_clients_send_is_kept(metrics: Metrics) -> None:
    """What counts as "other" or under no model leaves no memory of its name, whatever comes along with it."""

    class Sent(str):
        """Text whose end can be watched."""

    path, model = Sent("/docs"), Sent("nobody")
    watched = [weakref.ref(path), weakref.ref(model)]
    for known in ("minilm", None, model):
        metrics.request_done(path, known, 404, 0.1)
    metrics.request_done("embeddings", model, 404, 0.1)
    metrics.inputs_done(model, 1)
    del path, model, known
    assert [ref() for ref in watched] == [None, None]


@pytest.mark.parametrize("path", ["embeddings", "/embeddings", "/v1/embeddings"])
def test_an_endpoint_counts_under_one_name(path: str) -> None:
    """With and without /v1, an endpoint is one series."""
    metrics = Metrics(["minilm"])
    metrics.request_done(path, "minilm", 200, 0.1)
    assert value(metrics, "requests_total", endpoint="embeddings", model="minilm", code="200") == 1


def test_a_removed_model_loses_its_series(metrics: Metrics) -> None:
    """After a reload without it, no series names the model; the others keep their counts, and it may come back at 0."""
    metrics.request_done("/embeddings", "other", 200, 0.1)
    document: dict[str, Any] = {**status(), "models": []}
    metrics.observe_status(document)
    metrics.set_models(["other"])
    assert models_of(metrics) == {"other"}
    assert value(metrics, "requests_total", endpoint="embeddings", model="other", code="200") == 1
    metrics.request_done("/embeddings", "minilm", 200, 0.1)  # one that was under way
    assert models_of(metrics) == {"other", ""}
    metrics.set_models(["minilm", "other"])
    assert value(metrics, "inputs_total", model="minilm") == 0


def test_a_model_that_comes_back_begins_anew() -> None:
    """Requests while it was gone count under no model, and none of its old counts show up again."""
    metrics = Metrics(["minilm"])

    def counts(model: str) -> tuple[float | None, float | None]:
        labels = {"endpoint": "embeddings", "model": model}
        number = value(metrics, "requests_total", code="200", **labels)
        return number, value(metrics, "request_duration_seconds_sum", **labels)

    metrics.request_done("embeddings", "minilm", 200, 1.0)
    metrics.request_done("embeddings", "minilm", 200, 1.0)
    assert (counts("minilm"), counts("")) == ((2, 2), (None, None))
    metrics.set_models([])
    assert (counts("minilm"), counts("")) == ((None, None), (None, None))
    metrics.request_done("embeddings", "minilm", 200, 4.0)
    assert (counts("minilm"), counts("")) == ((None, None), (1, 4))
    metrics.set_models(["minilm"])
    metrics.request_done("embeddings", "minilm", 200, 8.0)
    assert (counts("minilm"), counts("")) == ((1, 8), (1, 4))


def test_a_reload_keeps_what_it_does_not_concern() -> None:
    """Models that stay, what counts under none, and metrics that are not by model go on from where they were."""
    metrics = Metrics(["minilm"])
    for _ in range(2):
        metrics.request_done("embeddings", "minilm", 200, 0.1)
        metrics.request_done("/docs", None, 404, 0.1)
        metrics.queue_waited(0.1)
        metrics.refused("paused")
        metrics.set_models(["minilm", "other"])
    assert value(metrics, "requests_total", endpoint="embeddings", model="minilm", code="200") == 2
    assert value(metrics, "requests_total", endpoint="other", model="", code="404") == 2
    assert value(metrics, "queue_wait_seconds_count") == 2
    assert value(metrics, "refused_total", reason="paused") == 2
    assert {value(metrics, name, model="other") for name in ("inputs_total", "model_loads_total")} == {0}


def test_hostile_names_survive_the_format() -> None:
    """Quotes, backslashes and line ends in a configured name come back unchanged from a scrape."""
    name = 'a"b\\c\nd{}é'
    metrics = Metrics([name])
    metrics.request_done("/embeddings", name, 200, 0.1)
    assert models_of(metrics) == {name}


def test_the_text_says_what_it_is() -> None:
    """The content type is the one Prometheus knows for this format."""
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_promtool_finds_nothing_to_complain_about(metrics: Metrics) -> None:
    """Prometheus' own linter accepts names, types, units and help texts."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.fail("promtool is not installed: tests/run gets it, or apt-get install prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=metrics.render(), capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
