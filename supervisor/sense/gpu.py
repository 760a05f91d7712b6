"""GPUs as the event loop sees them: the last report of the NVML thread, Missing once that is silent for too long.

Owns the deadline. The thread itself, and every call that may hang, is `nvml`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from supervisor.core.model import GpuDevice, Known, Missing, Reading
from supervisor.sense.nvml import NvmlThread

# A driver that answers does so within milliseconds, within a second when it wakes a card up.
SILENCE = 3.0


@dataclass(frozen=True, slots=True)
class GpuLook:
    """The fullest device's utilisation and memory, and all devices."""

    gpu: Reading
    gpu_memory: Reading
    devices: tuple[GpuDevice, ...] = ()


class GpuSense:
    """What is known of the GPUs; costs the caller nothing but a look at the last report."""

    def __init__(self, thread: NvmlThread | None = None) -> None:
        self._thread = thread or NvmlThread()

    def start(self) -> None:
        """Begin to ask NVML, if there is one."""
        self._thread.start()

    def close(self) -> None:
        """Stop asking; returns soon even when NVML hangs."""
        self._thread.close()

    @property
    def memory_by_pid(self) -> Mapping[int, int]:
        """Bytes of GPU memory by process; what the driver does not tell is not in it."""
        report = self._thread.report
        return report.memory_by_pid if report is not None else {}

    def look(self, now: float) -> GpuLook:
        """The last report, or why there is none."""
        report = self._thread.report
        if report is None:
            since = self._thread.started_at
            if since is None or now - since < SILENCE:
                return _nothing("NVML has not answered yet" if since is not None else "not started", now)
            return _nothing(_silence(now - since), now)
        if now - report.silent_from >= SILENCE:
            reason = Missing(_silence(now - report.silent_from), now)
            devices = tuple(replace(device, utilisation=reason, memory=reason) for device in report.devices)
            return GpuLook(reason, reason, devices)
        if not report.devices:
            return _nothing(report.missing or "no GPU", now)
        return GpuLook(
            _fullest([device.utilisation for device in report.devices], now),
            _fullest([device.memory for device in report.devices], now),
            report.devices,
        )


def _silence(seconds: float) -> str:
    return f"NVML has not answered for {int(seconds)} s"


def _nothing(reason: str, now: float) -> GpuLook:
    missing = Missing(reason, now)
    return GpuLook(missing, missing)


def _fullest(readings: list[Reading], now: float) -> Reading:
    """The highest of the known ones; else why the first is missing.

    A device that cannot be read does not hide the others here: the ladder looks at each device on its own.
    """
    known = [reading for reading in readings if isinstance(reading, Known)]
    if known:
        return max(known, key=lambda reading: reading.value)
    reasons = [reading.reason for reading in readings if isinstance(reading, Missing)]
    return Missing(reasons[0], now)
