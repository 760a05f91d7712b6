"""Pressure stall information: how much of the last 10 s somebody waited for CPU or memory, in percent.

Absent on many kernels (before 4.20, or without psi=1); then simply nothing is told.
"""

from pathlib import Path

from supervisor.sense.cgroup import UNIFIED, Groups
from supervisor.sense.files import KernelFile

# The kernel averages every 2 s; reading more often shows nothing new.
REFRESH = 1.0
_WANTED = (("cpu", "some"), ("memory", "some"), ("memory", "full"))


class Pressure:
    """Host and, where it has a group of its own, cgroup pressure: `cpu_some`, `memory_full`, `cgroup_cpu_some` …"""

    def __init__(self, proc: Path, groups: Groups) -> None:
        self._files = {resource: KernelFile(proc / "pressure" / resource) for resource in ("cpu", "memory")}
        own = groups.get(UNIFIED)
        # cgroup.type exists everywhere but in the real root, whose pressure is the host's told once more.
        if own is not None and (own.own / "cgroup.type").exists():
            for resource in ("cpu", "memory"):
                self._files[f"cgroup_{resource}"] = KernelFile(own.own / f"{resource}.pressure")
        self._read_at = float("-inf")
        self._percents: dict[str, float] = {}

    def look(self, now: float) -> dict[str, float]:
        """The share of the last 10 s by name; what cannot be read is not in it."""
        if now - self._read_at >= REFRESH:
            self._read_at = now
            self._percents = {}
            for name, file in self._files.items():
                try:
                    data = file.read()
                except OSError:
                    continue
                for resource, kind in _WANTED:
                    percent = _avg10(data, kind.encode()) if name.endswith(resource) else None
                    if percent is not None:
                        self._percents[f"{name}_{kind}"] = percent
        return self._percents

    def close(self) -> None:
        """Give back the descriptors."""
        for file in self._files.values():
            file.close()


def _avg10(data: bytes, kind: bytes) -> float | None:
    """The 10 s average on the line of `kind`."""
    for line in data.splitlines():
        if line.startswith(kind + b" avg10="):
            try:
                percent = float(line.split(None, 2)[1].removeprefix(b"avg10="))
            except ValueError:
                return None
            return percent if 0.0 <= percent <= 100.0 else None
    return None
