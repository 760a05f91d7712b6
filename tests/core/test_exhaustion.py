"""Time to exhaustion: growth that goes on counts, steps, noise, reserved growth and low levels do not."""

import random
from collections.abc import Callable

import pytest

from supervisor.core.exhaustion import LOOK, LOOK_CLOSELY, Exhaustion
from supervisor.core.ladder import Ladder
from supervisor.core.model import Known, Missing, Sample, Signal
from supervisor.core.policy import Thresholds

Course = Callable[[float], float]


def least_seconds(level: Course, seconds: float = 30.0, loading: Course = lambda t: 0.0, raw: float = 0.1) -> float:
    """The least time to exhaustion that is called at any moment of a course; infinity for never."""
    watch = Exhaustion()
    least = float("inf")
    for k in range(int(seconds / raw) + 1):
        watch.add(k * raw, level(k * raw), loading(k * raw))
        left = watch.seconds_left()
        least = least if left is None else min(least, left)
    return least


def ramp(start: float, rate: float, height: float = float("inf")) -> Course:
    """Growth from 0 at `start`, by `rate` points a second, up to `height`."""
    return lambda t: min(height, max(0.0, t - start) * rate)


def left_at(level: Course, moment: float, loading: Course = lambda t: 0.0) -> float | None:
    """What is called at one moment of a course."""
    watch = Exhaustion()
    for k in range(int(moment * 10) + 1):
        watch.add(k / 10, level(k / 10), loading(k / 10))
    return watch.seconds_left()


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0, 5.0])
def test_steady_growth_is_extrapolated(rate: float) -> None:
    """A ramp is full when it is full."""
    moment = 6 + 15 / rate
    assert left_at(lambda t: 65 + max(0.0, t - 6) * rate, moment) == pytest.approx(20 / rate, rel=0.05)


def test_fast_growth_counts_after_a_second_and_a_half() -> None:
    """A ramp that has just begun counts by its fast rate, long before five seconds of it were seen."""
    assert left_at(lambda t: 71 + 5 * max(0.0, t - 10), 11.0) is None
    assert left_at(lambda t: 71 + 5 * max(0.0, t - 10), 11.5) == pytest.approx(21.5 / 5, rel=0.05)


def test_growth_below_70_percent_does_not_count() -> None:
    """Up to 70 % growth is what start-ups and caches do."""
    assert least_seconds(lambda t: min(70.0, 20 + 5 * t)) == float("inf")
    assert least_seconds(lambda t: min(72.0, 20 + 5 * t)) < float("inf")


@pytest.mark.parametrize("height", [5.0, 10.0, 15.0, 20.0])
@pytest.mark.parametrize("width", [0.0, 0.3, 0.5])
def test_one_step_is_not_extrapolated(height: float, width: float) -> None:
    """One arena step, however high, is no growth (edge case 38)."""
    for phase in (0.0, 0.05, 0.25, 0.4):
        step = ramp(10 + phase, height / (width or 1e-9), height)
        assert least_seconds(lambda t, step=step: 70 + step(t)) == float("inf")


def test_noise_is_no_growth() -> None:
    """At 89 % with noise of 0.3 points nothing is called exhausted soon in ten minutes."""
    rnd = random.Random(7)
    assert least_seconds(lambda t: 89 + rnd.gauss(0, 0.3), 600) > 5


def test_growth_of_starting_workers_is_reserved() -> None:
    """A load that was reserved is no way to exhaustion; what grows besides it is."""
    start, leak = ramp(10, 5, 20), ramp(10, 1)
    assert least_seconds(lambda t: 60 + start(t), 20, loading=start) == float("inf")
    assert least_seconds(lambda t: 60 + start(t), 20) < 8
    assert left_at(lambda t: 60 + start(t) + leak(t), 16.0, loading=start) == pytest.approx(14.0, rel=0.1)


def test_loading_that_is_measured_once_a_second_is_reserved_too() -> None:
    """The workers' own memory is read at 1 Hz; the staircase that makes does not look like growth in between."""
    start = ramp(10, 4, 24)
    assert least_seconds(lambda t: 60 + start(t), 20, loading=lambda t: start(float(int(t)))) > 20


def test_worker_that_is_ready_takes_its_share_out_of_the_loading_at_once() -> None:
    """The end of a load does not look like growth."""
    start = ramp(10, 2, 20)
    assert least_seconds(lambda t: 60 + start(t), 40, loading=lambda t: start(t) if t < 21 else 0.0) == float("inf")


def test_several_workers_that_are_ready_one_after_the_other_are_no_growth() -> None:
    """Nor do the ends of four loads within four seconds."""
    starting = [ramp(10, 0.5, 5)] * 4

    def loading(t: float) -> float:
        return sum(start(t) for k, start in enumerate(starting) if t < 21 + k)

    assert least_seconds(lambda t: 60 + sum(start(t) for start in starting), 40, loading=loading) == float("inf")


def test_falling_or_level_memory_is_never_full() -> None:
    """Without growth there is no time to exhaustion."""
    assert least_seconds(lambda t: 95 - t) == float("inf")
    assert least_seconds(lambda t: 95.0) == float("inf")


def test_sensor_read_once_a_second_works_too() -> None:
    """GPU memory that is read at 1 Hz is extrapolated by its slow rate."""
    assert least_seconds(lambda t: min(99.0, 60 + t), 35, raw=1.0) <= 5


