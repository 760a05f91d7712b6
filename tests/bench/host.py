"""The host: its CPU counters ten times a second, and what is told about it beside the figures."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.bench.arithmetic import CpuSample, busy_percent
from tests.support import infinity
from tests.support.daemon import ROOT

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_sample() -> CpuSample:
    """The host's counters now. Waiting for a disk is idle; what a hypervisor took away is busy, as `top` has it."""
    with Path("/proc/stat").open("rb") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]  # guest time is part of user time
    idle = ticks[3] + ticks[4]
    return CpuSample(time.monotonic(), sum(ticks) - idle, sum(ticks))


@contextmanager
def cpu_samples(interval: float = 0.1) -> Iterator[list[CpuSample]]:
    """A list that grows by a sample each `interval` seconds, from a thread, so that no load of ours delays it."""
    samples = [cpu_sample()]
    ended = threading.Event()

    def look() -> None:
        due = time.monotonic() + interval
        while not ended.wait(max(0.0, due - time.monotonic())):
            samples.append(cpu_sample())
            due += interval

    thread = threading.Thread(target=look, name="cpu samples", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def busy_before(seconds: float = 1.0) -> float:
    """The host's busy percent over a moment in which nothing of ours should run."""
    first = cpu_sample()
    time.sleep(seconds)
    last = cpu_sample()
    return busy_percent([first, last], first.at, last.at)


def own_cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended: that is the load generators."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    """Of everything that takes part."""
    found = {"python": platform.python_version(), "supervisor": _revision()}
    (site,) = (infinity.HOME / "lib").glob("python3*/site-packages")
    for where, names in (([str(site)], ("infinity_emb", "torch")), (None, ("aiohttp", "uvloop", "openai"))):
        for name in names:
            paths = {} if where is None else {"path": where}
            for distribution in importlib.metadata.distributions(name=name, **paths):
                found[name] = distribution.version
    found["nginx"] = _first_line("nginx", "-v").rpartition("/")[2]
    found["wrk"] = (_first_line("wrk", "-v").split() or ["", "unknown"])[1]
    return found


def _revision() -> str:
    commit = _first_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    if not commit or " " in commit:  # a copy without its history: git has only an error to tell
        return "unknown"
    changed = _first_line("git", "-C", str(ROOT), "status", "--porcelain", "--", "supervisor")
    return f"{commit}{' with changes' if changed else ''}"


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except FileNotFoundError:
        return ""
    return next(iter(done.stdout.splitlines()), "")
