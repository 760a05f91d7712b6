"""What a part takes: one model's seconds and core-seconds, learned from the parts it answered.

Owns the prices of one model: a fixed overhead for any part, a price per unit (rows x longest row, in characters) for
each class of lengths, and the pace at which the host lets it work now. It knows nothing of queues, windows or CPU
holds, and its figures are guesses to plan with: what a part really used is for others to measure.

    seconds = pace x (overhead + price[class of longest] x rows x longest)

The overhead is one for all classes (MiniLM on two cores: 15-20 ms whatever the length; debug engine: 8 ms, price 0),
the price is not: it falls where rows are cut at the model's longest (MiniLM: 27 us a character at 1,000, 9 us at
5,000) and rises where attention does. The pace follows a busier host within a few parts, for all classes at once; the
prices change slowly, so that they can weigh one part against another (`units`).
"""

from dataclasses import dataclass

# An observation weighs half after 23 later ones of its class: prices belong to the model and change with the texts.
PRICE_DECAY = 0.97
# The pace takes over this share of what it missed (in logarithms): a host three times slower is followed to within
# 25 % in 6 parts.
PACE_GAIN = 0.3
# Pace and prices both believe at most this factor at a time. One part that met a stall moves the pace by 23 %; two
# parts that Infinity answered together, the one at twice its time and the other at none, cancel out.
BELIEVED = 2.0
# Known by their product only, pace and prices would wander off against each other (100,000 noisy parts without this:
# pace 0.0002). It also moves what lasts to the prices, so slowly that `units` stand still: half in some 5,000 parts.
PACE_LEAK = 0.001
# So many parts of a class are seen before it may speak about the host rather than about itself.
KNOWN = 2
# Nothing is answered faster; below, clocks and answers that came together are measured, not work.
LEAST_SECONDS = 0.001
# CPU is counted in ticks of 10 ms, parts may be shorter: their sums over about 20 parts are within a tick or two.
CORES_DECAY = 0.95
# While nothing is known: about what MiniLM takes on two cores, but no more than a second.
GUESSED_OVERHEAD, GUESSED_PRICE, GUESSED_MOST = 0.02, 27e-6, 1.0
# The first parts of an unknown kind: 8 rows of up to 2,000 characters (MiniLM 0.4 s), of longer ones 2, then 1.
FIRST_ROWS, FIRST_LONGEST, FIRST_UNITS = 8, 2_000, 10_000


@dataclass(slots=True)
class _Prices:
    """Sums over the parts of one class of lengths, weighted so that relative errors count."""

    seen: int = 0
    w: float = 0.0
    x: float = 0.0
    xx: float = 0.0
    y: float = 0.0
    xy: float = 0.0

    def add(self, units: float, seconds: float, expected: float) -> None:
        """One more part. With these weights the fit is the geometric middle of noisy times, as the pace is; with any
        other power of `seconds` the two drift apart without end (seen: pace 1.3 after 300 real parts)."""
        weight = 1.0 / (seconds**0.5 * expected**1.5)
        self.seen += 1
        self.w = PRICE_DECAY * self.w + weight
        self.x = PRICE_DECAY * self.x + weight * units
        self.xx = PRICE_DECAY * self.xx + weight * units**2
        self.y = PRICE_DECAY * self.y + weight * seconds
        self.xy = PRICE_DECAY * self.xy + weight * units * seconds

    def price(self, overhead: float) -> float:
        """Seconds per unit that fit best beside this overhead; never below 0."""
        return max(0.0, (self.xy - overhead * self.x) / self.xx)


