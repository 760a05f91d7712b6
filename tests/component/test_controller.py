"""The tick: what the controller makes of readings, demand and orders, and what the journal says of it."""

import asyncio
import dataclasses

import pytest

from supervisor import controller as controllers
from supervisor.core.model import Known, Missing, ModelState, Rung, Signal
from supervisor.core.policy import ResidencyPolicy
from tests.support.fake_house import FakeModel, House


def test_one_decision_a_check_interval() -> None:
    """Ten looks a second, one tick."""
    house = House()
    before = house.ticks
    house.passes(5)
    assert house.ticks - before == 5
    assert len(house.controller.history) == house.ticks


def test_quiet_decides_nothing() -> None:
    """An idle host fills the history and leaves the journal alone."""
    house = House()
    house.passes(30)
    assert house.actions() == []
    assert house.controller.history[-1]["rung"] == "normal"
    assert house.controller.history[-1]["cpu"] == 10.0


def test_memory_pauses_before_the_interval_is_over() -> None:
    """A raw sample that completes an entry time brings the decision forward."""
    house = House()
    house.passes(0.3)
    house.readings[Signal.MEMORY] = 92.0
    house.passes(0.1)
    assert house.orders.paused
    decision = house.journal.last(1)[0]
    assert (decision.rung_after, decision.signal, decision.percent, decision.threshold) == (
        Rung.PAUSE,
        Signal.MEMORY,
        92.0,
        90.0,
    )
    assert decision.text.startswith("paused: memory 92.0 % ≥ 90 %")


def test_a_drill_is_in_force_when_the_call_returns() -> None:
    """The next look decides on the drilled reading; its end brings the ladder down by its own rules."""
    house = House()
    house.controller.drill({Signal.MEMORY: 92.0}, 5)
    assert house.controller.sample is not None
    assert house.controller.sample.memory.value == 92.0  # type: ignore[union-attr]
    house.passes(0.1)
    assert house.orders.paused
    house.passes(5.2)
    assert house.orders.paused, "left at once after a drill"
    house.passes(20)
    assert house.controller.assessment is not None
    assert house.controller.assessment.rung is Rung.NORMAL
    house.controller.drill({Signal.CPU: 99.0}, 60)
    house.controller.drill({}, 0)
    house.passes(5)
    assert not house.orders.paused


def test_operator_pause_ends_by_itself() -> None:
    """A pause with a limit closes the gate for that time at an unchanged rung and says when it ended."""
    house = House()
    house.controller.pause(house.now + 5)
    assert house.orders.paused
    assert house.orders.reason == "operator"
    house.passes(4)
    assert house.orders.paused
    house.passes(2)
    assert not house.orders.paused
    assert house.actions()[-1] == "resume"


def test_preload_and_demand_load_models() -> None:
    """What is to be preloaded is loaded, what is asked for too, and each load is journaled once."""
    house = House(FakeModel("a"), FakeModel("b"))
    house.controller.preload(["a"])
    house.controller.reconcile()
    house.passes(3)
    assert house.workers.asked == [("ready", "a")]
    house.lanes.wanted["b"].queued_requests = 1
    house.lanes.wanted["b"].oldest_wait_s = 0.1
    house.controller.reconcile()
    assert house.workers.asked == [("ready", "a"), ("ready", "b")]
    house.passes(3)
    assert [action for action in house.actions() if action == "load"] == ["load", "load"]


def test_memory_at_unload_takes_cold_models() -> None:
    """At 95 % a cold model goes, told with the reading that decided."""
    house = House()
    house.controller.preload(["a", "b"])
    house.passes(2)
    house.controller.drill({Signal.MEMORY: 96.0}, 60)
    house.passes(1)
    assert [asked for asked in house.workers.asked if asked[0] == "stop"] == [("stop", "b", "memory")]
    decision = house.journal.last(1)[0]
    assert (decision.action, decision.target, decision.percent, decision.threshold) == ("unload", "b", 96.0, 95.0)


def test_observe_mode_decides_and_touches_nothing() -> None:
    """In observe mode the same decisions are journaled as observed only; gates stay open and models stay."""
    house = House()
    house.controller.set_policy(dataclasses.replace(house.policy, observe=True), house.models)
    house.controller.preload(["a", "b"])
    house.passes(2)
    house.controller.drill({Signal.MEMORY: 96.0}, 60)
    house.passes(5)
    assert not house.orders.paused
    assert all(lane.open and lane.batch_size == 32 for lane in house.orders.lanes.values())
    assert not [asked for asked in house.workers.asked if asked[0] == "stop"]
    told = [d for d in house.journal.last(100) if d.action in ("rung", "unload")]
    assert {d.outcome for d in told} == {"observed only"}


def test_observe_mode_still_makes_room_for_a_request() -> None:
    """Serving a request is not resource control: a model that is asked for gets its place in observe mode too."""
    house = House(FakeModel("a"), FakeModel("b"))
    policy = dataclasses.replace(house.policy, observe=True, residency=ResidencyPolicy(max_models=1))
    house.controller.set_policy(policy, house.models)
    house.controller.preload(["a"])
    house.passes(2)
    house.lanes.wanted["b"].queued_requests = 1
    house.lanes.wanted["b"].oldest_wait_s = 0.1
    house.passes(10)
    assert ("stop", "a", "evicted") in house.workers.asked
    assert house.workers.asked[-1] == ("ready", "b")


