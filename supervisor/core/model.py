"""The nouns every part of the supervisor speaks in: signals, rungs, readings, samples, models, orders.

Values only. Times are seconds of one monotonic clock, percentages 0 to 100, memory in bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType


class Signal(StrEnum):
    """What is measured and kept under limits."""

    CPU = "cpu"
    MEMORY = "memory"
    GPU = "gpu"
    GPU_MEMORY = "gpu_memory"


class Rung(IntEnum):
    """How far up the ladder a signal, or the host, is (seed section 2.1)."""

    NORMAL = 0
    WARN = 1
    SHRINK = 2
    PAUSE = 3
    UNLOAD = 4

    @property
    def label(self) -> str:
        """The rung's name in status, logs and metrics."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Known:
    """A value that was read at `at`."""

    value: float
    at: float


@dataclass(frozen=True, slots=True)
class Missing:
    """The value could not be read at `at`; never counts as 0 or 100."""

    reason: str
    at: float


Reading = Known | Missing


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One GPU as NVML shows it, in PCI order."""

    uuid: str
    index: int
    name: str
    utilisation: Reading
    memory: Reading
    memory_used: int
    memory_total: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One raw look at the host.

    `cpu` is the busy share since the previous look; `memory` the fullest of the host and its limited cgroups;
    `memory_used` and `memory_limit` are the bytes behind it. `gpu` and `gpu_memory` are the fullest device's.
    `memory_short`: since the previous look the kernel itself found memory short (stalls, a cgroup at its limit).
    """

    at: float
    cpu: Reading
    memory: Reading
    gpu: Reading
    gpu_memory: Reading
    devices: tuple[GpuDevice, ...] = ()
    memory_used: int = 0
    memory_limit: int = 0
    cores: float = 1.0
    swap_percent: float | None = None
    pressure: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    memory_short: bool = False

    def reading(self, signal: Signal) -> Reading:
        """The reading of one signal."""
        reading: Reading = getattr(self, signal.value)
        return reading


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """What the processes of one worker use, all of its process group together.

    `main_pid` is the one that holds the most memory: the server, which need not lead the group.
    """

    cpu_seconds: float
    memory_bytes: int
    gpu_memory_bytes: int = 0
    main_pid: int | None = None


class ModelState(StrEnum):
    """Where a model's worker is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


# States in which a process of the model exists and holds memory.
LIVE_STATES = frozenset({ModelState.STARTING, ModelState.READY, ModelState.DRAINING, ModelState.STOPPING})


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model as the decisions see it: its worker, its memory and the requests for it.

    `device` is "cpu" or the GPU's UUID; `inflight` counts inputs at the worker and `leases` requests that hold it;
    `estimate` is the memory a load is expected to take on that device, None while nothing is known; `successor_bytes`
    is what a second process holds that is to take the first one's place, None while there is none. One that is not
    `managed` is started and stopped by somebody else: it takes no place and no memory that we could give or take back.

    Models of one `group` share a process; each shows an equal share of what that holds. Where a view stands for such a
    process as a whole (`sharing.by_process`), `members` are its models.
    """

    name: str
    state: ModelState
    pinned: bool = False
    device: str = "cpu"
    memory_bytes: int = 0
    estimate: int | None = None
    queued: int = 0
    inflight: int = 0
    leases: int = 0
    oldest_wait: float = 0.0
    uses: int = 0
    ready_since: float | None = None
    load_seconds: float | None = None
    wanted: bool = False
    successor_bytes: int | None = None
    managed: bool = True
    group: str | None = None
    members: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models it stands for."""
        return self.members or (self.name,)

    @property
    def places(self) -> int:
        """How many places it takes in memory: one for each model."""
        return len(self.models)

    @property
    def cold(self) -> bool:
        """Ready, with nothing queued, nothing in flight and no lease: it can go without anyone noticing."""
        return self.state is ModelState.READY and not (self.queued or self.inflight or self.leases)


@dataclass(frozen=True, slots=True)
class LaneOrders:
    """What the dispatcher may do for one model until it is told otherwise.

    `batch_size` is the most inputs of one part, `window` the most parts at the worker at a time; from 2 on, how many
    of them pay off is the lane's to find out. `part_seconds` is about how long a part may take, None where only the
    batch size bounds it (a device that is not the CPU).

    `memory_ever` is what its parts could take of memory at best (None: nobody asks), `main_pid` its worker's process.
    """

    open: bool = True
    batch_size: int = 16
    window: int = 4
    part_seconds: float | None = 0.2
    memory_ever: int | None = None
    main_pid: int | None = None


@dataclass(frozen=True, slots=True)
class Orders:
    """The state the data plane is to be in: recomputed every tick, applied as it is.

    `paused` is the host-wide gate. `trickle` lets one part of `trickle_size` inputs of the oldest request pass closed
    gates, once for each time these orders are given ("never dead"). `cpu_hold` is the target of the CPU hold in percent
    of the host's cores, None while nothing holds the CPU. All parts together may take `memory_room` bytes beside what
    was in use at the sample, single rows `memory_last`; None while memory is not to be asked for.
    """

    paused: bool = False
    reason: str | None = None
    lanes: Mapping[str, LaneOrders] = field(default_factory=lambda: MappingProxyType({}))
    trickle: bool = False
    trickle_size: int = 1
    cpu_hold: float | None = None
    memory_room: int | None = None
    memory_last: int | None = None
