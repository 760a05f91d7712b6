"""The CPU hold (behaviour.md 5): one bucket of core-seconds, from which all models' parts are paid.

Owns the bucket, the reservations of the parts on their way, and the estimate of what others use. It says whether one
more part may leave; which one is the fair order's to choose, and nothing is ever taken back. Units: `cores` are
core-seconds per second.
"""

import math

# The estimate of others forgets with this time constant. Its noise (hundredths of a second, a fifth of two cores in one
# look) evens out in the bucket, its delay does not: beside bursts of 30 points, 6 % of all windows of 1 s were over
# 90 % with 0.5 s, 2 % with 0.2 (simulated); with 0.1, looks that lag our clock show.
OTHERS_SPAN = 0.2
# What others leave is never taken for less: at the floor, work goes on slowly beside any load of theirs.
GAIN_AT_LEAST = 0.1
# By so much of the cores the estimate may be below zero: its noise must not be cut off at zero on one side, or its mean
# would be too high and we too slow. More is no noise but two figures that do not belong together.
DITHER = 0.05
# What may be saved and what may be owed, in core-seconds per core. 0.06 is 72 ms of gain at 83 %: the dispatcher looks
# every 50 ms, so nothing is lost between two looks, and no burst is saved up. (Simulated without it: 28 pauses.)
MOST_SAVED = 0.06
MOST_OWED = 1.0
# Unless paused, something progresses every 2 s: a part may leave when nothing has happened for this long. The rest is
# for the part itself.
IDLE_AT_MOST = 1.5
# Looks further apart than this compare the busy share of one moment with what we used over another.
LOOK_LONGEST = 0.5
# Others alone are over the target when a slower estimate of them is, and no more when it is below by the margin.
EXTERNAL_SPAN = 1.0
EXTERNAL_MARGIN = 0.05  # of the cores


class CpuHold:
    """Bounds the CPU that our workers use to what others leave below a target.

    A part that is sent reserves what it is predicted to use. What the workers are then measured to use works the
    reservations off first, so nothing counts twice; what goes beyond them is owed, what is left of them when their
    parts have ended is free again. In the long run only what was measured counts, whatever was predicted.
    """

    def __init__(self) -> None:
        self._target: float | None = None  # cores
        self._cores = 1.0
        self._saved = 0.0  # gained less used, reservations not counted
        self._predicted = 0.0  # of the parts on their way, all together
        self._reserved = 0.0  # what of that was not used yet
        self._inflight = 0
        self._busied_at = float("-inf")  # when a part was last sent or ended
        self._counted: tuple[float, float] | None = None  # when use was last counted, and the counter then
        self._seen: tuple[float, float] | None = None  # the same for the looks at others
        self._others = 0.0
        self._others_slow = 0.0
        self._external = False

    # -- what is known ----------------------------------------------------------------------------------------------

    @property
    def level(self) -> float:
        """Core-seconds that may still be spent: what was gained, less what was used and what is reserved."""
        return self._saved - self._reserved

    @property
    def others(self) -> float:
        """What everyone but our workers uses, in cores."""
        return max(0.0, self._others)

    @property
    def external_load(self) -> bool:
        """Whether others alone are over the target, so that only the floor is left for us."""
        return self._external

    # -- what is told -----------------------------------------------------------------------------------------------

    def set_target(self, percent: float | None, cores: float) -> None:
        """Aim at this share of the host's cores; None: nothing is held. Giving the same again changes nothing.

        What is on its way when nothing is held any more is forgotten: its end need not be told.
        """
        if percent is None:
            self._saved = self._predicted = self._reserved = 0.0
            self._inflight, self._external = 0, False
        self._target = None if percent is None else percent / 100 * cores
        self._cores = cores

    def observe(self, busy: float, own: float, now: float) -> None:
        """Take a look at the host: `busy` cores are in use by everyone, `own` core-seconds were used by our workers.

        Meant for 10 Hz, whether work waits or not. `own` counts up for ever; a counter that fell begins anew.
        """
        self.tick(own, now)
        seen, self._seen = self._seen, (now, own)
        if seen is None or not 0 < now - seen[0] <= LOOK_LONGEST or own < seen[1]:
            return
        passed = now - seen[0]
        # May be negative for a moment (two clocks, two spans): kept as it is, or the mean would be too high.
        others = busy - (own - seen[1]) / passed
        self._others += (others - self._others) * (1 - math.exp(-passed / OTHERS_SPAN))
        self._others_slow += (others - self._others_slow) * (1 - math.exp(-passed / EXTERNAL_SPAN))
        margin = EXTERNAL_MARGIN * self._cores if self._external else 0.0
        self._external = self._target is not None and self._others_slow > self._target - margin

    def tick(self, own: float, now: float) -> None:
        """Count what was gained and what our workers used (as in `observe`) since the last time."""
        counted = self._counted
        if counted is not None and now < counted[0]:
            return
        self._counted = now, own
        if counted is None or self._target is None:
            return
        used = max(0.0, own - counted[1])
        others = max(-DITHER * self._cores, self._others)
        gained = max(GAIN_AT_LEAST, self._target - others) * (now - counted[0])
        self._reserved = max(0.0, self._reserved - used)
        # The floor is for what was really used: a long part's reservation may go deeper, and is waited for in full. The
        # ceiling is for what is free: were it for `_saved`, parts of a worker that hangs would keep all others waiting.
        saved = max(-MOST_OWED * self._cores, self._saved + gained - used)
        self._saved = min(MOST_SAVED * self._cores + self._reserved, saved)

    def sent(self, predicted_core_seconds: float, now: float) -> None:
        """A part has left that will use about so much."""
        self._inflight += 1
        self._predicted += predicted_core_seconds
        self._reserved += predicted_core_seconds
        self._busied_at = now

    def ended(self, predicted_core_seconds: float, now: float) -> None:
        """A part that was sent under this prediction is over, whatever became of it."""
        self._inflight = max(0, self._inflight - 1)
        self._predicted = max(0.0, self._predicted - predicted_core_seconds) if self._inflight else 0.0
        self._reserved = min(self._reserved, self._predicted)
        self._saved = min(self._saved, MOST_SAVED * self._cores + self._reserved)
        self._busied_at = now

    # -- what is asked ----------------------------------------------------------------------------------------------

    def allows(self, now: float) -> bool:
        """Whether one more part may leave.

        1. Nothing is held. 2. Something is left to spend: never on credit. 3. Nothing is on its way, and nothing was
        for so long that it must go on.
        """
        if self._target is None or self.level > 0:  # 1, 2
            return True
        return not self._inflight and now - self._busied_at >= IDLE_AT_MOST  # 3
