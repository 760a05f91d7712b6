"""What HAProxy's agent check is told: state, weight and connections, whole each time."""

import pytest

from supervisor.core.headroom_line import headroom_line
from supervisor.core.model import Signal
from supervisor.core.policy import Thresholds
from tests.support.fake_house import House

THRESHOLDS = dict.fromkeys(Signal, Thresholds())


def said(accepting: bool = True, limit: int = 1000, **percent: float) -> str:
    """The line of a host with these readings, the others at 10 and 20 %."""
    house = House()
    house.readings |= {Signal(name): value for name, value in percent.items()}
    house.passes(30)
    return headroom_line(house.controller.assessment, THRESHOLDS, accepting=accepting, limit=limit)


@pytest.mark.parametrize(
    ("percent", "line"),
    [
        ({}, "up ready 78% maxconn:1000"),  # memory at 20 %, of 90
        ({"cpu": 45.0}, "up ready 50% maxconn:1000"),
        ({"memory": 82.0}, "up ready 9% maxconn:1000"),
        ({"memory": 86.0}, "up ready 1% maxconn:250"),  # shrink
    ],
)
def test_the_fullest_signal_decides(percent: dict[str, float], line: str) -> None:
    """How much of the way to its pause is left; a quarter of all from shrink on, and never nothing."""
    assert said(**percent) == line


def test_a_closed_gate_drains() -> None:
    """Still alive: what HAProxy sent before is not broken off."""
    assert said(accepting=False, memory=92.0) == "up drain 1% maxconn:250"


def test_before_the_first_tick_and_without_room() -> None:
    """Nothing is known yet; and one connection may always come."""
    assert headroom_line(None, THRESHOLDS, accepting=True, limit=1) == "up ready 100% maxconn:1"
    assert said(limit=1, memory=86.0).endswith("maxconn:1")


def test_a_signal_without_pause_has_no_say() -> None:
    """A busy GPU is healthy."""
    house = House()
    house.readings[Signal.GPU] = 100.0
    house.passes(3)
    off = {**THRESHOLDS, Signal.GPU: Thresholds(shrink=None, pause=None, unload=None, resume=None)}
    assert headroom_line(house.controller.assessment, off, accepting=True, limit=9) == "up ready 78% maxconn:9"
