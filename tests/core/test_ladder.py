"""The ladder told as timelines: up and down by the seed's figures (80, 85, 90, 95, resume 75), with the "not yet"s."""

import pytest

from supervisor.core.ladder import Ladder
from supervisor.core.model import Rung, Signal
from supervisor.core.policy import Thresholds
from tests.support.timeline import DEFAULTS, Timeline


@pytest.mark.parametrize(
    ("level", "rung"),
    [(79.9, "normal"), (80, "warn"), (84.9, "warn"), (85, "shrink"), (89.9, "shrink"), (90, "pause"), (95, "unload")],
)
@pytest.mark.parametrize("signal", ["cpu", "memory"])
def test_seeds_thresholds(signal: str, level: float, rung: str) -> None:
    """80 % warns, 85 % shrinks, 90 % pauses, 95 % unloads, for CPU and memory alike, and the signal is named."""
    story = Timeline().at(10).set(**{signal: level}).at(20).expect(rung, **{signal: rung})
    assert story.assessment is not None
    assert story.assessment.signal == (None if rung == "normal" else signal)


def test_cpu_is_entered_after_its_entry_time() -> None:
    """The reading passes 90 after 1 s and must stay there for 1 s: then at once, not at the next whole check."""
    story = Timeline().at(10.05).cpu(92)
    story.at(11.9).expect("normal")
    story.at(12.0).expect("pause")
    (_, move), *_ = story.moves
    assert (move.signal, move.before, move.after) == (Signal.CPU, Rung.NORMAL, Rung.PAUSE)
    assert move.threshold == 90
    assert move.percent == pytest.approx(92)
    assert move.age_s == pytest.approx(0, abs=0.11)
    assert "90 % for 1.0 s" in move.why


def test_cpu_step_to_100_pauses_within_three_seconds() -> None:
    """A step from 50 to 100 % closes the gate within 3 s, with parts of ours of ordinary length running."""
    for longest in (0.0, 0.1, 0.4):
        story = Timeline().cpu(50).longest_part(longest).at(10).cpu(100).at(13)
        assert story.rung("cpu") is not None
        assert story.rung("cpu") >= Rung.PAUSE  # type: ignore[operator]


def test_short_peak_of_cpu_is_nothing() -> None:
    """A second at 100 % moves nothing: the reading is not over for its entry time."""
    Timeline().at(10).cpu(100).at(11.5).cpu(20).at(30).expect("normal")


def test_long_part_of_ours_lengthens_the_entry_of_cpu_only() -> None:
    """A row of 2 s is not pressure: CPU is entered after 1.5 x 2 + 1 s; memory is entered at once all the same."""
    story = Timeline().longest_part(2.0).at(10.05).cpu(92)
    story.at(14.9).expect("normal")
    story.at(15.0).expect("pause")
    Timeline().longest_part(2.0).at(10.05).memory(92).at(10.1).expect("pause")


def test_part_that_hangs_does_not_switch_the_cpu_ladder_off() -> None:
    """However long a part runs, CPU is entered after 30 s."""
    story = Timeline().longest_part(600).at(10.05).cpu(92)
    story.at(40.9).expect("normal")
    story.at(41.0).expect("pause")


def test_memory_is_entered_with_the_first_sample() -> None:
    """Memory does not wait: a raw sample over a threshold brings the decision forward."""
    story = Timeline().at(10.05).memory(96)
    story.expect("normal")
    story.at(10.1).expect("unload")
    assert story.moves[0][1].why == "at or over 95 %"


def test_gpu_utilisation_warns_and_no_more() -> None:
    """A busy GPU is healthy: 100 % warns after its entry time and never pauses."""
    story = Timeline(gpus=["a"]).set(gpu=100).at(0.9).expect("normal")
    story.at(60).expect("warn", gpu="warn", gpu_memory="normal")


def test_step_is_one_move_not_three() -> None:
    """Rungs that a step passes within half a second are entered together."""
    story = Timeline().at(10).cpu(97).at(20)
    assert [(move.before, move.after) for _, move in story.moves] == [(Rung.NORMAL, Rung.UNLOAD)]


