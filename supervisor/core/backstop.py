"""The backstop of the CPU hold: how many cores the workers may use together, for a kernel that enforces it (`cpu.max`).

Owns the measure of what others use and the pace at which the limit follows it. It lies above what the hold aims at and
below the level of pause: the hold steers; this only catches what the hold can't, a load of a model that takes every
core, a part that costs more than was predicted. Units: `cores` are core-seconds per second.
"""

# The workers are never left with less, whatever others use: work goes on slowly beside any load of theirs.
LEAST = 0.1
# So far below the level of pause, in points: a limit at that level itself would read a little over it half of the time,
# and a model's load, which takes all it can get, would close the gate.
BELOW_PAUSE = 1.0
# Each write of the limit takes a lock of the whole kernel; one a second follows others quickly enough for a backstop.
INTERVAL = 1.0
# Changes below this share of the cores are noise in what others use.
LEAST_CHANGE = 0.02
# A tick may come a little early; looks further apart than the second would let one reading speak for too long.
_SLACK, _LOOK_LONGEST = 0.05, 0.5


def backstop_percent(pause: float, hold: float) -> float:
    """The level the workers are kept under, in percent of the cores: just below pause, and always above the hold."""
    return max(pause - BELOW_PAUSE, (pause + hold) / 2)


def cpu_max(cores: float, percent: float, others: float) -> float:
    """How many cores the workers may use together, so that `percent` of `cores` is in use beside `others`' cores."""
    return max(LEAST, percent / 100 * cores - max(0.0, others))


class Backstop:
    """The limit on the workers' CPU that is to be in force: `limit` in cores, None while there is none."""

    def __init__(self) -> None:
        self.limit: float | None = None
        self._set_at = float("-inf")
        self._looked: tuple[float, float] | None = None  # the last look at the host, and our workers' counter then
        self._others = 0.0  # core-seconds that others used while `_seen` seconds were looked at
        self._seen = 0.0

    def observe(self, busy: float | None, own: float, now: float) -> None:
        """Take a look at the host: `busy` cores are in use by everyone (None: unknown), our workers used `own` so far.

        Meant for 10 Hz. `own` counts core-seconds up for ever; a counter that fell begins anew.
        """
        looked, self._looked = self._looked, (now, own)
        if busy is None or looked is None or not 0 < now - looked[0] <= _LOOK_LONGEST or own < looked[1]:
            return
        self._others += busy * (now - looked[0]) - (own - looked[1])
        self._seen += now - looked[0]

    def step(self, cores: float, pause: float | None, hold: float | None, now: float) -> bool:
        """Once a tick: whether `limit` is another one now, to be put in force.

        1. No hold, or no level of pause to stay below: no limit, at once.
        2. A first limit, at once: others are taken to use nothing as long as nothing was seen of them.
        3. Nothing was seen of them since the last change, or it was a moment ago: what is in force stays.
        4. A change that is worth a write.
        """
        if pause is None or hold is None:  # 1
            changed, self.limit = self.limit is not None, None
            self._others = self._seen = 0.0
            return changed
        others = self._others / self._seen if self._seen else 0.0  # 2
        if self.limit is not None and (not self._seen or now - self._set_at < INTERVAL - _SLACK):  # 3
            return False
        wanted = cpu_max(cores, backstop_percent(pause, hold), others)
        self._others = self._seen = 0.0
        if self.limit is not None and abs(wanted - self.limit) <= LEAST_CHANGE * cores:
            return False
        self.limit, self._set_at = wanted, now  # 4
        return True
