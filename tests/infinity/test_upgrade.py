"""SIGUSR2: the daemon runs its program anew in place, with real Infinities and 50 clients: nobody sees an error."""

import signal
import threading
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support import daemon as daemons
from tests.support.daemon import Daemon
from tests.support.keep_alive import KeepAlive

CLIENTS = 50


def upgrade(d: Daemon) -> None:
    """Ask for it and wait until the next one has started."""
    assert d.process is not None
    started = len(d.events("started"))
    d.process.send_signal(signal.SIGUSR2)
    d.until(lambda: len(d.events("started")) > started, 40, "it did not start anew")


@pytest.mark.timeout(240)
def test_an_upgrade_under_fifty_clients_fails_nobody(tmp_path: Path) -> None:
    """Three of them: same pid of daemon and workers, every request answered, and the right way; then a clean stop.

    One worker has two models: it is taken over for both.
    """
    pair = [daemons.debug_model(name, group="g") for name in "bc"]
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a"), *pair]}) as d:
        d.wait_ready("a", "b", "c")
        assert d.process is not None
        daemon_pid, worker_pid, pair_pid = d.process.pid, d.model("a")["pid"], d.model("b")["pid"]
        stop = threading.Event()
        clients = [KeepAlive(d.proxy, i, stop) for i in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            for _ in range(3):
                upgrade(d)
                seen = sum(client.answered for client in clients)
                d.until(
                    lambda seen=seen: sum(c.answered for c in clients) > seen + 500, 30, "nothing is answered after it"
                )
        finally:
            stop.set()
            for client in clients:
                client.join(60)
        assert [wrong for client in clients for wrong in client.wrong] == []
        assert min(client.answered for client in clients) > 10
        assert d.process.poll() is None
        assert psutil.Process(daemon_pid).status() != psutil.STATUS_ZOMBIE
        assert [d.model(name)["pid"] for name in "abc"] == [worker_pid, pair_pid, pair_pid]
        assert d.embed("b", "four") == d.embed("c", "four") == [[4.0] * 13]
        assert d.stop() == 0
        for pid in (worker_pid, pair_pid):
            assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.timeout(120)
def test_an_upgrade_that_could_not_start_is_refused(tmp_path: Path) -> None:
    """A config that was broken meanwhile: this version goes on, and says why. After one, a worker's end is seen."""
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a")]}) as d:
        d.wait_ready("a")
        good = d.path.read_text()
        d.path.write_text("models: [{name: a}]\n")
        assert d.process is not None
        d.process.send_signal(signal.SIGUSR2)
        d.until(lambda: d.events("upgrade_refused"), 20, "the upgrade was not refused")
        assert "models" in d.events("upgrade_refused")[-1]["reason"]
        assert d.embed("a", "four") == [[4.0] * 13]
        d.path.write_text(good)
        upgrade(d)
        d.wait_ready("a")
        pid = d.model("a")["pid"]
        psutil.Process(pid).kill()
        d.until(lambda: d.model("a")["pid"] not in (pid, None), 20, "its end was not seen")
        d.wait_ready("a")
        assert d.embed("a", "four") == [[4.0] * 13]


@pytest.mark.timeout(120)
def test_requests_that_are_held_do_not_keep_an_upgrade_for_ever(tmp_path: Path) -> None:
    """An operator's pause outlives it; what it held is refused after drain_timeout, with a time to come again."""
    settings = {"models": [daemons.debug_model("a")], "infinity": {"drain_timeout": 1}}
    with daemons.running(tmp_path, settings) as d:
        d.wait_ready("a")
        d.api("pause", {"seconds": None})
        answers: list[tuple[int, object, dict[str, str]]] = []
        held = threading.Thread(
            target=lambda: answers.append(d.exchange(d.proxy + "/embeddings", {"model": "a", "input": "x"}, 60))
        )
        held.start()
        d.until(lambda: d.status()["queue"]["requests"] == 1, 10, "it is not held")
        upgrade(d)
        held.join(30)
        status, _, headers = answers[0]
        assert (status, headers["x-supervisor-reason"]) == (503, "draining")
        assert int(headers["retry-after"]) >= 1
        assert d.status()["paused"]
        d.api("resume")
        d.wait_ready("a")
        assert d.embed("a", "four") == [[4.0] * 13]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("changed", ["proxy.listen", "state_dir", "models"])
def test_an_upgrade_that_would_lose_sockets_or_workers_is_refused(tmp_path: Path, changed: str) -> None:
    """Settings under which the next program would not find what this one has take a restart, and are named."""
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a", preload=False)]}) as d:
        other = {
            "proxy.listen": {"proxy": {"listen": f"127.0.0.1:{daemons.free_port()}"}},
            "state_dir": {"state_dir": str(tmp_path / "elsewhere")},
            "models": {"models": []},
        }
        d.write({**d.settings, **other[changed]})
        assert d.process is not None
        d.process.send_signal(signal.SIGUSR2)
        d.until(lambda: d.events("upgrade_refused"), 20, "the upgrade was not refused")
        assert changed in d.events("upgrade_refused")[-1]["reason"]
        assert d.embed("a", "four") == [[4.0] * 13]


@pytest.mark.timeout(120)
def test_a_stop_during_an_upgrade_is_carried_out(tmp_path: Path) -> None:
    """SIGTERM while connections are handed over: it ends, cleanly and with all its workers."""
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a")]}) as d:
        d.wait_ready("a")
        worker = d.model("a")["pid"]
        url = urlsplit(d.proxy)
        idle = HTTPConnection(url.hostname or "", url.port, timeout=30)  # keeps the hand-over busy for 2 s
        idle.request("GET", "/health")
        idle.getresponse().read()
        assert d.process is not None
        d.process.send_signal(signal.SIGUSR2)
        d.until(lambda: d.events("upgrading"), 20, "it does not upgrade")
        assert d.stop() == 0
        idle.close()
        assert len(d.events("started")) == 1
        assert not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE
