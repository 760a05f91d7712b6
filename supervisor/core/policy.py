"""What the operator chose, as the decisions need it: thresholds, batch sizes, models in memory.

Values only; the YAML, its defaults and its derivations are `supervisor.config`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from supervisor.core.model import Rung, Signal


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Percentages at which one signal enters each rung, and the one below which pause is left; None = rung off."""

    warning: float | None = 80.0
    shrink: float | None = 85.0
    pause: float | None = 90.0
    unload: float | None = 95.0
    resume: float | None = 75.0

    def enter(self, rung: Rung) -> float | None:
        """The percentage at which `rung` is entered; None when that rung is off (or `rung` is normal)."""
        return {
            Rung.NORMAL: None,
            Rung.WARN: self.warning,
            Rung.SHRINK: self.shrink,
            Rung.PAUSE: self.pause,
            Rung.UNLOAD: self.unload,
        }[rung]


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """The seed's BatchConfig (section 3.1): sizes in inputs, thresholds as ratios 0 to 1, cooldown in seconds."""

    minimum: int = 1
    maximum: int = 32
    initial: int = 16
    increase_threshold: float = 0.70
    decrease_threshold: float = 0.85
    step: int = 2
    cooldown: float = 5.0


class Eviction(StrEnum):
    """Which of the models that nobody uses makes room for another first."""

    LRU = "lru"  # the one used least recently
    LFU = "lfu"  # the one used least often
    COST = "cost"  # the one that is cheapest to lose: long idle, large, quick to load again


@dataclass(frozen=True, slots=True)
class ResidencyPolicy:
    """The seed's ModelMemoryManager settings (section 4.1); times in seconds, `inactive_timeout` 0 = never.

    A worker that has grown by `recycle_growth` bytes since it was loaded, or grows by `recycle_slope` bytes an hour, is
    replaced; None = only when memory is short.
    """

    max_models: int = 3
    inactive_timeout: float = 300.0
    cleanup_interval: float = 60.0
    eviction: Eviction = Eviction.LRU
    recycle_growth: int | None = None
    recycle_slope: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything the operator chose that a decision depends on.

    `cpu_hold` is the target of the CPU hold in percent of the host's cores, None for none.
    """

    thresholds: Mapping[Signal, Thresholds]
    batch: BatchPolicy
    residency: ResidencyPolicy
    check_interval: float = 1.0
    history_size: int = 60
    observe: bool = False
    cpu_hold: float | None = 83.0
