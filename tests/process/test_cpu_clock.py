"""The CPU clocks of real processes: against /proc, over children, and over processes that end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.sense import cpu_clock
from supervisor.sense.cpu_clock import OwnCpu
from supervisor.sense.monitor import Monitor
from supervisor.sense.processes import TICKS_PER_SECOND

BURN = "while True: pass"
# A leader that sleeps, with a child in the same group that works.
FAMILY = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"


@contextlib.contextmanager
def running(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process in a group of its own, which is killed as a whole afterwards."""
    with subprocess.Popen([sys.executable, "-c", code], process_group=0) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def cpu_ticks(pid: int) -> int:
    """User and system ticks by /proc/PID/stat."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def works_for(pid: int, seconds: float) -> None:
    """Wait until a process has used so much more CPU time."""
    end = cpu_ticks(pid) + seconds * TICKS_PER_SECOND
    while cpu_ticks(pid) < end:
        time.sleep(0.01)


def stop(pid: int) -> None:
    """Stop a process; it says so a few microseconds before it leaves its CPU (75 µs were seen), so wait that long."""
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    seen = -1.0
    while seen < (seen := time.clock_gettime(cpu_clock.cpu_clock(pid))):
        time.sleep(0.02)


def test_a_busy_process_is_counted_as_proc_does() -> None:
    """Over at least 0.3 s of CPU time both agree within the ticks that /proc rounds to."""
    with running(BURN) as process:
        works_for(process.pid, 0.05)
        stop(process.pid)
        own = OwnCpu()
        own.follow({(process.pid, 1): 0.0})
        before = cpu_ticks(process.pid)
        assert own.seconds() == 0.0
        os.kill(process.pid, signal.SIGCONT)
        works_for(process.pid, 0.3)
        stop(process.pid)
        expected = (cpu_ticks(process.pid) - before) / TICKS_PER_SECOND
        assert own.seconds() == pytest.approx(expected, abs=2 / TICKS_PER_SECOND)


def test_a_stopped_process_stands_still_and_a_working_one_moves_between_ticks() -> None:
    """The counter shows far less than a tick, and nothing where nothing is used."""
    with running(BURN) as process:
        own = OwnCpu()
        own.follow({(process.pid, 1): 0.0})
        steps = set()
        while len(steps) < 20:
            steps.add(own.seconds())
        assert max(steps) - min(steps) < 20 / TICKS_PER_SECOND
        stop(process.pid)
        assert own.seconds() == own.seconds()


def test_what_a_process_used_stays_counted_when_it_ends() -> None:
    """Neither its end nor that it is followed no more, nor another process with its pid, takes anything back."""
    own = OwnCpu()
    with running(BURN) as process:
        own.follow({(process.pid, 1): 0.0})
        works_for(process.pid, 0.1)
        used = own.seconds()
        assert used > 0.05
    assert own.seconds() >= used
    used = own.seconds()
    own.follow({(os.getpid(), 2): 0.0})
    assert used <= own.seconds() < used + 1.0
    own.follow({})
    assert own.seconds() >= used
    assert own.seconds() == own.seconds()


def test_what_was_used_before_is_not_counted() -> None:
    """A worker that is adopted, or has loaded its model, begins at 0."""
    with running(BURN) as process:
        works_for(process.pid, 0.2)
        own = OwnCpu()
        own.follow({(process.pid, 1): 0.0})
        assert own.seconds() < 0.1


def test_where_clocks_cannot_be_read_the_last_scan_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that refuses gives what /proc had, once a second; it never raises and never falls."""

    def refuse(clock: int) -> float:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(cpu_clock.time, "clock_gettime", refuse)
    own = OwnCpu()
    own.follow({(1, 1): 5.0})
    assert own.seconds() == 0.0
    own.follow({(1, 1): 5.5, (2, 2): 90.0})
    assert own.seconds() == 0.5
    own.follow({(2, 2): 90.25})
    assert own.seconds() == 0.75


def test_the_monitor_counts_whole_groups() -> None:
    """The children of a worker are its own; what is no worker is not counted."""
    monitor = Monitor("host")
    with running(FAMILY) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text().strip():
            time.sleep(0.01)
        child = int(children.read_text())
        assert monitor.own_cpu() == 0.0
        monitor.worker_use({"a": process.pid}, 0.0)
        works_for(child, 0.3)
        assert monitor.own_cpu() > 0.2
        monitor.worker_use({}, 1.0)
        used = monitor.own_cpu()
        assert used > 0.2
        works_for(child, 0.1)
        assert monitor.own_cpu() == used
    monitor.close()
