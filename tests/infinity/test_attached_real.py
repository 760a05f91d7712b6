"""Models whose Infinity something else runs, with the real one: served, lost, found; ended only where we can."""

import concurrent.futures
import contextlib
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import daemon as daemons
from tests.support import infinity
from tests.support.daemon import Daemon

REFUSAL = "m: attached by url, without pid_file or systemd_unit; this supervisor cannot stop it"
KEY = "somebody-elses-key"
MARK = "POISON"


class Other:
    """Somebody else's Infinity at one address, with a key of its own; run and ended by the test."""

    def __init__(self, folder: Path) -> None:
        self.port = daemons.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key_file, self.pid_file = folder / "key", folder / "pid"
        self.key_file.touch(mode=0o600)
        self.key_file.write_text(KEY)
        self._running = contextlib.ExitStack()
        self.server: infinity.Server | None = None

    def start(self) -> None:
        """Run it; returns when it answers."""
        env = {"INFINITY_API_KEY": KEY, "TEST_POISON": MARK}
        self.server = self._running.enter_context(infinity.serve(infinity.debug_args("m"), env=env, port=self.port))
        self.server.headers["authorization"] = f"Bearer {KEY}"
        self.pid_file.write_text(str(self.pid))

    def end(self) -> None:
        """Kill it."""
        self._running.close()
        self.server = None

    @property
    def pid(self) -> int:
        """The server's process: the forked one, not the program that stands for it."""
        assert self.server is not None
        group = self.server.process.pid
        [pid] = [p for p in psutil.pids() if p != group and group_of(p) == group]
        return pid

    def model(self, **more: Any) -> dict[str, Any]:
        """The model's entry in a config."""
        return {"name": "m", "aliases": ["org/m"], "url": self.url, "api_key_file": str(self.key_file), **more}

    def answers(self) -> bool:
        """Whether it serves whoever asks it without the supervisor."""
        assert self.server is not None
        return self.server.post("/embeddings", {"model": "m", "input": "abcd"})[0] == 200


def group_of(pid: int) -> int | None:
    """The process group of a process that may be gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    """Somebody else's Infinity, at rest; ended at the end."""
    it = Other(tmp_path)
    try:
        yield it
    finally:
        it.end()


def settings(*models: dict[str, Any], **infinity_settings: Any) -> dict[str, Any]:
    """A daemon's settings."""
    return {"models": list(models), "infinity": {"command": infinity.template().command(), **infinity_settings}}


def test_without_control_it_is_served_and_never_ended(tmp_path: Path, other: Other) -> None:
    """Split and merged like any model; unload and restart are refused by name; it outlives the daemon."""
    other.start()
    with daemons.running(tmp_path, settings(other.model(), daemons.debug_model("a"))) as d:
        d.wait_ready("m", "a")
        assert other.server is not None
        before = posts(other.server)
        assert d.embed("m", *("x" * n for n in range(1, 301))) == [[float(n)] * 13 for n in range(1, 301)]
        assert posts(other.server) - before >= 300 / 32
        before = posts(other.server)
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            asked = [pool.submit(d.embed, "org/m", "x" * n) for n in range(1, 301)]
            assert [one.result(60) for one in asked] == [[[float(n)] * 13] for n in range(1, 301)]
        assert posts(other.server) - before < 300
        model = d.model("m")
        assert (model["state"], model["pid"], model["port"], model["memory_bytes"]) == ("ready", None, other.port, None)
        for act in ("unload", "restart"):
            status, answer = d.post(f"{d.admin}/api/v1/models/m/{act}")
            assert (status, REFUSAL in str(answer)) == (409, True)
        assert d.api("models/m/load")["state"] == "ready"
        d.api("pause", {"seconds": None})
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            held = pool.submit(d.embed, "m", "abc")
            d.until(lambda: d.status()["queue"]["requests"] == 1, 20, "the request is not held")
            d.api("resume")
            assert held.result(30) == [[3.0] * 13]
        d.drill(3, memory=97)
        d.wait_rung("unload", 5)
        time.sleep(2)
        assert d.model("m")["state"] == "ready"
        assert d.stop() == 0
    assert other.answers()


