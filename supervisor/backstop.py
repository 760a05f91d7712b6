"""The backstop of the CPU hold in force: what `supervisor.core.backstop` decides, carried to where it limits.

Owns nothing but the two ends: the counter of what the workers used, and the limit on them.
"""

from typing import Protocol

from supervisor.core.backstop import Backstop


class CpuLimit(Protocol):
    """A limit on the CPU of all workers together; never raises."""

    def cpu_seconds(self) -> float | None:
        """What the workers used so far, in core-seconds; None where nothing can be limited."""

    def set_limit(self, cores: float | None) -> None:
        """Let the workers together use so many cores from now on; None: as many as they can."""


class CpuBackstop:
    """Keeps the limit where it belongs; does nothing without one."""

    def __init__(self, limit: CpuLimit | None = None) -> None:
        self._limit = limit
        self._decided = Backstop()

    def observe(self, busy: float | None, now: float) -> None:
        """Take a look at the host, at 10 Hz: everyone together uses `busy` cores (None: unknown)."""
        own = self._limit.cpu_seconds() if self._limit is not None else None
        if own is not None:
            self._decided.observe(busy, own, now)

    def follow(self, cores: float, pause: float | None, hold: float | None, now: float) -> None:
        """Once a tick: keep the workers, with what others use, between these levels in percent of `cores`."""
        if self._limit is not None and self._decided.step(cores, pause, hold, now):
            self._limit.set_limit(self._decided.limit)
