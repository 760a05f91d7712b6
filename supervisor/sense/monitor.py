"""All readings behind one door: the host, its cgroups, its GPUs and the workers' processes.

Never raises and never blocks: what cannot be read is Missing with its reason, the rest goes on. Decides nothing.
"""

from collections.abc import Mapping
from pathlib import Path

from supervisor.core.model import GpuDevice, Sample, WorkerUse
from supervisor.sense.cgroup import own_groups
from supervisor.sense.cpu_clock import OwnCpu
from supervisor.sense.files import KernelFile
from supervisor.sense.gpu import GpuSense
from supervisor.sense.host import HostSenses, Scope
from supervisor.sense.processes import ProcessGroups

# We may be moved to another cgroup while we run (`systemctl`, a container engine).
GROUPS_CHECK = 5.0
# A cgroup that fails is looked for again at once, but not more often than this.
GROUPS_RETRY = 1.0


class Monitor:
    """Raw samples, and the use of process groups; for one thread, cheap enough for an event loop (0.2 ms a sample).

    `scope` says what percent is a percent of: `host`, `cgroup` (the limits above us), or `auto`, whichever is fuller.
    `proc` and `sys_cgroup` stand in for /proc and /sys/fs/cgroup.
    """

    def __init__(self, scope: Scope, *, proc: Path = Path("/proc"), sys_cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._scope = scope
        self._proc = proc
        self._sys_cgroup = sys_cgroup
        self._membership = KernelFile(proc / "self" / "cgroup")
        self._seen_membership: bytes | None = None
        self._host: HostSenses | None = None
        self._checked_at = float("-inf")
        self._gpu = GpuSense()
        self._processes = ProcessGroups(proc)
        self._own_cpu = OwnCpu()
        self._devices: tuple[GpuDevice, ...] = ()

    def start(self) -> None:
        """Begin to ask for GPUs, in a thread; all else is read when it is asked for."""
        self._gpu.start()

    def close(self) -> None:
        """Stop the thread and give back every descriptor."""
        self._gpu.close()
        self._membership.close()
        if self._host is not None:
            self._host.close()
            self._host = None

    @property
    def gpu_devices(self) -> tuple[GpuDevice, ...]:
        """The devices of the last sample, in PCI order."""
        return self._devices

    def sample(self, now: float) -> Sample:
        """One look at everything; `now` is of the monotonic clock (`loop.time()`).

        `cpu` covers the time since the previous call (a quota: the last half second).
        """
        look = self._host_senses(now).look(now)
        gpu = self._gpu.look(now)
        self._devices = gpu.devices
        return Sample(
            at=now,
            cpu=look.cpu,
            memory=look.memory.reading,
            gpu=gpu.gpu,
            gpu_memory=gpu.gpu_memory,
            devices=gpu.devices,
            memory_used=look.memory.used,
            memory_limit=look.memory.limit,
            cores=look.cores,
            swap_percent=look.swap_percent,
            pressure=look.pressure,
            memory_short=look.memory_short,
        )

    def worker_use(self, pgids: Mapping[str, int], now: float) -> Mapping[str, WorkerUse]:
        """What each named process group uses; meant for once a second. A group without a living member is left out."""
        uses = self._processes.look(pgids, self._gpu.memory_by_pid, now)
        self._own_cpu.follow(self._processes.members)
        return uses

    def own_cpu(self) -> float:
        """CPU seconds that all processes of the groups last asked for have used since they were first seen.

        Only ever grows; fit for 20 Hz.
        """
        return self._own_cpu.seconds()

    def _host_senses(self, now: float) -> HostSenses:
        """The sensors for the cgroups we are in, built anew when those have changed or fail."""
        host = self._host
        since = now - self._checked_at
        if host is not None and since < (GROUPS_RETRY if host.failed else GROUPS_CHECK):
            return host
        self._checked_at = now
        try:
            membership = self._membership.read()
        except OSError:
            membership = None
        if host is None or host.failed or membership != self._seen_membership:
            self._seen_membership = membership
            if host is not None:
                host.close()
            groups = own_groups(self._proc, self._sys_cgroup)
            self._host = host = HostSenses(self._scope, self._proc, groups)
        return host
