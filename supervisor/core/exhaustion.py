"""Time to exhaustion: in how many seconds a memory is full if it goes on growing as it does.

Owns the recent levels of one memory (the host's or one GPU's). It knows no thresholds and no drills: only what was
really measured is put in.

Growth is measured in increments: three of 0.5 s (fast) and five of 1 s (slow). The fast rate is the smallest of its
increments, the slow one the mean of its three smallest; the steeper of the two counts. So growth must go on to count:
one step, however large, touches at most two increments and is not extrapolated. The plain slopes over 1 s and 5 s took
a step of 15 points from 62.5 % (a worker's arena of 0.6 GB on 4 GB) for "full in 7.5 s" and paused a host that stood
at 77.5 %, and noise of 0.3 points at 89 % for exhaustion in 11 of 20 runs of ten minutes; this way neither happens,
and
smooth ramps of 1 to 10 points a second are called at the same level as before or up to 4 points earlier. The price:
growth in jumps more than a second apart is left to the level.

Owns also how soon growth is believed, and how closely a memory that grows is to be watched. Where the kernel says by
itself that memory is short (processes stall for it, a cgroup ran into its limit), half the time of growth is enough.
"""

from bisect import bisect_right
from itertools import pairwise

# Below this level growth is what start-ups and caches do (behaviour.md 1).
COUNTS_ABOVE = 70.0
FAST_STEP, FAST_COUNT, FAST_KEPT = 0.5, 3, 1
SLOW_STEP, SLOW_COUNT, SLOW_KEPT = 1.0, 5, 3
KEPT = SLOW_STEP * SLOW_COUNT + 1.2  # a little over what is looked at, for sensors that are read once a second
TRIMMED_AT = 100  # levels too old to matter; dropped together, as that is cheaper
# Slower growth than this, in points a second, is none: the memory is full in no time worth naming.
SLOWEST = 0.05
# The kernel's word that memory is short halves the time that growth must go on, and holds for so long after it.
CONFIRMED_ENTRY, CONFIRMED_FOR = 0.5, 1.0
# Seconds between raw samples: as ever, and of a memory that is above its warn threshold and grows, or is full soon. At
# 5 points a second from 90 % on that is 0.1 points a look instead of 0.5. (A look costs 0.04 to 0.2 ms.)
LOOK, LOOK_CLOSELY = 0.1, 0.025
# What counts as growing for that: this many points in the last second. (Noise of 0.1 points never does; of 0.3 points,
# on 12 % of the looks, which then cost 0.2 % of a core.)
GROWS = 0.5
SOON = 20.0


class Exhaustion:
    """The rate at which one memory fills."""

    def __init__(self) -> None:
        self._moments: list[float] = []
        self._levels: list[tuple[float, float]] = []
        self._confirmed_at = float("-inf")

    def add(self, at: float, percent: float, loading: float = 0.0, confirmed: bool = False) -> None:
        """Note the level at a moment, and how much of it, in percent, belongs to workers that are starting.

        What those grow by is reserved and does not count as growth. `confirmed`: the kernel says that memory is short.
        """
        if self._moments and at <= self._moments[-1]:
            return
        if confirmed:
            self._confirmed_at = at
        self._moments.append(at)
        self._levels.append((percent, loading))
        old = bisect_right(self._moments, at - KEPT)
        if old > TRIMMED_AT:
            del self._moments[:old], self._levels[:old]

    def seconds_left(self) -> float | None:
        """Seconds until 100 %, from the newest level on; None below 70 %, or while it does not grow."""
        if not self._levels or self._levels[-1][0] <= COUNTS_ABOVE:
            return None
        rate = max(
            self._rate(FAST_STEP, FAST_COUNT, FAST_KEPT),
            self._rate(SLOW_STEP, SLOW_COUNT, SLOW_KEPT),
        )
        return max(0.0, 100.0 - self._levels[-1][0]) / rate if rate > SLOWEST else None

    def entry_time(self, usual: float) -> float:
        """Seconds for which exhaustion must be near before it counts; `usual` without the kernel's word for it."""
        confirmed = bool(self._moments) and self._moments[-1] - self._confirmed_at <= CONFIRMED_FOR
        return min(usual, CONFIRMED_ENTRY) if confirmed else usual

    def look_interval(self, warn: float | None) -> float:
        """Seconds until this memory should be looked at again; `warn` is its threshold in percent, None for off."""
        if not self._levels or self._levels[-1][0] <= COUNTS_ABOVE:
            return LOOK
        newest = self._levels[-1][0]
        before = self._level_at(self._moments[-1] - 1.0)
        grows = before is not None and newest - before[0] >= GROWS
        left = self.seconds_left()
        soon = left is not None and left < SOON
        return LOOK_CLOSELY if soon or (grows and warn is not None and newest >= warn) else LOOK

    def _rate(self, step: float, count: int, kept: int) -> float:
        """Points a second: the mean of the `kept` smallest of the last `count` increments; 0 if not all are known."""
        levels = [self._level_at(self._moments[-1] - k * step) for k in range(count + 1)]
        if None in levels:
            return 0.0
        known = [level for level in levels if level is not None]
        grown = sorted(
            later - earlier - max(0.0, later_loading - earlier_loading)
            for (later, later_loading), (earlier, earlier_loading) in pairwise(known)
        )
        return sum(grown[:kept]) / kept / step

    def _level_at(self, moment: float) -> tuple[float, float] | None:
        """The last level and loading share up to a moment; None before the first.

        Over a gap in the readings all growth falls into one increment, which does not count.
        """
        index = bisect_right(self._moments, moment + 1e-6) - 1
        return self._levels[index] if index >= 0 else None
