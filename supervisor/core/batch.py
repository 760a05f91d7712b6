"""The batch size (seed section 3): how many inputs a part may have at most.

Owns the size and the clock of its steps. It reads rungs and readings from an assessment and knows nothing of how they
came about; that the size acts at once, by the parts the dispatcher sends, is the dispatcher's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.core.assessment import Assessment, SignalState
from supervisor.core.hysteresis import MARGIN
from supervisor.core.model import Rung, Signal
from supervisor.core.policy import BatchPolicy

# A batch that was lowered grows again when every signal has been below shrink for this long: under a CPU hold at 83 %
# no reading is ever below `increase_threshold` (simulated: it stepped down to 1 and never came back, 24 rows/s for 63).
CALM = 30.0


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One step of the batch size: the signal that decided (the fullest, on the way up) and what it was held against."""

    size_before: int
    size_after: int
    signal: Signal
    percent: float | None
    threshold: float


class BatchSizeController:
    """Steps the batch size down under pressure and up again, one step per cooldown, within its limits."""

    def __init__(self, policy: BatchPolicy) -> None:
        self.policy = policy
        self.size = policy.initial
        self.adjustments = 0
        self._adjusted_at = float("-inf")
        self._calm_since: float | None = None

    def adjust(self, assessment: Assessment, gate_closed: bool, now: float, working: bool = True) -> Adjustment | None:
        """The step that is due, if any; made when this returns.

        1. Only signals with a shrink threshold that were ever read have a say.
        2. No step while the gate is closed, or within the cooldown of the last.
        3. Down when one is on shrink or above, unless it is already back below `increase_threshold`; also when a memory
           is above `decrease_threshold`. A memory that stands between leaving shrink and entering it holds the size: it
           may stand there for good, and smaller batches give no memory back.
        4. Up when all are below `increase_threshold`, or all have been below shrink for 30 s. Beyond the initial size
           only while there is work (`working`): an idle host proves nothing about larger batches.
        """
        states = [s for s in assessment.signals.values() if s.shrink_at is not None and s.rung is not None]  # 1
        shrunk = any(state.rung is not None and state.rung >= Rung.SHRINK for state in states)
        self._calm_since = None if shrunk else now if self._calm_since is None else self._calm_since
        if gate_closed or not states or now - self._adjusted_at + 1e-6 < self.policy.cooldown:  # 2
            return None
        for state in sorted(states, key=lambda state: state.rung or 0, reverse=True):  # 3
            threshold = self._lowers_at(state)
            if threshold is not None:
                return self._step(-self.policy.step, state, threshold, now)
        if self._may_grow(states, now) and (working or self.size < self.policy.initial):  # 4
            fullest = max(states, key=lambda state: state.percent or 0.0)
            limit = self.policy.maximum if working else self.policy.initial
            step = min(self.policy.step, limit - self.size)
            return self._step(step, fullest, 100 * self.policy.increase_threshold, now)
        return None

    def reset(self) -> None:
        """Back to the initial size, as if just started."""
        self.size = self.policy.initial
        self.adjustments = 0
        self._adjusted_at = float("-inf")
        self._calm_since = None

    def set_policy(self, policy: BatchPolicy) -> None:
        """Go on under other limits; the size is kept as far as they allow."""
        self.policy = policy
        self.size = self._within(self.size)

    def stats(self) -> dict[str, int]:
        """The seed's statistics (section 3.1, `get_stats`)."""
        return {
            "current_batch_size": self.size,
            "adjustment_count": self.adjustments,
            "min_batch_size": self.policy.minimum,
            "max_batch_size": self.policy.maximum,
        }

    def _lowers_at(self, state: SignalState) -> float | None:
        """The percentage that makes this signal lower the batch, None when it does not."""
        decrease, shrink = 100 * self.policy.decrease_threshold, state.shrink_at
        if shrink is None or state.rung is None:
            return None
        memory, percent = state.signal in (Signal.MEMORY, Signal.GPU_MEMORY), state.percent
        back = percent is not None and percent < 100 * self.policy.increase_threshold
        held = memory and percent is not None and shrink - MARGIN <= percent < shrink
        if state.rung >= Rung.SHRINK and not (back or held):
            return shrink
        return decrease if memory and percent is not None and percent > decrease else None

    def _may_grow(self, states: Sequence[SignalState], now: float) -> bool:
        increase = 100 * self.policy.increase_threshold
        roomy = all(state.percent is not None and state.percent < increase for state in states)
        return roomy or (self._calm_since is not None and now - self._calm_since + 1e-6 >= CALM)

    def _step(self, by: int, state: SignalState, threshold: float, now: float) -> Adjustment | None:
        before, self.size = self.size, self._within(self.size + by)
        if self.size == before:
            return None
        self._adjusted_at = now
        self.adjustments += 1
        return Adjustment(before, self.size, state.signal, state.percent, threshold)

    def _within(self, size: int) -> int:
        return max(self.policy.minimum, min(self.policy.maximum, size))
