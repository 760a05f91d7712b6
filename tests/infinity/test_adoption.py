"""A supervisor that is killed under load, with real Infinities: they go on, and the next one takes them over."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.support import daemon as daemons


@pytest.mark.timeout(180)
def test_workers_outlive_a_killed_supervisor_and_are_adopted(tmp_path: Path) -> None:
    """SIGKILL under 8 clients, three times: the same processes serve again, and only what was in flight fails.

    Ready within 2 s of the start; a stop leaves nothing behind.
    """
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a"), daemons.debug_model("b")]}) as d:
        d.wait_ready("a", "b")
        pids = [d.model(name)["pid"] for name in "ab"]
        stop, wrong, failed, good = threading.Event(), [], [0], [0]
        down = threading.Event()

        def client(number: int) -> None:
            n = 0
            while not stop.is_set():
                n += 1
                length = number * 100 + n % 90 + 1
                try:
                    status, answer = d.post(d.proxy + "/embeddings", {"model": "ab"[n % 2], "input": "x" * length}, 30)
                except OSError:  # nobody listens, or the supervisor died under it
                    failed[0] += 1
                    down.wait(0.05)
                    continue
                if status != 200 or answer["data"][0]["embedding"] != [float(length)] * 13:
                    wrong.append((status, answer))
                good[0] += 1

        threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            time.sleep(1)
            assert d.process is not None
            d.process.kill()
            d.process.wait()
            assert all(psutil.pid_exists(pid) for pid in pids)
            seen = good[0]
            d.start()
            began = time.monotonic()
            d.wait_ready("a", "b", timeout=2)
            assert time.monotonic() - began < 2
            d.until(lambda seen=seen: good[0] > seen + 20, 10, "no request is answered after the adoption")
        stop.set()
        for thread in threads:
            thread.join(30)
        assert not wrong, wrong[:3]
        assert good[0] > failed[0] / 10
        assert [d.model(name)["pid"] for name in "ab"] == pids
        assert [d.model(name)["loads"] for name in "ab"] == [0, 0]
        assert len(d.events("worker_found")) == 6
        assert d.embed("a", "three") == [[5.0] * 13]
        assert d.stop() == 0
        assert not [pid for pid in pids if _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.timeout(120)
def test_a_worker_that_died_with_the_supervisor_is_started_anew(tmp_path: Path) -> None:
    """Both are killed: the next supervisor finds nobody, says so, and loads the model again; nothing runs twice."""
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a")]}) as d:
        d.wait_ready("a")
        pid = d.model("a")["pid"]
        assert d.process is not None
        d.process.kill()
        d.process.wait()
        os.killpg(pid, signal.SIGKILL)
        d.until(lambda: not _lives(pid), 10, "the worker lives")
        d.start()
        d.wait_ready("a")
        assert d.model("a")["pid"] != pid
        assert d.events("leftover_worker_gone")
