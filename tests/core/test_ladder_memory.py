"""Memory that fills: the ladder goes up before the level does, and comes down when the growth is over."""

import pytest

from supervisor.core.ladder import OwnUse
from supervisor.core.model import Rung, Signal
from tests.support.timeline import GIB, Timeline


def test_filling_memory_pauses_before_the_level_does() -> None:
    """At 5 points a second from 50 %, exhaustion in less than 8 s is called well below 90 %, and the why says so."""
    story = Timeline().memory(lambda t: min(99.0, 50 + 5 * max(0.0, t - 10))).at(20)
    pause = next(move for _, move in story.moves if move.after >= Rung.PAUSE)
    assert pause.percent < 82
    assert pause.threshold == 90
    assert "memory full in" in pause.why
    assert "s at this rate" in pause.why


@pytest.mark.parametrize(("rate", "rung"), [(0.5, "normal"), (1.2, "shrink"), (3.5, "pause"), (6.5, "unload")])
def test_time_to_exhaustion_has_its_own_rungs(rate: float, rung: str) -> None:
    """Full in 20, 8, 5 s: shrink, pause, unload, at one and the same level (79 %)."""
    story = Timeline().memory(lambda t: min(79.5, 40 + rate * t)).at((79 - 40) / rate)
    story.expect(rung)


def test_exhaustion_must_be_promised_for_a_second() -> None:
    """One second of growth is not enough, whatever its rate; two are."""
    story = Timeline().memory(72).at(20).memory(lambda t: 72 + 3 * (t - 20))
    story.at(22.0).expect("normal")
    story.at(22.4).expect("shrink")


def test_one_step_of_an_arena_moves_by_its_level_only() -> None:
    """A step from 62.5 to 77.5 % in 0.3 s (0.6 GB on 4 GB) leaves the host normal (edge case 38)."""
    for phase in range(10):
        start = 20 + phase / 10
        story = Timeline().memory(lambda t, start=start: 62.5 + 15 * min(1.0, max(0.0, t - start) / 0.3))  # type: ignore[misc]
        assert not story.at(40).moves


def test_drill_is_not_extrapolated() -> None:
    """A drill from 40 to 86 % is shrink and nothing more, on its way in and on its way out (edge case 38)."""
    story = Timeline().at(10).drill(20, memory=86).at(29).expect("shrink").at(60).expect("normal")
    assert [move.after for _, move in story.moves] == [Rung.SHRINK, Rung.WARN, Rung.NORMAL]


def test_second_drill_from_low_to_high_is_not_extrapolated() -> None:
    """Neither is a staircase of drills."""
    story = Timeline().at(10)
    for k in range(10):
        story.drill(20, memory=60 + 2 * k).at(11 + k)
    story.expect("normal")


def test_load_that_was_reserved_is_no_exhaustion() -> None:
    """A worker of 3 GB that starts within 4 s on 16 GB moves nothing; the same growth of others does (edge case 38)."""

    def grown(t: float) -> float:
        return min(3.0, max(0.0, t - 20) * 0.75)

    def story(own: bool) -> Timeline:
        line = Timeline().memory(lambda t: 55 + 100 * grown(t) / 16)
        for k in range(400):
            line.own = OwnUse(0.0, {"cpu": int(grown(line.now) * GIB)} if own and line.now < 24.5 else {})
            line.at(k * 0.1)
        return line

    assert not story(own=True).moves
    assert story(own=False).moves


def test_rung_for_growth_is_left_when_the_growth_ends() -> None:
    """When filling stops at 79 % the ladder comes down by the level's own rules: by the flat exit of pause, to warn."""
    story = Timeline().memory(lambda t: 79 - max(0.0, 5 * (10 - t))).at(10.5)
    assert story.rung("memory") is Rung.UNLOAD
    story.at(20).expect("pause")
    story.at(50).expect("warn")


def test_growth_holds_its_rung_while_it_lasts() -> None:
    """At 1.4 points a second the mean is far below 80 for long, but shrink is not left while exhaustion is near."""
    story = Timeline().memory(lambda t: min(100.0, 30 + 1.4 * t)).at(34)
    story.expect("shrink")
    shrunk = next(at for at, move in story.moves if move.after is Rung.SHRINK)
    story.at(42)
    assert not [at for at, move in story.moves if move.after < move.before]
    assert shrunk < 34


def test_gpu_memory_fills_too() -> None:
    """Exhaustion is foreseen for each GPU, and its name is told."""
    story = Timeline(gpus=["a", "b"]).device("b", lambda t: min(99.0, 40 + 5 * t)).at(9)
    (_, move), *_ = story.moves
    assert (move.signal, move.device) == (Signal.GPU_MEMORY, "b")
    assert move.percent < 80
    assert "gpu memory full in" in move.why


def test_load_on_a_gpu_is_reserved_there() -> None:
    """What starts on a GPU is not counted as growth of that one, and is of another."""
    for device, moves in (("a", False), ("b", True)):
        line = Timeline(gpus=["a", "b"]).device("a", lambda t: 40 + min(39.0, max(0.0, t - 5) * 8))
        for k in range(200):
            held = int(min(0.39, max(0.0, line.now - 5) * 0.08) * 24 * GIB)
            line.own = OwnUse(0.0, {device: held})
            line.at(k * 0.1)
        assert bool(line.moves) is moves