class CostModel:
    """What a part of one model takes, from the parts it answered before. One for each kind of work of a model."""

    def __init__(self) -> None:
        self._classes: dict[int, _Prices] = {}
        self._overhead = GUESSED_OVERHEAD
        self._pace = 1.0
        self._largest = 0.0
        self._cores_used = 0.0
        self._cores_time = 0.0

    def note(self, rows: int, longest: int, seconds: float, core_seconds: float | None = None) -> None:
        """Learn from a part that was answered well.

        Args:
            rows: inputs in the part, at least 1.
            longest: characters of its longest input.
            seconds: from when the worker was free for it to its answer, so without the wait behind other parts.
            core_seconds: CPU the worker used for it; None when not measured.
        """
        seconds = max(seconds, LEAST_SECONDS)
        units = _units(rows, longest)
        known = self._classes.setdefault(_class_of(longest), _Prices())
        expected = observed = seconds / self._pace
        if known.seen >= KNOWN:
            expected = self.units(rows, longest)
            observed = min(max(observed, expected / BELIEVED), expected * BELIEVED)
            self._pace = self._pace ** (1 - PACE_LEAK) * (observed / expected) ** PACE_GAIN
        known.add(units, observed, expected)
        self._overhead = self._fitted_overhead()
        self._largest = max(self._largest, units)
        if core_seconds is not None:
            self._cores_used = CORES_DECAY * self._cores_used + core_seconds
            self._cores_time = CORES_DECAY * self._cores_time + seconds

    def seconds(self, rows: int, longest: int) -> float | None:
        """How long such a part takes alone at the worker, on the host as it is now; None while nothing is known."""
        return self._pace * self.units(rows, longest) if self._classes else None

    def units(self, rows: int, longest: int) -> float:
        """What such a part is worth beside others, whatever the host's pace: the measure for throughput.

        In seconds, at the pace that was usual over the last thousands of parts. A guess while nothing is known.
        """
        if not self._classes:
            return min(GUESSED_OVERHEAD + GUESSED_PRICE * _units(rows, longest), GUESSED_MOST)
        return max(self._overhead + self._price(longest) * _units(rows, longest), LEAST_SECONDS)

    def core_seconds(self, rows: int, longest: int) -> float:
        """CPU such a part uses: its seconds by the cores its kind kept busy so far (1 while that is unknown)."""
        cores = self._cores_used / self._cores_time if self._cores_time else 1.0
        return cores * self._pace * self.units(rows, longest)

    def rows_within(self, seconds: float, longest: int, most: int) -> int:
        """How many rows of at most `longest` characters take about `seconds`; 1 to `most`.

        1. Unknown models begin with a few rows, and no part is more than twice as large as any seen before: a wrong
           guess must not hold the CPU for seconds.
        2. The rows have what the overhead leaves, but at least half: a slow host must not end in parts of one row.
        3. At least one: a row that takes longer than `seconds` goes alone.
        """
        row = _units(1, longest)
        first = FIRST_ROWS if longest <= FIRST_LONGEST else FIRST_UNITS // row
        rows = max(first, int(2 * self._largest / row))  # 1
        if self._classes:
            left = max(seconds - self._pace * self._overhead, seconds / 2)  # 2
            price = self._pace * self._price(longest) * row
            if price * rows > left:
                rows = int(left / price)
        return max(1, min(rows, most))  # 3

    def _price(self, longest: int) -> float:
        """Seconds per unit in the class of `longest`, or in the nearest that is known: the dearer of two as near.

        A row is never dearer than a longer one. Without that, single rows are all that is known of some class (parts
        that requests share are as long as their longest), and 32 of them are believed to take 32 times as long: 45 to
        78 ms seen, where it was 5.
        """
        own = _class_of(longest)
        prices = self._classes.get(own)
        if prices is not None:
            price = prices.price(self._overhead)
        else:
            distance = min(abs(other - own) for other in self._classes)
            near = (self._classes[k] for k in (own - distance, own + distance) if k in self._classes)
            price = max(prices.price(self._overhead) for prices in near)
        for other, prices in self._classes.items():
            if other > own and prices.seen >= KNOWN:
                price = min(price, prices.price(self._overhead) * 2**other / max(longest, 1))
        return price

    def _fitted_overhead(self) -> float:
        """The overhead that fits all classes best, each with its own price.

        Parts that are all alike say nothing about it: then, by one more observation of little weight, half of what the
        quickest class takes is overhead, so that 32 rows are neither believed to be free nor to take 32 times as long.
        Nor may it ever be all: the noise of single rows alone would soon make a row's own price 0.
        """
        quickest = min(prices.y / prices.w for prices in self._classes.values())
        guess = quickest / 2
        weight = 0.02 / guess**2
        top, bottom = weight * guess, weight
        for prices in self._classes.values():
            top += prices.y - prices.x * prices.xy / prices.xx
            bottom += prices.w - prices.x**2 / prices.xx
        return min(max(top / bottom, 0.0), 0.95 * quickest)


def _class_of(longest: int) -> int:
    """Lengths of one class are within a factor of two: 1, 2, 3-4, 5-8 … characters."""
    return (longest - 1).bit_length() if longest > 1 else 0


def _units(rows: int, longest: int) -> int:
    return rows * max(longest, 1)
