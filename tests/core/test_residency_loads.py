"""Models on demand: what is loaded in which order, what fits, who makes room, who takes turns, what is refused."""

from supervisor.core.model import Rung
from supervisor.core.policy import ResidencyPolicy
from supervisor.core.reservation import Pressure
from tests.support.residency_script import (
    BACKOFF,
    DRAINING,
    FAILED,
    GB,
    READY,
    STARTING,
    STOPPED,
    STOPPING,
    Script,
    model,
)

GPU = "GPU-0"
# 10 GB of memory: 8.5 GB may be in use, 9.5 GB when it is for the only model.
TIGHT = Pressure(memory_used=0, memory_limit=10 * GB, fit_percent=85.0, last_fit_percent=95.0)


def test_models_that_are_asked_for_are_loaded_side_by_side() -> None:
    """Several models asked for at once are loaded at once, as far as there are places, the longest wait first."""
    script = Script(model("a", STOPPED), model("b", STOPPED), model("c", STOPPED), max_models=2)
    script.show(a={"queued": 1, "oldest_wait": 1.0}, b={"queued": 1, "oldest_wait": 3.0})
    script.show(c={"queued": 9, "oldest_wait": 2.0})
    assert script.at(10) == ["load b", "load c"]
    waits = script.manager.waits_for("a")
    assert waits is not None
    assert "2 of at most 2 models are in memory" in waits


def test_model_nobody_asks_for_is_not_loaded() -> None:
    """Without demand nothing is loaded, however much room there is."""
    script = Script(model("a", STOPPED), model("b", STOPPED))
    assert script.until(0, 100) == []


def test_preload_takes_free_places_in_the_order_of_the_config() -> None:
    """Preloads fill the places in the order written; the one that finds none is neither an error nor loaded later."""
    script = Script(*(model(name, STOPPED, wanted=True) for name in "abc"), max_models=2, inactive_timeout=30)
    assert script.at(0) == ["load a", "load b"]
    for name in "ab":
        script.at(10, **{name: {"state": STARTING}})
        script.at(20, **{name: {"state": READY, "wanted": False}})
    assert script.until(21, 59) == []
    assert script.at(60) == ["unload b: idle"]
    script.at(61, b={"state": STOPPING})
    script.at(62, b={"state": STOPPED})
    assert script.until(63, 119) == []


def test_preload_that_was_passed_over_comes_when_it_is_asked_for() -> None:
    """A preload that found no place is loaded like any other model once requests wait for it."""
    script = Script(model("a", pinned=False), model("b", STOPPED, wanted=True), max_models=1)
    assert script.until(0, 3) == []
    assert script.at(4, b={"queued": 1}) == ["unload a: evicted"]


def test_preload_makes_nobody_leave_but_a_command_does() -> None:
    """What is wanted only takes free room; what somebody waits for (an operator's load) evicts a cold model."""
    script = Script(model("a"), model("b", STOPPED, wanted=True), max_models=1)
    assert script.until(0, 30) == []
    assert script.at(31, b={"oldest_wait": 0.1}) == ["unload a: evicted"]


def test_waiter_comes_before_a_preload() -> None:
    """One place, a preload further up in the config and a waiting request: the request gets it."""
    script = Script(model("a", STOPPED, wanted=True), model("b", STOPPED), max_models=1)
    assert script.at(0, b={"queued": 1}) == ["load b"]


def test_loads_under_way_reserve_what_they_are_going_to_take() -> None:
    """A second load fits beside a first only with what the first will still take."""
    script = Script(model("a", STOPPED, estimate=4 * GB), model("b", STOPPED, estimate=4 * GB), pressure=TIGHT)
    script.show({"memory_used": GB})
    assert script.at(0, a={"queued": 1}, b={"queued": 1}) == ["load a"]
    script.at(1, a={"state": STARTING, "memory_bytes": 0})
    assert script.until(2, 5) == []
    assert script.at(6, {"memory_used": 4 * GB}, a={"memory_bytes": 3 * GB}) == []  # 4 + 1 to come + 4 = 9 > 8.5
    assert script.manager.waits_for("b") == "waits for room: 477 MiB of the 3.73 GiB that it needs are not free"
    assert script.at(7, {"memory_used": 4 * GB}, a={"memory_bytes": 4 * GB}) == ["load b"]  # 4 + 0 + 4 = 8 <= 8.5


