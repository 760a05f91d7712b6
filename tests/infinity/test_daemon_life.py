"""The daemon's life with real Infinities: loads on demand, crashes, reloads, restarts, stops; nothing left behind."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.support import daemon as daemons
from tests.support.daemon import Daemon
from tests.support.nvml_stub import NvmlStub, gpu


def alive(pids: list[int]) -> list[int]:
    """Those of these processes that still run (a zombie of ours does not count)."""
    return [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Three models with room for two."""
    settings = {
        "models": [daemons.debug_model(name, aliases=[f"org/{name}-v1"]) for name in "abc"],
        "model_memory_manager": {"max_models_in_memory": 2},
    }
    with daemons.running(tmp_path_factory.mktemp("three"), settings) as d:
        d.wait_ready("a", "b")
        yield d


def test_preload_goes_as_far_as_there_is_room(three: Daemon) -> None:
    """Models are preloaded in the order written, as many as may be in memory."""
    assert [m["state"] for m in three.status()["models"]] == ["ready", "ready", "stopped"]


@pytest.mark.timeout(300)
def test_three_models_with_room_for_two_are_all_served(three: Daemon) -> None:
    """Alternating requests and all at once are answered without an error, with never three processes."""
    most = 0
    stop = threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.is_set():
            most = max(most, sum(m["pid"] is not None for m in three.status()["models"]))
            time.sleep(0.05)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        watcher = pool.submit(watch)
        try:
            for n, name in enumerate("abcacb", start=1):
                assert three.embed(name, "x" * n) == [[float(n)] * 13]
            at_once = [pool.submit(three.embed, name, "x" * n, timeout=200) for n in range(1, 5) for name in "abc"]
            for future in at_once:
                future.result(250)
        finally:
            stop.set()
        watcher.result(10)
    assert most == 2


def test_aliases_and_unknown_models(three: Daemon) -> None:
    """An alias serves its model, answered under the model's name; an unknown name is refused and harms nobody."""
    status, answer = three.post(three.proxy + "/v1/embeddings", {"model": "org/a-v1", "input": "abc"})
    assert (status, answer["model"]) == (200, "a")
    status, answer, headers = three.exchange(three.proxy + "/embeddings", {"model": "nope", "input": "abc"})
    assert (status, headers["x-supervisor-reason"]) == (400, "unknown_model")
    assert answer["error"]["code"] == 400  # Infinity's own shape
    assert "nope" not in three.get(three.admin + "/metrics")[1]


def test_a_killed_worker_is_restarted_and_its_request_answered(three: Daemon) -> None:
    """A worker killed from outside comes back by itself; a client that asks meanwhile waits and is answered."""
    three.api("models/a/load")
    before = three.model("a")
    os.kill(before["pid"], signal.SIGKILL)
    assert three.embed("a", "hello") == [[5.0] * 13]
    after = three.model("a")
    assert after["restarts"] == before["restarts"] + 1
    assert after["pid"] != before["pid"]


def test_operator_unload_and_load(three: Daemon) -> None:
    """`unload` answers when the worker is gone, `load` when it is ready."""
    three.api("models/a/load")
    pid = three.model("a")["pid"]
    three.api("models/a/unload")
    assert three.model("a")["state"] == "stopped"
    assert not alive([pid])
    assert three.api("models/a/load")["state"] == "ready"
    before = three.model("a")
    assert three.api("models/a/restart")["state"] == "ready"
    after = three.model("a")
    assert (after["restarts"], after["pid"] != before["pid"]) == (before["restarts"] + 1, True)
    assert three.post(three.admin + "/api/v1/models/zzz/load")[0] == 404