def test_slow_climb_goes_rung_by_rung() -> None:
    """CPU that rises a point a second passes every rung on its way."""
    story = Timeline().cpu(lambda t: min(100.0, 50 + t)).at(60)
    assert [move.after for _, move in story.moves] == [Rung.WARN, Rung.SHRINK, Rung.PAUSE, Rung.UNLOAD]


def test_down_one_rung_per_quiet_time() -> None:
    """From unload to normal one rung at a time, 3 s apart, when the mean of 3 s is below each rung's leave level."""
    story = Timeline().at(10).memory(96).at(20.05).memory(40)
    story.at(20.2).expect("unload")  # the mean of the last 3 s is still high
    story.at(21.1).expect("pause")
    story.at(24.0).expect("pause")
    story.at(24.1).expect("shrink")
    story.at(27.0).expect("shrink")
    story.at(27.1).expect("warn")
    story.at(30.0).expect("warn")
    story.at(30.1).expect("normal")
    assert [(move.before, move.after) for _, move in story.moves[1:]] == [
        (Rung.UNLOAD, Rung.PAUSE),
        (Rung.PAUSE, Rung.SHRINK),
        (Rung.SHRINK, Rung.WARN),
        (Rung.WARN, Rung.NORMAL),
    ]
    assert [move.threshold for _, move in story.moves[1:]] == [90, 75, 80, 75]
    assert all(move.percent < (move.threshold or 0) for _, move in story.moves[1:])


@pytest.mark.parametrize(
    ("up", "stays", "leaves"), [(81, 75, 74.9), (86, 80, 79.9), (91, 75, 74.9), (96, 90, 89.9)], ids=str
)
def test_leave_levels(up: float, stays: float, leaves: float) -> None:
    """Each rung is left below its own threshold less 5, pause below the resume threshold; at that level it stays."""
    rung = {81: "warn", 86: "shrink", 91: "pause", 96: "unload"}[int(up)]
    Timeline().at(5).memory(up).at(10).memory(stays).at(20).expect(rung)
    story = Timeline().at(5).memory(up).at(10).memory(leaves).at(20)
    assert story.rung("memory") is not None
    assert story.rung("memory") < Rung[rung.upper()]  # type: ignore[operator]


def test_quiet_time_counts_from_the_last_move() -> None:
    """A rung just entered is not left before 3 s, whatever the mean says."""
    story = Timeline().at(10.05).memory(91).at(10.1).expect("pause").memory(40)
    story.at(13.0).expect("pause")
    story.at(14.0).expect("shrink")


def test_noise_is_judged_by_the_mean() -> None:
    """One sample above the leave level in every second does not keep a rung; its mean is well below (edge case 36)."""
    story = Timeline().at(10).cpu(88).at(20)
    story.expect("shrink").cpu(lambda t: 84.0 if int(t * 10) % 10 == 0 else 60.0)
    story.at(40).expect("normal")


def test_leaving_waits_while_the_reading_stands_at_the_rung() -> None:
    """A mean below the leave level is not enough while the newest reading is still over the rung's own threshold."""
    story = Timeline().at(10).memory(91).at(20).memory(lambda t: 91.0 if t % 3 > 2.45 else 60.0)
    for _, move in story.at(60).moves[1:]:
        if move.after < move.before:
            assert story.levels["memory"] is not None
    lows = [at for at, move in story.moves if move.after < move.before]
    assert lows
    assert all(at % 3 <= 2.5 for at in lows)


def test_resume_threshold_of_the_operator_counts() -> None:
    """Pause is left below the resume threshold, not 5 points below pause."""
    thresholds = {**DEFAULTS, Signal.MEMORY: Thresholds(resume=60.0)}
    Timeline(thresholds).at(5).memory(91).at(10).memory(65).at(15).expect("pause")
    Timeline(thresholds).at(5).memory(91).at(10).memory(59).at(15).expect("shrink")


