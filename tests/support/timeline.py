"""Ladder stories as timelines: `story.at(10).cpu(92)`, `story.at(11).expect("normal")`, `story.at(13).expect("pause")`.

It drives the real ladder (and batch controller) as the control loop does: a raw sample every 0.1 s, a decision every
check interval and whenever a sample completes an entry time. Nothing is decided here.
"""

from collections.abc import Callable, Mapping, Sequence

from supervisor.core.assessment import Assessment, Reminder, Transition
from supervisor.core.batch import Adjustment, BatchSizeController
from supervisor.core.drill import Drills
from supervisor.core.ladder import Ladder, OwnUse
from supervisor.core.model import GpuDevice, Known, Missing, Reading, Rung, Sample, Signal
from supervisor.core.policy import BatchPolicy, Thresholds

SEED = Thresholds()
GPU_WARN_ONLY = Thresholds(shrink=None, pause=None, unload=None)
DEFAULTS: Mapping[Signal, Thresholds] = {
    Signal.CPU: SEED,
    Signal.MEMORY: SEED,
    Signal.GPU: GPU_WARN_ONLY,
    Signal.GPU_MEMORY: SEED,
}
GIB = 1 << 30
RAW = 0.1

Level = float | str | Callable[[float], float]


def gpu(uuid: str, utilisation: Reading, memory: Reading, index: int = 0, total: int = 24 * GIB) -> GpuDevice:
    """A GPU with these readings."""
    used = int(memory.value / 100 * total) if isinstance(memory, Known) else 0
    return GpuDevice(uuid, index, f"GPU {index}", utilisation, memory, used, total)


class Timeline:
    """A story of one host. A level is a percentage, a function of the time, or text: why it cannot be read."""

    def __init__(
        self,
        thresholds: Mapping[Signal, Thresholds] = DEFAULTS,
        *,
        batch: BatchPolicy | None = None,
        check_interval: float = 1.0,
        raw: float = RAW,
        gpus: Sequence[str] = (),
    ) -> None:
        self.ladder = Ladder(thresholds)
        self.batch = BatchSizeController(batch or BatchPolicy())
        self.drills = Drills()
        self.check_interval, self.raw = check_interval, raw
        self.levels: dict[str, Level] = {"cpu": 20.0, "memory": 40.0, "gpu": "no NVML", "gpu_memory": "no NVML"}
        self.levels |= dict.fromkeys(gpus, 20.0)
        self.gpus = list(gpus)
        self.longest = 0.0
        self.own = OwnUse()
        self.now = 0.0
        self.assessment: Assessment | None = None
        self.assessments = 0
        self.moves: list[tuple[float, Transition]] = []
        self.host_moves: list[tuple[float, Rung, Rung]] = []
        self.reminders: list[tuple[float, Reminder]] = []
        self.steps: list[tuple[float, Adjustment]] = []
        self._tick = 0
        self._assessed_at = float("-inf")

    # -- the world --------------------------------------------------------------------------------------------------

    def at(self, moment: float) -> "Timeline":
        """Play on up to this moment, its sample included; what is said next holds after it."""
        while self._tick * self.raw <= moment + 1e-9:
            self._play()
        return self

    def set(self, **levels: Level) -> "Timeline":
        """Levels by signal name."""
        self.levels |= levels
        return self

    def cpu(self, level: Level) -> "Timeline":
        """The CPU's level from now on."""
        return self.set(cpu=level)

    def memory(self, level: Level) -> "Timeline":
        """The memory's level from now on."""
        return self.set(memory=level)

    def device(self, uuid: str, level: Level) -> "Timeline":
        """A GPU's memory level from now on."""
        return self.set(**{uuid: level})

    def drill(self, seconds: float, **signals: float) -> "Timeline":
        """Drill these signals for a time from now on."""
        self.drills.set({Signal(name): percent for name, percent in signals.items()}, self.now + seconds)
        return self

    def longest_part(self, seconds: float) -> "Timeline":
        """The longest part of ours that runs, from now on."""
        self.longest = seconds
        return self

    # -- what is expected -------------------------------------------------------------------------------------------

    def expect(self, rung: str, **signals: str | None) -> "Timeline":
        """The host is on this rung, and these signals (or GPUs by their name) on theirs; None = left out."""
        assert self.assessment is not None
        seen = self.assessment.rung.label
        assert seen == rung, f"at {self.now:.1f} s: {seen}, not {rung}; moves: {self.told()}"
        for name, label in signals.items():
            found = self.rung(name)
            assert (found.label if found is not None else None) == label, f"at {self.now:.1f} s: {name} is {found!r}"
        return self

    def rung(self, name: str) -> Rung | None:
        """The rung of a signal or of a GPU."""
        assert self.assessment is not None
        if name in list(Signal):
            return self.assessment.signals[Signal(name)].rung
        return self.assessment.devices.get(name)

    def told(self) -> list[str]:
        """The moves so far: time, signal, where to and why."""
        return [
            f"{at:.1f} {move.device or move.signal.value} {move.before.label}>{move.after.label} ({move.why})"
            for at, move in self.moves
        ]

    # -- the loop ---------------------------------------------------------------------------------------------------

    def reading(self, name: str) -> Reading:
        """What a sensor shows now."""
        level = self.levels[name]
        if isinstance(level, str):
            return Missing(level, self.now)
        return Known(level(self.now) if callable(level) else level, self.now)

    def sample(self) -> Sample:
        """A raw look at this host."""
        devices = tuple(gpu(u, self.reading("gpu"), self.reading(u), i) for i, u in enumerate(self.gpus))
        known = [d.memory for d in devices if isinstance(d.memory, Known)]
        fullest: Reading = max(known, key=lambda r: r.value) if known else self.reading("gpu_memory")
        return Sample(
            at=self.now,
            cpu=self.reading("cpu"),
            memory=self.reading("memory"),
            gpu=self.reading("gpu"),
            gpu_memory=fullest,
            devices=devices,
            memory_limit=16 * GIB,
        )

    def _play(self) -> None:
        self.now = self._tick * self.raw
        self._tick += 1
        sample, drilled = self.drills.apply(self.sample(), self.now)
        self.ladder.observe(sample, drilled, self.now)
        early = self.ladder.due(self.now, self.longest)
        if early or self.now - self._assessed_at >= self.check_interval - self.raw / 2:
            self._decide()

    def _decide(self) -> None:
        self._assessed_at = self.now
        self.assessments += 1
        closed = self.assessment is not None and self.assessment.rung >= Rung.PAUSE
        self.assessment = seen = self.ladder.assess(self.now, self.longest, self.own)
        self.moves += [(self.now, move) for move in seen.transitions]
        self.reminders += [(self.now, reminder) for reminder in seen.reminders]
        if seen.rung is not seen.rung_before:
            self.host_moves.append((self.now, seen.rung_before, seen.rung))
        step = self.batch.adjust(seen, closed or seen.rung >= Rung.PAUSE, self.now)
        if step is not None:
            self.steps.append((self.now, step))
