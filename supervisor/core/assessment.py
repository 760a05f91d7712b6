"""What the ladder says of the host: each signal's state, each move with its evidence, what is due to be told again.

Values only; `supervisor.core.ladder` makes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from supervisor.core.model import Rung, Signal


@dataclass(frozen=True, slots=True)
class SignalState:
    """One signal as decisions see it now; for GPU memory the device that decides, with the fullest one's percentage.

    `percent` is None while it cannot be read, and `missing` says why; `rung` is None if it never could be and no drill
    stands in. `age_s` is that of the newest value. `paused_since` is when it went to pause or above.
    `shrink_at` is its shrink threshold: without one it has no say in the batch size.
    """

    signal: Signal
    percent: float | None
    rung: Rung | None
    age_s: float | None
    trend_per_min: float | None
    drilled: bool
    missing: str | None
    paused_since: float | None
    shrink_at: float | None


@dataclass(frozen=True, slots=True)
class Transition:
    """One move of one signal (or GPU, by `device`) on the ladder, with its evidence.

    `percent` is the figure that decided: the reading on the way up, the mean over the quiet time on the way down, the
    last known value when the signal is blind. `threshold` is what it was held against, None where no figure was.
    """

    signal: Signal
    device: str | None
    before: Rung
    after: Rung
    percent: float
    threshold: float | None
    age_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Reminder:
    """A signal that has been above normal for `lasted_s` seconds and is to be told of again."""

    signal: Signal
    rung: Rung
    percent: float | None
    threshold: float | None
    age_s: float | None
    lasted_s: float


@dataclass(frozen=True, slots=True)
class Assessment:
    """The whole ladder at one moment.

    `rung` is the highest of all signals, `signal` the one that decided (None at normal). `devices` are the GPUs' own
    rungs by UUID; "" stands for all of them where none is listed (a drill without a GPU).
    """

    at: float
    rung: Rung
    rung_before: Rung
    signal: Signal | None
    signals: Mapping[Signal, SignalState]
    devices: Mapping[str, Rung]
    transitions: tuple[Transition, ...]
    reminders: tuple[Reminder, ...] = ()

    @property
    def deciding(self) -> Transition | None:
        """The signal's move that moved the whole ladder, None when the ladder stands where it stood."""
        if self.rung > self.rung_before:
            moves = [move for move in self.transitions if move.after is self.rung]
        elif self.rung < self.rung_before:
            moves = [move for move in self.transitions if move.before is self.rung_before]
        else:
            moves = []
        return next((move for move in moves if move.signal is self.signal), moves[0] if moves else None)
