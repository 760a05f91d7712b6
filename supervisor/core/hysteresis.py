"""The three hystereses of the ladder, kept apart: hold before entering, margin to leave, quiet time before recovery.

Owns their numbers and the small clocks they need. Nothing here knows which rung a signal is on.
"""

from collections import deque
from collections.abc import Collection

from supervisor.core.model import Rung, Signal
from supervisor.core.policy import Thresholds

# -- hold before entering --------------------------------------------------------------------------------------------

# CPU is entered after 1.5 x our longest part + 1 s, so that one long row is not pressure. (Simulated: rows of 3 s on
# two cores paused 28 times in five minutes without it.) A part that hangs must not switch the CPU ladder off: the cap.
SHARE_ENTRY = 1.0
SHARE_ENTRY_LONGEST = 30.0
# A rung whose entry is complete waits this long for a higher one that is about to complete: a step of the load is one
# move, not three within 0.3 s.
GATHERING = 0.5
# Load of others that comes and goes pauses a CPU that a hold keeps for them anyway only after this long, once it is
# restless: it waits in shrink, at whatever they leave, not in pause. (Simulated, others at 95 % half of the time every
# 6, 12, 30 s: 13.7, 16.2, 15.6 rows/s for 1.1, 1.2, 7.1, with the same moves.) Shorter than 15 s, others that stay for
# 10 s at a time made it move 19 times a minute.
SPARED_ENTRY = 15.0
# Growth must promise exhaustion this long without a break: what "on two consecutive decisions" is at 10 Hz.
FILLING_ENTRY = 1.0
# In how many seconds a memory that fills is full, for each rung.
FULL_IN = {Rung.SHRINK: 20.0, Rung.PAUSE: 8.0, Rung.UNLOAD: 5.0}
# A signal without any new value for so long is blind, and on a rung declared for that.
BLIND_AFTER = 3.0

# -- margin to leave -------------------------------------------------------------------------------------------------

MARGIN = 5.0

# -- quiet time before recovery --------------------------------------------------------------------------------------

# Judged on the mean over it. (Simulated: judged on each sample, a noisy 64-core host spent 80 % of the time in shrink;
# on the mean, 7 %.)
QUIET = 3.0
# Pause is also left when the level stays between resume and pause. (Simulated: after a spike others stood at 78 %, and
# pause was never left.) The wait doubles each time pause is entered again within ten minutes.
FLAT_WAIT, FLAT_WAIT_LONGEST = 15.0, 240.0
FLAT_REMEMBERED = 600.0
FLAT_SPAN, FLAT_RECENT, FLAT_RISE = 15.0, 5.0, 1.0
# See `Restlessness`.
MOVES, MOVES_SPAN = 4, 60.0

EPSILON = 1e-6  # sums of tenths are not exact


def entry_time(signal: Signal, longest_part: float) -> float:
    """How long a reading must stand at a rung's threshold before the rung is entered; `longest_part` in seconds."""
    if signal is Signal.CPU:
        own = 1.5 * longest_part + 1.0 if longest_part > 0 else 0.0
        return min(SHARE_ENTRY_LONGEST, max(SHARE_ENTRY, own))
    return SHARE_ENTRY if signal is Signal.GPU else 0.0


def leave_level(thresholds: Thresholds, rung: Rung) -> float | None:
    """The percentage below which `rung` is left; None when that rung is off, and so left whatever the reading."""
    enter = thresholds.enter(rung)
    if enter is None:
        return None
    if rung is Rung.PAUSE and thresholds.resume is not None:
        return thresholds.resume
    return enter - MARGIN


def below(thresholds: Thresholds, rung: Rung) -> Rung:
    """The next rung down that is not off."""
    return max((r for r in Rung if r < rung and thresholds.enter(r) is not None), default=Rung.NORMAL)


def blind_rung(thresholds: Thresholds) -> Rung:
    """The rung of a signal that was known and is blind: shrink, or the highest below it where shrink is off."""
    return Rung.SHRINK if thresholds.shrink is not None else below(thresholds, Rung.SHRINK)


class Standing:
    """Since when each rung's condition has been met without a break."""

    def __init__(self) -> None:
        self._since: dict[Rung, float] = {}

    def note(self, met: Collection[Rung], at: float) -> None:
        """At this moment exactly the conditions of `met` are."""
        self._since = {rung: self._since.get(rung, at) for rung in met} if met else {}

    def __contains__(self, rung: Rung) -> bool:
        return rung in self._since

    def lasted(self, rung: Rung, at: float) -> float:
        """For how long the condition has been met, -1 if it is not."""
        return at - self._since[rung] + EPSILON if rung in self._since else -1.0

    def clear(self) -> None:
        """Nothing is met any more."""
        self._since.clear()


class Restlessness:
    """Keeps a signal from moving up and down for ever: the way up is free, a step down may have to wait.

    Once a signal has come up again, a step down waits while the last minute holds four of its moves. So load that comes
    and goes, at whatever pace, gives at most six moves a minute, and a signal that is quiet waits a minute at most.
    Moves that a drill caused do not count, nor those that our own CPU load caused: that falls by the pause itself, so
    longer pauses would only cost throughput (simulated, our own load saturating the host: 54 rows/s instead of 174).
    Where a CPU hold makes pauses needless, the way up to pause waits (`SPARED_ENTRY`), not the way out of it.
    """

    def __init__(self) -> None:
        self._moves: deque[float] = deque()
        self._came_again = float("-inf")
        self._climbing = False
        self.counting = False
        """Whether the present climb, and so the way down from it, counts."""

    def up(self, now: float, counts: bool) -> None:
        """The signal went up; `counts` unless a drill or our own load made it."""
        if not self._climbing:
            self._climbing, self.counting = True, False
        if not counts:
            return
        if not self.counting and self._moves:
            self._came_again = now
        self.counting = True
        self._moves.append(now)

    def not_ours(self, now: float, drilled: bool) -> None:
        """The present climb outlasted all that we do: it counts after all, unless a drill goes on."""
        if not self.counting and not drilled:
            self.up(now, counts=True)

    def down(self, now: float) -> None:
        """The signal went down."""
        self._climbing = False
        if self.counting:
            self._moves.append(now)

    def must_wait(self, now: float) -> bool:
        """Whether a step down would be one move too many."""
        while self._moves and now - self._moves[0] >= MOVES_SPAN:
            self._moves.popleft()
        return len(self._moves) >= MOVES and now - self._came_again < MOVES_SPAN


class FlatPause:
    """Lets go of a pause whose level stays below the pause threshold without rising, but never gets down to resume."""

    def __init__(self) -> None:
        self.wait = FLAT_WAIT
        self._since: float | None = None
        self._left_at: float | None = None

    def entered(self, now: float, counts: bool) -> None:
        """Pause was entered; once more within ten minutes doubles the wait, unless a drill or our own load did it."""
        if self._left_at is None or now - self._left_at >= FLAT_REMEMBERED:
            self.wait = FLAT_WAIT
        elif counts:
            self.wait = min(FLAT_WAIT_LONGEST, 2 * self.wait)
        self._since = None

    def left(self, now: float, counts: bool) -> None:
        """Pause was left, either way."""
        self._since = None
        if counts:
            self._left_at = now

    def note(self, flat: bool, now: float) -> None:
        """Whether the level is below the pause threshold now."""
        if not flat:
            self._since = None
        elif self._since is None:
            self._since = now

    def over(self, now: float) -> bool:
        """Whether it has been flat for long enough."""
        return self._since is not None and now - self._since + EPSILON >= self.wait
