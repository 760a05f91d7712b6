"""A house around the controller: a host with readings to set, lanes and workers that remember what they are told."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from supervisor.controller import Controller
from supervisor.core.model import Known, Missing, ModelState, Orders, Reading, Sample, Signal, WorkerUse
from supervisor.core.policy import BatchPolicy, Policy, ResidencyPolicy, Thresholds
from supervisor.core.spare import SpareState, SpareView
from supervisor.journal import Journal

GIB = 1024**3
NO_GPU = Thresholds(shrink=None, pause=None, unload=None, resume=None)


@dataclass(frozen=True)
class FakeModel:
    """A configured model."""

    name: str
    pinned: bool = False
    preload: bool = True
    on_gpu: bool | None = False
    device_id: int | str | None = None
    estimate: int | None = None
    managed: bool = True
    stoppable: bool = True
    group: str | None = None


@dataclass
class FakeDemand:
    """What is wanted of one model."""

    queued_requests: int = 0
    queued_inputs: int = 0
    queued_bytes: int = 0
    oldest_wait_s: float = 0.0
    inflight_parts: int = 0
    inflight_inputs: int = 0
    leases: int = 0
    uses: int = 0


@dataclass
class FakeLanes:
    """Remembers the orders and the looks at the CPU that it was given."""

    wanted: dict[str, FakeDemand] = field(default_factory=dict)
    given: list[Orders] = field(default_factory=list)
    refused: list[tuple[str, str, float | None]] = field(default_factory=list)
    cpu: list[tuple[float | None, float]] = field(default_factory=list)
    external_load: bool = False
    lowered: list[str] = field(default_factory=list)

    def set_orders(self, orders: Orders) -> None:
        """Noted."""
        self.given.append(orders)

    def observe_cpu(self, busy: float | None, cores: float, now: float) -> None:
        """Noted."""
        self.cpu.append((busy, cores))

    def demand(self) -> Mapping[str, FakeDemand]:
        """As set."""
        return self.wanted

    def longest_part(self, now: float) -> float:
        """No part runs."""
        return 0.0

    def refuse_waiting(self, model: str, reason: str, retry_after: float | None) -> None:
        """Noted."""
        self.refused.append((model, reason, retry_after))

    def lower_cap(self, model: str) -> None:
        """Noted."""
        self.lowered.append(model)


@dataclass(frozen=True)
class FakeView:
    """A worker's view."""

    state: ModelState = ModelState.STOPPED
    pid: int | None = None
    pgid: int | None = None
    port: int | None = None
    reason: str | None = None
    ready_since: float | None = None
    load_seconds: float | None = None
    loads: int = 0
    unloads: int = 0
    restarts: int = 0
    successor_pgid: int | None = None
    group: str | None = None


@dataclass
class FakeWorkers:
    """Workers that are ready, or gone, at once, and a spare likewise; `asked` has what was asked for."""

    state: dict[str, FakeView]
    asked: list[tuple[str, ...]] = field(default_factory=list)
    obey: bool = True
    spare: SpareView = field(default_factory=SpareView)
    held_back: Mapping[str, str] = field(default_factory=dict)

    def views(self) -> Mapping[str, FakeView]:
        """As they are."""
        return self.state

    def request_ready(self, name: str) -> None:
        """Ready at once, if they obey."""
        self.asked.append(("ready", name))
        for each in self._named(name) if self.obey else ():
            pid = 1 + list(self.state).index(self._named(name)[0])
            self.state[each] = replace(self.state[each], state=ModelState.READY, pid=pid, pgid=pid, ready_since=0.0)

    def request_stop(self, name: str, cause: str) -> None:
        """Gone at once, if they obey."""
        self.asked.append(("stop", name, cause))
        for each in self._named(name) if self.obey else ():
            self.state[each] = FakeView(group=self.state[each].group)

    def request_restart(self, name: str, cause: str, beside: bool) -> None:
        """Noted."""
        self.asked.append(("restart", name, cause, "beside" if beside else "after"))

    def hold_back(self, reasons: Mapping[str, str]) -> None:
        """Remembered."""
        self.held_back = reasons

    def request_spare(self) -> None:
        """Warm at once."""
        self.asked.append(("spare",))
        self.spare = SpareView(SpareState.WARM, pid=9, pgid=9, fits=frozenset(self.state))

    def drop_spare(self, why: str) -> None:
        """Gone at once."""
        self.asked.append(("drop spare",))
        self.spare = SpareView(SpareState.ABSENT)

    def _named(self, name: str) -> list[str]:
        """A model, or all of its group, by any name."""
        group = self.state[name].group if name in self.state else name
        return [each for each, view in self.state.items() if each == name or (group and view.group == group)]


class House:
    """A controller with all it needs; time passes when told to, in steps of a raw sample."""

    def __init__(self, *models: FakeModel, policy: Policy | None = None) -> None:
        self.now = 1000.0
        self.readings: dict[Signal, Reading | float] = {
            Signal.CPU: 10.0,
            Signal.MEMORY: 20.0,
            Signal.GPU: Missing("no NVML library", 0),
            Signal.GPU_MEMORY: Missing("no NVML library", 0),
        }
        self.models = models or (FakeModel("a"), FakeModel("b"))
        self.lanes = FakeLanes({m.name: FakeDemand() for m in self.models})
        self.workers = FakeWorkers({m.name: FakeView(group=m.group) for m in self.models})
        self.journal = Journal()
        self.policy = policy or Policy(
            thresholds={
                Signal.CPU: Thresholds(),
                Signal.MEMORY: Thresholds(),
                Signal.GPU: NO_GPU,
                Signal.GPU_MEMORY: Thresholds(),
            },
            batch=BatchPolicy(),
            residency=ResidencyPolicy(max_models=4),
        )
        self.ticks = 0
        self.controller = Controller(
            self.policy, self.models, self, self.lanes, self.workers, self.journal, lambda: self.now, self._ticked
        )
        self.controller.look()
        self.controller.tick(self.now)

    def _ticked(self, _: Controller) -> None:
        self.ticks += 1

    def sample(self, now: float) -> Sample:
        """The host as set."""

        def read(signal: Signal) -> Reading:
            value = self.readings[signal]
            return Known(value, now) if isinstance(value, float | int) else replace(value, at=now)

        memory = self.readings[Signal.MEMORY]
        used = int(16 * GIB * memory / 100) if isinstance(memory, float | int) else 0
        return Sample(
            at=now,
            cpu=read(Signal.CPU),
            memory=read(Signal.MEMORY),
            gpu=read(Signal.GPU),
            gpu_memory=read(Signal.GPU_MEMORY),
            memory_used=used,
            memory_limit=16 * GIB,
            cores=2.0,
        )

    def worker_use(self, pgids: Mapping[str, int], now: float) -> Mapping[str, WorkerUse]:
        """Half a GiB for each."""
        return {name: WorkerUse(2.0, GIB // 2) for name in pgids}

    def own_cpu(self) -> float:
        """The workers do nothing."""
        return 0.0

    def passes(self, seconds: float) -> None:
        """Let time pass; the control loop looks ten times a second."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            for demand in self.lanes.wanted.values():
                demand.oldest_wait_s += 0.1 if demand.queued_requests else 0.0
            self.controller.look()

    @property
    def orders(self) -> Orders:
        """The last orders."""
        return self.lanes.given[-1]

    def actions(self) -> list[str]:
        """The journal's actions, oldest first."""
        return [str(decision.action) for decision in self.journal.last(10_000)]
