"""What a part costs a worker in memory, learned from the parts it has run, and what fits into the room there is.

Owns one model's measurements. Bytes are those above the worker's level after loading. An estimate that is too low
kills the worker, one that is too high only makes parts smaller, so every step here errs upwards:

- kept is the upper envelope, by half octaves of the longest row: bytes a row, which fall again by 5 % a measurement;
- a shorter row never needs more than a longer one, and a row x times as long at most x² times as much (attention);
- rows add up;
- one row alone is a curve of its own: without padding there is no mask. (Measured, torch 2.13, a small BERT of 8,192
  positions: 1 row of 16,000 characters took 1.2 MB, 2 rows took 269 MB.)

A worker keeps what it once took (measured: up to 155 MB after the largest part), so a later, smaller part shows a peak
that is not its own. What a part took for itself then lies between the growth while it ran and the whole level; within
these bounds what is known already is believed.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from math import log2, sqrt

MIB = 1 << 20
# What any part may take besides its rows: libraries' work space, buffers of the answer (1 to 12 MB measured).
FIXED = 16 * MIB
# Growth and level this close together are one figure.
SLACK = 16 * MIB
# How far an envelope falls towards a lower measurement.
DECAY = 0.05
# The factor on what is predicted: for rows much longer than any measured, and for others after the first measurement
# and after many. (Measured: the same shape differs by 10 % between two runs, texts of one length by 30 % in tokens.)
SAFETY_FAR, SAFETY_FIRST, SAFETY_LEAST = 1.5, 1.4, 1.15
# Bytes of attention mask for each row among others and each square of a character: 0.52 measured at 5.3 characters a
# token. Rows of equal length need none, so cheap measurements prove little until there are some.
MASK = 0.5
MASK_DOUBTED = 8
# The first part of all, nothing being known: rows x longest² (8 rows of 2,048 characters), if this much room is there;
# with less room less of it. A model of 24 layers takes some 250 MB for it.
FIRST_COST, FIRST_ROOM = 8 * 2048**2, 256 * MIB
# A measurement covers lengths up to this factor above its own.
NEAR = sqrt(2)
# A part that predicts less than this share of the room goes however far it is from what was measured.
COMFORTABLE = 0.5
# Trials end where the next one would be less than this much longer than the last.
STEP = 1.1
# What rows x longest row falls to when the worker was killed, and how it comes back with each part that large.
CAP_LOWERED, CAP_RAISED = 0.7, 1.02
# Once a shape is well known, every so many parts of it are enough to measure.
KNOWN_WELL, MEASURED_ONE_IN = 8, 8


@dataclass(frozen=True, slots=True)
class Oversize:
    """Why one row is too long: `needed` bytes for it, `room` bytes there are, and how many characters would fit."""

    needed: int
    room: int
    fits: int


@dataclass(slots=True)
class _Point:
    """What rows of one half octave took: at most `per_row` bytes each, up to `longest` characters."""

    longest: int
    per_row: float
    rows: int
    notes: int = 0


class _Curve:
    """Bytes a row over the longest row's characters."""

    def __init__(self) -> None:
        self._points: dict[int, _Point] = {}
        self._lengths: list[int] = []
        self._heights: list[float] = []

    def __bool__(self) -> bool:
        return bool(self._points)

    def reached(self, longest: int) -> int:
        """The longest measured row up to this length; 0 for none."""
        index = bisect_right(self._lengths, longest)
        return self._lengths[index - 1] if index else 0

    def per_row(self, longest: int) -> float:
        """An upper bound from the nearest measured length above, if that is not near, also from the one below.

        Infinite before the first.
        """
        index = bisect_left(self._lengths, longest)
        above = index < len(self._lengths)
        bound = self._heights[index] if above else float("inf")
        if index and not (above and self._lengths[index] <= NEAR * longest):
            bound = min(bound, self._heights[index - 1] * (longest / self._lengths[index - 1]) ** 2)
        return bound

    def evidence(self, longest: int) -> tuple[int, int]:
        """How many measurements cover rows of this length, and the most rows that any of them had."""
        near = [point for point in self._points.values() if point.longest * NEAR >= longest]
        return sum(point.notes for point in near), max((point.rows for point in near), default=0)

    def note(self, rows: int, longest: int, need: float, tells: bool) -> None:
        """Keep one measurement; one that tells nothing new is no evidence."""
        key = int(2 * log2(longest))
        point = self._points.get(key)
        if point is None:
            self._points[key] = point = _Point(longest, need / rows, rows)
        elif tells and (rows >= 2 * point.rows or not point.notes):
            # More rows tell more exactly what each takes: the fixed part is shared among them.
            point.longest, point.per_row, point.rows = longest, need / rows, rows
        elif need > FIXED + rows * point.per_row:
            point.longest, point.per_row = longest, (need - FIXED) / rows
        else:
            point.longest = max(longest, point.longest)
            if tells:
                point.per_row -= DECAY * max(0.0, point.per_row - need / rows)
        point.rows = max(point.rows, rows)
        point.notes += tells
        self._arrange()

    def _arrange(self) -> None:
        """Put the points in order; each at least as high as all before it."""
        points = sorted(self._points.values(), key=lambda point: point.longest)
        self._lengths = [point.longest for point in points]
        self._heights, highest = [], 0.0
        for point in points:
            highest = max(highest, point.per_row)
            self._heights.append(highest)


