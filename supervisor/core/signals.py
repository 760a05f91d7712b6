"""One signal's recent readings, and what decisions ask of them: the reading, means, trend, age.

Owns the memory of raw samples. It decides nothing: no threshold is known here. A value that could not be read is never
made up; a window that was not really observed has no mean.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.core.model import Known, Missing, Reading, Signal

# Decisions on these read the mean of this many seconds of raw samples: a share of time is only defined over a span.
# 1 s of 0.1 s samples shows a step from 50 to 100 % as over 90 after 0.9 s (asked for: 1.5 s).
READING_SPAN = 1.0
AVERAGED = frozenset({Signal.CPU, Signal.GPU})
# A raw sample stands for the time since the one before, at most this long: after a stall of the loop one sample
# must not speak for all of it.
LONGEST_STRETCH = 1.0
# … and after a Missing at most this long: one lost sample in 10 Hz is bridged, a flaky sensor's gaps are not.
LONGEST_BRIDGE = 0.25
# A mean needs this share of its span observed.
COVERED = 0.9
# Means reach back 15 s at most; the trend over a minute, from one value a second.
KEPT = 20.0
TREND_SPAN = 60.0
TREND_STEP = 1.0


@dataclass(frozen=True, slots=True)
class _Point:
    at: float
    value: float
    stretch: float  # seconds up to `at` that the value stands for
    drilled: bool


class SignalTrack:
    """One signal's raw readings of the last seconds, in percent, and its course over the last minute."""

    def __init__(self, signal: Signal) -> None:
        self.signal = signal
        self.known_ever = False
        """Whether it was ever read for real; a drill is no knowledge."""
        self._points: deque[_Point] = deque()
        self._course: deque[Known] = deque()
        self._missing: Missing | None = None

    def add(self, reading: Reading, drilled: bool = False) -> None:
        """Take a raw reading. One that is not newer than the last (a slow sensor looked at often) adds nothing."""
        if isinstance(reading, Missing):
            self._missing = reading
            return
        self.known_ever = self.known_ever or not drilled
        newest = self.newest
        if newest is not None and reading.at <= newest.at:
            return
        longest = LONGEST_BRIDGE if self._missing is not None else LONGEST_STRETCH
        stretch = min(reading.at - newest.at, longest) if newest is not None else 0.0
        self._points.append(_Point(reading.at, reading.value, stretch, drilled))
        self._missing = None
        while self._points[0].at < reading.at - KEPT:
            self._points.popleft()
        if not self._course or reading.at - self._course[-1].at >= TREND_STEP:
            self._course.append(reading)
            while self._course[0].at < reading.at - TREND_SPAN:
                self._course.popleft()

    @property
    def newest(self) -> Known | None:
        """The newest raw value that was read, however long ago."""
        return Known(self._points[-1].value, self._points[-1].at) if self._points else None

    @property
    def drilled(self) -> bool:
        """Whether the newest value was put there by a drill."""
        return bool(self._points) and self._points[-1].drilled

    @property
    def missing(self) -> Missing | None:
        """Why the newest reading is not there, None when it is."""
        return self._missing

    def reading(self, now: float) -> Reading:
        """What decisions go by: the newest value; for CPU and GPU utilisation the mean of the last second.

        A drill's value counts at once and alone, and so does the real one after it: the second before a change between
        the two is left out.
        """
        if self._missing is not None:
            return self._missing
        newest = self.newest
        if newest is None:
            return Missing("no reading yet", now)
        if self.signal not in AVERAGED:
            return newest
        total = seconds = 0.0
        for value, stretch in self._stretches(READING_SPAN, self.drilled):
            total += value * stretch
            seconds += stretch
        return Known(total / seconds, newest.at) if seconds else newest

    def mean(self, seconds: float) -> float | None:
        """The mean of the last `seconds` up to the newest reading, drilled ones included.

        None while the newest reading is missing or less than nine tenths of the span was observed.
        """
        if self._missing is not None:
            return None
        total = covered = 0.0
        for value, stretch in self._stretches(seconds, None):
            total += value * stretch
            covered += stretch
        return total / covered if covered and covered >= seconds * COVERED else None

    def trend_per_min(self, now: float) -> float | None:
        """Percentage points a minute, by least squares over the last minute; None before its third second."""
        course = [known for known in self._course if known.at >= now - TREND_SPAN]
        if len(course) < 3:
            return None
        middle = sum(known.at for known in course) / len(course)
        level = sum(known.value for known in course) / len(course)
        spread = sum((known.at - middle) ** 2 for known in course)
        return 60.0 * sum((known.at - middle) * (known.value - level) for known in course) / spread

    def age(self, now: float) -> float | None:
        """Seconds since the newest value that was read, None if none ever was."""
        return max(0.0, now - self._points[-1].at) if self._points else None

    def blind_for(self, now: float) -> float:
        """Seconds for which no new value came, by a Missing or by a sensor that stands still; 0 if never known."""
        return (self.age(now) or 0.0) if self.known_ever else 0.0

    def _stretches(self, seconds: float, drilled: bool | None) -> Iterator[tuple[float, float]]:
        """Value and length of each stretch in the last `seconds`, newest first; up to the first of another kind."""
        if not self._points:
            return
        start = self._points[-1].at - seconds
        for point in reversed(self._points):
            if point.at <= start or (drilled is not None and point.drilled is not drilled):
                return
            yield point.value, min(point.stretch, point.at - start)
