"""Models that share a process: loaded, idle and unloaded as one, with a place for each, and memory that counts once."""

from supervisor.core.model import ModelView, Rung
from supervisor.core.sharing import by_process
from tests.support.residency_script import FAILED, GB, READY, STARTING, STOPPED, TIGHT, Script, model


def pair(state: object = READY, **fields: object) -> tuple[ModelView, ModelView]:
    """Two models of the group "g"; together they hold what one model does."""
    views = (model(name, state, **({"group": "g"} | fields)) for name in ("a", "b"))  # type: ignore[arg-type]
    first, second = views
    return first, second


def test_a_process_is_shown_as_a_whole() -> None:
    """Sums of what is counted, the longest wait, pinned and wanted if any is; other models are as they were."""
    alone = model("x", uses=3)
    first = model("a", group="g", queued=1, oldest_wait=2.0, uses=4, leases=1, estimate=GB)
    second = model("b", group="g", pinned=True, wanted=True, oldest_wait=5.0, inflight=2, uses=5, estimate=2 * GB)
    shown, whole = by_process([alone, first, second])
    assert shown is alone
    assert (whole.name, whole.models, whole.places) == ("g", ("a", "b"), 2)
    assert (whole.memory_bytes, whole.estimate) == (2 * GB, 3 * GB)
    assert (whole.queued, whole.inflight, whole.leases, whole.uses) == (1, 2, 1, 9)
    assert (whole.pinned, whole.wanted, whole.oldest_wait) == (True, True, 5.0)
    assert whole.successor_bytes is None
    (rising,) = by_process([model(name, group="g", successor_bytes=GB) for name in "ab"])
    assert rising.successor_bytes == 2 * GB


def test_a_load_of_which_only_a_share_is_known_is_not_known() -> None:
    """Half an estimate would stand in the way of what the first load shows."""
    (whole,) = by_process([model("a", group="g", estimate=GB), model("b", group="g")])
    assert whole.estimate is None


def test_asking_for_one_loads_all_of_them() -> None:
    """One step names the group and counts its places."""
    script = Script(*pair(STOPPED), max_models=3)
    assert script.at(0, b={"queued": 1}) == ["load g"]
    assert script.why() == "1 waiting for it, 2 of at most 3 models in memory"
    assert script.at(1, a={"state": STARTING}, b={"state": STARTING}) == []


def test_a_group_is_idle_when_all_of_it_is() -> None:
    """While one of its models is in use nothing of the group goes; then it goes as a whole."""
    script = Script(*pair(), model("x", inflight=1), inactive_timeout=30, cleanup_interval=1)
    for now in range(100):
        assert script.at(now, a={"inflight": now % 2}) == []
    assert script.manager.idle_seconds("b") == 0.0
    script.at(100, a={"inflight": 0})
    said = script.until(101, 133)
    assert said == [(131, "unload g: idle")]


def test_a_pinned_model_pins_its_group() -> None:
    """It is neither cleaned up nor in anybody's way out."""
    views = pair()
    pinned = (model("a", group="g", pinned=True), views[1])
    script = Script(*pinned, model("x", inflight=1), inactive_timeout=10, cleanup_interval=1)
    assert script.until(0, 100) == []


def test_a_group_needs_a_place_for_each_model() -> None:
    """With one place free two models must wait for another: it is made room, one model at a time."""
    script = Script(model("x"), model("y"), *pair(STOPPED), max_models=3)
    script.until(0, 5)
    assert script.at(6, a={"queued": 1}) == ["unload y: evicted"]
    assert script.at(7, y={"state": STOPPED}) == []  # its memory is still coming back
    assert [word for _, word in script.until(8, 14)] == ["load g"]
    assert script.at(15, a={"state": STARTING}, b={"state": STARTING}, y={"queued": 1}) == ["unload x: evicted"]


def test_a_group_that_leaves_makes_all_its_places_free() -> None:
    """One unload is enough for two models that wait."""
    script = Script(*pair(), model("x", STOPPED), model("y", STOPPED), max_models=2)
    script.until(0, 5)
    assert script.at(6, x={"queued": 1}, y={"queued": 1}) == ["unload g: evicted"]
    assert script.at(7, a={"state": STOPPED}, b={"state": STOPPED}) == []
    assert sorted(word for _, word in script.until(8, 14)) == ["load x", "load y"]


def test_more_models_than_may_be_are_counted_by_place() -> None:
    """A group of two beside one other model is three: above two, the coldest goes."""
    script = Script(*pair(), model("x", inflight=1), max_models=2, inactive_timeout=0, cleanup_interval=10)
    said = [word for _, word in script.until(0, 20)]
    assert said[0] == "unload g: evicted"


def test_memory_of_a_group_counts_once() -> None:
    """What its models show are shares: together they are what a load needs room beside, and what an unload gives."""
    first, second = pair(memory_bytes=3 * GB)
    script = Script(first, second, model("x", STOPPED, estimate=3 * GB), pressure=TIGHT, max_models=4)
    script.at(0, {"memory_used": 6 * GB})
    script.until(1, 4)
    assert script.at(5, x={"queued": 1}) == ["unload g: evicted"]
    assert script.at(6, {"memory_used": 0}, a={"state": STOPPED}, b={"state": STOPPED}) == ["load x"]


def test_the_last_process_is_spared_by_the_ladder() -> None:
    """A group is one process: when it is the last one ready it stays, however many models it has."""
    script = Script(*pair(), pressure=TIGHT, inactive_timeout=0)
    full = {"memory": Rung.UNLOAD, "memory_used": 9_600_000_000, "gate_closed": True}
    assert script.at(0, full) == []
    assert script.until(1, 30) == []


def test_a_refusal_is_told_to_each_model() -> None:
    """Whoever waits for any of the group is told that it can't be loaded, with the figures."""
    script = Script(model("p", pinned=True), model("q", pinned=True), *pair(STOPPED), max_models=3)
    assert script.at(0, a={"queued": 1}) == ["refuse a", "refuse b"]
    why = {step.why for step in script.steps}
    assert why == {"max_models_in_memory is 3, and pinned models hold 2 of the 4 places needed: p, q"}
    assert script.manager.waits_for("b") == why.pop()


def test_a_group_that_has_grown_is_replaced_as_one() -> None:
    """What its models show are shares of one process's growth; one step names the group, which has these models."""
    script = Script(*pair(memory_bytes=GB), recycle_growth=GB, inactive_timeout=0)
    said = script.until(0, 60)
    assert said == []
    assert script.at(61, a={"memory_bytes": 1_600_000_000}, b={"memory_bytes": 1_600_000_000}) == ["recycle g"]
    assert script.manager.models_of("g") == ("a", "b")
    assert script.manager.models_of("nobody") == ("nobody",)


def test_failing_is_the_groups_too() -> None:
    """A group that was given up is not loaded for requests, as one model is not."""
    script = Script(*pair(FAILED), max_models=2)
    assert script.at(0, a={"queued": 1}) == []
    assert script.manager.stats()["loaded_models"] == 0
    assert script.manager.stats()["total_models"] == 2


def test_a_gate_that_is_closed_stops_the_idle_clock() -> None:
    """Pressure names models, not groups: the group's clock stands while its models' gate is closed."""
    script = Script(*pair(), model("x", inflight=1), inactive_timeout=20, cleanup_interval=1)
    script.until(0, 5)
    script.at(6, {"paused": frozenset({"a", "b"})})
    assert script.until(7, 60) == []
    assert script.manager.idle_seconds("a") < 20
