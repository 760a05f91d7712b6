"""Who makes room for a model that waits: cold ones, one at a time, whose memory has to come back; and who does not."""

from supervisor.core.model import Rung
from supervisor.core.policy import Eviction
from supervisor.core.reservation import Pressure
from tests.support.residency_script import DRAINING, GB, STARTING, STOPPED, STOPPING, TIGHT, Script, model

GPU = "GPU-0"


def test_waiter_evicts_the_least_recently_used_cold_model() -> None:
    """With every place taken the coldest unpinned model makes room, and the waiter is loaded once it has gone."""
    script = Script(model("a"), model("b"), model("p", pinned=True), model("c", STOPPED))
    script.at(0)
    script.at(5, a={"uses": 1})
    assert script.at(10, c={"queued": 1}) == ["unload b: evicted"]
    assert script.why() == "c waits for room; least recently used, idle 10 s"
    assert script.at(11, b={"state": DRAINING}) == []
    assert script.at(12, b={"state": STOPPING}) == []
    assert script.at(13, {"memory_used": GB}, b={"state": STOPPED}) == ["load c"]


def test_model_between_two_requests_of_a_client_is_not_cold() -> None:
    """A model used less than 1 s ago is not evicted; a second later it is."""
    script = Script(model("a", inflight=1), model("b", STOPPED, queued=1), max_models=1)
    script.at(0)
    assert script.at(10, a={"inflight": 0}) == []
    assert script.at(10.5, a={"inflight": 1}) == []
    assert script.at(11, a={"inflight": 0}) == []
    assert script.at(11.9) == []
    assert script.at(12) == ["unload a: evicted"]


def test_nothing_is_evicted_when_the_only_waiter_has_left() -> None:
    """A waiter that leaves before its turn makes nobody leave, and is not loaded (edge case 11)."""
    script = Script(model("a", inflight=1), model("b", STOPPED, queued=1), max_models=1)
    script.until(0, 5)
    assert script.at(6, a={"inflight": 0}, b={"queued": 0}) == []
    assert script.until(7, 40) == []


def test_memory_that_is_short_evicts_one_model_at_a_time_and_waits_for_it_to_come_back() -> None:
    """A second eviction and the load wait until the first model's memory is back, at most 5 s (edge case 13)."""
    script = Script(
        model("a", memory_bytes=2 * GB),
        model("b", memory_bytes=2 * GB),
        model("c", STOPPED, estimate=6 * GB),
        pressure=TIGHT,
    )
    assert script.at(0, {"memory_used": 4 * GB}) == []
    assert script.at(2, c={"queued": 1}) == ["unload b: evicted"]
    script.at(3, b={"state": STOPPING, "memory_bytes": 2 * GB})
    assert script.at(4, b={"state": STOPPED}) == []  # gone, but its 2 GB are still in use
    assert script.until(5, 8) == []
    waits = script.manager.waits_for("c")
    assert waits is not None
    assert "come back" in waits
    assert script.at(8.9, {"memory_used": int(3.1 * GB)}) == []  # less than half is back
    assert script.at(8.95, {"memory_used": 2 * GB}) == ["load c"]


def test_load_after_an_unload_waits_at_most_the_settle_time() -> None:
    """Where the memory of a model never comes back, the place it held is given away 5 s after it ended."""
    script = Script(model("a", memory_bytes=2 * GB), model("b", STOPPED), max_models=1)
    script.at(0)
    assert script.at(2, b={"queued": 1}) == ["unload a: evicted"]
    script.at(3, a={"state": STOPPING, "memory_bytes": 2 * GB})
    assert script.at(4, a={"state": STOPPED}) == []
    assert script.until(5, 8) == []
    assert script.at(9) == ["load b"]


def test_freed_memory_is_told_from_what_other_models_take_meanwhile() -> None:
    """A load that goes on beside an unload does not hide what the unload gave back."""
    script = Script(
        model("a", memory_bytes=2 * GB),
        model("b", STARTING, memory_bytes=GB),
        model("c", STOPPED),
        max_models=2,
    )
    script.at(0, {"memory_used": 4 * GB})
    assert script.at(2, c={"queued": 1}) == ["unload a: evicted"]
    script.at(3, a={"state": STOPPING, "memory_bytes": 2 * GB})
    assert script.at(4, a={"state": STOPPED}) == []
    assert script.at(5, {"memory_used": 4 * GB}, b={"memory_bytes": 3 * GB}) == ["load c"]


def test_nobody_leaves_for_a_model_that_others_keep_from_fitting() -> None:
    """Where all we could give would not make room, nothing is evicted; the model waits and is loaded on relief."""
    script = Script(model("a"), model("b", STOPPED, estimate=4 * GB), pressure=TIGHT)
    assert script.at(0, {"memory_used": 8 * GB}, b={"queued": 1}) == []
    assert script.until(1, 300) == []
    assert script.at(301, {"memory_used": 4 * GB}) == ["load b"]


