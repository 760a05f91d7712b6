"""Models that share a process, with the real Infinity: loaded, unloaded, killed and adopted as one."""

import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.support import daemon as daemons
from tests.support.daemon import Daemon

STALL = 3.0
MARK = "POISON"


def pair(**infinity: object) -> dict[str, object]:
    """A daemon with two models of the debug engine in one process."""
    models = [daemons.debug_model(name, group="g") for name in "ab"]
    return {"models": models, "infinity": {"env": dict(daemons.infinity.ENV), **infinity}}


def children(d: Daemon) -> list[int]:
    """The processes that the daemon has started and that live: each is one Infinity."""
    assert d.process is not None
    found = psutil.Process(d.process.pid).children()
    return [child.pid for child in found if child.status() != psutil.STATUS_ZOMBIE]


def one_process(d: Daemon) -> int:
    """The pid of the one that both models are in."""
    a, b = d.model("a"), d.model("b")
    assert (a["state"], a["pid"], a["port"]) == (b["state"], b["pid"], b["port"])
    d.until(lambda: children(d) == [a["pid"]], 10, "it is not alone")  # one that was replaced may still be ending
    return int(a["pid"])


class Clients:
    """Threads that ask one model after text of their own length, and note what was not answered rightly."""

    def __init__(self, d: Daemon, model: str, count: int) -> None:
        self.d, self.model = d, model
        self.wrong: list[str] = []
        self.answered = 0
        self.slowest = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        n = 0
        while not self._stop.is_set():
            n += 1
            length = number * 100 + n % 100 + 1
            began = time.monotonic()
            try:
                assert self.d.embed(self.model, "x" * length, timeout=200) == [[float(length)] * 13]
            except (AssertionError, OSError) as error:
                self.wrong.append(repr(error))
            self.answered += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            time.sleep(0.02)

    def stop(self) -> None:
        """Let them end; all were answered rightly."""
        self._stop.set()
        for thread in self._threads:
            thread.join(200)
        assert not self.wrong, self.wrong[:3]


@pytest.mark.timeout(300)
def test_a_zombie_takes_its_group_through_a_restart_and_harms_nobody(tmp_path: Path) -> None:
    """A poison input of one model makes it the true zombie, while clients of both ask all the time.

    The other model goes on working, so the process uses CPU: it is found dead all the same. Everybody is answered, but
    for the one that is to blame; and there is one process, before and after.
    """
    infinity = {"stall_timeout": STALL, "env": {**daemons.infinity.ENV, "TEST_POISON": MARK}}
    with daemons.running(tmp_path, pair(**infinity)) as d:
        d.wait_ready("a", "b")
        pid = one_process(d)
        clients = [Clients(d, "a", 3), Clients(d, "b", 6)]
        time.sleep(1)
        began = time.monotonic()
        status, answer, headers = d.exchange(d.proxy + "/embeddings", {"model": "a", "input": MARK}, 280)
        took = time.monotonic() - began
        assert (status, headers["x-supervisor-reason"]) == (500, "poison_input"), answer
        d.wait_ready("a", "b", timeout=30)
        seen = [c.answered for c in clients]
        time.sleep(1)
        assert all(c.answered > before for c, before in zip(clients, seen, strict=True))
        for each in clients:
            each.stop()
        assert one_process(d) != pid
        deaths = d.events("worker_dead")
        assert {row["model"] for row in deaths} == {"a"}
        assert all("no answer to a canary" in row["why"] for row in deaths), deaths  # and not: it uses CPU, but
        assert took < len(deaths) * (STALL + 15 + 15)
        assert [d.model(name)["restarts"] for name in "ab"] == [len(deaths)] * 2
        assert d.embed("a", "four") == d.embed("b", "four") == [[4.0] * 13]
        status, _, _ = d.exchange(d.proxy + "/embeddings", {"model": "b", "input": "a" + MARK[1:]}, 60)
        assert status == 200


@pytest.mark.timeout(120)
def test_a_group_is_unloaded_and_loaded_as_a_whole(tmp_path: Path) -> None:
    """An unload of one is one of both, and says so; requests for either load both, in one process, by one load."""
    with daemons.running(tmp_path, pair()) as d:
        d.wait_ready("a", "b")
        pid = one_process(d)
        rows = d.status()["models"]
        assert [row["group"] for row in rows] == ["g", "g"]
        held = [row["memory_bytes"] for row in rows if row["memory_bytes"]]
        assert not held or held[0] == held[1]
        listed = d.get(d.proxy + "/models")[1]["data"]
        assert [(row["id"], row["state"]) for row in listed] == [("a", "ready"), ("b", "ready")]
        outcome = d.api("models/b/unload")
        assert outcome["text"] == "b is stopped, together with a"
        assert outcome["together_with"] == ["a"]
        assert [d.model(name)["state"] for name in "ab"] == ["stopped", "stopped"]
        assert children(d) == []
        assert not psutil.pid_exists(pid)
        threads = [threading.Thread(target=d.embed, args=(name, "x" * n)) for n, name in enumerate("abab", start=1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        one_process(d)
        assert [d.model(name)["loads"] for name in "ab"] == [2, 2]
        assert d.api("models/a/restart")["text"] == "a is ready, together with b"
        one_process(d)
        lines = d.get(d.admin + "/api/v1/models/b/logs?n=50")[1]["lines"]
        assert any("Uvicorn running" in line for line in lines)
        assert d.stop() == 0


@pytest.mark.timeout(120)
def test_a_group_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    """The next one takes the process over, with both models, within two seconds; a stop leaves nothing behind."""
    with daemons.running(tmp_path, pair()) as d:
        d.wait_ready("a", "b")
        pid = one_process(d)
        assert d.process is not None
        d.process.kill()
        d.process.wait()
        d.start()
        began = time.monotonic()
        d.wait_ready("a", "b", timeout=10)
        assert time.monotonic() - began < 5
        assert [d.model(name)["pid"] for name in "ab"] == [pid, pid]
        assert [d.model(name)["loads"] for name in "ab"] == [0, 0]
        assert len(d.events("worker_found")) == 1
        assert d.embed("a", "three") == d.embed("b", "three") == [[5.0] * 13]
        assert d.stop() == 0
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
