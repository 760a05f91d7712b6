"""How fast parts are answered: for the ladder (how long may one part hold the CPU?) and for `Retry-After`."""

import math
from collections import deque
from collections.abc import Iterable

from supervisor.proxy.jobs import Part

# The ladder decides once a second: a part that ended since the decision before must still be seen.
LOOK_BACK = 2.0
# Rates are means over about this time (s): long enough to smooth over single parts, short enough to follow a pause.
RATE_WINDOW = 10.0


class Pace:
    """Takes note of parts that were answered."""

    __slots__ = ("_at", "_inputs", "_recent")

    def __init__(self, now: float) -> None:
        self._recent: deque[tuple[float, float]] = deque()
        self._inputs = 0.0  # those of the last RATE_WINDOW, fading
        self._at = now

    def note(self, part: Part, now: float) -> None:
        """A part was answered."""
        self._inputs = self._faded(now) + part.inputs
        self._at = now
        self._recent.append((now, now - part.sent_at))
        while self._recent[0][0] < now - LOOK_BACK:
            self._recent.popleft()

    def longest(self, running: Iterable[Part], now: float) -> float:
        """Seconds: the age of the oldest part that runs, or the longest that ended a moment ago if that was longer."""
        ages = [now - part.sent_at for part in running]
        ages += [seconds for ended, seconds in self._recent if ended >= now - LOOK_BACK]
        return max(ages, default=0.0)

    def seconds_for(self, inputs: int, now: float) -> float:
        """How long so many inputs take at the pace of late; 0 while nothing is known."""
        rate = self._faded(now) / RATE_WINDOW
        return inputs / rate if rate > 0 else 0.0

    def _faded(self, now: float) -> float:
        return self._inputs * math.exp((self._at - now) / RATE_WINDOW)
