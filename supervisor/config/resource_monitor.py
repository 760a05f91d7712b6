"""The settings of the senses and the ladder: what is measured, how often, and at which percentages what happens.

The values written here are those of a file that writes none; what follows from what a file does write is `derive`'s.
"""

from typing import Annotated, Literal

from pydantic import Field

from supervisor.config.section import Section
from supervisor.core.model import Signal
from supervisor.core.policy import Thresholds

Percent = Annotated[float, Field(gt=0, le=100)]
RUNGS = ("warning", "shrink", "pause", "unload", "resume")
"""The five thresholds of a signal, as their keys have them."""


def threshold_key(signal: Signal, rung: str) -> str:
    """The key of one threshold, `memory_pause_threshold` for example."""
    return f"{signal.value}_{rung}_threshold"


class ResourceMonitorSettings(Section):
    """What is measured, how often, and the percentages at which something is done about it (seed section 7.1)."""

    check_interval: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    """Seconds between two decisions. Default 1.0, the seed's; raw sampling is faster where it is cheap."""

    history_size: Annotated[int, Field(ge=2, le=100_000)] = 60
    """How many decisions back the history goes. Default 60: one minute at the default interval."""

    cpu_warning_threshold: Percent | None = 80.0
    """Percent of CPU above which a warning is logged. Unwritten: pause - 10; null: no warning. Default 80."""

    cpu_shrink_threshold: Percent | None = 85.0
    """Percent of CPU above which batches get smaller. Unwritten: between warning and pause; null: never. Default 85."""

    cpu_pause_threshold: Percent | None = 90.0
    """Percent of CPU above which new work is held until there is room again. Null: never. Default 90; small: 85."""

    cpu_unload_threshold: Percent | None = 95.0
    """Percent of CPU above which models past `inactive_timeout` are unloaded. Unwritten: half-way from pause to 100;
    null: never. Default 95."""

    cpu_resume_threshold: Percent | None = 75.0
    """Percent of CPU below which held work goes on. Must be below pause. Unwritten: warning - 5. Default 75."""

    memory_warning_threshold: Percent | None = 80.0
    """Percent of memory above which a warning is logged. Unwritten: pause - 10; null: no warning. Default 80."""

    memory_shrink_threshold: Percent | None = 85.0
    """Percent of memory above which batches get smaller, and which a load has to stay below. Unwritten: between warning
    and pause; null: never. Default 85."""

    memory_pause_threshold: Percent | None = 90.0
    """Percent of memory above which new work is held until there is room again. Null: never. Default 90; small: 85."""

    memory_unload_threshold: Percent | None = 95.0
    """Percent of memory above which cold models are unloaded. Unwritten: half-way from pause to 100; null: never.
    Default 95."""

    memory_resume_threshold: Percent | None = 75.0
    """Percent of memory below which held work goes on. Must be below pause. Unwritten: warning - 5. Default 75."""

    gpu_warning_threshold: Percent | None = 80.0
    """Percent of GPU utilisation above which a warning is logged. Default 80; a busy GPU is healthy, so nothing else
    follows from it unless written."""

    gpu_shrink_threshold: Percent | None = None
    """Percent of GPU utilisation above which batches get smaller. Default null: never."""

    gpu_pause_threshold: Percent | None = None
    """Percent of GPU utilisation above which new work is held. Default null: never."""

    gpu_unload_threshold: Percent | None = None
    """Percent of GPU utilisation above which models past `inactive_timeout` are unloaded. Default null: never."""

    gpu_resume_threshold: Percent | None = None
    """Percent of GPU utilisation below which held work goes on. Used with `gpu_pause_threshold` only; unwritten then:
    warning - 5. Default null."""

    gpu_memory_warning_threshold: Percent | None = 80.0
    """Percent of GPU memory, of the fullest device, above which a warning is logged. Unwritten: pause - 10; null: no
    warning. Default 80."""

    gpu_memory_shrink_threshold: Percent | None = 85.0
    """Percent of GPU memory above which batches get smaller on that device. Unwritten: between warning and pause; null:
    never. Default 85."""

    gpu_memory_pause_threshold: Percent | None = 90.0
    """Percent of GPU memory above which new work for that device is held. Null: never. Default 90."""

    gpu_memory_unload_threshold: Percent | None = 95.0
    """Percent of GPU memory above which cold models of that device are unloaded. Unwritten: half-way from pause to 100;
    null: never. Default 95."""

    gpu_memory_resume_threshold: Percent | None = 75.0
    """Percent of GPU memory below which held work goes on. Must be below pause. Unwritten: warning - 5. Default 75."""

    cpu_hold_target: Annotated[float, Field(gt=0, lt=100)] | None = 83.0
    """Percent of CPU, everyone's use counted, up to which models are given work. Must be below shrink. Unwritten:
    shrink - 2, or null where CPU neither shrinks nor pauses; null: as much as they can. Default 83."""

    scope: Literal["host", "cgroup", "auto"] = "auto"
    """What a percent is a percent of: `host`, the `cgroup` (container) we live in, or `auto`, the default: whichever
    is tighter."""

    def thresholds(self, signal: Signal) -> Thresholds:
        """The thresholds of one signal, as the core takes them."""
        return Thresholds(**{rung: getattr(self, threshold_key(signal, rung)) for rung in RUNGS})
