"""Web pages are kept out of the admin listener."""

import pytest

from supervisor.admin.guard import host_allowed, refusal, same_origin
from supervisor.admin.server import AdminServer
from supervisor.metrics import Metrics
from tests.support.admin_client import call
from tests.support.fake_control import FakeControl


@pytest.mark.parametrize(
    ("host", "listen", "expected"),
    [
        ("127.0.0.1:7998", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("LOCALHOST:7998", "127.0.0.1", True),
        ("localhost.:7998", "127.0.0.1", True),
        ("127.8.8.8", "127.0.0.1", True),
        ("[::1]:7998", "127.0.0.1", True),
        ("10.0.0.5:7998", "10.0.0.5", True),
        ("ops.example:7998", "ops.example", True),
        ("10.0.0.5:7998", "0.0.0.0", True),
        ("[fd00::1]:7998", "::", True),
        ("evil.example", "127.0.0.1", False),
        ("evil.example", "0.0.0.0", False),
        ("127.0.0.1.evil.example", "127.0.0.1", False),
        ("localhost.evil.example", "127.0.0.1", False),
        ("10.0.0.5", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("[", "127.0.0.1", False),
    ],
)
def test_hosts(host: str, listen: str, expected: bool) -> None:
    """Loopback names and the listen address are ours; a listener on all addresses takes numeric ones."""
    assert host_allowed(host, listen) is expected


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        ("http://127.0.0.1:7998", "127.0.0.1:7998", True),
        ("https://LOCALHOST", "localhost", True),
        ("http://127.0.0.1:8080", "127.0.0.1:7998", False),
        ("http://evil.example", "127.0.0.1:7998", False),
        ("null", "127.0.0.1:7998", False),
        ("null", "null", False),
        ("http://localhost", None, False),
    ],
)
def test_origins(origin: str, host: str | None, expected: bool) -> None:
    """Another port is another origin; an opaque origin is nobody's."""
    assert same_origin(origin, host) is expected


def test_looks_need_no_origin_and_probes_no_host() -> None:
    """A GET with an Origin is answered (browsers hide the answer); probes come by any name; no Host is no browser."""
    foreign = {"Host": "localhost", "Origin": "http://evil.example"}
    assert refusal("GET", "/api/v1/status", foreign, "127.0.0.1") is None
    assert refusal("GET", "/healthz", {"Host": "pod-17.example"}, "127.0.0.1") is None
    assert refusal("POST", "/api/v1/pause", {}, "127.0.0.1") is None


async def test_a_web_page_cannot_pause_or_read() -> None:
    """Over the wire: a foreign Origin or a rebound Host is 403 and changes nothing; our own page may."""
    control = FakeControl()
    server = AdminServer(control, Metrics(), "127.0.0.1", 0)
    await server.start()
    try:
        port = server.port
        foreign = await call(port, "POST", "/api/v1/pause", b"", {"Origin": "http://evil.example"})
        rebound = await call(port, "GET", "/api/v1/status", headers={"Host": f"evil.example:{port}"})
        unknown = await call(port, "POST", "/nope", b"", {"Origin": "http://evil.example"})
        assert [(a.status, a.reason) for a in (foreign, rebound, unknown)] == [
            (403, "forbidden_origin"),
            (403, "forbidden_host"),
            (403, "forbidden_origin"),
        ]
        assert control.acts == []
        own = await call(port, "POST", "/api/v1/pause", b"", {"Origin": f"http://127.0.0.1:{port}"})
        assert (own.status, control.acts) == (200, [("pause", None)])
    finally:
        await server.close()
