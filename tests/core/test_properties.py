"""What must hold of the ladder and the batch size for any course of the world, not only the told ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.core.hysteresis import below, blind_rung, entry_time, leave_level
from supervisor.core.model import Rung, Signal
from supervisor.core.policy import Thresholds
from tests.support.timeline import DEFAULTS, Timeline

NAMES = ("cpu", "memory", "gpu_memory")
LEVELS = st.one_of(
    st.sampled_from([20.0, 74.0, 79.0, 80.0, 84.0, 86.0, 89.0, 90.0, 92.0, 96.0, 100.0]),
    st.floats(0, 100, allow_nan=False),
)
# The same worlds in every run: 300 others of each property were looked at when this was written.
FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Chapter:
    """A stretch of time with its levels (None = unreadable), and perhaps a drill that begins with it."""

    seconds: float
    levels: tuple[float | None, ...]
    longest_part: float = 0.0
    drill: tuple[str, float, float] | None = None


def chapters(missing: bool = True, drills: bool = True, most: int = 6) -> st.SearchStrategy[list[Chapter]]:
    """Courses of the world."""
    level = st.one_of(LEVELS, st.none()) if missing else LEVELS
    drill = st.tuples(st.sampled_from(NAMES), LEVELS, st.floats(0.5, 12)) if drills else st.none()
    chapter = st.builds(
        Chapter,
        seconds=st.integers(1, 80).map(lambda tenths: tenths / 10),
        levels=st.tuples(*[level] * len(NAMES)),
        longest_part=st.sampled_from([0.0, 0.2, 1.5]),
        drill=st.one_of(st.none(), drill),
    )
    return st.lists(chapter, min_size=1, max_size=most)


def begin(story: Timeline, chapter: Chapter) -> float:
    """Set the world as the chapter says; the moment it ends."""
    for name, level in zip(NAMES, chapter.levels, strict=True):
        story.set(**{name: "unreadable" if level is None else level})
    story.longest_part(chapter.longest_part)
    if chapter.drill is not None:
        name, percent, seconds = chapter.drill
        story.drill(seconds, **{name: percent})
    return story.now + chapter.seconds


def ticks(story: Timeline, book: Sequence[Chapter]) -> Iterator[Chapter]:
    """Play the book, stopping after every raw sample."""
    for chapter in book:
        end = begin(story, chapter)
        while story.now < end - 1e-9:
            story.at(story.now + story.raw)
            yield chapter


def played(book: Sequence[Chapter], thresholds: Thresholds = DEFAULTS[Signal.MEMORY]) -> Timeline:
    """The book played to its end."""
    story = Timeline({**DEFAULTS, Signal.CPU: thresholds, Signal.MEMORY: thresholds})
    for chapter in book:
        story.at(begin(story, chapter))
    return story


@st.composite
def any_thresholds(draw: st.DrawFn) -> Thresholds:
    """Rising thresholds, any of them off."""
    levels = sorted(draw(st.lists(st.integers(10, 99), min_size=4, max_size=4, unique=True)))
    kept: list[float | None] = [float(level) if draw(st.booleans()) else None for level in levels]
    warning, shrink, pause, unload = kept
    resume = None if pause is None else draw(st.one_of(st.none(), st.integers(5, int(pause) - 1).map(float)))
    return Thresholds(warning, shrink, pause, unload, resume)


@given(chapters())
@FEW
def test_same_inputs_same_decisions(book: list[Chapter]) -> None:
    """Two ladders that see the same world decide the same, to the word."""
    first, second = played(book), played(book)
    assert first.told() == second.told()
    assert first.assessment == second.assessment
    assert first.steps == second.steps


@given(chapters(missing=False, drills=False))
@FEW
def test_no_move_before_its_dwell(book: list[Chapter]) -> None:
    """Up: the reading stood at the threshold for the whole entry time. Down: 3 s after the last move, and below.

    The readings are worked out here anew from the raw levels.
    """
    story = Timeline().at(0)
    raw: list[tuple[float, float]] = []
    seen = 0
    moved_at = dict.fromkeys(Signal, -100.0)
    for chapter in ticks(story, book):
        cpu = story.levels["cpu"]
        assert isinstance(cpu, float)
        raw.append((story.now, cpu))
        for at, move in story.moves[seen:]:
            if move.signal is Signal.CPU and move.after > move.before:
                entry = entry_time(Signal.CPU, chapter.longest_part)
                since = [t for t, _ in raw if t >= at - entry - 1e-6]
                for moment in since:
                    window = [value for t, value in raw if moment - 1 + 1e-6 < t <= moment + 1e-6]
                    assert sum(window) / len(window) >= (move.threshold or 0) - 1e-6
            if move.signal is Signal.CPU and move.after < move.before:
                window = [value for t, value in raw if at - 3 + 1e-6 < t <= at + 1e-6]
                assert sum(window) / len(window) < (move.threshold or 0)
            if move.after < move.before:
                assert at - moved_at[move.signal] >= 3 - 1e-6
            moved_at[move.signal] = at
        seen = len(story.moves)


@given(chapters(), any_thresholds())
@FEW
def test_up_to_a_threshold_that_is_met_down_one_rung(book: list[Chapter], thresholds: Thresholds) -> None:
    """Whatever thresholds are on: up only to a rung that is, with its evidence; down to the next below that is."""
    story = played(book, thresholds)
    for _, move in story.moves:
        if move.signal not in (Signal.CPU, Signal.MEMORY):
            continue
        assert move.after is not move.before
        if "blind" in move.why:
            assert move.after is blind_rung(thresholds)
        elif move.after > move.before:
            assert move.threshold == thresholds.enter(move.after)
            assert move.threshold is not None
            assert move.percent >= move.threshold or "full in" in move.why
        else:
            assert move.after is below(thresholds, move.before)
            if "no real reading" in move.why:
                continue
            level = leave_level(thresholds, move.before)
            assert level is not None
            assert move.percent < level or (move.before is Rung.PAUSE and move.percent < (thresholds.pause or 0))
        assert move.age_s >= 0


@given(chapters())
@FEW
def test_missing_never_lowers_a_rung(book: list[Chapter]) -> None:
    """A signal that was really read and is missing moves to its blind rung after 3 s, and nowhere else."""
    story = Timeline()
    known: set[str] = set()
    missing_since: dict[str, float] = {}
    seen = 0
    for _ in ticks(story, book):
        drilled = {signal.value for signal in story.drills.active(story.now)}
        for name in set(NAMES) - drilled:
            if isinstance(story.levels[name], str):
                missing_since.setdefault(name, story.now)
            else:
                known.add(name)
        for name in NAMES:
            if name in drilled or not isinstance(story.levels[name], str):
                missing_since.pop(name, None)
        for at, move in story.moves[seen:]:
            if move.signal in missing_since and move.signal in known:
                assert "blind" in move.why
                assert move.after is Rung.SHRINK
                assert at - missing_since[move.signal] >= 2.9 - 1e-6
        seen = len(story.moves)
        for name, since in missing_since.items():
            if name in known and story.now - since >= 4:
                assert story.rung(name) is Rung.SHRINK


@given(chapters())
@FEW
def test_assessing_an_unchanged_world_gives_nothing(book: list[Chapter]) -> None:
    """Deciding again on the same sample moves nothing and lowers no batch, however often and however late."""
    story = Timeline()
    for _ in ticks(story, book):
        now = story.now
        story.ladder.assess(now)
        for later in (now, now + 0.05, now + 5, now + 500):
            again = story.ladder.assess(later)
            assert again.transitions == ()
            assert again.rung is again.rung_before
            assert not story.ladder.due(later)


@given(chapters())
@settings(FEW, max_examples=10)
def test_steady_world_comes_to_rest(book: list[Chapter]) -> None:
    """Levels that stay where they are end all moves: no rule chases another."""
    story = played(book)
    story.drills.clear()
    story.at(story.now + 280)
    moves = len(story.moves)
    story.at(story.now + 40)
    assert len(story.moves) == moves


@given(chapters())
@FEW
def test_quiet_reaches_normal_in_bounded_time_from_any_state(book: list[Chapter]) -> None:
    """80 s after the world has become quiet the host is normal, whatever was before."""
    story = played(book)
    story.drills.clear()
    never_known = all(chapter.levels[2] is None for chapter in book)
    story.set(cpu=20.0, memory=20.0, gpu_memory="unreadable" if never_known else 20.0)
    story.longest_part(0.0).at(story.now + 80).expect("normal", gpu_memory=None if never_known else "normal")
    story.at(story.now + 10).expect("normal")


@given(chapters())
@FEW
def test_batch_size_keeps_its_limits_and_its_cooldown(book: list[Chapter]) -> None:
    """Always within its limits, one step at a time, a cooldown apart, and its statistics tell the truth."""
    story = played(book)
    last, size = -100.0, 16
    for at, step in story.steps:
        assert step.size_before == size
        assert 0 < abs(step.size_after - size) <= 2
        assert 1 <= step.size_after <= 32
        assert at - last >= 5 - 1e-6
        last, size = at, step.size_after
    assert story.batch.stats()["adjustment_count"] == len(story.steps)
    assert story.batch.size == size
