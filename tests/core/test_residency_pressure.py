"""The unload rung: who goes for memory, GPU memory and CPU, how fast, and when it is in vain (proof of effect)."""

import pytest

from supervisor.core.model import Rung, Signal
from supervisor.core.reservation import Pressure
from tests.support.residency_script import (
    DRAINING,
    GB,
    READY,
    ROOMY,
    STARTING,
    STOPPED,
    STOPPING,
    Script,
    model,
)

GPU, OTHER_GPU = "GPU-0", "GPU-1"
# 10 GB, of which 9.6 are in use: 5 by three models of ours and a busy one.
FULL = Pressure(
    memory_used=int(9.6 * GB),
    memory_limit=10 * GB,
    fit_percent=85.0,
    last_fit_percent=95.0,
    memory=Rung.UNLOAD,
    gate_closed=True,
    ladder_quiet=False,
)
DRILL = {
    "memory": Rung.UNLOAD,
    "gate_closed": True,
    "ladder_quiet": False,
    "drilled": frozenset({Signal.MEMORY}),
}


def household(**policy: object) -> Script:
    """A busy model, a pinned one and three cold ones of which c is the coldest, then b, then a."""
    script = Script(
        model("busy", inflight=2, memory_bytes=2 * GB),
        model("pinned", pinned=True),
        model("a"),
        model("b"),
        model("c"),
        **({"max_models": 5, "inactive_timeout": 0} | policy),
    )
    script.at(0)
    script.at(10, b={"uses": 1})
    script.at(20, a={"uses": 1})
    return script


def go(script: Script, name: str, now: float, freed: int = 0) -> list[str]:
    """`name` drains and stops within a second, and gives `freed` back; what is said at its end."""
    script.at(now, **{name: {"state": DRAINING}})
    script.at(now + 0.5, **{name: {"state": STOPPING}})
    used = script.pressure.memory_used - freed
    return script.at(now + 1, {"memory_used": used}, **{name: {"state": STOPPED}})


def test_drill_unloads_the_cold_one_per_settle_time() -> None:
    """Memory 96 by drill: the coldest goes, then the next when its memory is back; never the busy or the pinned."""
    script = household()
    assert script.at(30, {**DRILL, "memory_used": 30 * GB, "memory_limit": 100 * GB}) == ["unload c: memory"]
    assert script.why() == "the coldest model, idle 30 s, holds 954 MiB"
    assert script.until(31, 32) == []
    assert go(script, "c", 33, freed=GB) == ["unload b: memory"]
    assert go(script, "b", 35, freed=GB) == ["unload a: memory"]
    assert go(script, "a", 37, freed=GB) == []
    assert script.until(39, 100) == []
    assert not script.manager.external_pressure


def test_memory_that_comes_back_late_delays_the_next_unload_by_at_most_the_settle_time() -> None:
    """While the memory of the last one is not back nothing goes; 5 s after its end the next one does (edge case 13)."""
    script = household()
    assert script.at(30, {**DRILL, "memory_used": 30 * GB, "memory_limit": 100 * GB}) == ["unload c: memory"]
    assert go(script, "c", 31) == []
    assert script.until(33, 36) == []
    assert script.at(37) == ["unload b: memory"]
    assert not script.manager.external_pressure  # in a drill nothing is proved


def test_last_ready_model_stays() -> None:
    """Of models that are all cold the one used last stays, also where others are starting or stopped."""
    script = Script(model("a"), model("b"), model("c", STARTING), model("d", STOPPED), inactive_timeout=0)
    script.at(0)
    script.at(5, a={"uses": 1})
    assert script.at(6, DRILL) == ["unload b: memory"]
    assert go(script, "b", 7, freed=GB) == []
    assert script.until(9, 60) == []


def test_ladder_has_time_to_see_that_an_unload_helped() -> None:
    """Once what is really in use is below the threshold the next model goes only if the rung lasts 5 s more."""
    script = household()
    script.pressure = FULL
    assert script.at(30) == ["unload c: memory"]
    assert go(script, "c", 31, freed=int(0.55 * GB)) == []
    assert script.pressure.memory_used < 9.5 * GB
    assert script.until(33, 36) == []
    assert script.at(37) == ["unload b: memory"]  # the rung lasts


