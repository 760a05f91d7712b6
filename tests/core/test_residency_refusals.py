"""What can never be loaded is refused to those who wait, with the figures; what only has to wait is not."""

from tests.support.residency_script import GB, STOPPED, TIGHT, Script, model


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