def test_nobody_leaves_where_a_pinned_model_and_others_keep_the_room() -> None:
    """What a pinned model holds does not count as room that could be made."""
    script = Script(
        model("p", pinned=True, memory_bytes=2 * GB), model("a"), model("b", STOPPED, estimate=3 * GB), pressure=TIGHT
    )
    assert script.at(0, {"memory_used": 7 * GB}, b={"queued": 1}) == []  # 4 are others': 4 + 2 + 3 > 8.5 without a
    assert script.until(1, 60) == []


def test_smaller_model_passes_one_that_others_keep_from_fitting() -> None:
    """A model that waits for others to give memory back does not hold up one that fits."""
    script = Script(model("big", STOPPED, estimate=7 * GB), model("small", STOPPED, estimate=GB), pressure=TIGHT)
    script.show({"memory_used": 5 * GB}, big={"queued": 1, "oldest_wait": 50.0}, small={"queued": 1})
    assert script.at(0) == ["load small"]


def test_nobody_passes_a_model_that_room_is_being_made_for() -> None:
    """A small model that would fit waits while a larger one that was first has room made for it."""
    script = Script(
        model("a", memory_bytes=5 * GB),
        model("big", STOPPED, estimate=6 * GB),
        model("small", STOPPED, estimate=GB),
        pressure=TIGHT,
    )
    script.at(0, {"memory_used": 5 * GB})
    script.show(big={"queued": 1, "oldest_wait": 2.0}, small={"queued": 1, "oldest_wait": 1.0})
    assert script.at(2) == ["unload a: evicted"]
    assert script.until(3, 5) == []
    assert script.manager.waits_for("small") == "waits its turn behind a model that was asked for earlier"


def test_place_that_was_made_free_is_kept_while_its_memory_comes_back() -> None:
    """A model on another device does not take the place that a waiter had made free and is yet to fill."""
    script = Script(
        model("a", memory_bytes=2 * GB),
        model("b", STOPPED),
        model("g", STOPPED, device=GPU),
        max_models=1,
        pressure=Pressure(2 * GB, 10 * GB, 85.0, 95.0),
    )
    script.at(0)
    assert script.at(2, b={"queued": 1, "oldest_wait": 2.0}, g={"queued": 1, "oldest_wait": 1.0}) == [
        "unload a: evicted"
    ]
    script.at(3, a={"state": STOPPING, "memory_bytes": 2 * GB})
    assert script.at(4, a={"state": STOPPED}) == []
    assert script.at(5, {"memory_used": 0}) == ["load b"]


def test_memory_that_is_later_than_the_settle_time_is_kept_for_the_waiter() -> None:
    """Where memory comes back after 8 s, the one that left for it does not get it back before the one that waits."""
    script = Script(
        model("a", inflight=1, ready_since=0.0, memory_bytes=5 * GB),
        model("b", STOPPED, estimate=5 * GB),
        pressure=TIGHT,
    )
    assert script.at(30, {"memory_used": 5 * GB}, b={"queued": 1}) == ["unload a: rotation"]
    script.at(31, a={"state": STOPPING, "memory_bytes": 5 * GB, "inflight": 0})
    assert script.at(32, a={"state": STOPPED, "queued": 1, "estimate": GB}) == []
    assert script.until(33, 39) == []
    assert script.at(40, {"memory_used": 0}) == ["load b", "load a"]  # 5 + 1 GB fit side by side
    late = Script(model("a", inflight=1, ready_since=0.0), model("b", STOPPED, estimate=9 * GB), pressure=TIGHT)
    assert late.at(30, {"memory_used": GB}, b={"queued": 1}) == ["unload a: rotation"]
    late.at(31, a={"state": STOPPING, "inflight": 0})
    assert late.at(32, a={"state": STOPPED, "queued": 1, "estimate": GB}) == []
    assert late.until(33, 51) == []
    assert late.at(52) == ["load a"]  # nothing came for 15 s after it should have


def test_waiters_on_two_devices_cost_one_model_at_a_time() -> None:
    """Two that each need room on a device of their own have it made one after the other."""
    script = Script(
        model("a", memory_bytes=5 * GB),
        model("g", device=GPU, memory_bytes=5 * GB),
        model("b", STOPPED, estimate=5 * GB),
        model("h", STOPPED, estimate=5 * GB, device=GPU),
        max_models=4,
        pressure=Pressure(5 * GB, 10 * GB, 85.0, 95.0, gpu_fit_percent=85.0, device_memory={GPU: (5 * GB, 10 * GB)}),
    )
    script.at(0)
    assert script.at(2, b={"queued": 1, "oldest_wait": 1.0}, h={"queued": 1}) == ["unload a: evicted"]
    script.at(3, a={"state": STOPPING, "memory_bytes": 5 * GB})
    assert script.at(4, {"memory_used": 0}, a={"state": STOPPED}) == ["load b", "unload g: evicted"]


