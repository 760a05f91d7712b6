"""The seed's ladder at work on a real daemon with real Infinities (debug engine), climbed and left by drills."""

import concurrent.futures
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.support import daemon as daemons
from tests.support.daemon import Daemon

# The largest batch is the initial one, so that an idle host does not raise it before the test looks.
BATCH = {"max_batch_size": 16, "initial_batch_size": 16, "adjustment_cooldown": 2.0}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with four loaded models, the first of them pinned."""
    models = [daemons.debug_model("pinned", pinned=True), *(daemons.debug_model(name) for name in "bcd")]
    settings = {
        "models": [{**m, "preload": True} for m in models],
        "batch_controller": BATCH,
        "model_memory_manager": {"max_models_in_memory": 4},
        "resource_monitor": daemons.CPU_ON,
    }
    with daemons.running(tmp_path_factory.mktemp("four"), settings) as d:
        yield d


@pytest.fixture
def calm(four: Daemon) -> Iterator[Daemon]:
    """The same at rest: rung normal, all models ready, batch size at its initial value.

    What other tests do to this machine's CPU is kept out by a drill of its own, at rest.
    """
    rest(four)
    four.wait_rung("normal", 60)
    for name in ("pinned", "b", "c", "d"):
        if four.model(name)["state"] != "ready":
            four.api(f"models/{name}/load")
    four.until(lambda: four.status()["batch"]["size"] == 16, 60, "the batch size is not back at 16")
    yield four
    rest(four)


def rest(d: Daemon) -> None:
    """End every drill but the one that stands for a host at rest."""
    d.drill(0, cpu=0)
    d.drill(600, cpu=10, memory=20)


def states(d: Daemon) -> dict[str, str]:
    """Every model's state."""
    return {m["name"]: m["state"] for m in d.status()["models"]}


def test_cpu_82_warns_and_does_nothing_else(calm: Daemon) -> None:
    """At 82 % CPU the host warns; batch, gate and models stay as they are."""
    calm.drill(30, cpu=82)
    calm.wait_rung("warn", 6)
    time.sleep(3)
    status = calm.status()
    assert status["rung"] == "warn"
    assert status["paused"] is False
    assert status["batch"]["size"] == 16
    assert set(states(calm).values()) == {"ready"}
    assert status["signals"]["cpu"]["drill"] is True
    assert calm.embed("b", "four") == [[4.0] * 13]


def test_cpu_87_steps_the_batch_down_by_step_and_cooldown(calm: Daemon) -> None:
    """At 87 % CPU the batch goes 16, 14, 12 … one step a cooldown, and requests are still answered."""
    calm.drill(60, cpu=87)
    seen = [16]
    end = time.monotonic() + 20
    while time.monotonic() < end and seen[-1] > 10:
        size = calm.status()["batch"]["size"]
        if size != seen[-1]:
            seen.append(size)
        time.sleep(0.1)
    assert seen == [16, 14, 12, 10]
    assert calm.status()["rung"] == "shrink"
    down = [d for d in calm.decisions() if d["action"] == "batch_down"][-3:]
    stamps = [time_of(d) for d in down]
    # A decision is dated when it is told, which on a busy host is some time after the tick that took it.
    assert all(later - earlier >= 1.7 for earlier, later in pairwise(stamps))
    assert len(calm.embed("b", *("x" * n for n in range(1, 100)))) == 99


def time_of(decision: dict[str, Any]) -> float:
    """A decision's date in seconds."""
    return datetime.fromisoformat(decision["at"]).timestamp()


def test_cpu_92_holds_requests_and_releases_them_in_order(calm: Daemon) -> None:
    """At 92 % nothing new goes to a worker, what is in flight ends, and the held requests leave in their order."""
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        long = pool.submit(calm.embed, "b", *(("y" * (1 + n % 50)) for n in range(2048)))
        calm.drill(60, cpu=92)
        calm.wait_rung("pause", 6)
        status = calm.status()
        assert status["paused"] is True
        assert "cpu" in status["reason"]
        calm.until(
            lambda: all(m["inflight_inputs"] == 0 for m in calm.status()["models"]), 20, "parts are still in flight"
        )
        done: list[int] = []

        def ask(n: int) -> None:
            assert calm.embed("c", "z" * n) == [[float(n)] * 13]
            done.append(n)

        held = []
        for n in range(1, 9):
            held.append(pool.submit(ask, n))
            calm.until(lambda n=n: waiting(calm) >= n, 20, "a held request is not counted")
        time.sleep(1)
        assert not any(future.done() for future in held)
        rest(calm)
        concurrent.futures.wait(held, 60)
        for future in held:
            future.result(0)
        assert long.result(60)[2047] == [48.0] * 13
    assert done == sorted(done)