def test_only_model_may_fill_memory_up_to_the_unload_threshold() -> None:
    """One model alone may use what two may not."""
    alone = Script(model("a", STOPPED, estimate=9 * GB), pressure=TIGHT)
    assert alone.at(0, a={"queued": 1}) == ["load a"]
    beside = Script(model("a", STOPPED, estimate=9 * GB), model("b", pinned=False, inflight=1), pressure=TIGHT)
    assert beside.at(0, {"memory_used": GB}, a={"queued": 1}) == []


def test_model_of_unknown_size_is_loaded_and_its_peak_is_learned() -> None:
    """Without an estimate a first load counts as nothing; the peak seen in it is what the next one reserves."""
    script = Script(model("a", STOPPED), model("b", pinned=True, inflight=1), pressure=TIGHT)
    assert script.manager.learned_bytes("a") is None
    assert script.at(0, {"memory_used": 5 * GB}, a={"queued": 1}) == ["load a"]
    script.at(1, a={"state": STARTING, "memory_bytes": GB})
    script.at(2, a={"memory_bytes": 4 * GB})
    script.at(3, {"memory_used": 6 * GB}, a={"state": READY, "memory_bytes": 2 * GB, "queued": 0})
    script.at(20, a={"memory_bytes": 5 * GB})  # long after it was ready: grown in use, not in loading
    assert script.manager.learned_bytes("a") == 4 * GB
    script.at(21, a={"state": STOPPING})
    script.at(22, {"memory_used": 5 * GB}, a={"state": STOPPED})
    assert script.until(23, 30) == []
    assert script.at(31, a={"queued": 1}) == []  # 5 + 4 > 8.5


def test_learned_peak_includes_the_first_seconds_of_service() -> None:
    """The first batches belong to the load: what they add within 10 s is learned too."""
    script = Script(model("a", STOPPED))
    script.at(0, a={"queued": 1})
    script.at(1, a={"state": STARTING, "memory_bytes": GB})
    script.at(2, a={"state": READY, "memory_bytes": GB})
    script.at(11, a={"memory_bytes": 3 * GB})
    script.at(14, a={"memory_bytes": 4 * GB})
    assert script.manager.learned_bytes("a") == 3 * GB


def test_failed_load_teaches_what_it_took_at_least() -> None:
    """A load that was killed on its way up reserves at least what it had."""
    script = Script(model("a", STOPPED))
    script.at(0, a={"queued": 1})
    script.at(1, a={"state": STARTING, "memory_bytes": 6 * GB})
    script.at(2, a={"state": STOPPING, "memory_bytes": 0})
    script.at(3, a={"state": BACKOFF})
    assert script.manager.learned_bytes("a") == 6 * GB


def test_no_load_begins_while_memory_pauses_and_one_that_began_goes_on() -> None:
    """At pause or above nothing new is loaded; a starting model is left alone even at unload."""
    script = Script(
        model("a", STARTING), model("b", STOPPED), model("g", STOPPED, device=GPU), model("c", inflight=1), max_models=4
    )
    assert script.at(0, {"memory": Rung.PAUSE}, b={"queued": 1}, g={"queued": 1}) == []
    assert script.manager.waits_for("b") == "no load while memory is at pause"
    assert script.at(1, {"memory": Rung.UNLOAD}) == []
    assert script.at(2, {"memory": Rung.SHRINK}) == ["load b", "load g"]


def test_cpu_pause_does_not_hold_up_a_load() -> None:
    """Only memory keeps a load from beginning."""
    script = Script(model("a", STOPPED))
    assert script.at(0, {"cpu": Rung.PAUSE, "gate_closed": True}, a={"queued": 1}) == ["load a"]


def test_no_load_beside_others_while_memory_cannot_be_read() -> None:
    """Memory that was known and is blind (rung shrink) lets one model be loaded, not a second."""
    script = Script(model("a", STOPPED), model("b", STOPPED), pressure=Pressure(memory=Rung.SHRINK))
    assert script.at(0, a={"queued": 1}) == ["load a"]
    assert script.at(1, a={"state": STARTING}, b={"queued": 1}) == []
    assert script.at(2, {"memory": Rung.NORMAL}) == ["load b"]


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
    script.at(6, x={"state": FAILED})
    script.at(7, a={"state": READY, "inflight": 0}, x={"state": STOPPED})
    script.manager.set_policy(ResidencyPolicy(max_models=1))
    assert script.until(8, 305) == []
    assert script.at(306) == ["unload a: evicted"]
    free = Script(model("x", STARTING, queued=1, memory_bytes=GB))
    free.at(0)
    free.at(5, x={"state": STOPPING})
    free.at(6, {"memory_used": GB}, x={"state": BACKOFF})
    assert free.at(7, {"memory_used": 0}, x={"state": STOPPED}) == ["load x"]


