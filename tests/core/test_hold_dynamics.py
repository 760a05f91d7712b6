"""The CPU hold and the ladder together in a simulated host (edge-cases.md 34, 35, 39, 40, 44, 45); 2, 8 and 64 cores.

Where no other figure is given: mean CPU within 3 points of the target while work waits, 1 % of all windows of 1 s over
90 % at most, and never 2 s in which work waits and nothing is done.
"""

from collections.abc import Callable

import pytest

from supervisor.core.model import Rung
from tests.core.test_residency_host import Keeper
from tests.support.simulated_host import SimModel, SimulatedHost

TARGET = 83.0
CORES = pytest.mark.parametrize("cores", [2, 8, 64])


def from_on(moment: float, before: float, after: float) -> Callable[[float], float]:
    """A level that changes once."""
    return lambda t: after if t >= moment else before


def on_and_off(period: float, high: float = 95.0, low: float = 10.0) -> Callable[[float], float]:
    """Others that come for half of each period."""
    return lambda t: high if t % period < period / 2 else low


def assert_held(
    host: SimulatedHost, start: float, *, target: float = TARGET, over: float = 0.01, stall: float = 2.0
) -> None:
    """From `start` on the host was held to the target, and its work went on."""
    assert host.mean_busy(start) == pytest.approx(target, abs=3.0)
    assert host.busy_windows(start) <= over
    assert host.longest_stall <= stall
    assert host.rung_seconds[Rung.PAUSE] + host.rung_seconds[Rung.UNLOAD] == 0.0


@CORES
@pytest.mark.parametrize("noise", [1.5, 5.0])
def test_saturating_work_is_held_at_the_target(cores: int, noise: float) -> None:
    """Mean 83.0, 0.0 to 0.6 % of windows over 90, 62 rows/s of 77 that the whole host could do; the batch grows."""
    host = SimulatedHost(cores, models=[SimModel()], foreign=lambda t: 4, noise=noise, hold=TARGET).run(180)
    assert_held(host, 5)
    assert host.longest_gap(5, 180) < 1.0
    assert host.rows(5, 180) / 175 > 58
    assert host.batches[-1] == 32


@CORES
def test_bursts_of_others_do_not_pause(cores: int) -> None:
    """30 points more for up to 2 s in every 10 s: each one's first moments show, 2.4 % of windows, and nothing else."""
    host = SimulatedHost(cores, models=[SimModel()], foreign=lambda t: 34 if t % 10 < 1.5 else 4, hold=TARGET).run(180)
    assert_held(host, 5, over=0.04)
    assert host.rows(5, 180) / 175 > 52


@pytest.mark.parametrize("noise", [1.5, 5.0])
def test_a_foreign_process_on_half_a_core_of_two_is_made_room_for(noise: float) -> None:
    """From second 20 on it has its 25 % beside our work: after 2 s no window is over 90 %."""
    host = SimulatedHost(2, models=[SimModel()], foreign=from_on(20, 4, 29), noise=noise, hold=TARGET).run(120)
    assert host.mean_busy(22) == pytest.approx(TARGET, abs=3)
    assert_held(host, 22, over=0.03)
    assert not host.bucket.external_load


@CORES
def test_no_burst_after_idling(cores: int) -> None:
    """Work that comes after 20 s of nothing, again and again, is held from its first second on."""
    host = SimulatedHost(cores, models=[SimModel(demand=lambda t: t % 30 >= 20)], hold=TARGET).run(240)
    assert host.busy_windows() <= 0.01
    assert host.rung_seconds[Rung.PAUSE] == host.rung_seconds[Rung.SHRINK] == 0.0
    assert host.rows() / 80 > 50


@CORES
def test_eight_hot_models_share_one_bucket(cores: int) -> None:
    """Eight models that all saturate are held as one, and each of them gets its eighth."""
    models = [SimModel(f"model-{number}", base=0) for number in range(8)]
    host = SimulatedHost(cores, models=models, foreign=lambda t: 4, hold=TARGET).run(120)
    assert_held(host, 5)
    served = [model.rows for model in models]
    assert max(served) < 1.2 * min(served)


@CORES
def test_a_query_beside_bulk_waits_for_a_part_or_two(cores: int) -> None:
    """One line every 250 ms while bulk saturates: 0.28 s at the 95th percentile; bulk keeps nearly all of its rate."""
    model = SimModel(query_every=0.25)
    host = SimulatedHost(cores, models=[model], foreign=lambda t: 4, hold=TARGET).run(120)
    assert_held(host, 5)
    waits = sorted(model.waits)
    assert len(waits) >= 475
    assert waits[int(0.95 * len(waits))] < 0.45
    assert host.rows(5, 120) / 115 > 53


@CORES
@pytest.mark.parametrize("length", [8000, 1000])
def test_rows_of_three_seconds_do_not_pause(cores: int, length: int) -> None:
    """One row takes the host for 3 s: each is over 90 % by itself, the mean is the target's, and nothing pauses.

    Short rows that slow are a surprise: the first parts have eight of them, once.
    """
    model = SimModel(row=2.94, overhead=0.06, length=length)
    host = SimulatedHost(cores, models=[model], foreign=lambda t: 4, hold=TARGET).run(300)
    assert host.mean_busy(60) == pytest.approx(TARGET, abs=3)
    assert host.longest_stall <= 2.0
    assert model.rows >= 70
    if length == 8000:
        assert not [rung for _, _, rung in host.moves if rung >= Rung.SHRINK]
    else:
        assert len([rung for _, _, rung in host.moves if rung >= Rung.PAUSE]) <= 2


