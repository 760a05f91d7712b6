"""The admin API: routes, answers, refusals."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from supervisor.admin.server import AdminServer
from supervisor.config.faults import ConfigError, Fault
from supervisor.errors import StartError, WorkerError
from tests.support.admin_client import call, until
from tests.support.served_api import Served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A running listener."""
    served = Served()
    await served.server.start()
    yield served
    await served.server.close()


# -- looks ------------------------------------------------------------------------------------------------------------


async def test_the_looks_give_what_control_says(served: Served) -> None:
    """Status, history and config are the documents as they are."""
    for path, expected in (
        ("/api/v1/status", served.control.status()),
        ("/api/v1/history", served.control.history()),
        ("/api/v1/config", served.control.config()),
    ):
        answer = await served.get(path)
        assert (answer.status, answer.json) == (200, expected)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"


async def test_decisions_are_the_newest_oldest_first(served: Served) -> None:
    """`n` bounds how many, 100 when it is not given."""
    assert [d["id"] for d in (await served.get("/api/v1/decisions?n=2")).json] == [3, 4]
    assert [d["id"] for d in (await served.get("/api/v1/decisions")).json] == [1, 2, 3, 4]


@pytest.mark.parametrize("n", ["0", "-1", "10001", "1.5", "x", "", "%D9%A1", "9" * 5000])
async def test_a_bad_count_of_decisions_is_refused(served: Served, n: str) -> None:
    """`n` outside 1 to 10000 is 400 with what is allowed."""
    answer = await served.get(f"/api/v1/decisions?n={n}")
    assert (answer.status, answer.reason) == (400, "bad_request")
    assert "1 to 10000" in answer.message


async def test_health_and_readiness(served: Served) -> None:
    """200 while the loop ticks and requests are accepted, else 503 with a reason."""
    assert ((await served.get("/healthz")).status, (await served.get("/readyz")).status) == (200, 200)
    served.control.ticking = served.control.open = False
    health, ready = await served.get("/healthz"), await served.get("/readyz")
    assert (health.status, health.reason, health.message) == (503, "not_ticking", "last tick 9.0 s ago")
    assert (ready.status, ready.reason) == (503, "not_accepting")


async def test_metrics_are_prometheus_text(served: Served) -> None:
    """`/metrics` shows what was counted, with Prometheus' content type."""
    served.metrics.refused("paused")
    answer = await served.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b'infinity_supervisor_refused_total{reason="paused"} 1.0\n' in answer.raw


async def test_head_is_answered_without_a_body(served: Served) -> None:
    """HEAD works where GET does."""
    answer = await call(served.server.port, "HEAD", "/healthz")
    assert (answer.status, answer.raw) == (200, b"")


# -- acts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("act", "state"), [("load", "ready"), ("unload", "stopped"), ("restart", "ready")])
async def test_acts_on_models_answer_with_the_outcome(served: Served, act: str, state: str) -> None:
    """200 with the model's state and a text, after the act is done; with no body, an empty one or {}."""
    for body in (None, b"", b"{}"):
        answer = await served.post(f"/api/v1/models/minilm/{act}", body)
        assert answer.status == 200
        assert answer.json == {"text": f"minilm is {state}", "model": "minilm", "state": state, "reason": None}
    assert served.control.acts == [(act, "minilm")] * 3


NAMES = [
    "BAAI/bge-small-en-v1.5",
    "a b",
    "ünïcödé 日本",
    "100%",
    "%2F",
    "a%2Fb",
    "x/load",
    "load",
    "/load",
    "trailing/",
    "..",
    "../..",
    "a//b",
    "a?b#c",
    "a&b=c;d+e",
    "line\nend",
    "\t\x7f",
    "events",
]


@pytest.mark.parametrize("name", NAMES)
async def test_any_name_arrives_as_it_was_meant(served: Served, name: str) -> None:
    """A percent-encoded name is understood to the byte, whatever is in it."""
    answer = await served.post(f"/api/v1/models/{quote(name, safe='')}/load")
    assert (answer.status, served.control.acts) == (200, [("load", name)])


@pytest.mark.parametrize("name", ["BAAI/bge-small-en-v1.5", "x/load", "a//b", "a/../b"])
async def test_a_name_may_have_raw_slashes(served: Served, name: str) -> None:
    """Slashes in a name may come as they are."""
    answer = await served.post(f"/api/v1/models/{name}/unload?x=/load")
    assert (answer.status, served.control.acts) == (200, [("unload", name)])


async def test_a_name_that_is_not_utf8_is_unknown(served: Served) -> None:
    """Bytes that are no text name no model."""
    answer = await served.post("/api/v1/models/%ff%fe/load")
    assert (answer.status, answer.reason, served.control.acts) == (404, "unknown_model", [])


@pytest.mark.parametrize(
    ("name", "status", "reason", "words"),
    [
        ("nobody", 404, "unknown_model", "configured: minilm"),
        ("broken", 409, "refused", "OSError: no such model"),
        ("slow", 504, "not_in_time", "still starting"),
    ],
)
async def test_refusals_have_the_contracts_status(
    served: Served, name: str, status: int, reason: str, words: str
) -> None:
    """404 unknown, 409 refused with the reason, 504 not in time."""
    answer = await served.post(f"/api/v1/models/{name}/load")
    assert (answer.status, answer.reason) == (status, reason)
    assert words in answer.message


