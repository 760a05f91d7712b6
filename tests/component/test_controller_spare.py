"""The warm spare in the control loop: made, told, counted as ours, and given up before a model."""

from dataclasses import replace

from supervisor import report
from supervisor.core.model import Signal
from supervisor.core.spare import SPARE, SpareState, SpareView
from tests.support.fake_house import GIB, House


def with_a_spare() -> House:
    """A house whose two models are ready, and which has a spare by now."""
    house = House()
    house.workers.spare = SpareView(SpareState.ABSENT)
    house.controller.preload(["a", "b"])
    house.passes(3)
    return house


def test_it_is_made_once_and_told() -> None:
    """After the loads; journal and status have it, with its memory."""
    house = with_a_spare()
    assert house.workers.asked == [("ready", "a"), ("ready", "b"), ("spare",)]
    assert house.actions().count("spare") == 1
    told = report.status(house.controller, 0.0, {}, {})["spare"]
    assert told == {"state": "warm", "pid": 9, "memory_bytes": GIB // 2, "reason": None}
    assert [model["name"] for model in report.status(house.controller, 0.0, {}, {})["models"]] == ["a", "b"]


def test_memory_takes_it_before_a_model() -> None:
    """A drill to 96 %: the spare goes, then one of two cold models; for a minute after there is no other."""
    house = with_a_spare()
    house.controller.drill({Signal.MEMORY: 96.0}, 5)
    house.passes(3)
    assert [order[0] for order in house.workers.asked[3:]] == ["drop spare", "stop"]
    house.passes(50)
    assert ("spare",) not in house.workers.asked[3:]
    house.passes(20)
    assert house.workers.asked[-1] == ("spare",)


def test_its_memory_is_ours_and_free() -> None:
    """Nobody takes it for others' memory, and no model is in want of it."""
    house = with_a_spare()
    assert SPARE in house.controller.use
    used = int(16 * GIB * 0.2)
    assert house.orders.memory_room == int(0.85 * 16 * GIB) - used
    assert house.orders.lanes["a"].memory_ever == int(0.95 * 16 * GIB) - (used - 3 * GIB // 2) - GIB // 2


def test_observe_mode_has_none() -> None:
    """It touches nothing: none is made, none is given up."""
    house = House()
    house.controller.set_policy(replace(house.policy, observe=True), house.models)
    house.workers.spare = SpareView(SpareState.ABSENT)
    house.passes(3)
    assert ("spare",) not in house.workers.asked
