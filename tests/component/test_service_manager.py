"""What a service manager hears of us, by real datagrams; and what it may not keep waiting."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import StartError
from supervisor.service.manager import ServiceManager


class Listener:
    """The socket of a manager."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}

    def told(self) -> list[list[str]]:
        """What came since the last look, message by message."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65536).decode().splitlines())
            except BlockingIOError:
                return messages


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A manager that listens."""
    pytest.importorskip("systemd.daemon", reason="systemd-python is not installed: tests/run gets it")
    it = Listener(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", it.environ["NOTIFY_SOCKET"])  # the library looks there itself
    yield it
    it.socket.close()


def test_a_life(listener: Listener) -> None:
    """Started, alive with a line that is told when it changes, reloading and done, ending; more time while it works."""
    manager = ServiceManager.find(listener.environ)
    manager.extend()
    manager.ready(1.0)
    manager.tick("rung normal")
    manager.tick("rung normal")
    manager.tick("rung warn\nREADY=1")
    assert listener.told() == [
        ["EXTEND_TIMEOUT_USEC=30000000"],
        ["READY=1", "WATCHDOG_USEC=30000000"],
        ["WATCHDOG=1", "STATUS=rung normal"],
        ["WATCHDOG=1"],
        ["WATCHDOG=1", "STATUS=rung warn READY=1"],
    ]
    manager.reloading()
    manager.tick("rung warn\nREADY=1")
    manager.ready(1.0)
    manager.show("rung normal; last reload refused: a fault")
    began, tick, done, shown = listener.told()
    assert (done, shown) == (["READY=1"], ["STATUS=rung normal; last reload refused: a fault"]), "no sign of life"
    assert began[0] == "RELOADING=1"
    assert began[1].startswith("MONOTONIC_USEC=")
    assert tick == ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000"]
    manager.stopping()
    manager.tick("stopping")
    assert listener.told() == [
        ["STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000"],
        ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000", "STATUS=stopping"],
    ]


def test_the_watchdog_is_as_patient_as_the_loop_is_slow(listener: Listener) -> None:
    """Ticks a minute apart by the config, or an upgrade that reads the program anew, are no reason to bite."""
    manager = ServiceManager.find(listener.environ)
    manager.ready(60.0)
    manager.ready(1.0)
    manager.upgrading()
    told = [line for message in listener.told() for line in message if line.startswith("WATCHDOG_USEC")]
    assert told == ["WATCHDOG_USEC=300000000", "WATCHDOG_USEC=30000000", "WATCHDOG_USEC=120000000"]


def test_a_manager_that_does_not_listen_keeps_nobody_waiting(listener: Listener) -> None:
    """With its queue full ticks are not told, states are kept; nothing blocks, and what is kept comes first later."""
    manager = ServiceManager.find(listener.environ)
    for number in range(5000):
        manager.tick(str(number))
    manager.stopping()
    listener.told()
    manager.tick("alive")
    assert listener.told()[-2:] == [
        ["STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000"],
        ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000", "STATUS=alive"],
    ]


def test_another_processes_watchdog_is_not_fed(listener: Listener) -> None:
    """WATCHDOG_PID names who is watched; a child that has the variable is not."""
    manager = ServiceManager.find({**listener.environ, "WATCHDOG_PID": "1"})
    manager.ready(1.0)
    manager.tick("x")
    assert listener.told() == [["READY=1"], ["STATUS=x"]]


def test_without_a_manager_nothing_is_said() -> None:
    """Started by hand, nobody waits to hear of us."""
    manager = ServiceManager.find({})
    manager.ready(1.0)
    manager.tick("x")
    manager.stopping()


def test_without_the_library_a_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that waits would wait for ever: the start says what to install."""
    monkeypatch.setitem(sys.modules, "systemd", None)
    with pytest.raises(StartError, match=r"systemd-python is missing: .*pip install 'infinity-supervisor\[systemd\]'"):
        ServiceManager.find({"NOTIFY_SOCKET": "/run/systemd/notify"})


def test_the_daemon_says_so_and_ends(tmp_path: Path) -> None:
    """The whole daemon, where the library can't be imported: one line with the remedy, and a failure."""
    (tmp_path / "systemd.py").write_text("raise ImportError('it is not installed')\n")
    config = tmp_path / "supervisor.yaml"
    config.write_text(f"state_dir: {tmp_path}\nmodels: [{{name: m, model_id: nobody/nothing, preload: false}}]\n")
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "run", "-c", str(config)],
        env={**os.environ, "NOTIFY_SOCKET": "/nonexistent", "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "pip install 'infinity-supervisor[systemd]'" in line