def posts(server: infinity.Server) -> float:
    """How many requests for embeddings an Infinity has answered, by its own metrics."""
    with urllib.request.urlopen(server.base_url + "/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("http_requests_total") and 'handler="/embeddings"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


@pytest.mark.timeout(240)
def test_nobody_loses_a_request_while_it_is_away(tmp_path: Path, other: Other) -> None:
    """Killed under load and started again seconds later, twice: all that was asked is answered."""
    other.start()
    with daemons.running(tmp_path, settings(other.model())) as d:
        d.wait_ready("m")
        with clients(d, 12) as (errors, answered):
            for _ in range(2):
                time.sleep(0.5)
                other.end()
                d.until(lambda: d.model("m")["state"] == "starting", 20, "its end was not seen")
                assert "nobody listens at " + other.url in d.model("m")["reason"]
                time.sleep(2)
                other.start()
                d.wait_ready("m", timeout=20)
                seen = answered()
                d.until(lambda seen=seen: answered() > seen + 50, 30, "the load does not go on")
        assert not errors, errors[:3]
        assert d.model("m")["restarts"] == 2


@contextlib.contextmanager
def clients(d: Daemon, count: int) -> Iterator[tuple[list[str], Callable[[], int]]]:
    """Clients that ask all the time: what went wrong, and how many answers came."""
    stop, errors, answered = threading.Event(), list[str](), [0] * count

    def client(number: int) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            length = number * 100 + n % 100 + 1
            try:
                assert d.embed("m", "x" * length, timeout=100) == [[float(length)] * 13]
            except (AssertionError, OSError) as error:
                errors.append(repr(error))
            answered[number] += 1
            time.sleep(0.01)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield errors, lambda: sum(answered)
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)


def test_one_that_stays_away_is_refused_with_the_reason(tmp_path: Path, other: Other) -> None:
    """After `start_timeout` requests get 503 and a load 409, both with the reason; it is served when it comes."""
    with daemons.running(tmp_path, settings(other.model(), start_timeout=2)) as d:
        status, answer, headers = d.exchange(d.proxy + "/embeddings", {"model": "m", "input": "abc"})
        assert (status, headers["x-supervisor-reason"]) == (503, "worker_unavailable")
        assert "nobody listens at " + other.url in answer["error"]["message"]
        assert "retry-after" in headers
        status, answer = d.post(d.admin + "/api/v1/models/m/load")
        assert (status, "whoever runs it has to start it" in str(answer)) == (409, True)
        other.start()
        d.wait_ready("m", timeout=20)
        assert d.embed("m", "abc") == [[3.0] * 13]


def test_with_a_pid_file_it_can_be_ended(tmp_path: Path, other: Other) -> None:
    """Its memory counts; unload ends it, ladder, upgrade and stop do not; a request waits for whoever starts it."""
    other.start()
    pid = other.pid
    model = other.model(pid_file=str(other.pid_file))
    with daemons.running(tmp_path, settings(model, daemons.debug_model("a"))) as d:
        d.wait_ready("m", "a")
        d.embed("m", "abc")
        d.until(lambda: (d.model("m")["memory_bytes"] or 0) > 50e6, 10, "its memory is not counted")
        assert d.model("m")["pid"] == pid
        d.drill(3, memory=97)
        d.wait_rung("unload", 5)
        time.sleep(2)
        assert d.model("m")["state"] == "ready"
        d.until(lambda: d.status()["rung"] != "unload", 20, "the drill does not end")
        told = d.api("models/m/unload")
        assert (told["state"], told["reason"]) == ("stopped", "stopped (operator)")
        assert not psutil.pid_exists(pid)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(d.embed, "m", "abc")
            d.until(lambda: d.model("m")["state"] == "starting", 20, "it is not looked for")
            assert str(other.pid_file) in d.model("m")["reason"]
            other.end()
            other.start()
            assert asked.result(60) == [[3.0] * 13]
        assert d.model("m")["pid"] == other.pid
        assert d.process is not None
        d.process.send_signal(signal.SIGUSR2)
        d.until(lambda: len(d.events("started")) == 2, 60, "it is not upgraded")
        d.wait_ready("m")
        assert d.model("m")["pid"] == other.pid
        assert d.embed("m", "abc") == [[3.0] * 13]
        assert d.stop() == 0
    assert other.answers()


@pytest.mark.timeout(180)
def test_a_zombie_of_somebody_else_is_told_and_waited_for(tmp_path: Path, other: Other) -> None:
    """Its model thread dies: it is detached in bounded time, requests wait, and go to the next one."""
    other.start()
    with daemons.running(tmp_path, settings(other.model(), stall_timeout=1)) as d:
        d.wait_ready("m")
        with pytest.raises(OSError):
            d.post(d.proxy + "/embeddings", {"model": "m", "input": MARK}, timeout=0.3)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(d.embed, "m", "x" * n, timeout=150) for n in range(1, 9)]
            d.until(lambda: d.model("m")["state"] == "starting", 60, "the zombie was not found")
            [told] = d.events("worker_dead")
            assert told["next"] == "what it had waits for its canary"
            assert "has not answered a canary yet" in d.model("m")["reason"]
            assert other.server is not None
            assert other.server.process.poll() is None
            other.end()
            other.start()
            assert [one.result(100) for one in asked] == [[[float(n)] * 13] for n in range(1, 9)]
