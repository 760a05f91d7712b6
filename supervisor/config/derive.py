"""What follows from what is written: profiles (seed section 7.2), thresholds and the initial batch size.

Owns every value that depends on another one. Checks nothing: nonsense in, nonsense out, for `rules` to find.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from supervisor.config.resource_monitor import RUNGS, ResourceMonitorSettings, threshold_key
from supervisor.config.section import Section
from supervisor.config.settings import BatchControllerSettings, Settings
from supervisor.core.model import Signal

SectionT = TypeVar("SectionT", bound=Section)
HOLD_BELOW_SHRINK = 2.0
"""Points between shrink and the target of the CPU hold, so that the hold's own ripple does not reach shrink."""
Given = Mapping[str, float | None]
"""Thresholds of one signal by rung, None for a rung that is off."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A row of the seed's table 7.2: percentages, inputs, models."""

    cpu_pause: float = 90.0
    memory_pause: float = 90.0
    max_batch_size: int = 32
    max_models_in_memory: int = 3

    def pause(self, signal: Signal) -> float:
        """Where that signal pauses unless the file says otherwise."""
        return {Signal.CPU: self.cpu_pause, Signal.MEMORY: self.memory_pause}.get(signal, 90.0)


PROFILES: Mapping[str | None, Profile] = {
    None: Profile(),
    "small": Profile(cpu_pause=85.0, memory_pause=85.0, max_batch_size=8, max_models_in_memory=1),
    "medium": Profile(max_batch_size=16, max_models_in_memory=2),
    "large": Profile(max_batch_size=32, max_models_in_memory=3),
    "gpu": Profile(max_batch_size=64, max_models_in_memory=4),
}


def derived(settings: Settings) -> Settings:
    """The settings with all that was not written filled in from the profile and from what was."""
    profile = PROFILES[settings.profile]
    monitor, batch, residency = settings.resource_monitor, settings.batch_controller, settings.model_memory_manager
    return settings.model_copy(
        update={
            "resource_monitor": _with(monitor, _monitor_values(monitor, profile)),
            "batch_controller": _with(batch, _batch_values(batch, profile)),
            "model_memory_manager": _with(residency, {"max_models_in_memory": profile.max_models_in_memory}),
        }
    )


def thresholds_from(written: Given, pause_default: float, *, warns_only: bool) -> Given:
    """A signal's five thresholds by rung, from those that are written (None in `written`: that rung is switched off).

    warning = pause - 10, resume = warning - 5, shrink half-way from warning to pause, unload half-way from pause to
    100. A rung that is off still tells where the others stand: without a warning, resume is pause - 15. A signal that
    `warns_only` (GPU utilisation) has the other rungs only as far as they are written.
    """
    pause = written.get("pause", None if warns_only else pause_default)
    pause_at = pause_default if pause is None else pause
    warning = written.get("warning", pause_at - 10)
    warning_at = pause_at - 10 if warning is None else warning
    follows = {
        "warning": warning,
        "shrink": None if warns_only else (warning_at + pause_at) / 2,
        "pause": pause,
        "unload": None if warns_only else (pause_at + 100) / 2,
        "resume": None if pause is None else warning_at - 5,
    }
    return {rung: _tidy(value) for rung, value in {**follows, **written}.items()}


def written_thresholds(monitor: ResourceMonitorSettings, signal: Signal) -> Given:
    """The thresholds of a signal that the file has, by rung."""
    keys = {rung: threshold_key(signal, rung) for rung in RUNGS}
    return {rung: getattr(monitor, key) for rung, key in keys.items() if key in monitor.model_fields_set}


def _monitor_values(monitor: ResourceMonitorSettings, profile: Profile) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for signal in Signal:
        written = written_thresholds(monitor, signal)
        thresholds = thresholds_from(written, profile.pause(signal), warns_only=signal is Signal.GPU)
        values |= {threshold_key(signal, rung): value for rung, value in thresholds.items()}
        if signal is Signal.CPU:
            values["cpu_hold_target"] = _hold_from(thresholds, profile.pause(signal))
    return values


def _hold_from(cpu: Given, pause_default: float) -> float | None:
    """The target of the CPU hold: 2 points below shrink, or below where shrink would stand if that rung is off.

    None where neither shrink nor pause is on: whoever limits nothing has nothing to stay below. A very low shrink
    leaves half of it.
    """
    shrink = cpu["shrink"]
    if shrink is None:
        if cpu["pause"] is None:
            return None
        on = {rung: cpu[rung] for rung in ("warning", "pause")}
        shrink = thresholds_from(on, pause_default, warns_only=False)["shrink"] or 0.0
    return _tidy(max(shrink - HOLD_BELOW_SHRINK, shrink / 2))


def _batch_values(batch: BatchControllerSettings, profile: Profile) -> dict[str, Any]:
    maximum = batch.max_batch_size if "max_batch_size" in batch.model_fields_set else profile.max_batch_size
    return {"max_batch_size": maximum, "initial_batch_size": max(batch.min_batch_size, maximum // 2)}


def _with(section: SectionT, values: Mapping[str, Any]) -> SectionT:
    """The section with those of `values` that it does not have written itself."""
    missing = values.keys() - section.model_fields_set
    return section.model_copy(update={key: values[key] for key in missing})


def _tidy(value: float | None) -> float | None:
    """Without the tail that binary fractions leave (82.3 - 10 = 72.3)."""
    return None if value is None else round(value, 6)
