"""The processes a benchmark starts: each in a group of its own, all of them ended at the end, whatever happened."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of what our children leave behind (a killed daemon's workers), so that `end_all` finds it."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spawn(
    command: Sequence[str], folder: Path, name: str, env: Mapping[str, str], cwd: Path
) -> subprocess.Popen[bytes]:
    """Start a program in a group of its own; what it says goes to `folder`/`name`.log."""
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=cwd,
            env=dict(env),
            process_group=0,
        )


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    """SIGTERM, and SIGKILL to its whole group after `patience` seconds or when it has ended."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_all() -> int:
    """Kill every process below us, and take their exit statuses; how many there were."""
    ended = 0
    # Killing one may hand us its children, so look again until there are none.
    while below := psutil.Process().children(recursive=True):
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                ended += 1
        psutil.wait_procs(below, timeout=5)
        _reap()
    return ended


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def cpu_seconds() -> float:
    """CPU seconds that all processes below us have used so far."""
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def wait_until_idle(limit: float, cores: float = 0.15) -> bool:
    """Wait until all processes below us together use less than `cores`: an Infinity works off what it was sent.

    Judged by our own processes, since others may use the host. False when that lasts longer than `limit` seconds.
    """
    until = time.monotonic() + limit
    before, at = cpu_seconds(), time.monotonic()
    while time.monotonic() < until:
        time.sleep(0.4)
        now, used = time.monotonic(), cpu_seconds()
        if (used - before) / (now - at) < cores:
            return True
        before, at = used, now
    return False
