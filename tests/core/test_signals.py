"""What a signal's recent readings say: the reading decisions go by, means, trend, age, blindness."""

import pytest

from supervisor.core.model import Known, Missing, Signal
from supervisor.core.signals import SignalTrack


def fed(signal: Signal, *levels: float | None, step: float = 0.1, start: float = 0.0) -> tuple[SignalTrack, float]:
    """A track with one reading each `step`; None is a missing one. And the moment of the last."""
    track = SignalTrack(signal)
    now = start
    for k, level in enumerate(levels):
        now = start + k * step
        track.add(Missing("gone", now) if level is None else Known(level, now))
    return track, now


def test_cpu_is_the_mean_of_the_last_second() -> None:
    """CPU is read as the mean of one second of raw samples, no more and no less."""
    track, now = fed(Signal.CPU, *[50.0] * 20, *[100.0] * 5)
    assert track.reading(now) == Known(pytest.approx(75.0), now)
    track, now = fed(Signal.CPU, *[50.0] * 20, *[100.0] * 10)
    assert track.reading(now) == Known(pytest.approx(100.0), now)


def test_step_of_cpu_reads_over_90_within_one_and_a_half_seconds() -> None:
    """A step from 50 to 100 % shows as more than 90 % after 1.5 s, and not at once."""
    track, now = fed(Signal.CPU, *[50.0] * 20, *[100.0] * 7)
    early = track.reading(now)
    assert isinstance(early, Known)
    assert early.value < 90
    track, now = fed(Signal.CPU, *[50.0] * 20, *[100.0] * 14)
    late = track.reading(now)
    assert isinstance(late, Known)
    assert late.value > 90


@pytest.mark.parametrize("signal", [Signal.MEMORY, Signal.GPU_MEMORY])
def test_memory_is_the_newest_value(signal: Signal) -> None:
    """Memory is a level, not a share of time: the newest value is what counts."""
    track, now = fed(signal, 50.0, 50.0, 91.0)
    assert track.reading(now) == Known(91.0, now)


def test_missing_reading_is_missing_and_the_age_is_that_of_the_last_value() -> None:
    """A reading that could not be taken is neither 0 nor the last value; how old that one is stays known."""
    track, now = fed(Signal.MEMORY, 50.0, None, None)
    assert track.reading(now) == Missing("gone", now)
    assert track.age(now) == pytest.approx(0.2)
    assert track.blind_for(now) == pytest.approx(0.2)
    assert track.mean(0.1) is None


def test_signal_that_never_was_read_is_not_blind() -> None:
    """Without a GPU there is nothing to be blind about."""
    track, now = fed(Signal.GPU_MEMORY, *[None] * 50)
    assert not track.known_ever
    assert track.blind_for(now) == 0
    assert track.age(now) is None
    assert isinstance(SignalTrack(Signal.CPU).reading(1.0), Missing)


def test_sensor_that_stands_still_goes_blind() -> None:
    """The same reading shown again and again is no new one."""
    track = SignalTrack(Signal.GPU_MEMORY)
    for _ in range(100):
        track.add(Known(40.0, 1.0))
    assert track.blind_for(6.0) == 5.0
    assert len(track._points) == 1
    track.add(Known(90.0, 0.5))
    assert track.newest == Known(40.0, 1.0), "an older reading is no new one either"


def test_mean_needs_its_whole_span_observed() -> None:
    """A mean over 3 s is there once 3 s were seen (nine tenths of them), not before."""
    track, _ = fed(Signal.MEMORY, *[50.0] * 25)
    assert track.mean(3.0) is None
    track, _ = fed(Signal.MEMORY, *[50.0] * 28)
    assert track.mean(3.0) == pytest.approx(50.0)


def test_mean_weighs_samples_by_the_time_they_stand_for() -> None:
    """After a gap in the sampling the late sample speaks for a second at most, and the hole is not made up."""
    track, now = fed(Signal.CPU, *[100.0] * 31)
    track.add(Known(10.0, now + 1.0))
    assert track.mean(3.0) == pytest.approx((2.0 * 100 + 1.0 * 10) / 3)
    track.add(Known(10.0, now + 6.0))
    assert track.mean(3.0) is None, "one sample after a stall of 5 s must not stand for 3 s"


def test_gap_of_missing_readings_is_not_bridged() -> None:
    """One lost sample is bridged; half a second of them leaves the mean unknown until it is out of the span."""
    track, _ = fed(Signal.MEMORY, *[50.0] * 40, None, *[50.0] * 5)
    assert track.mean(3.0) == pytest.approx(50.0)
    track, _ = fed(Signal.MEMORY, *[50.0] * 40, *[None] * 6, *[50.0] * 5)
    assert track.mean(3.0) is None


def test_drill_counts_at_once_and_so_does_the_truth_after_it() -> None:
    """The reading never mixes the drilled value with the real ones before and after it; the means do."""
    track = SignalTrack(Signal.CPU)
    for k in range(40):
        track.add(Known(20.0, k * 0.1))
    track.add(Known(92.0, 4.0), drilled=True)
    assert track.drilled
    assert track.reading(4.0) == Known(pytest.approx(92.0), 4.0)
    for k in range(1, 30):
        track.add(Known(92.0, 4.0 + k * 0.1), drilled=True)
    track.add(Known(20.0, 7.0))
    assert not track.drilled
    assert track.reading(7.0) == Known(pytest.approx(20.0), 7.0)
    assert track.mean(3.0) == pytest.approx((2.9 * 92 + 0.1 * 20) / 3)


def test_drill_is_no_knowledge() -> None:
    """A signal known by drills only was never known."""
    track = SignalTrack(Signal.GPU_MEMORY)
    track.add(Known(96.0, 1.0), drilled=True)
    assert not track.known_ever
    track.add(Known(30.0, 2.0))
    assert track.known_ever


def test_trend_is_the_slope_per_minute() -> None:
    """A level that grows half a point a second has a trend of 30 points a minute; two seconds have none."""
    track, now = fed(Signal.MEMORY, *[20 + 0.05 * k for k in range(300)])
    assert track.trend_per_min(now) == pytest.approx(30.0)
    short, now = fed(Signal.MEMORY, *[20.0] * 15)
    assert short.trend_per_min(now) is None


def test_memory_of_readings_is_bounded() -> None:
    """A day of samples is not kept."""
    track, _ = fed(Signal.CPU, *[20.0] * 3000)
    assert len(track._points) <= 210
    assert len(track._course) <= 62
