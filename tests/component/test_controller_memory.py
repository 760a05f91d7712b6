"""The controller's orders on memory, and the backstop of the CPU hold, tick by tick."""

from dataclasses import replace

from supervisor.backstop import CpuBackstop
from supervisor.core.model import Missing, Signal
from tests.support.fake_house import GIB, FakeModel, House


def loaded() -> House:
    """A house whose two models are ready and have been looked at."""
    house = House()
    house.passes(3)
    return house


def test_orders_name_the_room() -> None:
    """85 and 95 % of 16 GiB less the 20 % in use; each model's own best, and its process if there is one."""
    house = loaded()
    assert house.orders.memory_room == int(0.85 * 16 * GIB) - int(0.20 * 16 * GIB)
    assert house.orders.memory_last == int(0.95 * 16 * GIB) - int(0.20 * 16 * GIB)
    ever = house.orders.lanes["a"].memory_ever
    assert ever is not None
    assert 0 < ever <= 0.95 * 16 * GIB


def test_a_drill_is_no_memory_to_plan_with() -> None:
    """While memory is drilled nothing is asked of it; afterwards it is again."""
    house = loaded()
    house.controller.drill({Signal.MEMORY: 50.0}, 5)
    assert house.orders.memory_room is None
    assert house.orders.lanes["a"].memory_ever is None
    house.passes(7)
    assert house.orders.memory_room is not None


def test_memory_that_can_not_be_read_is_not_planned_with() -> None:
    """Missing is no figure."""
    house = loaded()
    house.readings[Signal.MEMORY] = Missing("gone", 0)
    house.passes(2)
    assert house.orders.memory_room is None


def test_observe_mode_asks_nothing() -> None:
    """It touches nothing, memory included."""
    house = loaded()
    house.controller.set_policy(replace(house.policy, observe=True), house.models)
    assert house.orders.memory_room is None
    assert house.orders.lanes["a"].memory_ever is None


def test_a_model_on_a_gpu_has_no_room_in_the_hosts_memory() -> None:
    """What its parts take is not foretold; the others' is."""
    house = House(FakeModel("a", on_gpu=True), FakeModel("b"))
    house.passes(3)
    assert house.orders.lanes["a"].memory_ever is None
    assert house.orders.lanes["b"].memory_ever is not None


def test_a_crash_under_memory_pressure_is_not_started_again_before_that_is_over() -> None:
    """No load begins while memory pauses, that of a crashed model included; and when it no longer does, it may."""
    house = loaded()
    assert not house.workers.held_back
    house.readings[Signal.MEMORY] = 92.0
    house.passes(3)
    assert house.workers.held_back == dict.fromkeys("ab", "no load while memory is at pause")
    house.readings[Signal.MEMORY] = 20.0
    house.passes(30)
    assert not house.workers.held_back


def test_observe_mode_holds_no_start_back() -> None:
    """It touches nothing."""
    house = loaded()
    house.controller.set_policy(replace(house.policy, observe=True), house.models)
    house.readings[Signal.MEMORY] = 92.0
    house.passes(3)
    assert not house.workers.held_back


class Limit:
    """A limit on the workers' CPU that remembers."""

    def __init__(self) -> None:
        self.used = 0.0
        self.limits: list[float | None] = []

    def cpu_seconds(self) -> float | None:
        """A core and a half, all the time."""
        self.used += 0.15
        return self.used

    def set_limit(self, cores: float | None) -> None:
        """Noted."""
        self.limits.append(cores)


def test_the_backstop_follows_the_hold() -> None:
    """With a hold there is a limit on the workers; without one it goes."""
    house, limit = loaded(), Limit()
    house.controller.backstop = CpuBackstop(limit)
    house.readings[Signal.CPU] = 80.0
    house.passes(5)
    assert limit.limits
    assert limit.limits[-1] is not None
    house.controller.set_policy(replace(house.policy, cpu_hold=None), house.models)
    house.passes(2)
    assert limit.limits[-1] is None
