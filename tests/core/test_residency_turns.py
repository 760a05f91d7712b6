"""More models wanted than fit: busy ones take turns, and models that cannot be loaded do not spoil them."""

from supervisor.core.model import Rung
from supervisor.core.policy import ResidencyPolicy
from tests.support.residency_script import (
    BACKOFF,
    DRAINING,
    FAILED,
    GB,
    READY,
    STARTING,
    STOPPED,
    STOPPING,
    TIGHT,
    Script,
    model,
)


def test_rather_one_that_is_large_enough_ends_its_turn() -> None:
    """Of models that had their turn the longest resident goes, but rather one whose leaving is enough."""
    models = (
        model("small", inflight=1, ready_since=0.0),
        model("big", inflight=1, ready_since=5.0, memory_bytes=4 * GB),
        model("late", inflight=1, ready_since=9.0, memory_bytes=3 * GB),
    )
    for need, expected in ((GB, "small"), (3 * GB, "big")):
        script = Script(*models, model("b", STOPPED, estimate=need, queued=1), max_models=4, pressure=TIGHT)
        assert script.at(40, {"memory_used": 8 * GB}) == [f"unload {expected}: rotation"]


def test_busy_model_keeps_its_place_for_its_turn() -> None:
    """A busy model is drained for a waiter after 20 s in memory, not before."""
    script = Script(
        model("a", inflight=1, ready_since=0.0, load_seconds=4.0), model("b", STOPPED, queued=1), max_models=1
    )
    assert script.until(0, 19) == []
    assert script.at(20) == ["unload a: rotation"]
    assert script.why() == "b waits for room; had its turn for 20 s"


def test_turn_of_a_model_lasts_as_long_as_its_load_took() -> None:
    """A model that took 45 s to load is not drained before it was ready for 45 s."""
    script = Script(
        model("a", inflight=1, ready_since=0.0, load_seconds=45.0), model("b", STOPPED, queued=1), max_models=1
    )
    assert script.until(0, 44) == []
    assert script.at(45) == ["unload a: rotation"]


def test_longest_resident_takes_its_leave_first_and_only_one_at_a_time() -> None:
    """Of several busy models the one that has been in memory longest goes; the next waits until that is over."""
    script = Script(
        model("a", inflight=1, ready_since=10.0),
        model("b", inflight=1, ready_since=5.0),
        model("c", STOPPED, queued=1, oldest_wait=1.0),
        model("d", STOPPED, queued=1, oldest_wait=0.5),
        max_models=2,
    )
    assert script.until(11, 24) == []
    assert script.at(25) == ["unload b: rotation"]
    script.at(26, b={"state": DRAINING, "queued": 3, "oldest_wait": 99.0})
    assert script.until(27, 40) == []
    script.at(41, b={"state": STOPPING, "inflight": 0})
    assert script.at(42, {"memory_used": GB}, b={"state": STOPPED}) == ["load c", "unload a: rotation"]


def test_model_that_just_had_its_turn_queues_up_behind() -> None:
    """A drained model's own old requests do not bring it back before the one that waited beside it (edge case 41)."""
    script = Script(
        model("a", inflight=1, ready_since=0.0, queued=50, oldest_wait=60.0),
        model("b", STOPPED, queued=1),
        max_models=1,
    )
    script.at(100)
    script.at(101, a={"state": STOPPING, "inflight": 0})
    assert script.at(102, {"memory_used": GB}, a={"state": STOPPED}) == ["load b"]


def test_clients_with_short_deadlines_do_not_lose_their_model_its_place_in_line() -> None:
    """A model whose clients give up and ask again within 5 s keeps its place; after longer it is at the end."""
    for gap, first in ((4, "load b"), (7, "load c")):
        script = Script(model("a", inflight=1, ready_since=0.0), model("b", STOPPED), model("c", STOPPED), max_models=1)
        script.at(1, b={"queued": 1})
        script.at(3, b={"queued": 0}, c={"queued": 1})
        script.at(3 + gap)
        script.at(3 + gap, b={"queued": 1})
        script.at(15, a={"state": STOPPING, "inflight": 0})
        assert script.at(16, {"memory_used": GB}, a={"state": STOPPED}) == [first], gap


def test_turns_do_not_end_while_an_operator_holds_the_gate() -> None:
    """While nobody is served nobody is drained; the first turn ends when the gate is open again."""
    script = Script(model("a", inflight=1, ready_since=0.0), model("b", STOPPED, queued=1), max_models=1)
    assert script.at(0, {"gate_closed": True}) == []
    assert script.until(1, 500) == []
    assert script.at(501, {"gate_closed": False}) == ["unload a: rotation"]


