"""A worker is replaced by its next process, with the real Infinity: on request, and for what it has grown to."""

import threading
from pathlib import Path

import psutil
import pytest

from tests.support import daemon as daemons
from tests.support.keep_alive import KeepAlive


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.timeout(120)
def test_a_restart_under_twenty_clients_fails_nobody_and_never_stops_serving(tmp_path: Path) -> None:
    """The old process serves until the new one is ready: the model is ready all the time, and nothing is left."""
    with daemons.running(tmp_path, {"models": [daemons.debug_model("a")]}) as d:
        d.wait_ready("a")
        old = d.model("a")["pid"]
        stop = threading.Event()
        clients = [KeepAlive(d.proxy, i, stop) for i in range(20)]
        for client in clients:
            client.start()
        try:
            assert d.post(d.admin + "/api/v1/models/a/restart", {}, timeout=60)[0] == 200
            new = d.model("a")["pid"]
            seen = sum(client.answered for client in clients)
            d.until(lambda: sum(c.answered for c in clients) > seen + 200, 30, "nothing is answered after it")
        finally:
            stop.set()
            for client in clients:
                client.join(60)
        assert [wrong for client in clients for wrong in client.wrong] == []
        assert new != old
        d.until(lambda: not alive(old), 15, "the old process is still there")
        assert d.model("a")["restarts"] == 1
        told = [row["event"] for row in d.events()]
        moves = [event for event in told if event.startswith("worker_") and event != "worker_output"]
        assert moves == [
            *("worker_starting", "worker_started", "worker_ready"),
            *("worker_successor_started", "worker_succeeded", "worker_ended"),
        ]
        assert d.stop() == 0
        assert not alive(new)


@pytest.mark.timeout(180)
def test_a_worker_that_has_grown_is_replaced_once_nobody_waits(tmp_path: Path) -> None:
    """A server that keeps 64 MB for some requests: its next process has less, and the journal says why."""
    settings = {
        "models": [daemons.debug_model("m")],
        "model_memory_manager": {"recycle_growth_gb": 0.15},
        "infinity": {"env": {**daemons.infinity.ENV, "TEST_LEAK": "KEEP"}},
    }
    with daemons.running(tmp_path, settings) as d:
        d.wait_ready("m")
        old = d.model("m")["pid"]
        # Its level after loading is known by then.
        d.until(lambda: d.model("m")["idle_s"] > 12, 40, "it does not idle")
        level = d.model("m")["memory_bytes"]
        for _ in range(2):
            d.embed("m", "KEEP")
        d.until(lambda: d.model("m")["memory_bytes"] > level + 100 * 2**20, 20, "it does not grow")
        d.embed("m", "KEEP")
        d.until(lambda: d.model("m")["pid"] not in (old, None), 60, "it was not replaced")
        assert d.model("m")["state"] == "ready"
        (decision,) = [row for row in d.decisions() if row["action"] == "recycle"]
        assert decision["target"] == "m"
        assert "above its level after loading, 154 MiB is allowed" in decision["text"]
        assert decision["outcome"] == "beside the old process"
        d.until(lambda: 0 < d.model("m")["memory_bytes"] < level + 64 * 2**20, 20, "its memory did not come back")
        d.until(lambda: not alive(old), 15, "the old process is still there")
