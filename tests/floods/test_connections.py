"""More connections than there should be: the daemon has room for so many, and serves whoever asks for something."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.admin.runner import MOST_CONNECTIONS
from supervisor.descriptors import MOST_CLIENTS, RESERVED
from tests.support import daemon as daemons
from tests.support.daemon import Daemon
from tests.support.flooding import HEAD, POST, connected, descriptors, exchange, files, gone, memory

# A shell that lets the daemon have so many open files and no more.
FEW = 300
FEW_CLIENTS = FEW // 2
ULIMIT = ("sh", "-c", f'ulimit -n {FEW}; exec "$@"', "sh")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with one model."""
    with daemons.running(tmp_path_factory.mktemp("served"), {"models": [daemons.debug_model("a")]}) as d:
        d.wait_ready("a")
        yield d


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The same, with few descriptors."""
    settings = {"models": [daemons.debug_model("a")]}
    with daemons.running(tmp_path_factory.mktemp("narrow"), settings, ULIMIT) as d:
        d.wait_ready("a")
        yield d


def test_ten_thousand_idle_connections_cost_little(served: Daemon) -> None:
    """They are all kept, each for less than 8 KB (3.6 measured), and whoever asks on one or a new one is answered."""
    count = 10_000
    before, files_before = memory(served), descriptors(served)
    with files(count + 1000):
        with connected(served.proxy, count) as idle:
            served.until(lambda: descriptors(served) >= files_before + count, 20, "not all are accepted")
            assert served.embed("a", "abcd") == [[4.0] * 13]
            for client in (idle[0], idle[count // 2], idle[-1]):
                client.sendall(POST)
                assert client.recv(4096).startswith(b"HTTP/1.1 200")
            grown = memory(served) - before
            print(f"{grown / count:.0f} bytes a connection")
            assert grown < count * 8192
        served.until(lambda: descriptors(served) <= files_before + 5, 20, "connections are left")


def test_half_a_head_on_each_of_them_costs_little_more(served: Daemon) -> None:
    """Neither do 5,000 that have begun to ask and stop, each for less than 32 KB; others are served."""
    count = 5000
    before = memory(served)
    with files(count + 1000), connected(served.proxy, count, HEAD) as slow:
        assert served.embed("a", "abcd") == [[4.0] * 13]
        grown = memory(served) - before
        print(f"{grown / count:.0f} bytes a connection")
        assert grown < count * 32_768
        slow[0].sendall(b"Content-Length: 28\r\n\r\n")
        slow[0].sendall(b'{"model":"a","input":"slow"}')
        assert slow[0].recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "says", [b"", HEAD[:20], b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["nothing", "half", "once"]
)
def test_idle_connections_make_room(narrow: Daemon, says: bytes) -> None:
    """Beyond the limit the longest idle ones are closed, whatever they said before; each new one is served."""
    with connected(narrow.proxy, 4 * FEW_CLIENTS, says) as idle:
        for _ in range(20):
            assert exchange(narrow.proxy, POST).startswith(b"HTTP/1.1 200")
        assert narrow.embed("a", "abcd") == [[4.0] * 13]
        assert descriptors(narrow) < FEW
        narrow.until(lambda: all(gone(client) for client in idle[:FEW_CLIENTS]), 10, "the oldest are not closed")
        assert not gone(idle[-1])
    assert narrow.events("request_failed") == []
    assert "Too many open files" not in narrow.tail(10**6)


def test_busy_connections_are_never_closed_for_others(narrow: Daemon) -> None:
    """Where all are busy a new one is refused with 429; each of those that are busy gets its answer."""
    narrow.api("pause", {"seconds": None})
    try:
        with connected(narrow.proxy, FEW_CLIENTS, POST) as held:
            narrow.until(lambda: narrow.status()["queue"]["requests"] == FEW_CLIENTS, 20, "not all are held")
            refused = exchange(narrow.proxy)
            assert refused.startswith(b"HTTP/1.1 429")
            assert b"x-supervisor-reason: queue_full" in refused
            narrow.api("resume")
            for client in held:
                assert client.recv(4096).startswith(b"HTTP/1.1 200")
    finally:
        narrow.api("resume")
    assert narrow.embed("a", "abcd") == [[4.0] * 13]


def test_the_admin_port_stays_within_its_own_limit(narrow: Daemon) -> None:
    """Idle connections there are closed for new ones, and take none from the clients."""
    with connected(narrow.admin, 3 * MOST_CONNECTIONS), connected(narrow.admin, MOST_CONNECTIONS, b"GET /heal"):
        assert narrow.get(narrow.admin + "/healthz")[0] == 200
        assert narrow.status()["models"][0]["state"] == "ready"
        assert narrow.embed("a", "abcd") == [[4.0] * 13]
        assert descriptors(narrow) < FEW


def test_the_limit_on_open_files_is_raised(tmp_path: Path) -> None:
    """A shell gives 1,024; the daemon takes what it needs of what it is allowed, and no more."""
    with daemons.running(
        tmp_path,
        {"models": [daemons.debug_model("a", preload=False)]},
        ("sh", "-c", 'ulimit -Sn 1024; exec "$@"', "sh"),
    ) as d:
        assert d.process is not None
        soft, hard = resource.prlimit(d.process.pid, resource.RLIMIT_NOFILE)
        assert soft == (MOST_CLIENTS + RESERVED if hard < 0 else min(hard, MOST_CLIENTS + RESERVED))