def test_idle_models_are_unloaded_but_the_last(tmp_path: Path) -> None:
    """A model idle past `inactive_timeout` goes at the next clean-up; the last ready one stays while all is quiet."""
    settings = {
        "models": [daemons.debug_model("a"), daemons.debug_model("b")],
        "model_memory_manager": {"inactive_timeout": 2, "cleanup_interval": 1},
    }
    with daemons.running(tmp_path, settings) as d:
        d.wait_ready("a", "b")
        d.until(
            lambda: sorted(m["state"] for m in d.status()["models"]) == ["ready", "stopped"],
            30,
            "no model was unloaded",
        )
        time.sleep(4)
        assert sorted(m["state"] for m in d.status()["models"]) == ["ready", "stopped"]
        gone = next(m["name"] for m in d.status()["models"] if m["state"] == "stopped")
        assert d.embed(gone, "abc") == [[3.0] * 13]


def test_sigterm_during_load_answers_what_is_in_flight_and_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM under load: accepted requests are answered, new ones refused, no process is left."""
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a"), daemons.debug_model("b")]}) as d:
        d.wait_ready("a", "b")
        pids = [p.pid for m in d.workers() for p in (m, *m.children(recursive=True))]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            running = [pool.submit(d.embed, name, *("w" * n for n in range(1, 1500))) for name in "abab"]
            d.until(lambda: d.status()["queue"]["requests"] > 0, 20, "no load")
            assert d.stop() == 0
            for future in running:
                assert len(future.result(10)) == 1499
        assert not alive(pids)


def test_sighup_while_it_starts_and_while_it_stops(tmp_path: Path) -> None:
    """A reload that comes before the start is done, or after the stop began, kills nothing and starts nothing."""
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a", preload=False)]}) as d:
        assert d.process is not None
        d.process.send_signal(signal.SIGHUP)
        d.wait_rung("normal", 20)
        d.api("pause", {"seconds": None})
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            held = pool.submit(d.exchange, d.proxy + "/embeddings", {"model": "a", "input": "x"})
            d.until(lambda: d.status()["queue"]["requests"] == 1, 20, "the request is not held")
            d.write({**d.settings, "models": [*d.settings["models"], daemons.debug_model("new")]})
            d.process.send_signal(signal.SIGTERM)
            d.until(lambda: d.events("stopping"), 10, "it does not stop")
            d.process.send_signal(signal.SIGHUP)
            d.until(lambda: d.events("reload_refused"), 10, "the reload is not refused")
            d.process.send_signal(signal.SIGTERM)
            status, _, headers = held.result(60)
            assert (status, headers["x-supervisor-reason"]) == (503, "draining")
            assert d.process.wait(60) == 0


def test_a_second_daemon_is_refused_in_one_line(tmp_path: Path) -> None:
    """A second daemon on the same state folder, or on a taken port, ends with exit 1 and one line."""
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a", preload=False)]}) as d:
        other = tmp_path / "other"
        other.mkdir()
        admin = {"listen": f"127.0.0.1:{daemons.free_port()}"}
        assert "runs on" in refused(other, {**d.settings, "admin": admin})
        assert "in use" in refused(other, {**d.settings, "state_dir": str(other / "state")})
        assert "in use" in refused(other, {**d.settings, "state_dir": str(other / "state"), "admin": admin})
        assert d.status()["rung"] == "normal"


def refused(folder: Path, settings: dict[str, object]) -> str:
    """What a daemon says that can't start: one line, exit 1."""
    path = folder / "supervisor.yaml"
    path.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "supervisor", "run", "-c", str(path)]
    ended = subprocess.run(command, cwd=daemons.ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1, ended
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    return ended.stderr


def test_pause_survives_a_restart(tmp_path: Path) -> None:
    """An operator's pause is still on after the daemon was stopped and started."""
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a", preload=False)]}) as d:
        d.api("pause", {"seconds": None})
        assert d.stop() == 0
        d.start()
        d.until(lambda: d.status()["reason"] == "operator", 5, "the pause is forgotten")
        d.api("resume")
        assert d.status()["paused"] is False


def test_reload_changes_what_changed_and_nothing_else(tmp_path: Path) -> None:
    """SIGHUP: unchanged models run on, new ones appear, removed ones go; a bad file changes nothing and says why."""
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a"), daemons.debug_model("b")]}) as d:
        d.wait_ready("a", "b")
        pid, gone = d.model("a")["pid"], d.model("b")["pid"]
        good = {
            **d.settings,
            "models": [daemons.debug_model("a"), daemons.debug_model("c")],
            "resource_monitor": {"cpu_warning_threshold": 70},
        }
        d.write(good)
        assert d.process is not None
        d.process.send_signal(signal.SIGHUP)
        d.until(lambda: {m["name"] for m in d.status()["models"]} == {"a", "c"}, 30, "the reload is not seen")
        assert d.model("a")["pid"] == pid
        d.until(lambda: not alive([gone]), 30, "the removed model still runs")
        assert d.embed("c", "abc") == [[3.0] * 13]
        d.path.write_text("resource_monitor: {cpu_warning_threshold: 99\n")
        status, answer = d.post(d.admin + "/api/v1/reload")
        assert status == 409
        assert str(d.path) in str(answer)
        assert d.model("a")["pid"] == pid
        d.write({**good, "proxy": {"listen": f"127.0.0.1:{daemons.free_port()}"}})
        status, answer = d.post(d.admin + "/api/v1/reload")
        assert status == 200
        assert "proxy.listen" in str(answer)


def test_observe_mode_touches_nothing(tmp_path: Path) -> None:
    """`mode: observe` decides and tells, and leaves gate, batch and models alone."""
    settings = {"mode": "observe", "models": [daemons.debug_model("a"), daemons.debug_model("b")]}
    with daemons.running(tmp_path, settings) as d:
        d.wait_ready("a", "b")
        d.drill(20, memory=96)
        d.wait_rung("unload", 5)
        assert d.embed("a", "abc") == [[3.0] * 13]
        time.sleep(3)
        status = d.status()
        assert status["mode"] == "observe"
        assert status["paused"] is False
        assert [m["state"] for m in status["models"]] == ["ready", "ready"]
        assert any(x["action"] == "unload" and "observed" in (x["outcome"] or "") for x in d.decisions())


def test_a_model_that_cannot_start_says_why_and_harms_nobody(tmp_path: Path) -> None:
    """A load that fails is answered with 503, its reason and Retry-After; other models go on."""
    bad = daemons.debug_model("bad", args=["--no-such-option"], preload=False)
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a"), bad]}) as d:
        d.wait_ready("a")
        status, answer, headers = d.exchange(d.proxy + "/embeddings", {"model": "bad", "input": "x"})
        assert (status, headers["x-supervisor-reason"]) == (503, "worker_unavailable")
        assert "retry-after" in headers
        assert "no-such-option" in str(answer) + str(d.model("bad")["reason"])
        assert d.embed("a", "abc") == [[3.0] * 13]


@pytest.mark.parametrize(
    "gpu_binding",
    [pytest.param(False, marks=pytest.mark.long, id="without NVML"), pytest.param(True, id="with NVML")],
)
def test_an_idle_daemon_is_small(tmp_path: Path, gpu_binding: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle, the daemon takes at most 1 % of a core and 80 MB, with the GPU binding loaded or not."""
    if gpu_binding:
        stub = NvmlStub.built(tmp_path).script(gpu("GPU-a", used=4, total=16))
        for name in ("LD_LIBRARY_PATH", "NVML_STUB"):
            monkeypatch.setenv(name, stub.env[name])
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a")]}) as d:
        d.wait_ready("a")
        d.embed("a", "abc")
        if gpu_binding:
            d.until(lambda: d.status()["signals"]["gpu_memory"]["percent"] is not None, 10, "the stub is not read")
        assert d.process is not None
        process = psutil.Process(d.process.pid)
        time.sleep(3)
        shares = [cpu_share(process, 8) for _ in range(5)]
        share = min(shares)  # what shares the machine only adds: a core that is taken away, a cache that is cold
        rss = process.memory_info().rss
        told = ", ".join(f"{each:.2%}" for each in shares)
        print(f"idle daemon, NVML {gpu_binding}: {told} of a core, {rss / 1e6:.1f} MB")
        assert rss <= 80e6
        assert share <= 0.01


def cpu_share(process: psutil.Process, seconds: float) -> float:
    """The CPU time that a process takes, in cores."""
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
