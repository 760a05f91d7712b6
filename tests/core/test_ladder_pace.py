"""How often the ladder moves: pauses that never reach resume, load that comes and goes, our own load."""

from itertools import pairwise

import pytest

from supervisor.core.ladder import OwnUse
from supervisor.core.model import Rung, Signal
from tests.support.timeline import Level, Timeline


def most_in_a_minute(story: Timeline) -> int:
    """The most moves in any 60 s."""
    moments = [at for at, _ in story.moves]
    return max((sum(start <= at < start + 60 for at in moments) for start in moments), default=0)


def square(period: float, on: float, off: float, duty: float = 0.5) -> Level:
    """Load that is `on` for a part of each period."""
    return lambda t: on if t % period < period * duty else off


# -- the flat exit of pause ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [76, 78, 84, 87, 89.5])
def test_pause_between_resume_and_pause_is_left_after_15_seconds(level: float) -> None:
    """A level that stays below pause but never reaches resume does not keep the gate shut (edge case 34)."""
    story = Timeline().at(10.05).memory(92).at(20.05).memory(level)
    story.at(34).expect("pause")
    story.at(38.1).expect("shrink")
    assert story.moves[-1][1].why == "below 90 % and not rising for 15 s"
    assert story.moves[-1][1].threshold == 90


def test_rising_level_is_not_flat() -> None:
    """A level that climbs from 80 towards 90 keeps the pause."""
    story = Timeline().at(10).memory(92).at(20).memory(lambda t: min(89.8, 80 + 0.3 * (t - 20)))
    story.at(50).expect("pause")


def test_flat_wait_doubles_with_each_re_entry() -> None:
    """15, 30, 60 … s, each time pause comes back within ten minutes, up to 240 s; after ten quiet minutes 15 again."""
    story = Timeline().at(10)
    waits = []
    for _ in range(7):
        story.memory(92).at(story.now + 5).expect("pause").memory(86)
        begin = story.now
        while story.rung("memory") is Rung.PAUSE:
            story.at(story.now + 1)
        waits.append(story.now - begin)
    assert waits == pytest.approx([15, 30, 60, 120, 240, 240, 240], abs=3)
    story.memory(40).at(story.now + 700).memory(92).at(story.now + 5).memory(86).at(story.now + 18).expect("shrink")


def test_drill_does_not_lengthen_the_flat_wait() -> None:
    """Drills between two real pauses do not make the second one's wait longer than one re-entry does."""
    story = Timeline().at(10).memory(92).at(15).memory(40).at(30)
    for _ in range(3):
        story.drill(3, memory=92).at(story.now + 20).expect("normal")
    story.memory(92).at(story.now + 5).memory(86).at(story.now + 28).expect("pause").at(story.now + 8).expect("shrink")


def test_one_lost_sample_does_not_start_the_flat_wait_anew() -> None:
    """A reading that fails once, just when it is decided, changes nothing about a flat pause."""
    story = Timeline().at(10).memory(92).at(20).memory(86).at(30.0).memory("unreadable").at(30.1)
    assert story.assessment is not None
    assert story.assessment.at == pytest.approx(30.1)
    assert story.assessment.signals[Signal.MEMORY].missing is not None
    story.memory(86).at(38.1).expect("shrink")


def test_flat_is_judged_on_the_mean_not_on_single_samples() -> None:
    """Noise that touches the pause threshold now and then does not start the wait anew."""
    story = Timeline().at(10).cpu(93).at(20).cpu(lambda t: 92.0 if int(t * 10) % 7 == 0 else 86.0)
    story.at(40)
    assert "not rising" in story.moves[-1][1].why


def test_unload_has_no_flat_exit_of_its_own() -> None:
    """From unload the way leads to pause first; only there a flat level lets go."""
    story = Timeline().at(10).memory(97).at(20).memory(91).at(100).expect("unload")
    story.memory(88).at(105).expect("pause").at(122).expect("shrink")


# -- load that comes and goes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [2, 3, 4, 5, 6, 8, 11, 15, 20, 26, 30])
@pytest.mark.parametrize("signal", ["cpu", "memory"])
def test_load_on_and_off_gives_at_most_six_moves_a_minute(signal: str, period: float) -> None:
    """Whatever the period, the ladder does not flap (edge case 44)."""
    story = Timeline().set(**{signal: square(period, 95, 20)}).at(150)
    assert most_in_a_minute(story) <= 6


@pytest.mark.parametrize(("on", "off"), [(97, 72), (88, 60), (92, 78), (83, 70)])
@pytest.mark.parametrize("duty", [0.25, 0.75])
def test_other_heights_and_shares_of_on_and_off(on: float, off: float, duty: float) -> None:
    """Nor does it between other rungs, nor with short or long peaks."""
    for period in (5, 9, 16, 28):
        story = Timeline().cpu(square(period, on, off, duty)).at(150)
        assert most_in_a_minute(story) <= 6


def test_restless_signal_is_normal_a_minute_after_its_load_is_gone() -> None:
    """Holding back steps down ends: within 60 s and the usual pace of the end of the storm."""
    for period in (4, 10, 16):
        story = Timeline().memory(square(period, 97, 20)).at(120).memory(20)
        story.at(120 + 75).expect("normal")


