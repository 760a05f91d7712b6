"""The window: how many parts one model keeps at its worker, 2 to 4.

Owns the size and the trials by which it grows: the larger of two sizes is kept only when it answered measurably more.
It counts only time in which the worker had work throughout: idle throughput proves nothing. Where the clients bound it,
a larger window brings nothing and is not kept.

Two is one part that runs and one that is staged. A third and fourth help where the way to the worker costs more than
the work (a debug engine is bound by HTTP), and only make everyone wait longer where the worker is busy anyway (torch
on the CPU).
"""

from math import log, sqrt

USUAL, MOST = 2, 4
# One measurement: so many seconds and parts at one size, after the parts that left under the size before it.
PERIOD_SECONDS, PERIOD_PARTS = 0.5, 8
# A trial is pairs of periods at either size, in the order AB BA AB …, so that a steady drift cancels out.
PAIRS = 5
# The larger size must bring this much beyond the noise: 3 standard errors of 5 pairs let one flat trial in 100 by.
GAIN, ERRORS = 0.03, 3.0
# A worker that runs out of work spoils the period; so many of those in one trial, and it has nothing to gain.
SPOILED = 8
# Seconds from one trial to the next, doubled after each that changed nothing; never under 12 times what the trial took,
# half of which was spent at the larger size (long parts make long trials).
FIRST_DELAY, LAST_DELAY, REST = 30.0, 300.0, 12.0
# Throughput so much off what it was after the last verdict, for so many periods on end (10 s at least), is another
# worker, host or kind of work: time for a trial.
SHIFT, SHIFTED = log(1.5), 20


class Window:
    """How many parts may be at one worker: hill-climbing on throughput that was measured while it had work."""

    def __init__(self) -> None:
        self._limit = MOST
        self._base = USUAL
        self._low: int | None = None  # the smaller size of the running trial
        self._rates: list[float] = []  # logarithms of its periods' throughput, in their order
        self._spoiled = 0
        self._next = float("-inf")  # when the next trial may start
        self._delay = FIRST_DELAY
        self._began = 0.0  # when the last trial did
        self._reviewed = False  # the last trial was of the present size, not of a larger one
        self._normal: float | None = None  # the first rate after the last verdict
        self._shifted = 0
        self._start: float | None = None  # of the period that runs
        self._skip = 0
        self._parts = 0
        self._units = 0.0

    @property
    def size(self) -> int:
        """How many parts may be at the worker now; a trial's own size holds only while there is work."""
        if self._low is None or self._start is None:
            return min(self._base, self._limit)
        return self._low + (len(self._rates) % 4 in (1, 2))

    def limit(self, most: int) -> None:
        """Never more than `most` from now on; a window that was 1 starts again at the usual size."""
        if min(most, MOST) != self._limit:
            self._limit = min(most, MOST)
            self._base = min(self._base, max(most, USUAL))
            self._low, self._normal, self._spoiled = None, None, 0
            self._begin(self._start)

    def busy(self, working: bool, now: float) -> None:
        """Whether the worker has anything to do: told whenever that changes, and as often as one likes."""
        if working and self._start is None:
            self._begin(now)
        elif not working and self._start is not None:
            self._begin(None)
            self._spoiled += self._low is not None
            if self._spoiled >= SPOILED:
                self._conclude(False, now)

    def answered(self, units: float, now: float) -> None:
        """A part was answered that was worth so many units (any measure that no window changes)."""
        if self._start is None:
            return
        if self._skip:
            self._skip, self._start = self._skip - 1, now  # the period begins with the last of them
            return
        self._parts += 1
        self._units += units
        if self._parts >= PERIOD_PARTS and now - self._start >= PERIOD_SECONDS:
            rate = log(max(self._units, 1e-9) / (now - self._start))
            if self._low is None:
                self._watch(rate, now)
            else:
                self._rates.append(rate)
                self._judge(now)
            self._begin(now)

    def _begin(self, start: float | None) -> None:
        """The next period; the parts at the worker when it begins left under another size, or none."""
        self._start = start
        self._skip, self._parts, self._units = self.size, 0, 0.0

    def _watch(self, rate: float, now: float) -> None:
        """Between trials: start the one that is due, earlier when the throughput is no longer what it was."""
        self._normal = rate if self._normal is None else self._normal
        self._shifted = self._shifted + 1 if abs(rate - self._normal) > SHIFT else 0
        if self._shifted >= SHIFTED:
            self._next, self._delay = now, FIRST_DELAY
        if now < self._next or self._limit <= USUAL:
            return
        review = self._base == self._limit or (self._base > USUAL and not self._reviewed)
        self._low = self._base - 1 if review else self._base
        self._rates, self._reviewed, self._began = [], review, now

    def _judge(self, now: float) -> None:
        """End the trial when it has all its pairs, or when two of them promise nothing."""
        pairs = zip(self._rates[::2], self._rates[1::2], strict=False)
        gains = [(b - a) if i % 2 == 0 else (a - b) for i, (a, b) in enumerate(pairs)]
        mean = sum(gains) / max(len(gains), 1)
        if len(self._rates) == 2 * PAIRS:
            error = sqrt(sum((gain - mean) ** 2 for gain in gains) / (PAIRS - 1) / PAIRS)
            self._conclude(mean > GAIN + ERRORS * error, now)
        elif len(self._rates) == 4 and mean < GAIN:
            self._conclude(False, now)

    def _conclude(self, better: bool, now: float) -> None:
        """Take the larger size or the smaller; what changed the size goes on in its direction at once."""
        assert self._low is not None
        before, self._base, self._low = self._base, self._low + better, None
        if self._base == before:
            self._next = now + max(self._delay, REST * (now - self._began))
            self._delay = min(2 * self._delay, LAST_DELAY)
        else:
            self._reviewed = self._base > before
            self._delay = FIRST_DELAY
            self._next = now if USUAL < self._base < self._limit else now + FIRST_DELAY
        self._normal, self._shifted, self._spoiled = None, 0, 0
