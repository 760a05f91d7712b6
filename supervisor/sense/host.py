"""The host and our cgroups as one: the highest of what is known, in the scope the operator chose.

Owns the sensors built for one set of cgroups and the rule that joins them. When our place among the cgroups changes,
the monitor builds another one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from supervisor.core.model import Known, Missing, Reading
from supervisor.sense.cgroup import Groups
from supervisor.sense.cpu import CpuQuota, HostCpu, cpu_quotas
from supervisor.sense.memory import HostMemory, MemoryLimit, MemoryShortage, MemoryUse, memory_limits
from supervisor.sense.pressure import Pressure

Scope = Literal["host", "cgroup", "auto"]
Bound = HostCpu | CpuQuota | HostMemory | MemoryLimit


@dataclass(frozen=True, slots=True)
class HostLook:
    """One look at CPU, memory, swap and pressure."""

    cpu: Reading
    memory: MemoryUse
    cores: float
    swap_percent: float | None
    pressure: Mapping[str, float]
    memory_short: bool = False


class HostSenses:
    """CPU and memory of the host, of the cgroups above us, or the higher of both."""

    def __init__(self, scope: Scope, proc: Path, groups: Groups) -> None:
        self._scope = scope
        self._cpu = HostCpu(proc, groups)
        self._memory = HostMemory(proc)
        self._pressure = Pressure(proc, groups)
        limited = scope != "host"
        self._quotas = cpu_quotas(groups) if limited else []
        self._limits = memory_limits(groups) if limited else []
        self._shortage = MemoryShortage(proc, groups, host=scope != "cgroup", limited=limited)
        self._known: set[Bound] = set()  # what gave a value at least once

    @property
    def failed(self) -> bool:
        """A cgroup that could be read cannot be read any more: it may have gone, or we were moved."""
        bounds: list[CpuQuota | MemoryLimit] = [*self._quotas, *self._limits]
        return any(bound.failed for bound in bounds if bound in self._known)

    def look(self, now: float) -> HostLook:
        """Everything once; never raises."""
        memory = self._memory_use(now)
        cpu = self._cpu_share(now)
        short = self._shortage.look(memory.reading, now)
        return HostLook(cpu, memory, self._cores(), self._memory.swap_percent, self._pressure.look(now), short)

    def _cpu_share(self, now: float) -> Reading:
        """The highest share that counts in this scope.

        1. Scope host: the cores we may use. 2. Scope cgroup: the quotas, and the cores only where there is no quota:
        neighbours on a large host are then none of our business. 3. Scope auto: all of them.
        """
        looks: dict[Bound, Reading] = {
            quota: reading for quota in self._quotas if (reading := quota.look(now)) is not None
        }
        cores = self._cpu.look(now)
        if not looks or self._scope != "cgroup":
            looks[self._cpu] = cores
        return self._highest(looks)

    def _memory_use(self, now: float) -> MemoryUse:
        """The fullest bound that counts in this scope."""
        host = self._memory.look(now)
        uses: dict[Bound, MemoryUse] = {
            limit: use for limit in self._limits if (use := limit.look(now, self._memory.total)) is not None
        }
        if self._scope != "cgroup":
            uses[self._memory] = host
        if not uses:
            return MemoryUse(Missing("no cgroup above us limits memory", now))
        reading = self._highest({bound: use.reading for bound, use in uses.items()})
        return next(use for use in uses.values() if use.reading is reading)

    def _highest(self, looks: dict[Bound, Reading]) -> Reading:
        """The highest of them.

        1. What was known and is Missing now makes the whole Missing: the rest is only a lower bound.
        2. What never was known is left out: a container may be shown a limit and not its use.
        """
        self._known.update(bound for bound, reading in looks.items() if isinstance(reading, Known))
        missing = [bound for bound, reading in looks.items() if isinstance(reading, Missing)]
        for bound in missing:
            if bound in self._known or len(missing) == len(looks):
                return looks[bound]  # 1
        known = [reading for reading in looks.values() if isinstance(reading, Known)]
        return max(known, key=lambda reading: reading.value)  # 2

    def _cores(self) -> float:
        """How many cores' worth of CPU time we may use."""
        quotas = [quota.cores for quota in self._quotas if quota.cores is not None]
        return min([float(self._cpu.cores), *quotas])

    def close(self) -> None:
        """Give back every descriptor."""
        self._pressure.close()
        self._shortage.close()
        bounds: list[Bound] = [self._cpu, self._memory, *self._quotas, *self._limits]
        for bound in bounds:
            bound.close()
