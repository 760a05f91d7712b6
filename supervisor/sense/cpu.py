"""CPU: the busy share of the cores we may use, and of the CPU time our cgroups may use.

Owns the counters of the previous look. Busy is whatever is not idle: waiting for a disk (iowait) leaves the core free
for others, so it is idle; time a hypervisor took away while a virtual core had work (steal) was wanted and is not to
be had, so it is busy; guest time is already part of user time.
"""

import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from supervisor.core.model import Known, Missing, Reading
from supervisor.sense.cgroup import Groups, Hierarchy, hierarchy
from supervisor.sense.files import KernelFile, cpu_list, number, trouble, whole

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Two looks closer than this see one or two ticks of the counters: noise, so the last reading stands.
SHORTEST_LOOK = 0.02
# Counters that do not move for this long are no reading any more.
STANDSTILL = 1.0
# Idle time may step back a little from read to read (proc_stat(5)); more than this is a reset (hot-plug, migration).
DITHER_TICKS = TICKS_PER_SECOND
# A core that counted this many seconds more than three times what passed has jumped (a known bug of steal time).
JUMP_SLACK = 1.0
# Which cores are ours changes rarely: affinity, cpuset, hot-plug.
CPUS_REFRESH = 5.0
QUOTA_REFRESH = 1.0
# The kernel hands out a quota by periods of 100 ms: a group that burns its share early in each one reads 200 % and 0 %
# in turn at 10 Hz. Five whole periods even that out and still show a step within 0.5 s.
QUOTA_WINDOW = 0.5

FIRST_LOOK = "first look"

Times = Mapping[int, tuple[int, int]]  # by CPU number: busy ticks, idle ticks


def cpu_times(data: bytes) -> dict[int, tuple[int, int]]:
    """Busy and idle ticks of every online CPU in the text of /proc/stat; raises ValueError."""
    head, rest, _ = data.partition(b"\nintr")
    if not rest:  # cut off: the last line may be half a line
        head = head[: head.rfind(b"\n") + 1]
    times: dict[int, tuple[int, int]] = {}
    for line in head.splitlines():
        words = line.split()
        if not words or not words[0].startswith(b"cpu"):
            break
        if words[0] == b"cpu":  # the sum of all
            continue
        # user nice system idle iowait irq softirq steal, then guest times that user and nice contain already
        ticks = [whole(word) for word in words[1:9]]
        if len(ticks) < 4:
            raise ValueError("too few CPU counters")
        idle = sum(ticks[3:5])
        times[whole(words[0][3:])] = (sum(ticks) - idle, idle)
    if not times:
        raise ValueError("no CPU counters in it")
    return times


class HostCpu:
    """The cores we may use, by /proc/stat."""

    def __init__(self, proc: Path, groups: Groups) -> None:
        self._stat = KernelFile(proc / "stat")
        self._status = KernelFile(proc / "self" / "status")
        cpuset = hierarchy(groups, "cpuset")
        self._cpusets = [KernelFile(level / name) for level, name in _cpuset_files(cpuset)]
        self._allowed: frozenset[int] | None = None
        self._allowed_at = float("-inf")
        self._previous: tuple[float, Times] | None = None
        self._last: Reading | None = None
        self.cores = 1

    def look(self, now: float) -> Reading:
        """The busy share since the previous look, in percent."""
        previous = self._previous
        if previous is not None and now - previous[0] < SHORTEST_LOOK:
            return self._last or Missing(FIRST_LOOK, now)
        try:
            times = cpu_times(self._stat.read())
        except (OSError, ValueError) as error:
            # The look after this one must not span the time that went unseen: it would hide a step.
            self._previous = None
            return self._keep(Missing(trouble(self._stat.path, error), now))
        ours = self._ours(times, now)
        if previous is None:
            self._previous = now, ours
            return self._keep(Missing(FIRST_LOOK, now))
        return self._share(previous, now, ours)

    def _share(self, previous: tuple[float, Times], now: float, ours: Times) -> Reading:
        """Busy of all, over the CPUs that were there both times and whose counters ran forwards at a sane pace."""
        before_at, before = previous
        most = 3 * (now - before_at + JUMP_SLACK) * TICKS_PER_SECOND
        busy = total = skipped = 0
        for cpu, (busy_now, idle_now) in ours.items():
            if cpu not in before:
                continue
            more_busy, more_idle = busy_now - before[cpu][0], idle_now - before[cpu][1]
            if more_busy < 0 or more_idle < -DITHER_TICKS or more_busy + more_idle > most:
                skipped += 1
                continue
            busy += more_busy
            total += more_busy + max(0, more_idle)
        if not total and not skipped and ours.keys() <= before.keys():
            if now - before_at <= STANDSTILL and self._last is not None:
                return self._last
            return Missing(f"{self._stat.path}: its counters stand still", now)
        self._previous = now, ours
        if not total:
            why = "its counters went backwards or jumped" if skipped else "no core seen twice"
            return self._keep(Missing(f"{self._stat.path}: {why}", now))
        return self._keep(Known(min(100.0, 100.0 * busy / total), now))

    def _keep(self, reading: Reading) -> Reading:
        self._last = reading
        return reading

    def _ours(self, times: Times, now: float) -> Times:
        """The counters of the cores we may use; of all cores where the numbers mean nothing (lxcfs renumbers them)."""
        if now - self._allowed_at >= CPUS_REFRESH:
            self._allowed, self._allowed_at = self._allowed_cpus(), now
        allowed = self._allowed
        ours = times if allowed is None else {cpu: ticks for cpu, ticks in times.items() if cpu in allowed}
        ours = ours or times
        self.cores = len(ours)
        return ours

    def _allowed_cpus(self) -> frozenset[int] | None:
        """What affinity and cpuset both allow; None when neither can be read."""
        found: list[frozenset[int]] = []
        try:
            lines = self._status.read().partition(b"\nCpus_allowed_list:")
            found.append(cpu_list(lines[2].partition(b"\n")[0]))
        except (OSError, ValueError):
            pass
        for cpuset in self._cpusets:
            try:
                cpus = cpu_list(cpuset.read())
            except (OSError, ValueError):
                continue
            if cpus:  # an empty list is a group that sets nothing of its own: the one above it counts
                found.append(cpus)
                break
        found = [cpus for cpus in found if cpus]
        return frozenset.intersection(*found) if found else None

    def close(self) -> None:
        """Give back the descriptors."""
        for file in (self._stat, self._status, *self._cpusets):
            file.close()


