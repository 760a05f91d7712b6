"""From an assessment to orders for the data plane: which gates are closed, how large parts may be, what trickles.

Owns the gates' memory (when each was closed and reopened). Orders are recomputed whole each tick; giving the same ones
again changes nothing but grants the next trickled part.
"""

from collections.abc import Mapping, Sequence

from supervisor.core.assessment import Assessment
from supervisor.core.hysteresis import MARGIN
from supervisor.core.model import LaneOrders, ModelView, Orders, Rung, Signal
from supervisor.core.policy import BatchPolicy

# The most parts at one worker (behaviour.md 4). One running and one staged keep it busy; whether more pay off is found
# out by the lane. From shrink on only the running one.
WINDOW = 4
WINDOW_SHRUNK = 1
# About how long a part may take on the CPU: what a query waits for at most, twice (behaviour.md 4).
PART_SECONDS = 0.2
PART_SECONDS_SHRUNK = 0.1
# In shrink the hold aims this far below the level at which shrink is left. (Simulated with the usual target, 83 %,
# above that level, 80 %: shrink was never left.)
HOLD_BELOW = 2.0
# A pause older than this lets one smallest part through per check interval (behaviour.md 2, "never dead").
TRICKLE_AFTER = 10.0
# On a CPU's account only one in this many times the length of our longest part: rows of 3 s that trickled without a gap
# kept the CPU at 100 % by themselves, and so the gate shut for ever (simulated).
TRICKLE_SPACING = 1.5
# A reopened gate grows from the smallest part to the full one over this time (behaviour.md 2, slow start).
SLOW_START = 10.0


class Planner:
    """Turns what was assessed into what the data plane may do."""

    def __init__(self) -> None:
        self._closed: set[str] = set()
        self._reopened_at: dict[str, float] = {}
        self._trickled_at = float("-inf")

    def orders(
        self,
        assessment: Assessment,
        models: Sequence[ModelView],
        batch: BatchPolicy,
        batch_size: int,
        *,
        operator_paused: bool,
        now: float,
        cpu_hold: float | None = None,
        longest_part: float = 0.0,
    ) -> Orders:
        """The orders for this tick; `cpu_hold` is the target that the operator chose, in percent.

        `longest_part` is the age or length in seconds of the longest part that runs or ended just now.

        1. A model's rung is the host's (CPU, memory), or its device's where that is higher.
        2. Its gate is closed from pause on, and while an operator says so.
        3. A gate that was reopened less than `SLOW_START` s ago works with the smallest window and a growing part.
        4. From shrink on the window is one part, and that one shorter. Only the CPU's parts are bounded in time: a GPU
           is used well by full batches only.
        5. A ladder's pause older than `TRICKLE_AFTER` s, of a signal that is really measured, trickles; the CPU's not
           so fast that this alone would keep it.
        """
        host = host_rung(assessment)
        lanes: dict[str, LaneOrders] = {}
        for model in models:
            rung = max(host, device_rung(assessment, model.device))  # 1
            closed = operator_paused or rung >= Rung.PAUSE  # 2
            self._remember(model.name, closed, now)
            size, window, seconds = batch_size, WINDOW, PART_SECONDS
            since = self._reopened_at.get(model.name)
            if since is not None:  # 3
                size = max(batch.minimum, int(batch_size * (now - since) / SLOW_START))
                window = WINDOW_SHRUNK
            if rung >= Rung.SHRINK:  # 4
                window, seconds = WINDOW_SHRUNK, PART_SECONDS_SHRUNK
            lanes[model.name] = LaneOrders(
                open=not closed,
                batch_size=size,
                window=window,
                part_seconds=seconds if model.device == "cpu" else None,
            )
        paused = (
            operator_paused or host >= Rung.PAUSE or (bool(lanes) and not any(lane.open for lane in lanes.values()))
        )
        return Orders(
            paused=paused,
            reason=reason(assessment, operator_paused),
            lanes=lanes,
            trickle=not operator_paused and self._trickles(assessment, longest_part, now),  # 5
            trickle_size=batch.minimum,
            cpu_hold=hold_target(assessment, cpu_hold),
        )

    def _remember(self, name: str, closed: bool, now: float) -> None:
        if closed:
            self._closed.add(name)
            self._reopened_at.pop(name, None)
        elif name in self._closed:
            self._closed.discard(name)
            self._reopened_at[name] = now
        elif now - self._reopened_at.get(name, now) >= SLOW_START:
            del self._reopened_at[name]

    def _trickles(self, assessment: Assessment, longest_part: float, now: float) -> bool:
        paused = [
            state.signal
            for state in assessment.signals.values()
            if state.paused_since is not None and now - state.paused_since >= TRICKLE_AFTER and not state.drilled
        ]
        if not paused or (paused == [Signal.CPU] and now - self._trickled_at < TRICKLE_SPACING * longest_part):
            return False
        self._trickled_at = now
        return True


def host_rung(assessment: Assessment) -> Rung:
    """The rung that acts on every model: the higher one of CPU and memory."""
    return max(signal_rung(assessment, Signal.CPU), signal_rung(assessment, Signal.MEMORY))


def hold_target(assessment: Assessment, chosen: float | None) -> float | None:
    """What the CPU hold aims at now, in percent: what was chosen, from shrink on low enough for shrink to be left."""
    state = assessment.signals.get(Signal.CPU)
    if chosen is None or state is None or state.shrink_at is None or (state.rung or Rung.NORMAL) < Rung.SHRINK:
        return chosen
    return max(0.0, min(chosen, state.shrink_at - MARGIN - HOLD_BELOW))


def device_rung(assessment: Assessment, device: str) -> Rung:
    """The rung that acts on the models of one device only; normal for "cpu".

    An unnamed device in the assessment ("", a drill where there is no GPU) stands for all of them.
    """
    if device == "cpu":
        return Rung.NORMAL
    devices: Mapping[str, Rung] = assessment.devices
    return max(
        signal_rung(assessment, Signal.GPU),
        devices.get(device, Rung.NORMAL),
        devices.get("", Rung.NORMAL),
    )


def reason(assessment: Assessment, operator_paused: bool) -> str | None:
    """Why the host is where it is, for status: "operator", the deciding signal, or None when all is normal."""
    if operator_paused:
        return "operator"
    if assessment.rung is Rung.NORMAL or assessment.signal is None:
        return None
    state = assessment.signals[assessment.signal]
    if state.missing is not None:
        return f"{state.signal.value} unreadable: {state.missing}"
    return f"{state.signal.value} {state.percent:.1f} %" if state.percent is not None else state.signal.value


def signal_rung(assessment: Assessment, signal: Signal) -> Rung:
    """One signal's rung; normal where it could never be read."""
    state = assessment.signals.get(signal)
    return Rung.NORMAL if state is None or state.rung is None else state.rung


def hands_off(orders: Orders, batch_size: int, paused: bool) -> Orders:
    """Orders that touch nothing: every part as large as Infinity's own batch, the CPU not held, every gate open unless
    an operator, who was not asked to observe, holds them shut."""
    lanes = {name: LaneOrders(not paused, batch_size, WINDOW, None) for name in orders.lanes}
    return Orders(paused=paused, reason=orders.reason, lanes=lanes)