@pytest.mark.parametrize("hold", [TARGET, None])
@pytest.mark.parametrize("length", [8000, 1000])
def test_rows_of_three_seconds_do_not_keep_a_pause_up(hold: float | None, length: int) -> None:
    """Paused by others for 15 s, the rows that trickle are no reason to stay paused (they were, without gaps)."""
    model = SimModel(row=2.94, overhead=0.06, length=length)
    foreign = from_on(75, 95, 4)
    host = SimulatedHost(2, models=[model], foreign=lambda t: 4 if t < 60 else foreign(t), hold=hold).run(150)
    assert any(move for at, _, move in host.moves if at > 75 and move < Rung.PAUSE)
    assert host.longest_gap(75, 150) < 15
    if hold is not None:
        assert host.rung() < Rung.PAUSE


@CORES
@pytest.mark.parametrize(("level", "pauses"), [(82.0, 0), (87.0, 1)])
def test_beside_others_over_the_limit_work_goes_on_at_the_floor(cores: int, level: float, pauses: int) -> None:
    """Others alone stand at 82 or 87 %: slow, said so, nothing unloaded; afterwards all is as it was before.

    The step to 87 % may pause, once: while a part of ours shares the cores with them, they seem to need less.
    """
    keeper = Keeper(inactive_timeout=5.0)
    host = SimulatedHost(
        cores,
        models=[SimModel()],
        foreign=lambda t: level if 30 <= t < 90 else 4,
        noise=0.5,
        hold=TARGET,
        actors=[keeper],
    ).run(90)
    assert host.bucket.external_load
    assert host.longest_stall <= 2.0
    assert host.longest_gap(30, 90) < (15 if pauses else 2.5)
    assert host.mean_busy(40) < level + 3
    assert len([rung for _, before, rung in host.moves if before < Rung.PAUSE <= rung]) <= pauses
    host.run(60)
    assert not host.bucket.external_load
    assert host.rows(120, 150) / 30 > 20
    assert keeper.unloads() == []


@CORES
def test_beside_others_that_take_everything_work_never_ends(cores: int) -> None:
    """At 97 % the gate is closed and one smallest part a second goes through; no model is unloaded for it."""
    keeper = Keeper(inactive_timeout=5.0)
    host = SimulatedHost(
        cores, models=[SimModel()], foreign=from_on(30, 4, 97), hold=TARGET, actors=[keeper], noise=0.5
    ).run(150)
    assert host.rung() >= Rung.PAUSE
    assert host.bucket.external_load
    assert host.longest_gap(30, 150) < 15
    assert host.rows(50, 150) >= 60
    assert keeper.unloads() == []


@CORES
@pytest.mark.parametrize("period", [6.0, 12.0, 30.0])
def test_beside_others_that_come_and_go_what_they_leave_is_used(cores: int, period: float) -> None:
    """Others at 95 % half of the time: few moves, and 13 to 16 rows a second (pausing each time: 1 to 7)."""
    host = SimulatedHost(cores, models=[SimModel()], foreign=on_and_off(period), hold=TARGET).run(240)
    assert len(host.transitions) / 4 <= 6
    assert host.most_moves_in_a_minute() <= 8
    assert host.rows() / 240 > 9
    assert host.longest_gap(10, 240) < 15


def test_without_a_hold_others_that_come_and_go_still_pause() -> None:
    """Nothing else keeps us out of their way then: most of the time the gate is closed."""
    host = SimulatedHost(8, models=[SimModel()], foreign=on_and_off(12.0)).run(240)
    assert host.rung_seconds[Rung.PAUSE] + host.rung_seconds[Rung.UNLOAD] > 0.7 * 240


@CORES
def test_after_a_spike_of_others_the_hold_uses_what_is_left(cores: int) -> None:
    """Others at 95 % for 5 s, then at 70 %: work is paused once at most, and then goes on at a seventh of the host."""
    host = SimulatedHost(
        cores,
        models=[SimModel()],
        foreign=lambda t: 4 if t < 60 else 95 if t < 65 else 70,
        hold=TARGET,
    ).run(240)
    assert len([rung for _, before, rung in host.moves if before < Rung.PAUSE <= rung]) <= 1
    assert host.mean_busy(120) == pytest.approx(TARGET, abs=5.1)  # 78 while in shrink
    assert host.rows(120, 240) / 120 > 5
    assert host.rung() <= Rung.SHRINK


@CORES
def test_a_lower_target_is_in_force_at_once(cores: int) -> None:
    """What an operator writes is what is held, from one second to the next."""
    host = SimulatedHost(cores, models=[SimModel()], foreign=lambda t: 4, hold=TARGET).run(30)
    host.hold = 50.0
    host.run(60)
    assert host.mean_busy(33) == pytest.approx(50.0, abs=2.0)
    host.hold = None
    host.run(2)
    assert host.mean_busy(91.1) > 95