def test_still_above_the_threshold_the_next_goes_at_once() -> None:
    """An unload that helped, but not enough, is followed by the next when its memory is back."""
    script = household()
    script.pressure = FULL
    script.show({"memory_used": int(10.9 * GB), "memory_limit": 11 * GB})
    assert script.at(30) == ["unload c: memory"]
    assert go(script, "c", 31, freed=int(0.5 * GB)) == []
    assert script.at(33, {"memory_used": int(10.46 * GB)}) == ["unload b: memory"]


def test_unload_without_effect_is_the_last_until_the_room_is_below_pause() -> None:
    """Freed less than half of what was expected: external pressure, nothing more goes (edge cases 14, 45)."""
    script = household()
    script.pressure = FULL
    assert script.at(30) == ["unload c: memory"]
    assert go(script, "c", 31, freed=int(0.4 * GB)) == []
    assert not script.manager.external_pressure
    assert script.until(33, 36) == []
    assert script.until(37, 120) == []
    assert script.manager.external_pressure
    # A spike that ends at pause and comes again does not cost a model each time.
    assert script.at(121, {"memory": Rung.PAUSE}) == []
    assert script.at(131, {"memory": Rung.UNLOAD}) == []
    assert script.until(132, 160) == []
    assert script.at(161, {"memory": Rung.SHRINK}) == []
    assert not script.manager.external_pressure
    assert script.at(171, {"memory": Rung.UNLOAD}) == ["unload b: memory"]


def test_nothing_goes_when_all_of_ours_would_not_be_enough() -> None:
    """Memory that would be above shrink without any of our models is not ours: nothing is unloaded (edge case 45)."""
    script = Script(model("a"), model("b"), model("c"), inactive_timeout=0, pressure=FULL)
    script.show({"memory_used": 96 * GB, "memory_limit": 100 * GB})
    assert script.until(0, 100) == []
    assert script.manager.external_pressure
    assert script.at(101, {"memory": Rung.SHRINK, "memory_used": 86 * GB}) == []
    assert not script.manager.external_pressure


def test_foreign_memory_is_no_reason_in_a_drill() -> None:
    """The reading of a drill is not real, so nobody is blamed for it."""
    script = Script(model("a"), model("b"), inactive_timeout=0, pressure=FULL)
    assert script.at(0, {**DRILL, "memory_used": 96 * GB, "memory_limit": 100 * GB}) == ["unload b: memory"]


def test_unload_rung_entered_by_prediction_acts_below_the_threshold() -> None:
    """Memory that is about to be exhausted is at unload below 95 %: the first model goes at once."""
    script = household()
    script.pressure = FULL
    assert script.at(30, {"memory_used": 8 * GB}) == ["unload c: memory"]


def test_foreign_memory_is_not_told_of_a_host_with_models_on_a_gpu() -> None:
    """What those hold of the host's memory is not known, so a full host is not put down to others."""
    script = Script(model("g", device=GPU), model("h", device=GPU), inactive_timeout=0, pressure=FULL)
    assert script.at(0) == ["unload h: memory"]


def test_effect_on_the_host_is_not_judged_by_what_a_gpu_gave_back() -> None:
    """A GPU model unloaded for host memory proves nothing by its device: the next one follows after the settle time."""
    script = Script(*(model(name, device=GPU) for name in "ghi"), inactive_timeout=0, pressure=FULL)
    script.show({"device_memory": {GPU: (5 * GB, 10 * GB)}})
    assert script.at(0) == ["unload i: memory"]
    assert go(script, "i", 1) == []
    assert script.until(3, 6) == []
    assert script.at(7) == ["unload h: memory"]
    assert not script.manager.external_pressure


@pytest.mark.parametrize("use", [{"queued": 1}, {"inflight": 1}, {"leases": 1}, {"pinned": True}])
def test_model_in_any_kind_of_use_stays(use: dict[str, int]) -> None:
    """Queued, in flight, leased or pinned: the ladder leaves it alone."""
    script = Script(model("a", inflight=1), model("b", **use), inactive_timeout=0)
    assert script.at(0, DRILL) == []
    assert script.until(1, 30) == []


