"""The shipped unit under a real systemd: start, stop, restart, crash, and what is left after each."""

import signal
import time
from concurrent.futures import Future

import pytest

from tests.support.private_systemd import ADMIN, CONFIG, PROXY, SERVICE, SOCKET, Host, exchange

BLOCKABLE = f"Environment=TESTS_BLOCK_ON={signal.SIGRTMIN:d}\n"


def slow_request(host: Host, text: str = "slow") -> "Future[tuple[int, object]]":
    """A request that is at its worker when this returns."""
    body = f'{{"model": "m", "input": "{text}"}}'.encode()
    answer: Future[tuple[int, object]] = host.submit(exchange, PROXY + "/embeddings", body)
    host.until(lambda: bool(host.worker("m")["inflight_inputs"]), what="the request is not at its worker")
    return answer


def block(host: Host) -> None:
    """Have the supervisor's loop stand still."""
    host.run("kill", f"-{signal.SIGRTMIN:d}", str(host.main_pid()))


def nothing_is_left(host: Host) -> bool:
    """No process, no cgroup, no runtime folder, no port."""
    return not (
        host.processes()
        or (host.root / f"sys/fs/cgroup/system.slice/{SERVICE}").exists()
        or (host.root / "run/infinity-supervisor").exists()
        or host.listeners()
    )


def test_started_means_it_serves(host: Host) -> None:
    """`start` returns when the ports answer; a line tells rung, batch and queue; `restart` and `stop` leave nothing."""
    host.start()
    assert host.get(PROXY + "/health")[0] == 200
    assert host.embed("m") == 200
    host.until(lambda: host.show("StatusText") == "rung normal, batch 16, queue 0")
    pid = host.main_pid()
    assert host.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip() == "infinity-supervisor"
    assert host.show("WatchdogUSec") == "30s"
    host.post(ADMIN + "/api/v1/drill", {"signals": {"memory": 96}, "seconds": 20})
    host.until(lambda: host.show("StatusText").startswith("rung unload (memory 96.0 %)"))
    before = {pid, host.worker("m")["pid"]}
    host.systemctl("restart", SERVICE)
    after = {host.main_pid(), host.wait_ready("m")["pid"]}
    assert not before & after
    assert set(host.processes()) == after
    host.systemctl("stop", SERVICE)
    assert host.show("Result") == "success"
    assert nothing_is_left(host)


def test_a_model_outlives_a_crash_and_not_a_stop(host: Host) -> None:
    """Killed, the supervisor is started again and takes its model over, which goes on; a stop then ends both."""
    host.start()
    worker, supervisor = host.wait_ready("m")["pid"], host.main_pid()
    host.systemctl("kill", "--kill-whom=main", "--signal=KILL", SERVICE)
    host.until(lambda: host.main_pid() not in (0, supervisor) and host.show("ActiveState") == "active")
    assert host.wait_ready("m")["pid"] == worker
    assert host.embed("m") == 200
    assert host.show("NRestarts") == "1"
    host.systemctl("stop", SERVICE)
    assert nothing_is_left(host)


def test_a_supervisor_killed_in_its_stop_leaves_nothing(host: Host) -> None:
    """A stop that was asked for ends the models also when the supervisor is killed while it drains."""
    host.start()
    host.wait_ready("m")
    slow_request(host, "HANG")
    host.systemctl("stop", "--no-block", SERVICE)
    host.until(lambda: host.show("StatusText").startswith("stopping: "))
    assert host.show("ActiveState") == "deactivating"
    host.systemctl("kill", "--kill-whom=main", "--signal=KILL", SERVICE)
    host.until(lambda: host.show("ActiveState") == "failed")
    assert nothing_is_left(host)


@pytest.mark.long
def test_a_stop_right_after_a_crash_leaves_nothing(host: Host) -> None:
    """Before the next start has begun nothing of a stop reaches us; the models are ended all the same, a bit later."""
    host.drop_in("[Service]\nRestartSec=60\n")
    host.start()
    host.wait_ready("m")
    host.systemctl("kill", "--kill-whom=main", "--signal=KILL", SERVICE)
    host.until(lambda: host.show("SubState") == "auto-restart")
    host.systemctl("stop", SERVICE)
    assert host.show("ActiveState") != "active"
    host.until(lambda: nothing_is_left(host))


