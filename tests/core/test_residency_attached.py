"""Models that somebody else starts and stops: looked for at once, never counted, never moved."""

from typing import Any

from supervisor.core.model import ModelState, ModelView, Rung
from tests.support.residency_script import BACKOFF, GB, READY, STARTING, STOPPED, TIGHT, Script, model


def attached(name: str, state: ModelState = STOPPED, **fields: Any) -> ModelView:
    """A model that is not ours to start or stop; what it holds is not known."""
    return model(name, state, managed=False, **{"memory_bytes": 0, **fields})


def test_it_is_looked_for_though_every_place_is_taken() -> None:
    """A preload and a request alike: no place, no memory, no pause of the ladder is in its way; it is asked once."""
    full = {"memory_used": 10 * GB, "memory": Rung.UNLOAD}
    script = Script(model("a"), attached("e", wanted=True), attached("f"), pressure=TIGHT, max_models=1)
    assert script.at(0, full) == ["load e"]
    assert script.why() == "preload"
    assert script.at(1) == []
    assert script.at(2, f={"queued": 3}) == ["load f"]
    assert script.why() == "3 waiting for it"


def test_it_takes_no_place() -> None:
    """Ready, starting or away, it leaves the places to the models that need them."""
    for state in (READY, STARTING, BACKOFF):
        script = Script(attached("e", state), model("a", STOPPED), model("b", STOPPED), max_models=2)
        assert script.at(0, a={"queued": 1}, b={"queued": 1}) == ["load a", "load b"]


def test_it_is_never_unloaded() -> None:
    """Neither when it is idle, nor for a model that waits for a place, nor at the unload rung."""
    idle = Script(attached("e", READY), attached("f", READY), inactive_timeout=30, cleanup_interval=10)
    assert idle.until(0, 200) == []
    waited = Script(attached("e", READY), model("a", pinned=True), model("b", STOPPED), max_models=1)
    assert waited.at(0, b={"queued": 1}) == ["refuse b"]
    assert waited.until(1, 60) == []
    pressed = Script(attached("e", READY), attached("f", READY), model("a"), pressure=TIGHT)
    pressed.show({"memory_used": 96 * GB // 10, "memory": Rung.UNLOAD})
    assert pressed.until(0, 60) == []  # `a` is the last of ours


def test_one_that_stays_away_holds_nothing_up() -> None:
    """It may be looked for all year long, with requests that wait: nothing loads, so spares and recycling go on."""
    script = Script(model("a"), attached("e", BACKOFF), attached("f", STARTING))
    script.at(0, e={"queued": 3}, f={"queued": 3})
    assert not script.manager.busy
    assert script.manager.reserved("cpu") == 0
    script.at(1, a={"state": STARTING})
    assert script.manager.busy


def test_its_end_holds_nobody_up() -> None:
    """Its memory was not ours to give, so nobody waits for that to come back."""
    script = Script(attached("e", READY, memory_bytes=GB), model("b", STOPPED))
    script.at(0)
    assert script.at(1, e={"state": STOPPED, "memory_bytes": 0}, b={"queued": 1}) == ["load b"]
