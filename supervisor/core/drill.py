"""Drills: injected pressure. The readings of named signals are replaced for a time; everything behind is real.

Owns which signals are drilled and until when. Nothing else in the house puts a value in the place of a reading.
"""

from collections.abc import Mapping
from dataclasses import replace

from supervisor.core.model import Known, Sample, Signal


class Drills:
    """The drills in force; each signal has its own end."""

    def __init__(self) -> None:
        self._drills: dict[Signal, tuple[float, float]] = {}

    def set(self, signals: Mapping[Signal, float], until: float) -> None:
        """Replace the readings of these signals by these percentages until the clock shows `until`.

        A signal that is drilled already gets the new value and end; others keep theirs.
        """
        self._drills |= {signal: (percent, until) for signal, percent in signals.items()}

    def clear(self) -> None:
        """End every drill."""
        self._drills.clear()

    def active(self, now: float) -> Mapping[Signal, float]:
        """The percentages now in force by signal."""
        return {signal: percent for signal, (percent, until) in self._drills.items() if now < until}

    def apply(self, sample: Sample, now: float) -> tuple[Sample, frozenset[Signal]]:
        """The sample with the drilled readings in place, on every GPU too, and which signals those are."""
        active = self.active(now)
        if not active:
            self._drills.clear()
            return sample, frozenset()
        readings = {signal: Known(percent, sample.at) for signal, percent in active.items()}
        devices = tuple(
            replace(
                device,
                utilisation=readings.get(Signal.GPU, device.utilisation),
                memory=readings.get(Signal.GPU_MEMORY, device.memory),
            )
            for device in sample.devices
        )
        replaced = replace(
            sample,
            cpu=readings.get(Signal.CPU, sample.cpu),
            memory=readings.get(Signal.MEMORY, sample.memory),
            gpu=readings.get(Signal.GPU, sample.gpu),
            gpu_memory=readings.get(Signal.GPU_MEMORY, sample.gpu_memory),
            devices=devices,
        )
        return replaced, frozenset(active)
