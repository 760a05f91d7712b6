"""Workers that stop getting on, with the real Infinity: zombies, a poison input, one that is only slow or stopped."""

import concurrent.futures
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.support import daemon as daemons
from tests.support.daemon import Daemon

STALL = 3.0
MARK = "POISON"
# Bytes a worker may grow by: a text of 110 words takes some 3 MB, a part of 0.2 s has five (on a busy host) to sixteen.
MEMORY_LEFT, WORDS = 8_000_000, 110
STORY = ["worker_in_doubt", "worker_dead", "worker_stopping", "worker_started", "worker_ready"]


def one(name: str = "m", **more: object) -> dict[str, object]:
    """A daemon with one model of the debug engine."""
    infinity = {"stall_timeout": STALL, "env": {**daemons.infinity.ENV, "TEST_POISON": MARK}}
    return {"models": [daemons.debug_model(name, **more)], "infinity": infinity}


@pytest.mark.timeout(240)
def test_a_poison_input_is_found_and_everybody_else_is_answered(tmp_path: Path) -> None:
    """Its forward pass raises, the real zombie follows; restarts and halving find it; it gets 500, others their answer.

    The second time it is refused before it reaches a worker.
    """
    with daemons.running(tmp_path, one()) as d:
        d.wait_ready("m")
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            bad = pool.submit(d.exchange, d.proxy + "/embeddings", {"model": "m", "input": ["a", MARK, "ccc"]}, 200)
            others = [pool.submit(d.embed, "m", "x" * n, timeout=200) for n in range(1, 21)]
            status, answer, headers = bad.result(200)
            assert (status, headers["x-supervisor-reason"]) == (500, "poison_input"), answer
            assert "Input 1 of this request" in answer["error"]["message"]
            assert headers["x-should-retry"] == "false"
            for n, other in enumerate(others, start=1):
                assert other.result(200) == [[float(n)] * 13]
        restarts = d.model("m")["restarts"]
        status, _, headers = d.exchange(d.proxy + "/embeddings", {"model": "m", "input": MARK}, 60)
        assert (status, headers["x-supervisor-reason"]) == (500, "poison_input")
        assert d.model("m")["restarts"] == restarts
        assert d.embed("m", "four") == [[4.0] * 13]


@pytest.mark.timeout(240)
def test_a_zombie_is_replaced_under_twenty_clients(tmp_path: Path) -> None:
    """A worker's model thread dies: every request of the clients is answered, and five events tell the story.

    Served again within stall_timeout + 15 s + the start.
    """
    with daemons.running(tmp_path, one()) as d:
        d.wait_ready("m")
        pid = d.model("m")["pid"]
        stop, errors, slowest, answered = threading.Event(), [], [0.0], [0]

        def client(number: int) -> None:
            n = 0
            while not stop.is_set():
                n += 1
                began = time.monotonic()
                length = number * 100 + n % 100 + 1
                try:
                    assert d.embed("m", "x" * length, timeout=100) == [[float(length)] * 13]
                except (AssertionError, OSError) as error:
                    errors.append(repr(error))
                slowest[0] = max(slowest[0], time.monotonic() - began)
                answered[0] += 1
                time.sleep(0.02)

        threads = [threading.Thread(target=client, args=(i,)) for i in range(20)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        kill_the_model_thread(d)
        d.until(lambda: d.model("m")["pid"] not in (pid, None), STALL + 15, "the zombie was not replaced")
        d.wait_ready("m", timeout=30)
        seen = answered[0]
        time.sleep(1)
        stop.set()
        for thread in threads:
            thread.join(60)
        assert not errors, errors[:3]
        assert answered[0] > seen + 20
        assert slowest[0] < STALL + 15 + 15
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        told = [row["event"] for row in d.events() if row["event"] in STORY]
        assert told[-len(STORY) :] == STORY
        assert d.model("m")["restarts"] >= 1
        assert 'worker_restarts_total{cause="stalled",model="m"}' in d.get(d.admin + "/metrics")[1]


def kill_the_model_thread(d: Daemon) -> None:
    """A poison text whose client leaves at once: the worker is a zombie, and nothing asks for that text again."""
    with pytest.raises(OSError):
        d.post(d.proxy + "/embeddings", {"model": "m", "input": MARK}, timeout=0.3)


@pytest.mark.long  # three starts and two deaths: 50 s
@pytest.mark.timeout(240)
def test_a_zombie_for_want_of_memory_is_cured_by_halving_and_blames_nobody(tmp_path: Path) -> None:
    """MiniLM that can grow by little, each of its processes: a batch of long texts fails, and so does its replay.

    In halves they pass. Nobody is to blame, and others are answered meanwhile.
    """
    infinity = {
        "stall_timeout": STALL,
        "env": {**daemons.infinity.ENV, "TEST_MEMORY_LEFT_ONCE_LOADED": str(MEMORY_LEFT)},
    }
    with daemons.running(tmp_path, {"models": [daemons.minilm_model("m")], "infinity": infinity}) as d:
        d.wait_ready("m")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            texts = [" ".join(["word"] * WORDS) + str(i) for i in range(64)]
            large = pool.submit(d.post, d.proxy + "/embeddings", {"model": "m", "input": texts}, 150)
            others = [pool.submit(d.embed, "m", f"a line {n}", timeout=200) for n in range(3)]
            status, answer = large.result(200)
            assert status == 200, answer
            assert len(answer["data"]) == len(texts)
            for other in others:
                assert len(other.result(200)[0]) == 384
        assert "can't allocate memory" in d.log.read_text()
        assert d.model("m")["restarts"] >= 2, "the first replay should have been as large as what failed"
        assert not d.events("poison_input")


@pytest.mark.timeout(120)
def test_a_worker_that_is_stopped_for_a_while_is_not_killed(tmp_path: Path) -> None:
    """SIGSTOP for 5 s, longer than `stall_timeout`: it is doubted, answers its canary, and goes on."""
    with daemons.running(tmp_path, one()) as d:
        d.wait_ready("m")
        worker = d.model("m")
        group = os.getpgid(worker["pid"])
        members = [p.pid for p in psutil.process_iter() if _group_of(p.pid) == group]
        for pid in members:
            os.kill(pid, signal.SIGSTOP)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(d.embed, "m", "x" * n) for n in range(1, 5)]
            time.sleep(5)
            for pid in members:
                os.kill(pid, signal.SIGCONT)
            for n, answer in enumerate(asked, start=1):
                assert answer.result(60) == [[float(n)] * 13]
        assert d.model("m")["pid"] == worker["pid"]
        assert d.model("m")["restarts"] == 0
        assert d.events("worker_in_doubt")
        assert not d.events("worker_dead")


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
