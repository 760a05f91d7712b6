"""How long parts take at the workers: for the ladder, which must not take one long part of ours for pressure."""

from collections import deque
from collections.abc import Iterable

from supervisor.proxy.part import Part

# The ladder decides once a second: a part that ended since the decision before must still be seen.
LOOK_BACK = 2.0


class Pace:
    """Takes note of parts that were answered."""

    __slots__ = ("_recent",)

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque()

    def note(self, part: Part, now: float) -> None:
        """A part was answered."""
        self._recent.append((now, now - part.sent_at))
        while self._recent[0][0] < now - LOOK_BACK:
            self._recent.popleft()

    def longest(self, running: Iterable[Part], now: float) -> float:
        """Seconds: the age of the oldest part that runs, or the longest that ended a moment ago if that was longer."""
        ages = [now - part.sent_at for part in running]
        ages += [seconds for ended, seconds in self._recent if ended >= now - LOOK_BACK]
        return max(ages, default=0.0)