def test_eviction_that_was_in_vain_is_not_repeated_at_once() -> None:
    """When others take what an evicted model gave, the next one stays for a minute (edge case 14)."""
    script = Script(
        model("a", memory_bytes=2 * GB),
        model("b", memory_bytes=2 * GB),
        model("c", STOPPED, estimate=5 * GB),
        pressure=TIGHT,
    )
    script.at(0, {"memory_used": 5 * GB})
    assert script.at(2, c={"queued": 1}) == ["unload b: evicted"]
    script.at(3, b={"state": STOPPING, "memory_bytes": 2 * GB})
    assert script.at(4, b={"state": STOPPED}) == []
    assert script.until(5, 68) == []
    assert script.at(69) == ["unload a: evicted"]


def test_memory_that_came_late_after_all_lets_the_next_model_leave() -> None:
    """An eviction whose memory came after 8 s was not in vain: the second model that has to leave does so then."""
    script = Script(
        model("a", memory_bytes=2 * GB),
        model("b", memory_bytes=2 * GB),
        model("c", STOPPED, estimate=7 * GB),
        pressure=TIGHT,
    )
    script.at(0, {"memory_used": 4 * GB})
    assert script.at(2, c={"queued": 1}) == ["unload b: evicted"]
    script.at(3, b={"state": STOPPING, "memory_bytes": 2 * GB})
    assert script.at(4, b={"state": STOPPED}) == []
    assert script.until(5, 11) == []
    assert script.at(12, {"memory_used": 2 * GB}) == ["unload a: evicted"]


def test_place_that_became_free_is_worth_it_without_any_memory() -> None:
    """A model that waits for a place is not held back by memory that does not come back."""
    script = Script(model("a"), model("b"), model("c", STOPPED), max_models=1)
    script.at(0)
    assert script.at(2, c={"queued": 1}) == ["unload b: evicted"]
    script.at(3, b={"state": STOPPING})
    assert script.at(4, b={"state": STOPPED}) == []
    assert script.until(5, 8) == []
    assert script.at(9) == ["unload a: evicted"]


def test_starting_or_leaving_model_is_nobodys_victim() -> None:
    """Nobody is evicted who is still loading (edge case 7), and nobody while somebody is on the way out."""
    loading = Script(model("a", STARTING), model("b", STOPPED, queued=1), max_models=1)
    assert loading.until(0, 200) == []
    leaving = Script(model("a", DRAINING), model("b"), model("c", STOPPED, queued=1), max_models=2)
    assert leaving.until(0, 30) == []


def test_pinned_model_never_makes_room() -> None:
    """Neither cold nor busy, neither for a place nor for memory."""
    script = Script(
        model("p", pinned=True, ready_since=0.0),
        model("a", inflight=1, ready_since=0.0),
        model("b", STOPPED, queued=1),
        max_models=2,
    )
    assert script.until(0, 19) == []
    assert script.at(20) == ["unload a: rotation"]


def three(eviction: Eviction) -> Script:
    """`old` is idle longest, `rare` was used least often, `big` is the largest and quickest to load again."""
    script = Script(
        model("old", uses=50, load_seconds=20.0, memory_bytes=GB),
        model("rare", uses=1, load_seconds=40.0, memory_bytes=GB),
        model("big", uses=80, load_seconds=5.0, memory_bytes=8 << 30),
        model("new", STOPPED),
        max_models=3,
        eviction=eviction,
    )
    script.at(0)
    script.at(2, rare={"uses": 2})
    script.at(4, big={"uses": 81})
    return script


def test_the_operator_chooses_who_makes_room_first() -> None:
    """`lru` takes the longest idle, `lfu` the least used, `cost` what is cheapest to lose; each says so."""
    expected = {
        Eviction.LRU: ("old", "least recently used, idle 10 s"),
        Eviction.LFU: ("rare", "least often used, 2 times, idle 8 s"),
        Eviction.COST: ("big", "cheapest to lose: idle 6 s, holds 8.00 GiB, loads in 5 s"),
    }
    for eviction, (name, why) in expected.items():
        script = three(eviction)
        assert script.at(10, new={"queued": 1}) == [f"unload {name}: evicted"]
        assert script.why() == f"new waits for room; {why}"


def test_the_ladder_takes_the_coldest_whatever_was_chosen() -> None:
    """Under pressure the longest idle goes first: the choice is for making room in peace."""
    for eviction in Eviction:
        script = three(eviction)
        steps = script.at(10, {"memory": Rung.UNLOAD, "memory_used": 11 * GB, "memory_limit": 11 * GB})
        assert steps == ["unload old: memory"]