def test_single_excursion_is_never_held_back() -> None:
    """A climb over every rung within half a minute and back: eight moves, none of them late."""
    story = Timeline().cpu(lambda t: 20.0 if t < 10 else 80 + 0.7 * (t - 10)).at(35).expect("unload")
    story.cpu(20).at(35 + 13).expect("normal")
    assert len(story.moves) == 8


def test_way_up_is_free_for_a_restless_signal() -> None:
    """However often it moved, a signal over its threshold goes up at once."""
    story = Timeline().memory(square(4, 92, 20)).at(100.05)
    story.memory(97).at(100.1).expect("unload")


def test_load_that_is_our_own_does_not_make_the_signal_restless() -> None:
    """CPU that falls by the pause and rises by the work resumes at the usual pace, cycle after cycle."""
    story = Timeline()
    for _ in range(300):
        paused = story.rung("cpu") is not None and story.rung("cpu") >= Rung.PAUSE if story.assessment else False  # type: ignore[operator]
        story.cpu(5.0 if paused else 100.0)
        story.own = OwnUse(0.0 if paused else 95.0)
        story.longest_part(0.2).at(story.now + 0.2)
    resumes = [at for at, move in story.moves if move.before >= Rung.PAUSE > move.after]
    assert len(resumes) >= 6
    assert max(b - a for a, b in pairwise(resumes)) < 12


def test_load_of_others_that_outlasts_our_last_part_counts_as_theirs() -> None:
    """Where both share the CPU, what still stands 1.5 s after the gate closed is not ours."""
    story = Timeline().cpu(square(16, 95, 20))
    story.own = OwnUse(50.0)
    story.longest_part(0.2).at(240)
    assert most_in_a_minute(story) <= 7
    assert len(story.moves) / 4 <= 6


def paused_share(story: Timeline, start: float, end: float) -> float:
    """The share of a time in which the host was paused."""
    moves = [(0.0, Rung.NORMAL), *((at, after) for at, _, after in story.host_moves), (end, Rung.NORMAL)]
    spans = [(max(a, start), b) for (a, rung), (b, _) in pairwise(moves) if rung >= Rung.PAUSE and b > start]
    return sum(b - a for a, b in spans) / (end - start)


def test_beside_a_hold_a_restless_cpu_waits_in_shrink() -> None:
    """Others that come and go pause it at first; once it is restless, work that is held goes on beside them."""
    for period in (7, 12, 20):
        story = Timeline().cpu(square(period, 97, 60))
        story.own = OwnUse(5.0, held=True)
        story.at(240)
        first = next(at for at, move in story.moves if move.after >= Rung.PAUSE)
        assert first < 2
        assert len(story.moves) / 4 <= 6
        assert most_in_a_minute(story) <= 8
        assert paused_share(story, 60, 240) < 0.35
    story = Timeline().cpu(square(12, 97, 60)).at(240)
    assert paused_share(story, 60, 240) > 0.7


def test_beside_a_hold_others_that_stay_pause_a_restless_cpu() -> None:
    """Only for 15 s is it spared: load of others that stays is a pause like any other."""
    story = Timeline().cpu(square(8, 97, 60))
    story.own = OwnUse(5.0, held=True)
    story.at(80).cpu(60).at(84).expect("shrink").cpu(97)
    story.at(84 + 15).expect("shrink").at(84 + 18).expect("unload")


def test_a_hold_spares_neither_our_own_load_nor_memory_nor_a_drill() -> None:
    """What is ours pauses at once although it should be held; memory knows no hold; a drill is what it says."""
    story = Timeline().cpu(square(8, 97, 60))
    story.own = OwnUse(5.0, held=True)
    story.at(80).cpu(60).at(84).expect("shrink")
    story.own = OwnUse(60.0, held=True)
    story.cpu(97).at(87).expect("unload")
    story = Timeline().memory(square(8, 97, 60))
    story.own = OwnUse(5.0, held=True)
    story.at(100).memory(97).at(100.2).expect("unload")
    story = Timeline().cpu(square(8, 97, 60))
    story.own = OwnUse(5.0, held=True)
    story.at(80).cpu(60).at(84).expect("shrink").drill(20, cpu=96).at(87).expect("unload")


# -- relief ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["cpu", "memory"])
def test_normal_within_30_seconds_of_relief(signal: str) -> None:
    """After a long time at 93 % the host is normal within 30 s of the end of it (edge case 45)."""
    story = Timeline(check_interval=1.0).at(5).set(**{signal: 93}).at(600).expect("pause").set(**{signal: 40})
    story.at(630).expect("normal")
    assert len(story.moves) == 4


def test_slow_check_interval_is_no_obstacle() -> None:
    """With a decision every 5 s the way up is as fast as ever, the way down one rung per decision."""
    story = Timeline(check_interval=5.0).at(11).memory(96).at(11.2).expect("unload").at(20).memory(30).at(45)
    story.expect("normal")
    assert story.assessments < 20


def test_missing_signals_have_no_part_in_it() -> None:
    """A host with CPU alone is judged by it alone."""
    story = Timeline().memory("none").at(10).cpu(92).at(20).expect("pause", memory=None)
    assert story.assessment is not None
    assert story.assessment.signal is Signal.CPU