def test_pressure_is_the_cause_where_a_model_is_idle_too() -> None:
    """At the unload rung a model that is also past its time-out goes because of the rung."""
    script = Script(model("a"), model("b"), inactive_timeout=10, cleanup_interval=60)
    script.at(0)
    assert script.at(60, DRILL) == ["unload b: memory"]


def test_what_was_last_read_of_a_model_that_is_gone_does_not_count() -> None:
    """A stopped model's stale reading is not ours: it does not look as if others had given memory back."""
    script = household()
    script.pressure = FULL
    assert script.at(30) == ["unload c: memory"]
    script.at(31, c={"state": STOPPING})
    assert script.at(32, c={"state": STOPPED, "memory_bytes": GB}) == []
    assert script.until(33, 60) == []
    assert script.manager.external_pressure


def test_memory_that_came_late_after_all_was_an_effect() -> None:
    """An unload whose memory came after 8 s takes the verdict back: it was ours, and more of it may go."""
    script = household()
    script.pressure = FULL
    assert script.at(30, {"memory_used": int(10.9 * GB), "memory_limit": 11 * GB}) == ["unload c: memory"]
    assert go(script, "c", 31) == []
    assert script.until(33, 39) == []
    assert script.manager.external_pressure
    assert script.at(40, {"memory_used": int(10.46 * GB)}) == []
    assert script.manager.external_pressure
    assert script.at(41, {"memory_used": int(10.4 * GB), "memory_limit": int(10.8 * GB)}) == ["unload b: memory"]
    assert not script.manager.external_pressure


def test_prediction_is_acted_upon_once() -> None:
    """Of memory that was about to be exhausted one model goes; below shrink no more, however long the rung lasts."""
    script = household()
    script.pressure = FULL
    assert script.at(30, {"memory_used": 8 * GB}) == ["unload c: memory"]
    assert go(script, "c", 30.5, freed=GB) == []
    assert script.until(32, 60) == []


def test_prediction_that_could_not_be_acted_upon_is_over() -> None:
    """While another model is on its way out the moment of a prediction passes, and what is in use decides."""
    script = household()
    script.pressure = FULL
    script.at(29, {"memory": Rung.PAUSE, "memory_used": 8 * GB}, a={"state": STOPPING})
    assert script.at(30, {"memory": Rung.UNLOAD}) == []
    assert script.at(33, {"memory_used": 7 * GB}, a={"state": STOPPED}) == []
    assert script.until(34, 60) == []


def test_last_ready_model_does_not_count_as_what_could_go() -> None:
    """Below the threshold two cold models of 0.45 GB end no excess of 0.8: one of them stays anyway."""
    script = Script(
        *(model(name, memory_bytes=int(0.45 * GB)) for name in "ab"),
        model("c", STOPPING),
        inactive_timeout=0,
        pressure=FULL,
    )
    assert script.until(0, 4) == []
    assert script.at(5, {"memory_used": int(9.3 * GB)}, c={"state": STOPPED}) == []
    assert script.until(6, 60) == []


@pytest.mark.parametrize(("used", "expected"), [(9.3, ["unload c: memory"]), (9.4, []), (8.4, [])])
def test_below_the_threshold_cold_models_go_only_if_that_ends_the_pressure(used: float, expected: list[str]) -> None:
    """With the rung outlasting its reading, cold models of 0.85 GB go for an excess of 0.8 GB, not of 0.9 or none."""
    script = Script(
        model("busy", inflight=1, memory_bytes=3 * GB),
        model("a", memory_bytes=int(0.45 * GB)),
        model("c", memory_bytes=int(0.4 * GB)),
        inactive_timeout=0,
        pressure=FULL,
    )
    script.at(0, {"memory": Rung.PAUSE}, busy={"state": DRAINING, "memory_bytes": 3 * GB})
    script.at(1, {"memory": Rung.UNLOAD})
    assert script.until(2, 4) == []  # somebody is on the way out
    ready = {"state": READY, "memory_bytes": 3 * GB}
    assert script.at(5, {"memory_used": int(used * GB)}, busy=ready) == expected