class PartMemory:
    """Learned memory of one model's parts. Lengths are characters, at least 1; rows at least 1."""

    def __init__(self) -> None:
        self._alone = _Curve()
        self._together = _Curve()
        self._cap: float | None = None
        self._passed_over = 0

    # -- learning ----------------------------------------------------------------------------------------------------

    def note(self, rows: int, longest: int, peak_bytes: int, held_bytes: int = 0) -> None:
        """A part ran: the worker's highest level meanwhile, and its level just before, above that after loading.

        1. Level and growth agree, or nothing is known yet: the part took what the level shows. 2. They don't: it took
        what is predicted, within these bounds; it tells something only where the prediction lies outside of them.
        """
        longest = max(1, longest)
        peak = max(0, peak_bytes)
        grown = max(0, peak - max(0, held_bytes))
        exact = peak - grown <= max(SLACK, peak / 4)
        known = self._expected(rows, longest)
        if exact or known is None:
            self._curve(rows).note(rows, longest, float(peak), exact)  # 1
        else:
            self._curve(rows).note(rows, longest, min(max(known, grown), peak), not grown < known < peak)  # 2
        if self._cap is not None and rows * longest >= CAP_LOWERED * self._cap:
            self._cap *= CAP_RAISED

    def wants(self, rows: int, longest: int) -> bool:
        """Whether a part of this shape should be measured: always while it is not well known, else now and then."""
        notes, most = self._curve(rows).evidence(max(1, longest))
        if notes >= KNOWN_WELL and 2 * most > rows:
            self._passed_over += 1
            return self._passed_over % MEASURED_ONE_IN == 0
        return True

    def lower_cap(self, rows: int, longest: int, room: int | None = None) -> None:
        """The worker was killed while a part of this shape ran, or recycled after it: nothing that large for a while.

        `room` is what it might have had; it took more. With it the part itself counts as measured.
        """
        longest = max(1, longest)
        self._cap = CAP_LOWERED * min(rows * longest, self._cap or float("inf"))
        if room is not None:
            self._curve(rows).note(rows, longest, 1.25 * room + 2 * FIXED, tells=True)

    # -- asking ------------------------------------------------------------------------------------------------------

    def predict(self, rows: int, longest: int) -> int | None:
        """Bytes that a part may take, with a margin for what is not known exactly; None while nothing is."""
        longest = max(1, longest)
        expected = self._expected(rows, longest)
        return None if expected is None else int(expected * self._safety(rows, longest))

    def rows_that_fit(self, rows: int, longest: int, room: int) -> int:
        """How many of `rows` rows, the longest of `longest` characters, may leave together into `room` bytes.

        1. Not more than the cap allows after a kill. 2. Nothing is known: a careful first part. 3. As many as are
        predicted to fit; where that is more than half of the room, at most twice the rows that were measured at this
        length. 4. Not even one: 0 if that is known, 1 if it may be; before one row goes `trial` is to be asked.
        """
        longest = max(1, longest)
        most = rows if self._cap is None else max(1, min(rows, int(self._cap // longest)))  # 1
        if self._expected(1, longest) is None:  # 2
            cost = FIRST_COST * min(1.0, max(0, room) / FIRST_ROOM)
            return max(1, min(most, int(cost // longest**2)))
        fits = self._most(most, longest, room)  # 3
        if fits > 1:
            measured = self._together.evidence(longest)[1]
            return max(self._most(fits, longest, COMFORTABLE * room), min(fits, 2 * max(1, measured)))
        known = (self._expected(1, longest) or 0.0) > room and self.trial(longest, room) is None
        return 0 if not fits and known else 1  # 4

    def trial(self, longest: int, room: int) -> int | None:
        """Before one row of this length goes: how many of its characters to send first, alone, only to measure that.

        None when it may go, or is known not to fit. Each trial is as long as surely fits by what the last one showed,
        so the row itself is reached, or known not to fit, after a few. (A row can't be divided, and models that cut
        rows off take no more for a longer one: neither sending it nor refusing it by extrapolation will do.)
        """
        longest = max(1, longest)
        expected = self._expected(1, longest)
        if expected is None:
            length = max(1, int(sqrt(FIRST_COST * min(1.0, max(0, room) / FIRST_ROOM))))
        elif expected <= room:
            return None
        else:
            length = self._longest(room)
            if length <= STEP * self._alone.reached(longest):
                return None
        return length if length < longest else None

    def figures(self, longest: int, room: int) -> Oversize:
        """What a refusal of one such row is to tell."""
        return Oversize(int(self._expected(1, max(1, longest)) or 0), room, self._longest(room))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _curve(self, rows: int) -> _Curve:
        return self._alone if rows == 1 else self._together

    def _per_row(self, rows: int, longest: int) -> float | None:
        """Bytes a row, from its own curve and the other one.

        1. Where its own has measured such a length, that one. 2. Else one row takes no more than one of several, and
        one of several no more than one alone and its mask, 3. and at least the mask, while hardly any were measured.
        """
        if not self._alone and not self._together:
            return None
        curve, mask = self._curve(rows), 0.0 if rows == 1 else MASK * longest**2
        notes = curve.evidence(longest)[0]
        bound = curve.per_row(longest)  # 1
        if not notes:
            other = self._together if rows == 1 else self._alone
            bound = min(bound, other.per_row(longest) + mask)  # 2
        return max(bound, mask) if notes < MASK_DOUBTED else bound  # 3

    def _expected(self, rows: int, longest: int) -> float | None:
        per_row = self._per_row(rows, longest)
        return None if per_row is None else FIXED + rows * per_row

    def _safety(self, rows: int, longest: int) -> float:
        notes = self._curve(rows).evidence(longest)[0]
        return SAFETY_FAR if not notes else SAFETY_LEAST + (SAFETY_FIRST - SAFETY_LEAST) / notes

    def _most(self, rows: int, longest: int, room: float) -> int:
        """The most rows that are predicted to fit, 0 for none."""
        if rows > 1:
            per_row = self._per_row(rows, longest) or 1.0
            several = min(rows, int((room / self._safety(rows, longest) - FIXED) / per_row))
            if several > 1:
                return several
        return 1 if (self.predict(1, longest) or 0) <= room else 0

    def _longest(self, room: float) -> int:
        """The longest single row, in characters, that is predicted to fit."""
        low, high = 0, 1 << 24
        while high - low > 1 + low // 100:
            middle = (low + high) // 2
            low, high = (middle, high) if (self.predict(1, middle) or 0) <= room else (low, middle)
        return low
