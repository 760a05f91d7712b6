"""What clients of the admin API get wrong: each gets a precise refusal and changes nothing."""

from collections.abc import AsyncIterator

import pytest

from supervisor.errors import NotInTime, Refused
from tests.support.admin_client import call
from tests.support.served_api import Served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A running listener."""
    served = Served()
    await served.server.start()
    yield served
    await served.server.close()


PAUSE, DRILL, RESUME = "/api/v1/pause", "/api/v1/drill", "/api/v1/resume"
BAD = [
    (PAUSE, b"{", "not JSON"),
    (PAUSE, b"[]", "a JSON object, not an array"),
    (PAUSE, b"null", "a JSON object, not null"),
    (PAUSE, b'"5m"', "a JSON object, not a string"),
    (PAUSE, b"\xff\xfe", "not JSON"),
    (PAUSE, {"seconds": "5m"}, "seconds must be a number, not a string"),
    (PAUSE, {"seconds": True}, "seconds must be a number, not a boolean"),
    (PAUSE, {"seconds": -1}, "seconds is -1; allowed: above 0"),
    (PAUSE, {"seconds": 0}, "seconds is 0; allowed: above 0"),
    (PAUSE, {"seconds": 1e12}, "at most 604800"),
    (PAUSE, b'{"seconds": NaN}', "not JSON"),
    (PAUSE, b'{"seconds": 1e999}', "seconds|not JSON"),
    (PAUSE, {"second": 1}, "unknown key 'second'; allowed: seconds"),
    (RESUME, {"seconds": 1}, "unknown key 'seconds'; allowed: none"),
    (RESUME, b"x", "not JSON"),
    ("/api/v1/reload", {"file": "x"}, "unknown key 'file'"),
    ("/api/v1/models/minilm/load", {"wait": False}, "unknown key 'wait'"),
    (DRILL, None, "seconds is missing"),
    (DRILL, {"signals": {"memory": 96}}, "seconds is missing"),
    (DRILL, {"signals": {"memory": 96}, "seconds": None}, "seconds must be a number, not null"),
    (DRILL, {"signals": {"memory": 96}, "seconds": -3}, "seconds is -3"),
    (DRILL, {"signals": {"memory": 96}, "seconds": 1e6}, "to 86400"),
    (DRILL, {"seconds": 20}, "signals is missing or empty"),
    (DRILL, {"signals": {}, "seconds": 20}, "signals is missing or empty"),
    (DRILL, {"signals": ["memory"], "seconds": 20}, "signals must be an object"),
    (DRILL, {"signals": {"ram": 96}, "seconds": 20}, "unknown signal 'ram'; allowed: cpu, memory, gpu, gpu_memory"),
    (DRILL, {"signals": {"memory": 101}, "seconds": 20}, "signals.memory is 101; allowed: 0 to 100"),
    (DRILL, {"signals": {"memory": -0.1}, "seconds": 20}, "signals.memory is -0.1"),
    (DRILL, {"signals": {"memory": "96"}, "seconds": 20}, "signals.memory must be a number, not a string"),
    (DRILL, {"signals": {"memory": 96}, "seconds": 20, "for": 3}, "unknown key 'for'; allowed: signals, seconds"),
    (DRILL, {"signals": {"x" * 5000: 1}, "seconds": 20}, "unknown signal"),
]


@pytest.mark.parametrize(("path", "body", "words"), BAD)
async def test_bad_bodies_are_refused_precisely_and_change_nothing(
    served: Served, path: str, body: object, words: str
) -> None:
    """400 says what is wrong and what is allowed; nothing was asked of the daemon."""
    answer = await served.post(path, body)
    assert (answer.status, answer.reason) == (400, "bad_request")
    assert any(word in answer.message for word in words.split("|"))
    assert len(answer.message) < 300
    assert served.control.acts == []


async def test_a_body_beyond_64_kib_is_refused(served: Served) -> None:
    """413, whether its length is told or it comes in chunks."""
    told = await served.post("/api/v1/pause", b" " * 65537)
    chunked = b"".join(b"1000\r\n" + b" " * 4096 + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
    headers = {"Transfer-Encoding": "chunked", "Content-Length": None}
    untold = await served.post("/api/v1/pause", chunked, **headers)
    assert [(a.status, a.reason) for a in (told, untold)] == [(413, "too_large")] * 2
    assert served.control.acts == []


async def test_a_body_that_does_not_come_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that promises a body and sends none gets 408 and holds nothing up."""
    monkeypatch.setattr("supervisor.admin.body.READ_SECONDS", 0.05)
    answer = await served.post("/api/v1/pause", b"{", **{"Content-Length": "100"})
    assert (answer.status, answer.reason) == (408, "body_timeout")
    assert served.control.acts == []


@pytest.mark.parametrize(
    "path", ["/nope", "/api/v1", "/api/v2/status", "/api/v1/status/", "/api/v1/models/minilm", "/api/v1/models//load/x"]
)
async def test_unknown_paths_are_404_in_json(served: Served, path: str) -> None:
    """What is not there is a JSON 404, not a page."""
    answer = await served.post(path)
    assert (answer.status, answer.reason) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/v1/status", "GET, HEAD"),
        ("DELETE", "/", "GET, HEAD"),
        ("POST", "/api/v1/events", "GET"),
        ("GET", "/api/v1/pause", "POST"),
        ("PUT", "/api/v1/models/a/b/load", "POST"),
    ],
)
async def test_wrong_methods_are_405_with_what_is_allowed(served: Served, method: str, path: str, allowed: str) -> None:
    """405 carries the Allow header."""
    answer = await call(served.server.port, method, path, b"")
    assert (answer.status, answer.reason, answer.headers["Allow"]) == (405, "method_not_allowed", allowed)


async def test_a_fault_of_ours_is_500_and_no_more(served: Served) -> None:
    """An exception nobody expected is told as such, without its insides, and the next request is served."""
    served.control.faults["load"] = ZeroDivisionError("secret")
    answer = await served.post("/api/v1/models/minilm/load")
    assert (answer.status, answer.reason) == (500, "internal")
    assert "secret" not in answer.message
    assert (await served.get("/healthz")).status == 200


@pytest.mark.parametrize("fault", [Refused("no"), NotInTime("late")])
async def test_errors_have_one_shape(served: Served, fault: Exception) -> None:
    """Every error is `{"error": {"message", "reason"}}`."""
    served.control.faults["unload"] = fault
    answer = await served.post("/api/v1/models/minilm/unload")
    assert set(answer.json) == {"error"}
    assert set(answer.json["error"]) == {"message", "reason"}
