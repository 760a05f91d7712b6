"""A /proc and a /sys/fs/cgroup made of plain files: as much of them as the senses read, in the kernel's own format.

    host = FakeHost(tmp_path).cpus(4).memory(total=8 * GIB, available=6 * GIB).v2("/app", limit=GIB, used=GIB // 2)
    monitor = Monitor("auto", proc=host.proc, sys_cgroup=host.sys_cgroup)

Files are rewritten in place, so a descriptor that is kept open sees the new text, as it does in the real thing.
"""

import os
from pathlib import Path
from typing import Self

GIB = 1024**3
MIB = 1024**2
HZ = os.sysconf("SC_CLK_TCK")
UNLIMITED_V1 = 2**63 - 4096  # what version 1 writes for "no limit"
PAGE_CACHE = "active_file", "inactive_file", "slab_reclaimable"


class FakeHost:
    """A host of which every number is ours."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.sys_cgroup = root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.sys_cgroup.mkdir()
        self.ticks: dict[int, list[int]] = {}
        self._mounts: list[str] = ["22 27 0:21 / /proc rw,relatime - proc proc rw"]
        self._members: list[str] = []
        self.cpus(2).memory(8 * GIB, 6 * GIB)

    # -- CPU and memory of the host ---------------------------------------------------------------------------------

    def cpus(self, count: int, allowed: str | None = None) -> Self:
        """This many CPUs, idle so far; `allowed` is the affinity in the kernel's list format."""
        # user nice system idle iowait irq softirq steal guest guest_nice
        self.ticks = {cpu: [1000, 0, 500, 90000, 50, 0, 10, 0, 0, 0] for cpu in range(count)}
        self.write(
            "proc/self/status", f"Name:\tpython\nCpus_allowed_list:\t{allowed or f'0-{count - 1}'}\nThreads:\t1\n"
        )
        return self._write_stat()

    def passed(self, seconds: float, busy: float | dict[int, float] = 0.0, field: int = 0) -> Self:
        """Time passes: every CPU was busy for this share of it (0 to 1; or by CPU), idle for the rest.

        `field` is where the busy time is counted (0 user, 4 iowait, 7 steal, 8 guest: that is in user as well).
        """
        for cpu, ticks in self.ticks.items():
            share = busy if isinstance(busy, float | int) else busy.get(cpu, 0.0)
            worked = round(seconds * HZ * share)
            ticks[field] += worked
            if field == 8:
                ticks[0] += worked
            ticks[3] += round(seconds * HZ) - worked
        return self._write_stat()

    def _write_stat(self) -> Self:
        rows = {f"cpu{cpu}": ticks for cpu, ticks in self.ticks.items()}
        total = [sum(column) for column in zip(*self.ticks.values(), strict=True)]
        lines = [f"cpu  {' '.join(map(str, total))}", *(f"{name} {' '.join(map(str, t))}" for name, t in rows.items())]
        return self.write(
            "proc/stat", "\n".join([*lines, "intr 328593 0 0 26 0", "ctxt 492854", "btime 1700000000", ""])
        )

    def memory(self, total: int, available: int, swap: int = 0, swap_free: int = 0) -> Self:
        """Host memory in bytes."""
        rows = {"MemTotal": total, "MemFree": available // 2, "MemAvailable": available, "Buffers": MIB, "Cached": GIB}
        rows |= {"SwapCached": 0, "SwapTotal": swap, "SwapFree": swap_free}
        return self.write("proc/meminfo", "".join(f"{key + ':':<16}{n // 1024:>8} kB\n" for key, n in rows.items()))

    def pressure(self, resource: str, some: float, full: float = 0.0) -> Self:
        """Pressure stall information of the host."""
        return self.write(f"proc/pressure/{resource}", psi(some, full))

    # -- cgroups ----------------------------------------------------------------------------------------------------

    def mounted(
        self, controllers: str | None = None, *, root: str = "/", point: str | None = None, escaped: str | None = None
    ) -> Self:
        """A cgroup mount: version 1 with `controllers`, version 2 without; `point` is where the host shows it.

        `escaped` is the mount point as mountinfo writes it, if it has to be escaped.
        """
        point = point or "/sys/fs/cgroup" + ("" if controllers is None else f"/{controllers}")
        kind = "cgroup2 cgroup2 rw,nsdelegate" if controllers is None else f"cgroup cgroup rw,{controllers}"
        self._mounts.append(f"31 23 0:28 {root} {escaped or point} rw,nosuid shared:9 - {kind}")
        return self.write("proc/self/mountinfo", "\n".join([*self._mounts, ""]))

    def member(self, path: str, controllers: str | None = None) -> Self:
        """The group we are in, as /proc/self/cgroup tells it."""
        number = 0 if controllers is None else len(self._members) + 1
        self._members = [line for line in self._members if line.split(":")[1] != (controllers or "")]
        self._members.append(f"{number}:{controllers or ''}:{path}")
        return self.write("proc/self/cgroup", "\n".join([*self._members, ""]))

    def v2(self, group: str, **values: object) -> Self:
        """Values of a version 2 group, below the tree's root: see `_group`."""
        return self._group(self.sys_cgroup / group.strip("/"), 2, values)

    def v1(self, controller: str, group: str, **values: object) -> Self:
        """Values of a version 1 group, in the mount of `controller`: see `_group`."""
        return self._group(self.sys_cgroup / controller / group.strip("/"), 1, values)

    def _group(self, folder: Path, version: int, values: dict[str, object]) -> Self:
        """The files of one group.

        limit, high, used: bytes; cache: bytes of page cache within `used`; quota: cores; cpu_seconds: used so far;
        cpuset: list of CPUs; above: the lowest limit of the groups above (version 1).
        """
        texts: dict[str, str] = {}
        match version:
            case 2:
                texts["cgroup.type"] = "domain\n"
                if "used" in values:
                    texts["memory.max"] = f"{values.get('limit', 'max')}\n"
                    texts["memory.high"] = f"{values.get('high', 'max')}\n"
                    texts["memory.current"] = f"{values['used']}\n"
                    texts["memory.stat"] = _memory_stat(int(str(values.get("cache", 0))), "")
                if "cpu_seconds" in values:
                    quota = values.get("quota")
                    texts["cpu.max"] = (
                        "max 100000\n" if quota is None else f"{round(float(str(quota)) * 100000)} 100000\n"
                    )
                    usage = round(float(str(values["cpu_seconds"])) * 1e6)
                    texts["cpu.stat"] = f"usage_usec {usage}\nuser_usec {usage}\nsystem_usec 0\nnr_periods 0\n"
                if "cpuset" in values:
                    texts["cpuset.cpus.effective"] = f"{values['cpuset']}\n"
            case _:
                if "used" in values:
                    limit = values.get("limit", UNLIMITED_V1)
                    above = values.get("above", limit)
                    texts["memory.limit_in_bytes"] = f"{limit}\n"
                    texts["memory.usage_in_bytes"] = f"{values['used']}\n"
                    texts["memory.stat"] = (
                        "cache 0\nactive_file 7\ninactive_file 7\n"
                        f"hierarchical_memory_limit {above}\n{_memory_stat(int(str(values.get('cache', 0))), 'total_')}"
                    )
                if "quota" in values:
                    quota = values["quota"]
                    texts["cpu.cfs_quota_us"] = "-1\n" if quota is None else f"{round(float(str(quota)) * 100000)}\n"
                    texts["cpu.cfs_period_us"] = "100000\n"
                if "cpu_seconds" in values:
                    texts["cpuacct.usage"] = f"{round(float(str(values['cpu_seconds'])) * 1e9)}\n"
                if "cpuset" in values:
                    texts["cpuset.cpus"] = f"{values['cpuset']}\n"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
        return self

    # -- processes --------------------------------------------------------------------------------------------------

    def process(
        self,
        pid: int,
        group: int,
        *,
        cpu_seconds: float = 0.0,
        anon: int = 0,
        mapped: int = 0,
        started: int = 100,
        state: str = "S",
        name: str = "python",
        parent: int = 1,
    ) -> Self:
        """One process; memory in bytes, private and mapped files."""
        ticks, pages = round(cpu_seconds * HZ), (anon + mapped) // 4096
        self.write(
            f"proc/{pid}/stat",
            f"{pid} ({name}) {state} {parent} {group} {group} 0 -1 4194560 99 0 0 0 "
            f"{ticks // 2} {ticks - ticks // 2} 0 0 20 0 4 0 {started} 400000000 {pages} 18446744073709551615\n",
        )
        memory = f"VmRSS:\t{(anon + mapped) // 1024} kB\nRssAnon:\t{anon // 1024} kB\nRssFile:\t{mapped // 1024} kB\n"
        return self.write(f"proc/{pid}/status", f"Name:\t{name}\nPid:\t{pid}\n{memory}RssShmem:\t0 kB\nThreads:\t4\n")

    def ended(self, pid: int) -> Self:
        """The process is gone, and was reaped."""
        for file in (self.proc / str(pid)).iterdir():
            file.unlink()
        (self.proc / str(pid)).rmdir()
        return self

    # -- anything ---------------------------------------------------------------------------------------------------

    def write(self, path: str, text: str | bytes) -> Self:
        """Put this text into a file of the tree (`proc/…` or `cgroup/…`)."""
        file = self.proc.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return self


def psi(some: float, full: float) -> str:
    """A pressure file with these averages over 10 s."""
    rest = "avg60=1.00 avg300=1.00 total=12345"
    return f"some avg10={some:.2f} {rest}\nfull avg10={full:.2f} {rest}\n"


def _memory_stat(cache: int, prefix: str) -> str:
    """Page cache spread over the lines that tell it (version 1 tells no slab), among others that are not to be read."""
    parts = PAGE_CACHE if not prefix else PAGE_CACHE[:2]
    shares = [cache // len(parts)] * (len(parts) - 1)
    rows = dict(zip(parts, [*shares, cache - sum(shares)], strict=True)) | {"anon": 123, "workingset_refault_file": 9}
    return "".join(f"{prefix}{key} {n}\n" for key, n in rows.items())
