"""New thresholds while the ladder stands somewhere: state is kept, rungs that went are left at the usual pace."""

from supervisor.core.model import Rung, Signal
from supervisor.core.policy import Thresholds
from tests.support.timeline import DEFAULTS, Timeline


def test_reload_keeps_the_rung_and_its_clocks() -> None:
    """The same thresholds again change nothing: not the rung, not the entry time that runs, not the warning's clock."""
    story = Timeline().at(10.05).memory(82).at(12).cpu(92).at(13.5)
    story.ladder.set_policy(DEFAULTS)
    story.expect("warn").at(13.9).expect("warn").at(14.0).expect("pause", memory="warn")
    assert [round(at) for at, _ in story.at(21.5).reminders] == [21]


def test_lower_threshold_takes_effect_with_the_next_sample() -> None:
    """What was fine is over the new threshold at once."""
    story = Timeline().memory(70).at(10).expect("normal")
    story.ladder.set_policy({**DEFAULTS, Signal.MEMORY: Thresholds(50, 60, 69, 80, 45)})
    story.at(10.1).expect("pause")


def test_higher_threshold_lets_the_rung_go_at_the_usual_pace() -> None:
    """What was over is below now: it comes down like any quiet level, a rung per 3 s."""
    story = Timeline().at(5).memory(91).at(10).expect("pause")
    story.ladder.set_policy({**DEFAULTS, Signal.MEMORY: Thresholds(97, 98, 99, 99.5, 96)})
    story.expect("pause").at(10.1).expect("shrink")
    story.at(13.0).expect("shrink").at(13.1).expect("warn").at(16.1).expect("normal")


def test_rung_switched_off_under_the_signal_is_left() -> None:
    """A pause whose threshold was taken away ends, though the level has not moved."""
    story = Timeline().at(5).memory(91).at(10).expect("pause")
    story.ladder.set_policy({**DEFAULTS, Signal.MEMORY: Thresholds(pause=None, unload=None, resume=None)})
    story.at(12).expect("shrink")
    assert story.moves[-1][1].threshold is None
    assert story.moves[-1][1].why == "this rung is off"


def test_all_rungs_off_ends_at_normal() -> None:
    """A signal nobody wants to hear of is normal, blind or not."""
    off = Thresholds(None, None, None, None, None)
    story = Timeline({**DEFAULTS, Signal.MEMORY: off}).memory(99).at(10).expect("normal", memory="normal")
    story.memory("unreadable").at(30).expect("normal", memory="normal")
    assert story.assessment is not None
    assert story.assessment.signals[Signal.MEMORY].rung is Rung.NORMAL
