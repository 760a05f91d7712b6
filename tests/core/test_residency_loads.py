"""Models on demand: what is loaded in which order, what fits, what is learned of sizes, what waits for memory."""

from supervisor.core.model import Rung
from supervisor.core.reservation import Pressure
from tests.support.residency_script import BACKOFF, GB, READY, STARTING, STOPPED, STOPPING, TIGHT, Script, model

GPU = "GPU-0"


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
    stale = {"estimate": 4 * GB, "memory_bytes": 4 * GB}  # read of a process that is gone: holds nothing
    script = Script(model("a", STOPPED, **stale), model("b", STOPPED, **stale), pressure=TIGHT)
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