def _cpuset_files(cpuset: Hierarchy | None) -> list[tuple[Path, str]]:
    """Where the CPUs of our group may be written, the most telling first."""
    if cpuset is None:
        return []
    names = ["cpuset.cpus.effective"] if cpuset.version == 2 else ["cpuset.effective_cpus", "cpuset.cpus"]
    return [(level, name) for level in cpuset.levels for name in names]


class CpuQuota:
    """One cgroup above us that may limit CPU time; `cores` is its quota, None while it has none."""

    def __init__(self, limits: tuple[KernelFile, ...], usage: KernelFile, version: int) -> None:
        self._limits, self._usage, self._version = limits, usage, version
        self._seen: deque[tuple[float, float]] = deque()  # when, CPU seconds used
        self._checked_at = float("-inf")
        self._last: Reading | None = None
        self.cores: float | None = None
        self.failed = False  # its use could not be read: the group may be gone

    def look(self, now: float) -> Reading | None:
        """The share of the quota used over the last `QUOTA_WINDOW` s, in percent; None without a quota."""
        if now - self._checked_at >= QUOTA_REFRESH:
            self.cores, self._checked_at = self._quota(), now
        if self.cores is None:
            self._seen.clear()
            return None
        if self._seen and now - self._seen[-1][0] < SHORTEST_LOOK:
            return self._last
        try:
            used = self._cpu_seconds()
        except (OSError, ValueError) as error:
            self._seen.clear()
            self.failed = True
            return Missing(trouble(self._usage.path, error), now)
        if self._seen and used < self._seen[-1][1]:
            self._seen.clear()
        while len(self._seen) > 1 and now - self._seen[1][0] >= QUOTA_WINDOW - SHORTEST_LOOK:
            self._seen.popleft()
        self._seen.append((now, used))
        since, used_then = self._seen[0]
        if since == now:
            self._last = Missing(FIRST_LOOK, now)
        else:
            self._last = Known(min(100.0, 100.0 * (used - used_then) / (self.cores * (now - since))), now)
        return self._last

    def _quota(self) -> float | None:
        """The quota in cores; None without one. What cannot be read now stays as it was."""
        try:
            words = b" ".join(limit.read() for limit in self._limits).split()
            if words and words[0] in (b"max", b"-1"):
                return None
            quota, period = (whole(word) for word in words)
        except (OSError, ValueError):
            return self.cores
        return quota / period if quota and period else None

    def _cpu_seconds(self) -> float:
        data = self._usage.read()
        if self._version == 2:
            return number(data, b"usage_usec ") / 1e6
        return number(data) / 1e9

    def close(self) -> None:
        """Give back the descriptors."""
        for file in (*self._limits, self._usage):
            file.close()


def cpu_quotas(groups: Groups) -> list[CpuQuota]:
    """Every cgroup from our own up that may carry a quota."""
    cpu = hierarchy(groups, "cpu")
    if cpu is None:
        return []
    if cpu.version == 2:
        return [CpuQuota((KernelFile(at / "cpu.max"),), KernelFile(at / "cpu.stat"), 2) for at in cpu.levels]
    accounts = groups.get("cpuacct")
    if accounts is None:
        return []
    return [
        CpuQuota(
            (KernelFile(level / "cpu.cfs_quota_us"), KernelFile(level / "cpu.cfs_period_us")),
            # Mounted apart from `cpu` on some hosts; the group has the same path in both.
            KernelFile(accounts.mount / level.relative_to(cpu.mount) / "cpuacct.usage"),
            1,
        )
        for level in cpu.levels
    ]