def test_model_larger_than_memory_is_refused_once_with_the_figures() -> None:
    """What can never fit is refused to those who wait, once; to those who come later again."""
    script = Script(model("a", STOPPED, estimate=12 * GB), pressure=TIGHT)
    assert script.at(0, a={"queued": 1}) == ["refuse a"]
    assert script.why() == (
        "it needs 11.18 GiB (12000000000 bytes) of memory; "
        "at most 8.85 GiB (9500000000 bytes) of 9.31 GiB (10000000000 bytes) may be in use"
    )
    assert script.until(1, 20) == []
    assert script.at(21, a={"oldest_wait": 0.5}) == ["refuse a"]  # the first has gone, this one came at 20.5
    assert script.at(22, a={"queued": 0}) == []
    assert script.at(23, a={"queued": 1}) == ["refuse a"]


def test_preload_larger_than_memory_is_refused_once() -> None:
    """A preload that can never fit is told once."""
    script = Script(model("a", STOPPED, estimate=12 * GB, wanted=True), pressure=TIGHT)
    assert script.at(0) == ["refuse a"]
    assert script.until(1, 100) == []
    assert script.at(101, a={"wanted": False}) == []
    assert script.at(102, a={"wanted": True}) == ["refuse a"]


def test_model_that_pinned_models_leave_no_room_for_is_refused() -> None:
    """Neither memory nor places held by pinned models can become free: those who wait are told who holds them."""
    memory = Script(model("p", pinned=True, memory_bytes=5 * GB), model("a", STOPPED, estimate=4 * GB), pressure=TIGHT)
    assert memory.at(0, {"memory_used": 5 * GB}, a={"queued": 1}) == ["refuse a"]
    assert "pinned models hold 4.66 GiB (5000000000 bytes): p" in memory.why()
    places = Script(model("p", pinned=True), model("q", pinned=True), model("a", STOPPED, queued=1), max_models=2)
    assert places.at(0) == ["refuse a"]
    assert places.why() == "max_models_in_memory is 2, and pinned models hold every place: p, q"


def test_model_that_foreign_memory_leaves_no_room_for_is_not_refused() -> None:
    """Others may go, so a model that would fit without them waits."""
    script = Script(model("a", STOPPED, estimate=4 * GB), pressure=TIGHT)
    assert script.at(0, {"memory_used": 9 * GB}, a={"queued": 1}) == []


def test_gpu_model_is_measured_against_its_device() -> None:
    """A model on a GPU needs room there, whatever the host's memory; each device is its own."""
    pressure = Pressure(
        9 * GB,
        10 * GB,
        85.0,
        95.0,
        gpu_fit_percent=85.0,
        gpu_last_fit_percent=95.0,
        device_memory={GPU: (12 * GB, 16 * GB), "GPU-1": (0, 16 * GB)},
    )
    script = Script(
        model("a", device=GPU, memory_bytes=6 * GB, inflight=1),
        model("b", STOPPED, device=GPU, estimate=4 * GB, queued=1),
        model("c", STOPPED, device="GPU-1", estimate=4 * GB, queued=1),
        model("d"),
        max_models=4,
        pressure=pressure,
    )
    assert script.at(0) == ["load c"]
    assert script.until(1, 3) == []  # d is cold, but on the host: its leaving would not help b


def test_load_waits_for_its_device_at_pause_only() -> None:
    """A device at pause holds up loads on it and no others; "" stands for every device."""
    models = (model("g", STOPPED, device=GPU, queued=1), model("h", STOPPED, queued=1))
    script = Script(*models)
    assert script.at(0, {"device_rungs": {GPU: Rung.PAUSE}}) == ["load h"]
    script = Script(*models)
    assert script.at(0, {"device_rungs": {"": Rung.PAUSE}}) == ["load h"]
    assert script.at(1, {"device_rungs": {"": Rung.SHRINK, GPU: Rung.NORMAL}}) == []  # cannot be read; h is loading
    assert script.at(2, {"device_rungs": {}}) == ["load g"]


def test_limits_that_are_off_or_unknown_limit_nothing() -> None:
    """Without a shrink threshold the unload threshold limits; without both, or without a reading, nothing does."""
    for changes, expected in (
        ({"fit_percent": None}, []),
        ({"fit_percent": None, "last_fit_percent": None}, ["load a"]),
        ({"memory_limit": 0}, ["load a"]),
    ):
        script = Script(model("a", STOPPED, estimate=9 * GB), model("b", inflight=1), pressure=TIGHT)
        assert script.at(0, {"memory_used": GB} | changes, a={"queued": 1}) == expected, changes
