"""Which worker is to be replaced by a new process because of what it has grown to: torch gives memory back at no other
time.

Owns each worker's level after loading, how it went on from there, and when workers were replaced last. Decides in two
cases: memory is short (`behaviour.md` 2, "proof of effect"), or growth has reached what the operator allows.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from supervisor.core.look import Look
from supervisor.core.model import ModelState, Rung, Signal
from supervisor.core.reservation import HOST, Room, bytes_text
from supervisor.core.resident import LEARN_FOR, Resident

# How long memory must have been at a rung before that costs anybody a restart (s, behaviour.md 2).
IN_PAUSE, IN_SHRINK = 10.0, 60.0
# Of the room: with less growth than this its restart would not be felt (behaviour.md 2).
WORTH_IT = 0.02
# No more than so many in so much time (behaviour.md 2), and the same worker not again before this: what grows back at
# once is what its work takes, not a leak. (Edge case 37: a caching allocator at 91 % was restarted 101 times an hour;
# wanted are 5 at most.)
MOST, WITHIN = 3, 600.0
PEACE = 900.0
# Growth is sampled once a minute; a slope counts from half an hour on: the first batches of each new length grow, too.
SAMPLE_EVERY, SAMPLES_LEAST, SAMPLES_MOST = 60.0, 30, 60
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Recycle:
    """The worker of `model` is to be replaced. `beside`: its next process may come up while it still serves.

    `signal` is the one that is short, None where the operator's limit was reached.
    """

    model: str
    why: str
    beside: bool
    signal: Signal | None = None


@dataclass(slots=True)
class _Growth:
    """One process since it was loaded: `level` bytes then, and (time, bytes) once a minute."""

    ready_since: float
    level: int | None = None
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=SAMPLES_MOST))


class Recycling:
    """Watches all workers; `due` is to be called on every look."""

    def __init__(self) -> None:
        self._growth: dict[str, _Growth] = {}
        self._since: dict[tuple[str, Rung], float] = {}
        self._recent: deque[float] = deque(maxlen=MOST)
        self._last: dict[str, float] = {}

    def due(self, look: Look, may_act: bool) -> Recycle | None:
        """The worker that is to be replaced now, if any.

        1. One at a time, and nothing else that loads or unloads beside it: `may_act` and no load under way.
        2. At most `MOST` in `WITHIN` s, the same one not within `PEACE` s.
        3. Memory has been short for long enough, and it holds enough above its level after loading: the one that has
           grown most. No drill does that.
        4. It has grown by what the operator allows, or as fast: off the peak, which is while the ladder is below warn
           and nobody waits; where there is no room for two, while nobody uses it.
        """
        ready = self._observe(look)
        if not may_act or any(r.is_loading or r.view.successor_bytes is not None for r in look.residents):  # 1
            return None
        if len(self._recent) == MOST and look.now - self._recent[0] < WITHIN:  # 2
            return None
        rested = [r for r in ready if look.now - self._last.get(r.view.name, float("-inf")) >= PEACE]
        chosen = self._pressed(look, rested) or self._outgrown(look, rested)
        if chosen is not None:
            self._recent.append(look.now)
            self._last[chosen.model] = look.now
        return chosen

    def grown(self, resident: Resident) -> int:
        """Bytes above the level after loading; 0 while that is not known."""
        growth = self._growth.get(resident.view.name)
        return 0 if growth is None or growth.level is None else max(0, resident.view.memory_bytes - growth.level)

    def _observe(self, look: Look) -> list[Resident]:
        """Take in what is to be seen; the workers whose level is known."""
        for device in {HOST, *(model.device for model in look.models)}:
            room = look.pressure.room(device)
            for rung in (Rung.SHRINK, Rung.PAUSE):
                if room.real and room.rung >= rung:
                    self._since.setdefault((device, rung), look.now)
                else:
                    self._since.pop((device, rung), None)
        names = {model.name for model in look.models}
        self._growth = {name: growth for name, growth in self._growth.items() if name in names}
        self._last = {name: at for name, at in self._last.items() if name in names}
        known = []
        for resident in look.residents:
            if resident.view.managed and resident.view.state is ModelState.READY and resident.view.memory_bytes:
                if self._note(resident, look.now).level is not None:
                    known.append(resident)
            else:
                self._growth.pop(resident.view.name, None)
        return known

    def _note(self, resident: Resident, now: float) -> _Growth:
        name, since = resident.view.name, resident.settled_since
        growth = self._growth.get(name)
        if growth is None or growth.ready_since != since:
            growth = self._growth[name] = _Growth(since)
        if growth.level is None and now - since >= LEARN_FOR:
            growth.level = resident.view.memory_bytes
        if growth.level is not None and (not growth.samples or now - growth.samples[-1][0] >= SAMPLE_EVERY):
            growth.samples.append((now, resident.view.memory_bytes))
        return growth

    def _pressed(self, look: Look, ready: Sequence[Resident]) -> Recycle | None:  # 3
        def short(device: str, rung: Rung, seconds: float) -> bool:
            since = self._since.get((device, rung))
            return since is not None and look.now - since >= seconds

        grown = [(self.grown(r), r) for r in ready]
        for size, resident in sorted(grown, key=lambda each: -each[0]):
            device = resident.view.device
            room = look.pressure.room(device)
            if size >= WORTH_IT * room.total > 0 and (
                short(device, Rung.PAUSE, IN_PAUSE) or short(device, Rung.SHRINK, IN_SHRINK)
            ):
                signal = Signal.MEMORY if device == HOST else Signal.GPU_MEMORY
                why = f"{bytes_text(size)} above its level after loading, {100 * size / room.total:.0f} % of the whole"
                return Recycle(resident.view.name, why, self._fits(look, resident, room), signal)
        return None

    def _outgrown(self, look: Look, ready: Sequence[Resident]) -> Recycle | None:  # 4
        if not look.pressure.ladder_quiet or look.pressure.gate_closed:
            return None
        for resident in ready:
            why = self._reached(look, resident)
            if why is None or resident.view.queued:
                continue
            beside = self._fits(look, resident, look.pressure.room(resident.view.device))
            if beside or resident.view.cold:
                return Recycle(resident.view.name, why, beside)
        return None

    def _reached(self, look: Look, resident: Resident) -> str | None:
        """Which of the operator's limits it has reached, in words."""
        growth, policy = self.grown(resident), look.policy
        if policy.recycle_growth is not None and growth >= policy.recycle_growth:
            return f"{bytes_text(growth)} above its level after loading, {bytes_text(policy.recycle_growth)} is allowed"
        samples = self._growth[resident.view.name].samples
        if policy.recycle_slope is None or len(samples) < SAMPLES_LEAST:
            return None
        slope = HOUR * _slope(samples)
        if slope < policy.recycle_slope:
            return None
        return f"grows by {bytes_text(slope)} an hour, {bytes_text(policy.recycle_slope)} is allowed"

    @staticmethod
    def _fits(look: Look, resident: Resident, room: Room) -> bool:
        return room.rung < Rung.SHRINK and look.fits_beside(resident)


def _slope(samples: Sequence[tuple[float, int]]) -> float:
    """Bytes per second, by least squares."""
    middle = sum(at for at, _ in samples) / len(samples)
    mean = sum(size for _, size in samples) / len(samples)
    spread = sum((at - middle) ** 2 for at, _ in samples)
    return sum((at - middle) * (size - mean) for at, size in samples) / spread if spread else 0.0