def test_after_a_crash_a_config_with_faults_ends_what_was_left(host: Host) -> None:
    """Where the next start can't be, no model goes on without anybody who looks after it."""
    host.start()
    host.wait_ready("m")
    host.write(CONFIG, "models: nonsense\n")
    host.systemctl("kill", "--kill-whom=main", "--signal=KILL", SERVICE)
    host.until(lambda: host.show("ActiveState") == "failed")
    assert (host.show("ExecMainStatus"), host.show("NRestarts")) == ("2", "1")
    assert nothing_is_left(host)


@pytest.mark.long
def test_a_drain_takes_as_long_as_it_takes(host: Host) -> None:
    """Ticks prolong the stop: a request that takes longer than TimeoutStopSec= gets its answer."""
    host.configure({"models": [host.model("m", answer_seconds=2.5)]})
    host.drop_in("[Service]\nTimeoutStopSec=1\n")
    host.start()
    host.wait_ready("m")
    answer = slow_request(host)
    began = time.monotonic()
    host.systemctl("stop", SERVICE)
    assert time.monotonic() - began > 1
    assert answer.result()[0] == 200
    assert host.show("Result") == "success"


@pytest.mark.long
def test_a_drain_that_hangs_is_not_prolonged(host: Host) -> None:
    """A supervisor that does not tick gets no more than TimeoutStopSec=; nothing of it is left."""
    host.drop_in(f"[Service]\nTimeoutStopSec=1\n{BLOCKABLE}")
    host.start()
    host.wait_ready("m")
    block(host)
    host.systemctl("stop", SERVICE)
    assert host.show("Result") == "timeout"
    assert nothing_is_left(host)


@pytest.mark.long
def test_a_start_may_end_workers_first(host: Host) -> None:
    """A worker that can't be taken over, and ignores SIGTERM, is ended at start, also beyond TimeoutStartSec=."""
    host.configure({"infinity": {"stop_timeout": 5}, "models": [host.model("m", ignores_sigterm=True)]})
    host.drop_in("[Service]\nTimeoutStartSec=3\n")
    host.start()
    worker, supervisor = host.wait_ready("m")["pid"], host.main_pid()
    host.configure({"infinity": {"stop_timeout": 5}, "models": [host.model("other")]})
    host.systemctl("kill", "--kill-whom=main", "--signal=KILL", SERVICE)
    host.until(lambda: host.main_pid() not in (0, supervisor) and host.show("ActiveState") == "active")
    assert host.show("NRestarts") == "1"
    assert host.wait_ready("other")["pid"] != worker
    assert worker not in host.processes()


@pytest.mark.long
def test_all_of_it_killed_at_once_comes_back(host: Host) -> None:
    """`systemctl kill -s KILL` reaches every process of the unit: supervisor and model come back."""
    host.start()
    before = {host.main_pid(), host.wait_ready("m")["pid"]}
    host.systemctl("kill", "--signal=KILL", SERVICE)
    host.until(lambda: host.main_pid() not in before | {0} and host.show("ActiveState") == "active")
    assert host.wait_ready("m")["pid"] not in before
    assert host.embed("m") == 200


def test_a_blocked_loop_is_bitten(host: Host) -> None:
    """The watchdog ends a supervisor whose loop stands still, with a traceback; the next one takes the models over."""
    host.configure({"models": [host.model("m")], "resource_monitor": {"check_interval": 0.3}})
    host.drop_in(f"[Service]\nWatchdogSec=2\n{BLOCKABLE}")
    host.start()
    worker, supervisor = host.wait_ready("m")["pid"], host.main_pid()
    block(host)
    host.until(lambda: host.main_pid() not in (0, supervisor) and host.show("ActiveState") == "active")
    told = [entry["MESSAGE"] for entry in host.journal(f"_PID={supervisor}")]
    assert any("block_on_signal" in str(message) for message in told), told[-20:]
    assert any("Watchdog timeout" in str(entry["MESSAGE"]) for entry in host.journal("_PID=1"))
    assert host.wait_ready("m")["pid"] == worker
    assert host.embed("m") == 200


def test_little_is_exposed(host: Host) -> None:
    """`systemd-analyze security` counts 3.0 at most."""
    table = host.run("systemd-analyze", "security", "--no-pager", "--threshold=30", SERVICE, check=False)
    assert table.returncode == 0, table.stdout
    for unit in (SERVICE, SOCKET):
        assert "Unknown" not in "".join(str(e["MESSAGE"]) for e in host.journal("_PID=1", f"UNIT={unit}"))