def test_gpu_memory_unloads_only_models_of_that_device() -> None:
    """One GPU at unload: its cold models go, not those of another GPU and none of the CPU."""
    script = Script(
        model("cpu"),
        model("g", device=GPU),
        model("h", device=GPU, inflight=1),
        model("other", device=OTHER_GPU),
        max_models=4,
        inactive_timeout=0,
    )
    script.at(0)
    assert script.at(10, {"device_rungs": {GPU: Rung.UNLOAD}}) == ["unload g: gpu_memory"]
    assert go(script, "g", 11) == []
    assert script.until(13, 60) == []


def test_gpu_memory_of_no_device_in_particular_is_all_of_them() -> None:
    """A GPU-memory drill without a device counts for every model on a GPU and none on the CPU."""
    script = Script(model("cpu"), model("g", device=GPU), inactive_timeout=0)
    script.at(0)
    assert script.at(1, {"device_rungs": {"": Rung.UNLOAD}}) == ["unload g: gpu_memory"]


def test_gpu_memory_is_settled_and_proved_on_its_own_device() -> None:
    """What a GPU model gave back is read from its device; without effect nothing more goes there."""
    script = Script(
        *(model(name, device=GPU, memory_bytes=4 * GB) for name in "ab"),
        model("c", device=GPU, memory_bytes=4 * GB, inflight=1),
        inactive_timeout=0,
    )
    script.show(
        {
            "gpu_fit_percent": 85.0,
            "gpu_last_fit_percent": 95.0,
            "device_memory": {GPU: (23 * GB, 24 * GB)},
            "device_rungs": {GPU: Rung.UNLOAD},
        }
    )
    assert script.at(0) == ["unload b: gpu_memory"]
    assert go(script, "b", 1) == []
    assert script.until(3, 100) == []
    assert script.manager.external_pressure
    assert script.at(101, {"device_rungs": {GPU: Rung.WARN}}) == []
    assert not script.manager.external_pressure


def test_models_on_the_host_go_before_those_on_a_gpu() -> None:
    """For host memory a colder model on a GPU stays while one on the CPU can go."""
    script = Script(model("g", device=GPU), model("a"), model("b"), inactive_timeout=0)
    script.at(0)
    script.at(10, a={"uses": 1}, b={"uses": 1})
    assert script.at(11, DRILL) == ["unload b: memory"]
    assert go(script, "b", 12, freed=GB) == ["unload a: memory"]


@pytest.mark.parametrize(("timeout", "expected"), [(100, [(101, "unload b: cpu")]), (0, [])])
def test_cpu_unloads_only_what_is_idle_past_its_time_out(timeout: float, expected: list[tuple[int, str]]) -> None:
    """A busy CPU unloads a model idle for longer than the time-out, none where the time-out is never."""
    script = Script(model("a"), model("b"), inactive_timeout=timeout, cleanup_interval=10_000)
    script.show({"cpu": Rung.UNLOAD})
    assert script.until(0, 104) == expected


def test_cpu_leaves_the_last_ready_model() -> None:
    """However long it is idle, the last ready model stays."""
    script = Script(model("a"), model("b", STOPPED), inactive_timeout=10, cleanup_interval=10_000)
    script.show({"cpu": Rung.UNLOAD})
    assert script.until(0, 200) == []


def test_nothing_more_goes_while_somebody_is_on_the_way_out() -> None:
    """An operator's unload under way holds up the ladder's."""
    script = Script(model("a", DRAINING), model("b"), model("c"), inactive_timeout=0, pressure=ROOMY)
    assert script.at(0, DRILL) == []
    assert script.at(5, a={"state": STOPPING}) == []
    assert script.at(6, {"memory_used": GB}, a={"state": STOPPED}) == ["unload c: memory"]


def test_relief_lets_loads_begin_again() -> None:
    """After the rung is left a request for an unloaded model loads it."""
    script = household()
    script.at(30, {**DRILL, "memory_used": 30 * GB, "memory_limit": 100 * GB})
    go(script, "c", 31, freed=GB)
    script.at(33, c={"queued": 1})
    assert script.steps == []
    assert script.at(34, {"memory": Rung.PAUSE}) == []
    assert script.at(38, {"memory": Rung.SHRINK, "drilled": frozenset(), "gate_closed": False}) == ["load c"]