def waiting(d: Daemon) -> int:
    """Requests that wait in the supervisor; a long request that still has parts to send is one of them."""
    requests: int = d.status()["queue"]["requests"]
    return requests


def test_memory_96_unloads_cold_models_one_at_a_time_and_brings_them_back(calm: Daemon) -> None:
    """At 96 % memory cold models go one by one, never the pinned, asked-for or last; a request brings one back."""
    before = len(calm.decisions(10_000))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        calm.drill(60, cpu=92)
        calm.wait_rung("pause", 6)
        wanted = pool.submit(calm.embed, "c", "seven..")
        calm.until(lambda: waiting(calm) == 1, 10, "the request is not held")
        calm.drill(60, memory=96)
        calm.wait_rung("unload", 4)
        seen: list[set[str]] = []
        end = time.monotonic() + 30
        while time.monotonic() < end and not (seen and len(seen[-1]) == 2):
            gone = {name for name, state in states(calm).items() if state != "ready"}
            if gone and (not seen or gone != seen[-1]):
                seen.append(gone)
            time.sleep(0.05)
        assert seen[-1] == {"b", "d"}, seen
        assert len(seen[0]) == 1, "two models went at once"
        calm.until(lambda: set(states(calm).values()) == {"ready", "stopped"}, 30, "the unloads do not end")
        time.sleep(7)  # a whole settle time more: nothing else may go
        assert states(calm) == {"pinned": "ready", "b": "stopped", "c": "ready", "d": "stopped"}
        back = pool.submit(calm.embed, "b", "bb")
        time.sleep(1)
        assert calm.model("b")["state"] == "stopped", "a load began while memory pauses"
        rest(calm)
        assert wanted.result(60) == [[7.0] * 13]
        assert back.result(60) == [[2.0] * 13]
    assert calm.model("b")["state"] == "ready"
    unloads = [d for d in calm.decisions(10_000)[before:] if d["action"] == "unload"]
    assert [d["target"] for d in unloads] in (["b", "d"], ["d", "b"])


def test_the_last_ready_model_stays_at_memory_96(calm: Daemon) -> None:
    """With nothing asked for, every cold unpinned model goes but at least one model stays ready."""
    calm.drill(60, memory=96)
    calm.until(lambda: sum(s == "stopped" for s in states(calm).values()) == 3, 40, "three models should go")
    time.sleep(7)
    assert states(calm)["pinned"] == "ready"


def test_a_drill_ends_by_itself(calm: Daemon) -> None:
    """A drill's time over, the ladder comes down by its own rules and nothing is left of it in status."""
    calm.drill(2, memory=92)
    calm.wait_rung("pause", 4)
    calm.until(lambda: calm.status()["signals"]["memory"]["drill"] is False, 10, "the drill does not end")
    calm.wait_rung("normal", 40)


def test_gpu_memory_drill_leaves_cpu_models_alone(calm: Daemon) -> None:
    """GPU memory acts on the models of that device only: models on the CPU go on."""
    calm.drill(20, gpu_memory=96)
    calm.until(lambda: calm.status()["signals"]["gpu_memory"]["rung"] == "unload", 5, "the drill is not seen")
    assert calm.embed("b", "four") == [[4.0] * 13]
    assert set(states(calm).values()) == {"ready"}
    assert all(m["paused"] is False for m in calm.status()["models"])


def test_operator_pause_is_separate_from_the_ladder(calm: Daemon) -> None:
    """An operator's pause closes the gate at an unchanged rung, and `resume` or its time ends it."""
    calm.api("pause", {"seconds": None})
    status = calm.status()
    assert (status["paused"], status["reason"], status["rung"]) == (True, "operator", "normal")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        held = pool.submit(calm.embed, "b", "abc")
        calm.until(lambda: waiting(calm) == 1, 10, "the request is not held")
        calm.api("resume")
        assert held.result(30) == [[3.0] * 13]
    calm.api("pause", {"seconds": 1})
    calm.until(lambda: calm.status()["paused"] is False, 10, "the pause does not end by itself")


def test_nothing_answered_5xx(four: Daemon) -> None:
    """In all of the above no client saw a server error."""
    text = four.get(four.admin + "/metrics")[1]
    codes = {
        line.split('code="')[1][:3]
        for line in text.splitlines()
        if line.startswith("infinity_supervisor_requests_total{")
    }
    assert codes
    assert not {code for code in codes if code.startswith("5")}
