"""The ladder (behaviour.md 2): from raw samples to one rung for the host, and why.

Owns one ladder for each signal, and for each GPU's memory one of its own. The host's rung is the highest; what that
makes the host do is decided elsewhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from supervisor.core.assessment import Assessment, Reminder, SignalState, Transition
from supervisor.core.exhaustion import LOOK
from supervisor.core.model import Missing, Reading, Rung, Sample, Signal
from supervisor.core.policy import Thresholds
from supervisor.core.signal_ladder import SignalLadder

__all__ = ["Assessment", "Ladder", "OwnUse", "Reminder", "SignalState", "Transition"]

# A lasting warning is told again this long after it began, then at twice the time, at most this far apart.
REMIND_FIRST, REMIND_LONGEST = 10.0, 600.0


@dataclass(frozen=True, slots=True)
class OwnUse:
    """What our workers use, as far as the ladder must know.

    `cpu_percent` of the host's cores over about the last second: an excess that is ours ends with the pause, so it does
    not count as a restless signal. `loading`: bytes held by workers that are starting, each up to what was reserved for
    it, by device ("cpu" or the GPU's UUID); growth that is reserved is no way to exhaustion. `held`: a CPU hold keeps
    our use within what others leave, pause or not.
    """

    cpu_percent: float = 0.0
    loading: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    held: bool = False


class Ladder:
    """All signals' ladders. `observe` each raw sample, `assess` each check interval and whenever one is `due`."""

    def __init__(self, thresholds: Mapping[Signal, Thresholds]) -> None:
        self._thresholds = dict(thresholds)
        self._signals = {signal: SignalLadder(signal, thresholds[signal]) for signal in Signal if signal in thresholds}
        # GPU memory: one ladder per device; "" stands for all of them while none is listed.
        self._gpu_memory = {"": self._signals.pop(Signal.GPU_MEMORY)} if Signal.GPU_MEMORY in thresholds else {}
        self._reminders = {signal: _Reminders() for signal in Signal}
        self._own = OwnUse()
        self._observed_at = float("-inf")
        self._rung = Rung.NORMAL
        self._signal: Signal | None = None

    def set_policy(self, thresholds: Mapping[Signal, Thresholds]) -> None:
        """Go on under other thresholds: rungs and clocks are kept, a rung that is off now is left at the usual pace."""
        self._thresholds = dict(thresholds)
        for ladder in self._all():
            ladder.set_thresholds(thresholds[ladder.signal])

    def observe(self, sample: Sample, drilled: frozenset[Signal], now: float) -> None:
        """Take one raw sample; `drilled` names the signals that a drill stands in for. An old sample adds nothing."""
        if sample.at <= self._observed_at:
            return
        self._observed_at = sample.at
        for signal, ladder in self._signals.items():
            bytes_loading = self._own.loading.get("cpu", 0) if signal is Signal.MEMORY else 0
            loading = 100.0 * bytes_loading / sample.memory_limit if sample.memory_limit else 0.0
            confirmed = signal is Signal.MEMORY and sample.memory_short
            ladder.observe(sample.reading(signal), signal in drilled, now, loading, confirmed)
        if Signal.GPU_MEMORY in self._thresholds:
            self._observe_gpus(sample, Signal.GPU_MEMORY in drilled, now)

    @property
    def look_interval(self) -> float:
        """Seconds until the next raw sample: fewer while a memory runs full."""
        return min((ladder.look_interval for ladder in self._all()), default=LOOK)

    def due(self, now: float, longest_part: float = 0.0) -> bool:
        """Whether the newest sample completes an entry time, so that a decision should not wait for its interval."""
        return any(ladder.due(now, longest_part) for ladder in self._all())

    def assess(self, now: float, longest_part: float = 0.0, own: OwnUse | None = None) -> Assessment:
        """Move every signal by its rules and say where the host stands; nothing moves without a new sample.

        `longest_part` is the age or length in seconds of the longest part of ours that runs or ended just now; `own`
        as measured last, kept for the samples up to the next assessment.
        """
        self._own = own or OwnUse()
        before = self._rung
        moves = [ladder.assess(now, longest_part, self._own.cpu_percent, self._own.held) for ladder in self._all()]
        signals = {signal: ladder.state(now) for signal, ladder in self._signals.items()}
        if self._gpu_memory:
            signals[Signal.GPU_MEMORY] = self._gpu_memory_state(now)
        rungs = {signal: state.rung for signal, state in signals.items() if state.rung is not None}
        self._rung = max(rungs.values(), default=Rung.NORMAL)
        self._signal = self._decider(rungs)
        reminders = [self._reminder(state, now) for state in signals.values()]
        return Assessment(
            at=now,
            rung=self._rung,
            rung_before=before,
            signal=self._signal,
            signals=signals,
            devices={uuid: gpu.rung for uuid, gpu in self._gpu_memory.items() if gpu.rung is not None},
            transitions=tuple(move for move in moves if move is not None),
            reminders=tuple(reminder for reminder in reminders if reminder is not None),
        )

    def _all(self) -> Iterator[SignalLadder]:
        yield from self._signals.values()
        yield from self._gpu_memory.values()

    def _decider(self, rungs: Mapping[Signal, Rung]) -> Signal | None:
        """The signal on the highest rung; of several the one that decided before, else the first."""
        if self._rung is Rung.NORMAL:
            return None
        highest = [signal for signal, rung in rungs.items() if rung is self._rung]
        return self._signal if self._signal in highest else highest[0]

    def _observe_gpus(self, sample: Sample, drilled: bool, now: float) -> None:
        """Give each GPU its reading; one that is listed no more is missing."""
        readings: dict[str, Reading] = {gpu.uuid: gpu.memory for gpu in sample.devices} or {"": sample.gpu_memory}
        totals = {gpu.uuid: gpu.memory_total for gpu in sample.devices}
        if sample.devices and "" in self._gpu_memory and self._gpu_memory[""].rung is None:
            del self._gpu_memory[""]
        for uuid in readings.keys() - self._gpu_memory.keys():
            self._gpu_memory[uuid] = SignalLadder(Signal.GPU_MEMORY, self._thresholds[Signal.GPU_MEMORY], uuid)
        overall = sample.gpu_memory
        gone = Missing(overall.reason if isinstance(overall, Missing) else "the GPU is not listed", sample.at)
        for uuid, ladder in self._gpu_memory.items():
            total = totals.get(uuid)
            loading = 100.0 * self._own.loading.get(uuid, 0) / total if total else 0.0
            ladder.observe(readings.get(uuid, gone), drilled, now, loading)

    def _gpu_memory_state(self, now: float) -> SignalState:
        """The GPU that decides, with the fullest one's percentage and every unreadable one's name."""
        states = {uuid: gpu.state(now) for uuid, gpu in self._gpu_memory.items()}
        first = max(states.values(), key=lambda s: (-1 if s.rung is None else s.rung, s.percent or 0.0))
        known = [state.percent for state in states.values() if state.percent is not None]
        missing = [
            f"{uuid}: {state.missing}" if uuid and len(states) > 1 else state.missing
            for uuid, state in states.items()
            if state.missing is not None
        ]
        paused = [state.paused_since for state in states.values() if state.paused_since is not None]
        return replace(
            first,
            percent=max(known, default=None),
            drilled=any(state.drilled for state in states.values()),
            missing="; ".join(missing) or None,
            paused_since=min(paused, default=None),
        )

    def _reminder(self, state: SignalState, now: float) -> Reminder | None:
        lasted = self._reminders[state.signal].due(state.rung, now)
        if lasted is None or state.rung is None:
            return None
        threshold = self._thresholds[state.signal].enter(state.rung)
        return Reminder(state.signal, state.rung, state.percent, threshold, state.age_s, lasted)


class _Reminders:
    """When a signal that stays above normal is to be told of again: after 10 s, 20 s, 40 s … at most 10 min apart."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._mark = REMIND_FIRST

    def due(self, rung: Rung | None, now: float) -> float | None:
        """How long the signal has been above normal, if it is time to say so."""
        if not rung:
            self._since = None
        elif self._since is None:
            self._since, self._mark = now, REMIND_FIRST
        elif now - self._since + 1e-6 >= self._mark:
            while self._mark <= now - self._since + 1e-6:
                self._mark += min(self._mark, REMIND_LONGEST)
            return now - self._since
        return None