def test_an_operators_load_makes_room_a_preload_does_not() -> None:
    """`want` evicts a cold model; `preload` only takes what is free."""
    house = House(FakeModel("a"), FakeModel("b"))
    house.controller.set_policy(
        dataclasses.replace(house.policy, residency=ResidencyPolicy(max_models=1)), house.models
    )
    house.controller.preload(["a", "b"])
    house.passes(10)
    assert house.workers.asked == [("ready", "a")]
    house.controller.want("b")
    house.passes(10)
    assert house.workers.asked[1:] == [("stop", "a", "evicted"), ("ready", "b")]


def test_a_load_that_can_never_be_is_refused_with_figures() -> None:
    """Who waits for a model that does not fit into the host is told so."""
    house = House(FakeModel("huge", estimate=64 * 1024**3))
    house.lanes.wanted["huge"].queued_requests = 1
    house.lanes.wanted["huge"].oldest_wait_s = 0.1
    house.passes(2)
    assert house.workers.asked == []
    ((model, reason, _),) = house.lanes.refused
    assert model == "huge"
    assert "64.00 GiB" in reason
    assert house.controller.refusals["huge"] == reason


def test_the_batch_follows_memory() -> None:
    """Above the decrease threshold the part size steps down once a cooldown, and the journal tells each step."""
    house = House()
    house.controller.drill({Signal.MEMORY: 87.0}, 60)
    house.passes(11)
    downs = [d.target for d in house.journal.last(100) if d.action == "batch_down"]
    assert downs == ["14", "12", "10"]
    assert house.controller.batch_in_use == 10


def test_a_blind_sensor_shrinks_and_says_so() -> None:
    """A signal that was known and is gone for three seconds puts the host on shrink, with the sensor's own words."""
    house = House()
    house.passes(5)
    house.readings[Signal.MEMORY] = Missing("/proc/meminfo: gone", 0)
    house.passes(2)
    assert house.controller.assessment is not None
    assert house.controller.assessment.rung is Rung.NORMAL
    house.passes(3)
    assert house.controller.assessment.rung is Rung.SHRINK
    assert "gone" in (house.controller.orders.reason or "")


def test_a_sampler_that_stands_still_is_no_news() -> None:
    """Ticks without a new sample change nothing."""
    house = House()
    for _ in range(20):
        house.controller.tick(house.now)
    assert house.actions() == []


def test_an_operators_pause_holds_in_observe_mode_too() -> None:
    """Observing is about what the policy decides; an operator's order is carried out."""
    house = House()
    house.controller.set_policy(dataclasses.replace(house.policy, observe=True), house.models)
    house.controller.pause(float("inf"))
    assert house.orders.paused
    assert not any(lane.open for lane in house.orders.lanes.values())
    house.controller.resume()
    assert all(lane.open for lane in house.orders.lanes.values())


async def test_a_tick_that_fails_does_not_end_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad value is told and the loop goes on; while it lasts no tick is finished, which /healthz shows."""
    monkeypatch.setattr(controllers, "FAILURE_PAUSE", 0.01)
    house = House()
    good, seen = house.workers.state, house.ticks
    running = asyncio.create_task(house.controller.run())
    await asyncio.sleep(0)
    house.workers.state = None  # type: ignore[assignment]
    for _ in range(20):
        house.now += 1
        house.controller.poke()
        await asyncio.sleep(0.02)
    assert not running.done()
    stuck = house.ticks
    house.workers.state = good
    for _ in range(200):
        house.now += 1
        await asyncio.sleep(0.02)
        if house.ticks > stuck + 1:
            break
    assert house.ticks > stuck >= seen
    running.cancel()


def test_automatic_devices_live_where_they_can() -> None:
    """A model whose device Infinity chooses is on the host's memory while no GPU is seen; one on cuda never is."""
    house = House(FakeModel("auto", on_gpu=None), FakeModel("cuda", on_gpu=True), FakeModel("cpu"))
    assert [view.device for view in house.controller.model_views()] == ["cpu", "gpu", "cpu"]


def test_a_ready_model_is_wanted_no_more() -> None:
    """A preload is forgotten once it is ready: a later unload is not undone by it."""
    house = House()
    house.controller.preload(["a"])
    house.passes(2)
    house.workers.request_stop("a", "operator")
    house.passes(5)
    assert house.workers.state["a"].state is ModelState.STOPPED


def test_the_data_plane_sees_the_real_cpu_whatever_a_drill_says() -> None:
    """Each raw look gives it the cores in use, or None while they cannot be read; a drill replaces neither."""
    house = House()
    house.lanes.cpu.clear()
    house.readings[Signal.CPU] = 55.0
    house.controller.drill({Signal.CPU: 97.0}, 30.0)
    house.passes(0.2)
    house.readings[Signal.CPU] = Missing("gone", 0)
    house.passes(0.1)
    assert house.lanes.cpu == [(1.1, 2.0)] * 3 + [(None, 2.0)]
    assert house.controller.sample is not None
    assert house.controller.sample.cpu == Known(97.0, house.now)


def test_the_cpu_is_held_as_the_policy_says() -> None:
    """Orders carry the target, lower from shrink on, none when it is off, and none in observe mode."""
    house = House()
    assert house.orders.cpu_hold == 83.0
    house.readings[Signal.CPU] = 87.0
    house.passes(4.0)
    assert house.orders.cpu_hold == 78.0
    house.controller.set_policy(dataclasses.replace(house.policy, cpu_hold=70.0), house.models)
    assert house.orders.cpu_hold == 70.0
    house.controller.set_policy(dataclasses.replace(house.policy, observe=True), house.models)
    assert house.orders.cpu_hold is None
    assert {lane.part_seconds for lane in house.orders.lanes.values()} == {None}
    house.controller.set_policy(dataclasses.replace(house.policy, cpu_hold=None), house.models)
    assert house.orders.cpu_hold is None