def test_gap_in_the_readings_says_nothing() -> None:
    """What was not read for seconds is not guessed: a level after a gap is no growth."""
    watch = Exhaustion()
    for k in range(60):
        watch.add(k / 10, 72.0)
    watch.add(10.0, 90.0)
    assert watch.seconds_left() is None
    watch.add(10.1, 92.0)
    assert watch.seconds_left() is None


def test_same_moment_twice_is_one_level() -> None:
    """A reading shown again adds nothing."""
    watch = Exhaustion()
    for k in range(100):
        watch.add(k / 10, 72 + 0.2 * k)
        watch.add(k / 10, 99.0)
    assert watch.seconds_left() == pytest.approx((100 - 91.8) / 2, rel=0.05)


def test_memory_of_levels_is_bounded() -> None:
    """An hour of levels is not kept."""
    watch = Exhaustion()
    for k in range(36_000):
        watch.add(k / 10, 50.0)
    assert len(watch._moments) < 250


# -- the kernel's word, and how closely to look ------------------------------------------------------------------------


def sample(at: float, percent: float, short: bool = False) -> Sample:
    """A host whose memory is so full."""
    none = Missing("not looked at", at)
    return Sample(at, none, Known(percent, at), none, none, memory_short=short)


def shrunk_at(level: Course, short: Callable[[float], bool], warning: float = 80.0) -> float | None:
    """When the growth of a course moves the ladder; None if it does not within 40 s."""
    ladder = Ladder({Signal.MEMORY: Thresholds(warning=warning, shrink=95, pause=97, unload=99)})
    for k in range(401):
        ladder.observe(sample(k / 10, level(k / 10), short(k / 10)), frozenset(), k / 10)
        if ladder.due(k / 10):
            return k / 10
    return None


def test_kernels_word_halves_the_time_growth_must_go_on() -> None:
    """Growth that the kernel confirms counts after half a second; its word alone, or of long ago, moves nothing."""

    def growing(t: float) -> float:
        return 71 + 2 * max(0.0, t - 10)

    usual = shrunk_at(growing, lambda t: False, warning=94)
    confirmed = shrunk_at(growing, lambda t: t > 10, warning=94)
    assert usual is not None
    assert confirmed == pytest.approx(usual - 0.5, abs=0.11)
    assert shrunk_at(growing, lambda t: t < 9, warning=94) == usual
    assert shrunk_at(lambda t: 75.0, lambda t: True) is None


def test_kernels_word_counts_for_a_second() -> None:
    """Its counters of stalls move every two seconds, so one hit speaks for a while."""
    watch = Exhaustion()
    watch.add(1.0, 75.0, confirmed=True)
    assert watch.entry_time(1.0) == 0.5
    watch.add(1.9, 75.0)
    assert watch.entry_time(1.0) == 0.5
    watch.add(2.1, 75.0)
    assert watch.entry_time(1.0) == 1.0


def intervals(level: Course, seconds: float, warn: float | None = 80.0) -> list[float]:
    """What a course asks for at each look, every tenth of a second."""
    watch = Exhaustion()
    asked = []
    for k in range(int(seconds * 10) + 1):
        watch.add(k / 10, level(k / 10))
        asked.append(watch.look_interval(warn))
    return asked


def test_memory_above_its_warning_that_grows_is_looked_at_closely() -> None:
    """Growth too slow to be full soon quickens the looks above the threshold, until it ends; nothing else does."""

    def growing(t: float) -> float:
        return 78 + 0.6 * min(max(0.0, t - 10), 6)

    asked = intervals(growing, 30)
    assert set(asked[:133]) == {LOOK}
    assert set(asked[135:160]) == {LOOK_CLOSELY}
    assert set(asked[165:]) == {LOOK}
    assert set(intervals(lambda t: 90.0, 20)) == {LOOK}
    assert set(intervals(growing, 30, warn=None)) == {LOOK}


def test_memory_that_is_soon_full_is_looked_at_closely() -> None:
    """Full in less than 20 s, whatever the level above 70 %; slow growth is not."""
    asked = intervals(lambda t: 60 + 2 * t, 9)
    assert set(asked[:51]) == {LOOK}
    assert asked[-1] == LOOK_CLOSELY
    assert set(intervals(lambda t: 60 + 0.5 * t, 30)) == {LOOK}


def test_noise_costs_no_closer_looks() -> None:
    """At 85 % with noise of 0.1 points hardly any look is closer, with 0.3 points not one in five."""
    rnd = random.Random(3)
    for noise, share in ((0.1, 0.002), (0.3, 0.2)):
        asked = intervals(lambda t, noise=noise: 85 + rnd.gauss(0, noise), 600)  # type: ignore[misc]
        assert sum(seconds == LOOK_CLOSELY for seconds in asked) < share * len(asked)


def test_ladder_asks_for_memory_only() -> None:
    """CPU that is busy needs no closer looks, nor does a drill; memory that fills does."""
    ladder = Ladder({signal: Thresholds() for signal in Signal})
    assert ladder.look_interval == LOOK
    for k in range(60):
        at = k / 10
        ladder.observe(
            Sample(at, Known(60 + k, at), Known(50.0, at), Known(60 + k, at), Known(50.0, at)), frozenset(), at
        )
        assert ladder.look_interval == LOOK
    for k in range(60, 120):
        ladder.observe(sample(k / 10, 60 + 0.3 * (k - 60)), frozenset(), k / 10)
    assert ladder.look_interval == LOOK_CLOSELY
    ladder.observe(sample(12.1, 40.0), frozenset({Signal.MEMORY}), 12.1)
    assert ladder.look_interval == LOOK
