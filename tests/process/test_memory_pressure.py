"""Real pressure: workers in a memory cgroup with a real limit, and a process that fills it and leaves.

The kernel kills for real here, so what the supervisor does in time is what keeps everybody alive.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import daemon, memory_cgroup

MIB = 1 << 20
# Two loads must fit beside the libraries: a worker that was forked counts what it shares as its own.
LIMIT = 2 << 30
RUNGS = ["normal", "warn", "shrink", "pause", "unload"]


@pytest.fixture
def group() -> Iterator[memory_cgroup.MemoryGroup]:
    """Room for Infinity's libraries, two workers and somebody else."""
    with memory_cgroup.limited(LIMIT) as made:
        yield made


class Clients:
    """Requests without a break, each with an answer of its own to expect."""

    def __init__(self, d: daemon.Daemon, model: str, count: int = 4) -> None:
        self.answered, self.wrong = 0, list[Any]()
        self._daemon, self._model, self._over = d, model, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(k,)) for k in range(count)]

    def _ask(self, number: int) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            size = 1 + (7 * turn + number) % 50
            try:
                vector = self._daemon.embed(self._model, "x" * size)[0]
            except (AssertionError, OSError) as error:
                self.wrong.append(error)
                continue
            if set(vector) != {size}:
                self.wrong.append((size, vector))
            self.answered += 1
            time.sleep(0.02)

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self._threads), "a request hangs"


def rung(d: daemon.Daemon) -> int:
    return RUNGS.index(d.status()["rung"])


@pytest.mark.timeout(300)  # the libraries are read from the disk anew, since their pages are charged to the group
def test_somebody_fills_the_memory_and_leaves(
    group: memory_cgroup.MemoryGroup, command: list[str], tmp_path: Path
) -> None:
    """Past 90 % the gate closes or a cold model goes; nobody is killed, no request is lost, and all is normal again."""
    settings: dict[str, Any] = {
        "infinity": {"command": command},
        "models": [daemon.debug_model("hot"), daemon.debug_model("cold")],
        "proxy": {"queue": {"max_wait": 100}},
        "resource_monitor": {**daemon.CPU_OFF, "scope": "cgroup"},
    }
    with daemon.running(tmp_path, settings) as d:
        assert d.process is not None
        group.add(d.process.pid)
        for name in ("hot", "cold"):
            d.embed(name, "x")
        workers = [psutil.Process(m["pid"]) for m in d.status()["models"]]
        d.until(lambda: 10 < (d.status()["signals"]["memory"]["percent"] or 0) < 75, 20, "the group is not seen")
        with Clients(d, "hot") as clients:
            d.until(lambda: clients.answered > 50, 30, "requests are not answered")
            taker = memory_cgroup.Taker(group)
            try:
                size = 0
                while group.used < 0.92 * LIMIT:
                    size += 24 * MIB
                    taker.hold(size)
                    time.sleep(0.1)
                d.until(lambda: rung(d) >= RUNGS.index("pause"), 10, "the ladder does not pause")
                waited = clients.answered
                time.sleep(2)
            finally:
                taker.leave()
            d.wait_rung("normal", 60)
            d.until(lambda: clients.answered > waited + 50, 30, "requests are not answered again")
        assert clients.wrong == []
        assert group.kills == 0
        unloaded = {m["name"] for m in d.status()["models"] if m["state"] != "ready"}
        assert unloaded <= {"cold"}
        assert all(m["restarts"] == 0 for m in d.status()["models"])
        assert workers[0].is_running()
        assert d.embed("cold", "xx") == [[2.0] * 13]
