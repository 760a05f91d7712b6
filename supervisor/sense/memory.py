"""Memory: how full the host is and every limited cgroup above us, how full swap is, and whether the kernel runs short.

Page cache is not use: the kernel gives it back when asked. The host's figure leaves it out by MemAvailable, a cgroup's
by taking active_file, inactive_file and slab_reclaimable off what is charged to it (version 1 does not tell its slab).
"""

import os
from dataclasses import dataclass
from pathlib import Path

from supervisor.core.model import Known, Missing, Reading
from supervisor.sense.cgroup import UNIFIED, Groups, hierarchy
from supervisor.sense.files import KernelFile, number, trouble, whole

# Limits above this mean "none" (version 1 writes 2**63 less a page); it stands in where the host's total is unknown.
NO_LIMIT = 1 << 60
LIMIT_REFRESH = 1.0
SWAP_REFRESH = 1.0
# Up to this level whether memory is short is not even asked: it only confirms growth, which counts above 70 % as well.
# So an idle daemon pays nothing for it.
SHORT_ABOVE = 70.0
# Stalls shorter than this are everyday reclaim: 1 % of the 2 s after which the kernel brings its counter up to date.
SHORT_STALL = 20_000  # µs
# A counter that was not read for longer than this tells nothing of the present.
COUNTS_FOR = 1.0


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """How full one bound on memory is; `used` and `limit` are 0 where the reading is Missing."""

    reading: Reading
    used: int = 0
    limit: int = 0


def total_memory() -> int:
    """Bytes of memory that the host has. By a call of the kernel's: /proc need not be readable."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def use_of(used: int, limit: int, now: float) -> MemoryUse:
    """`used` of `limit` bytes as a reading in percent."""
    return MemoryUse(Known(min(100.0, 100.0 * used / limit), now), used, limit)


class HostMemory:
    """The host by /proc/meminfo."""

    def __init__(self, proc: Path) -> None:
        self._meminfo = KernelFile(proc / "meminfo")
        self._swap_at = float("-inf")
        self.total: int | None = None
        self.swap_percent: float | None = None  # None: no swap, or unreadable

    def look(self, now: float) -> MemoryUse:
        """What is not available of the total; swap on the side."""
        try:
            data = self._meminfo.read()
            total, available = number(data, b"MemTotal:") * 1024, number(data, b"MemAvailable:") * 1024
            if not 0 < total >= available:
                raise ValueError(f"{available} bytes available of {total}")
        except (OSError, ValueError) as error:
            self.swap_percent = None
            return MemoryUse(Missing(trouble(self._meminfo.path, error), now))
        self.total = total
        if now - self._swap_at >= SWAP_REFRESH:
            self.swap_percent, self._swap_at = _swap_percent(data), now
        return use_of(total - available, total, now)

    def close(self) -> None:
        """Give back the descriptor."""
        self._meminfo.close()


def _swap_percent(meminfo: bytes) -> float | None:
    """How full swap is; None without any."""
    try:
        total, free = number(meminfo, b"SwapTotal:"), number(meminfo, b"SwapFree:")
    except ValueError:
        return None
    return 100.0 * (total - free) / total if 0 < total >= free else None


class MemoryLimit:
    """One cgroup above us that may limit memory."""

    def __init__(self, level: Path, version: int) -> None:
        self._version = version
        names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
        self._limits = [KernelFile(level / name) for name in names]
        self._current = KernelFile(level / ("memory.current" if version == 2 else "memory.usage_in_bytes"))
        self._stat = KernelFile(level / "memory.stat")
        self._limit: int | None = None
        self._checked_at = float("-inf")
        self.failed = False  # its use could not be read: the group may be gone

    def look(self, now: float, host_total: int | None) -> MemoryUse | None:
        """What is used of the limit and cannot be given back; None without a limit below the host's total."""
        if now - self._checked_at >= LIMIT_REFRESH:
            self._limit, self._checked_at = self._lowest_limit(), now
        if self._limit is None or self._limit > (host_total or NO_LIMIT):
            return None
        try:
            current = number(self._current.read())
            stat = self._stat.read()
            prefix = b"" if self._version == 2 else b"total_"  # version 1: with the groups below, as its usage is
            reclaimable = number(stat, prefix + b"active_file ") + number(stat, prefix + b"inactive_file ")
            if self._version == 2:
                reclaimable += number(stat, b"slab_reclaimable ")
        except (OSError, ValueError) as error:
            self.failed = True
            return MemoryUse(Missing(trouble(self._current.path.parent, error), now))
        # A limit of 0 allows nothing: whatever is used is all of it.
        return use_of(max(0, current - reclaimable), max(1, self._limit), now)

    def _lowest_limit(self) -> int | None:
        """The lowest limit that holds for this group; None without one. What cannot be read now stays as it was.

        memory.high counts as one: above it the kernel slows every process of the group down to a crawl. Version 1
        tells of the limits above, which a container may not see, as hierarchical_memory_limit.
        """
        try:
            words = [word for file in self._limits if (word := file.read().strip()) != b"max"]
            limits = [whole(word) for word in words]
            if self._version == 1:
                limits.append(number(self._stat.read(), b"hierarchical_memory_limit "))
        except (OSError, ValueError):
            return self._limit
        return min((limit for limit in limits if limit < NO_LIMIT), default=None)

    def close(self) -> None:
        """Give back the descriptors."""
        for file in (*self._limits, self._current, self._stat):
            file.close()