def test_rungs_that_are_off_are_skipped_up_and_down() -> None:
    """Without shrink, the way goes from warn to pause and back."""
    thresholds = {**DEFAULTS, Signal.MEMORY: Thresholds(shrink=None, unload=None)}
    story = Timeline(thresholds).at(10).memory(88).at(11).expect("warn").memory(99).at(12).expect("pause")
    story.memory(40).at(40).expect("normal")
    assert [move.after for _, move in story.moves] == [Rung.WARN, Rung.PAUSE, Rung.WARN, Rung.NORMAL]


def test_highest_signal_decides_and_keeps_the_say_while_it_lasts() -> None:
    """The host is on its highest signal's rung; the one that came there first is named."""
    story = Timeline().at(10).memory(86).at(11).expect("shrink", cpu="normal")
    story.cpu(87).at(15).expect("shrink", cpu="shrink")
    assert story.assessment is not None
    assert story.assessment.signal is Signal.MEMORY
    story.memory(40).at(30).expect("shrink", memory="normal")
    assert story.assessment.signal is Signal.CPU


def test_deciding_move_is_the_one_that_moved_the_host() -> None:
    """Of several moves in one decision the host's is told apart; a move below the host's rung decides nothing."""
    story = Timeline().at(10.05).memory(92).at(10.1)
    assert story.assessment is not None
    assert story.assessment.deciding is story.moves[0][1]
    assert (story.assessment.rung_before, story.assessment.rung) == (Rung.NORMAL, Rung.PAUSE)
    story.cpu(87).at(20)
    assert [move.signal for _, move in story.moves] == [Signal.MEMORY, Signal.CPU]
    assert story.host_moves == [(pytest.approx(10.1), Rung.NORMAL, Rung.PAUSE)]


def test_state_of_a_signal_says_what_decisions_saw() -> None:
    """Percentage, age, trend, and since when it pauses are there to report."""
    story = Timeline().memory(lambda t: 40 + 0.1 * t).at(30).memory(93).at(35)
    assert story.assessment is not None
    memory = story.assessment.signals[Signal.MEMORY]
    assert memory.percent == 93
    assert memory.age_s == pytest.approx(0)
    assert memory.trend_per_min is not None
    assert memory.trend_per_min > 6
    assert memory.paused_since == pytest.approx(30.1)
    assert memory.shrink_at == 85
    assert story.assessment.signals[Signal.CPU].paused_since is None
    story.memory(40).at(50).expect("normal")
    assert story.assessment.signals[Signal.MEMORY].paused_since is None


def test_nothing_happens_twice_on_one_sample() -> None:
    """Deciding again without a new sample, even long after, moves nothing; nor does an old sample."""
    story = Timeline().at(10).memory(96).at(20).memory(40).at(23.1)
    rung = story.rung("memory")
    assert rung is Rung.PAUSE
    for later in (24.1, 30.0, 90.0):
        story.ladder.observe(story.sample(), frozenset(), later)
        assert not story.ladder.due(later)
        seen = story.ladder.assess(later)
        assert (seen.rung, seen.transitions) == (rung, ())


def test_lasting_warning_is_told_again_ever_more_rarely() -> None:
    """After 10, 20, 40 … s above normal, at most 10 minutes apart; and from the start again after normal."""
    story = Timeline().at(0.05).memory(82).at(1300)
    lasted = [reminder.lasted_s for _, reminder in story.reminders]
    assert lasted == pytest.approx([10, 20, 40, 80, 160, 320, 640, 1240], abs=1.5)
    told = story.reminders[0][1]
    assert (told.signal, told.rung, told.percent, told.threshold) == (Signal.MEMORY, Rung.WARN, 82, 80)
    story.memory(40).at(1320).memory(82).at(1335)
    assert [round(at) for at, _ in story.reminders[8:]] == [1330]


def test_no_warning_no_reminder() -> None:
    """A normal host is silent."""
    assert not Timeline().at(100).reminders


def test_ladder_without_samples_is_normal_and_silent() -> None:
    """Before the first sample nothing is known and nothing is done."""
    seen = Ladder(DEFAULTS).assess(1.0)
    assert seen.rung is Rung.NORMAL
    assert {state.rung for state in seen.signals.values()} == {None}
    assert not seen.devices
    assert not seen.transitions