async def test_a_worker_that_fails_is_a_refusal(served: Served) -> None:
    """A worker's last words reach the operator as 409."""
    served.control.faults["restart"] = WorkerError("exited with 1: KeyError")
    answer = await served.post("/api/v1/models/minilm/restart")
    assert (answer.status, answer.message) == (409, "exited with 1: KeyError")


@pytest.mark.parametrize(
    ("body", "seconds"),
    [(None, None), (b"", None), (b" \n", None), ({}, None), ({"seconds": None}, None), ({"seconds": 90.5}, 90.5)],
)
async def test_pause_takes_a_time_or_none(served: Served, body: object, seconds: float | None) -> None:
    """Without a body, or with null, the pause has no end of its own."""
    answer = await served.post("/api/v1/pause", body)
    assert (answer.status, answer.json["paused"]) == (200, True)
    assert served.control.acts == [("pause", seconds)]
    assert ("until resumed" if seconds is None else "for 90.5 s") in answer.json["text"]


async def test_resume_says_when_the_ladder_still_pauses(served: Served) -> None:
    """Ending the operator's pause is not the same as letting requests flow."""
    assert "still paused: memory 91.2 %" in (await served.post("/api/v1/resume")).json["text"]
    served.control.document.update(paused=False, reason=None)
    assert (await served.post("/api/v1/resume")).json["text"] == "requests flow"


async def test_drill_names_signals_and_seconds(served: Served) -> None:
    """Signals are injected for a time; 0 seconds ends every drill and needs no signal."""
    answer = await served.post("/api/v1/drill", {"signals": {"memory": 96, "gpu": 12.5}, "seconds": 20})
    assert answer.status == 200
    assert answer.json["text"] == "memory reads 96 %, gpu reads 12.5 % for 20 s; all else is real"
    assert (await served.post("/api/v1/drill", {"seconds": 0})).status == 200
    assert served.control.acts == [("drill", {"memory": 96.0, "gpu": 12.5}, 20.0), ("drill", {}, 0.0)]


async def test_a_failed_reload_lists_every_fault(served: Served) -> None:
    """409 with all faults of the file, each with its place."""
    faults = [Fault("x.yaml", 3, "models", "is missing"), Fault("x.yaml", 7, "mode", "'of'; allowed: enforce, observe")]
    served.control.faults["reload"] = ConfigError(faults)
    answer = await served.post("/api/v1/reload")
    assert (answer.status, answer.reason) == (409, "bad_config")
    assert answer.json["error"]["faults"] == [
        "x.yaml:3: models: is missing",
        "x.yaml:7: mode: 'of'; allowed: enforce, observe",
    ]
    del served.control.faults["reload"]
    assert (await served.post("/api/v1/reload")).json == {"text": "configuration reloaded", "changed": []}


async def test_two_acts_run_side_by_side(served: Served) -> None:
    """A load that takes long holds up nobody else."""
    served.control.hold = asyncio.Event()
    waiting = asyncio.create_task(served.post("/api/v1/models/minilm/load"))
    await until(lambda: served.control.acts)
    assert (await served.get("/healthz")).status == 200
    assert not waiting.done()
    served.control.hold.set()
    assert (await waiting).status == 200


# -- start and end ----------------------------------------------------------------------------------------------------


async def test_a_taken_port_is_one_line(served: Served) -> None:
    """A second listener on the same address is refused with address and remedy."""
    second = AdminServer(served.control, served.metrics, "127.0.0.1", served.server.port)
    place = f"admin.listen 127.0.0.1:{served.server.port}"
    with pytest.raises(StartError, match=f"{place}: .*in use.*set another") as raised:
        await second.start()
    assert "\n" not in str(raised.value)
    await second.close()


async def test_closing_ends_waiting_acts_soon() -> None:
    """The daemon's end does not wait for a load that is never going to be."""
    served = Served()
    await served.server.start()
    served.control.hold = asyncio.Event()
    waiting = asyncio.create_task(served.post("/api/v1/models/minilm/load"))
    await until(lambda: served.control.acts)
    async with asyncio.timeout(20):
        await served.server.close()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await waiting
    await served.server.close()


async def test_a_models_log(served: Served) -> None:
    """The last lines with the position behind them, and what came since one; what can't be is refused."""
    assert (await served.get("/api/v1/models/minilm/logs?n=2")).json == {"lines": ["line 1", "line 2"], "position": 21}
    assert (await served.get("/api/v1/models/minilm/logs?after=21")).json == {"lines": [], "position": 21}
    assert (await served.get("/api/v1/models/nope/logs")).status == 404
    for query in ("n=-1", "n=10001", "after=x", "after=-1", "after=" + "9" * 40):
        answer = await served.get(f"/api/v1/models/minilm/logs?{query}")
        assert (answer.status, answer.reason) == (400, "bad_request"), query