def memory_limits(groups: Groups) -> list[MemoryLimit]:
    """Every cgroup from our own up that may limit memory."""
    memory = hierarchy(groups, "memory")
    return [] if memory is None else [MemoryLimit(level, memory.version) for level in memory.levels]


class MemoryShortage:
    """The kernel's own word that memory is short: processes wait for it, or a cgroup ran into a limit."""

    def __init__(self, proc: Path, groups: Groups, *, host: bool, limited: bool) -> None:
        self._stalls: list[KernelFile] = [KernelFile(proc / "pressure" / "memory")] if host else []
        self._hits: list[tuple[KernelFile, tuple[bytes, ...]]] = []
        unified, memory = groups.get(UNIFIED), hierarchy(groups, "memory")
        if limited and unified is not None and (unified.own / "memory.pressure").exists():
            self._stalls.append(KernelFile(unified.own / "memory.pressure"))
        if limited and memory is not None:
            # Version 1 counts each charge that failed, so those that ended in a kill as well.
            name = "memory.events" if memory.version == 2 else "memory.failcnt"
            keys = (b"high ", b"max ", b"oom ") if memory.version == 2 else (b"",)
            self._hits = [(KernelFile(level / name), keys) for level in memory.levels if (level / name).exists()]
        self._before: dict[KernelFile, tuple[float, int]] = {}

    def look(self, reading: Reading, now: float) -> bool:
        """Whether it became short since the previous look; `reading` is how full memory is."""
        if isinstance(reading, Missing) or reading.value <= SHORT_ABOVE:
            return False
        stalled = [self._risen(file, _stalled(file), now) >= SHORT_STALL for file in self._stalls]
        hit = [self._risen(file, _hits(file, keys), now) > 0 for file, keys in self._hits]
        return any(stalled) or any(hit)

    def _risen(self, file: KernelFile, count: int | None, now: float) -> int:
        """By how much a counter grew since the previous look; 0 if that was long ago or one could not be read."""
        if count is None:
            self._before.pop(file, None)
            return 0
        at, before = self._before.get(file, (float("-inf"), 0))
        self._before[file] = now, count
        return count - before if now - at <= COUNTS_FOR else 0

    def close(self) -> None:
        """Give back the descriptors."""
        for file in (*self._stalls, *(file for file, _ in self._hits)):
            file.close()


def _stalled(file: KernelFile) -> int | None:
    """Microseconds for which some process waited for memory so far; None when that can't be read."""
    try:
        line = next(line for line in file.read().splitlines() if line.startswith(b"some "))
        return whole(line.rpartition(b" total=")[2])
    except (OSError, ValueError, StopIteration):
        return None


def _hits(file: KernelFile, keys: tuple[bytes, ...]) -> int | None:
    """How often limits were run into so far; None when that can't be read."""
    try:
        data = file.read()
        return sum(number(data, key) for key in keys)
    except (OSError, ValueError):
        return None