def test_turns_last_longer_while_the_ladder_pauses_for_cpu() -> None:
    """At floor speed a turn lasts 60 s instead of 20, but it does end."""
    script = Script(model("a", inflight=1, ready_since=0.0), model("b", STOPPED, queued=1), max_models=1)
    assert script.at(0, {"gate_closed": True, "cpu": Rung.PAUSE}) == []
    assert script.until(1, 59) == []
    assert script.at(60) == ["unload a: rotation"]


def test_model_in_back_off_gives_way_first_when_nobody_waits_for_it() -> None:
    """A broken-down model that nobody asks for makes room before any healthy one."""
    script = Script(model("b", BACKOFF), model("a"), model("c", STOPPED), max_models=2)
    script.at(0)
    assert script.at(50, c={"queued": 1}) == ["unload b: evicted"]
    assert script.at(51, b={"state": STOPPED}) == ["load c"]


def test_model_in_back_off_that_is_waited_for_has_its_turn() -> None:
    """A crash-looping model that is waited for holds its place for 20 s of trying, then gives way."""
    script = Script(model("a", BACKOFF, queued=1), model("b", STOPPED, queued=1), max_models=1)
    assert script.until(0, 10) == []
    script.at(11, a={"state": STARTING})
    script.at(14, a={"state": STOPPING})
    assert script.at(15, {"memory_used": GB}, a={"state": BACKOFF}) == []
    assert script.until(16, 19) == []
    assert script.at(20) == ["unload a: rotation"]


def test_model_whose_load_failed_makes_nobody_leave_again() -> None:
    """A model that cannot be loaded does not evict healthy ones again for 5 min; free places it may have (edge 17)."""
    script = Script(model("a", BACKOFF), model("x", STARTING, queued=1), max_models=2)
    script.at(0)
    script.at(5, x={"state": STOPPING})
    script.at(6, x={"state": BACKOFF})
    script.at(7, a={"state": READY, "inflight": 0}, x={"state": STOPPED})
    script.manager.set_policy(ResidencyPolicy(max_models=1))
    assert script.until(8, 305) == []
    assert script.at(306) == ["unload a: evicted"]
    script.at(307, a={"state": STOPPING})
    assert script.at(308, {"memory_used": GB}, a={"state": STOPPED}) == ["load x"]
    free = Script(model("x", STARTING, queued=1, memory_bytes=GB))
    free.at(0)
    free.at(5, x={"state": STOPPING})
    free.at(6, {"memory_used": GB}, x={"state": BACKOFF})
    assert free.at(7, {"memory_used": 0}, x={"state": STOPPED}) == ["load x"]


def test_model_that_was_given_up_evicts_nobody_ever_again() -> None:
    """A model that cannot be loaded has one other leave for it, once; the other is loaded again and left alone."""
    script = Script(model("a"), model("x", STOPPED), max_models=1)
    script.at(0)
    assert script.at(1, x={"queued": 1}) == ["unload a: evicted"]
    script.at(1.5, a={"state": STOPPING})
    assert script.at(2, {"memory_used": GB}, a={"state": STOPPED}) == ["load x"]
    script.at(3, {"memory_used": 2 * GB}, x={"state": STARTING, "memory_bytes": GB})
    script.at(8, x={"state": STOPPING})
    # its waiters are refused, and more ask for it every second, for two hours
    assert script.at(9, {"memory_used": GB}, x={"state": FAILED, "queued": 0}, a={"queued": 1}) == ["load a"]
    script.at(10, a={"state": STARTING})
    script.at(20, {"memory_used": 2 * GB}, a={"state": READY, "queued": 0, "uses": 1})
    for now in range(21, 7200):
        assert script.at(now, x={"queued": now % 2}, a={"uses": now}) == []
    # an operator who has repaired it and loads it does not wait for the end of anything
    assert script.at(7200, x={"state": STOPPED, "wanted": True, "oldest_wait": 0.1}) == ["unload a: evicted"]


def test_model_that_was_ready_since_its_load_failed_may_have_others_leave() -> None:
    """One load that failed is forgotten as soon as another succeeds."""
    script = Script(model("x", STARTING, queued=1), model("a"), max_models=1)
    script.at(0)
    script.at(5, x={"state": STOPPING})
    script.at(6, x={"state": BACKOFF})
    script.at(7, x={"state": STARTING})
    script.at(20, x={"state": READY, "queued": 0})
    script.at(21, x={"state": STOPPING})
    assert script.at(22, {"memory_used": 0}, x={"state": STOPPED, "queued": 1}) == ["unload a: evicted"]
