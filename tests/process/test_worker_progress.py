"""Whether a starting worker gets on: what counts as a move and what does not."""

import pytest

from supervisor.workers.process import Activity
from supervisor.workers.progress import Progress


def still_after(*looks: tuple[float, float, int, int]) -> float:
    """Seconds without progress after these looks (at, CPU seconds, I/O bytes, output bytes)."""
    progress = Progress(Activity(0, 0), 0, 0)
    for at, cpu, io_bytes, written in looks:
        progress.look(Activity(cpu, io_bytes), written, at)
    return progress.still_for(looks[-1][0])


@pytest.mark.parametrize(
    ("look", "moves"),
    [
        ((2, 0.0, 0, 0), False),
        ((2, 0.01, 0, 0), False),  # half a per cent of a core: it looks at its timers
        ((2, 0.02, 0, 0), True),
        ((2, 0.0, 1000, 0), False),  # wake-up pipes
        ((2, 0.0, 2000, 0), True),
        ((2, 0.0, 0, 1), True),
    ],
    ids=["nothing", "a little CPU", "CPU", "a little I/O", "I/O", "output"],
)
def test_what_counts_as_a_move(look: tuple[float, float, int, int], moves: bool) -> None:
    """Output of any length, a hundredth of a core, a kilobyte."""
    assert still_after(look) == (0 if moves else 2)


def test_standing_still_is_counted_from_the_last_move() -> None:
    """One move begins the count anew; small change does not add up to a move."""
    assert still_after((2, 1, 0, 0), (4, 1.01, 0, 0), (6, 1.02, 500, 0), (8, 1.03, 1000, 0)) == 6
    assert still_after((2, 1, 0, 0), (4, 1, 0, 0), (6, 1, 9000, 0)) == 0


def test_a_lost_member_is_a_move() -> None:
    """A sum that falls is another process's end, not a rest."""
    assert still_after((2, 5, 100_000, 0), (4, 1, 0, 0)) == 0


def test_two_looks_at_once_change_nothing() -> None:
    """No division by a time that did not pass."""
    assert still_after((2, 0, 0, 0), (2, 0, 0, 0)) == 2
