"""A small world for decisions about models in memory: a pool that takes its time, clients, memory that comes back late.

It drives the real `ModelMemoryManager` once a second, and at once when a state or the demand changes, as the controller
does. Memory is in MB here for readable figures; the manager does not care. What must hold of any step is checked at
every step, so that each scenario is a test of all of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.core.model import LIVE_STATES, ModelState, ModelView, Rung, Signal
from supervisor.core.policy import ResidencyPolicy
from supervisor.core.residency import Load, ModelMemoryManager, Pressure, Refuse, Step, Unload
from supervisor.core.settling import SETTLE_TIME

STEP = 0.25
DRAIN = 1.0
BACK_OFF = 4.0
NEVER = -1000.0

# Where a worker goes from each state when it has been there long enough.
HOLDERS = LIVE_STATES | {ModelState.BACKOFF}


@dataclass(eq=False)
class SimulatedModel:
    """One model: what it takes and how long, who asks for it and when, and where it is in its life.

    `hot` says whether clients want it at a time; they wait while it is not ready. `memory_lag` is how late its memory
    comes back after its end. With `fails` its loads come to nothing.
    """

    name: str
    size: int = 1000
    load_time: float = 10.0
    stop_time: float = 1.0
    memory_lag: float = 0.0
    hot: Callable[[float], bool] = lambda _now: False
    pinned: bool = False
    estimate: int | None = None
    wanted: bool = False
    fails: bool = False
    state: ModelState = ModelState.STOPPED

    since: float = 0.0
    asked_since: float | None = None
    in_use: bool = False
    crashed: bool = False
    uses: int = 0
    lingers_until: float = NEVER
    loads: list[float] = field(default_factory=list)
    unloads: list[tuple[float, str]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def memory(self, now: float) -> int:
        """What its process holds: a ramp while it starts."""
        if self.state is ModelState.STARTING:
            return int(self.size * min(1.0, (now - self.since) / self.load_time))
        return self.size if self.state in LIVE_STATES else 0

    def view(self, now: float) -> ModelView:
        """The model as the manager is shown it."""
        ready = self.state is ModelState.READY
        return ModelView(
            name=self.name,
            state=self.state,
            pinned=self.pinned,
            memory_bytes=self.memory(now),
            estimate=self.estimate,
            queued=int(self.asked_since is not None),
            inflight=int(self.in_use),
            oldest_wait=0.0 if self.asked_since is None else now - self.asked_since,
            uses=self.uses,
            ready_since=self.since if ready else None,
            load_seconds=self.load_time if self.loads else None,
            wanted=self.wanted,
        )

    def move(self, state: ModelState, now: float) -> None:
        """Enter a state; a process that ends leaves its memory behind for a while."""
        if self.state in LIVE_STATES and state not in LIVE_STATES:
            self.lingers_until = now + self.memory_lag
        self.state, self.since = state, now
        if state is ModelState.READY:
            self.wanted = False
        if state not in (ModelState.READY, ModelState.DRAINING):
            self.in_use = False

    def advance(self, now: float) -> bool:
        """Let its process and its clients go on; True when something the manager acts on has changed."""
        before = (self.state, self.asked_since is None, self.in_use, self.uses)
        age = now - self.since
        if self.state is ModelState.STARTING and age >= self.load_time:
            self.move(ModelState.STOPPING if self.fails else ModelState.READY, now)
        elif self.state is ModelState.DRAINING and age >= DRAIN:
            self.move(ModelState.STOPPING, now)
        elif self.state is ModelState.STOPPING and age >= self.stop_time:
            self.move(ModelState.BACKOFF if self.fails or self.crashed else ModelState.STOPPED, now)
        elif self.state is ModelState.BACKOFF and age >= BACK_OFF:
            self.crashed = False
            self.move(ModelState.STARTING, now)
        self._ask(self.hot(now), now)
        return before != (self.state, self.asked_since is None, self.in_use, self.uses)

    def _ask(self, hot: bool, now: float) -> None:
        if self.state is ModelState.READY:
            if self.asked_since is not None:
                self.waits.append(now - self.asked_since)
                self.uses += 1
            elif hot and not self.in_use:
                self.uses += 1
            self.asked_since, self.in_use = None, hot
        elif not hot:
            self.asked_since = None
        elif self.asked_since is None:
            self.asked_since = now


class SimulatedModels:
    """The models, the host's memory and the manager that decides about them.

    Args:
        total: the host's memory.
        foreign: what others than our models use of it at a time.
        rung: the rung of memory for a time and the share in use; by default one that follows the seed's thresholds.
    """

    def __init__(
        self,
        *models: SimulatedModel,
        policy: ResidencyPolicy | None = None,
        total: int = 100_000,
        foreign: Callable[[float], int] = lambda _now: 0,
        rung: Callable[[float, float], Rung] | None = None,
    ) -> None:
        self.models = {model.name: model for model in models}
        self.policy = policy or ResidencyPolicy()
        self.manager = ModelMemoryManager(self.policy)
        self.total, self.foreign = total, foreign
        self.drilled: frozenset[Signal] = frozenset()
        self.now = 0.0
        self.rung = Rung.NORMAL
        self.steps: list[tuple[float, Step]] = []
        self.most_live = 0
        self._rung = rung or self._ladder
        self._quiet_since = self._below_pause_since = 0.0
        self._last_end = NEVER
        self.disturbed_at = NEVER  # when memory last changed for another reason than an unload

    def used(self) -> int:
        """What is in use of the memory, with what is still to come back."""
        lingering = sum(m.size for m in self.models.values() if self.now < m.lingers_until)
        return self.foreign(self.now) + lingering + sum(m.memory(self.now) for m in self.models.values())

    def pressure(self) -> Pressure:
        """The host as the manager is shown it."""
        return Pressure(
            memory_used=self.used(),
            memory_limit=self.total,
            fit_percent=85.0,
            last_fit_percent=95.0,
            memory=self.rung,
            gate_closed=self.rung >= Rung.PAUSE,
            ladder_quiet=self.rung < Rung.WARN,
            drilled=self.drilled,
        )

    def run(self, seconds: float) -> "SimulatedModels":
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            changed = False
            for model in self.models.values():
                was_live = model.state in LIVE_STATES
                changed |= model.advance(self.now)
                if was_live and model.state not in LIVE_STATES:
                    self._last_end = self.now
            tick = self.now % 1.0 == 0.0
            if tick:
                self.rung = self._rung(self.now, 100.0 * self.used() / self.total)
            if tick or changed:
                self.decide()
            self.most_live = max(self.most_live, len(self.live()))
        return self

    def live(self) -> list[str]:
        """The models that have a process."""
        return [m.name for m in self.models.values() if m.state in LIVE_STATES]

    def decide(self) -> None:
        """Ask the manager, do what it says, and check that it may be said."""
        views = [model.view(self.now) for model in self.models.values()]
        steps = self.manager.steps(views, self.pressure(), self.now)
        assert self.manager.steps(views, self.pressure(), self.now) == [], "an unchanged world gave a new step"
        assert sum(isinstance(step, Unload) for step in steps) <= 1, "two unloads at once"
        for step in steps:
            self.steps.append((self.now, step))
            model = self.models[step.model]
            if isinstance(step, Load):
                self._check_load(model)
                model.loads.append(self.now)
                model.move(ModelState.STARTING, self.now)
            elif isinstance(step, Unload):
                self._check_unload(model, step)
                model.unloads.append((self.now, step.cause.value))
                ready = model.state is ModelState.READY
                model.crashed = False
                model.move(ModelState.DRAINING if ready else ModelState.STOPPED, self.now)
            else:
                assert isinstance(step, Refuse)
                model.refusals.append(step.why)
                model.asked_since = None

    def unloads(self, *causes: str) -> list[tuple[float, str]]:
        """When which model was unloaded for these causes, or for any."""
        return [
            (at, step.model)
            for at, step in self.steps
            if isinstance(step, Unload) and (not causes or step.cause in causes)
        ]

    def longest_wait(self) -> float:
        """The longest that anybody waited or has waited for a model that was not in memory."""
        over = [wait for model in self.models.values() for wait in model.waits]
        still = [self.now - m.asked_since for m in self.models.values() if m.asked_since is not None]
        return max(over + still, default=0.0)

    def _check_load(self, model: SimulatedModel) -> None:
        others = [m for m in self.models.values() if m.state in HOLDERS]
        assert model.state is ModelState.STOPPED, f"{model.name} is loaded while {model.state}"
        assert len(others) < self.policy.max_models, f"{model.name} is loaded beside {len(others)}"
        assert self.rung < Rung.PAUSE, f"{model.name} is loaded at {self.rung.label}"
        coming = sum(m.size - m.memory(self.now) for m in others if m.state is ModelState.STARTING and m.estimate)
        limit = 0.85 if others else 0.95
        after = self.used() + coming + model.size
        assert model.estimate is None or after <= limit * self.total, f"{model.name} fills memory up to {after}"

    def _check_unload(self, model: SimulatedModel, step: Unload) -> None:
        name, cause = model.name, step.cause
        busy = model.in_use or model.asked_since is not None
        assert not model.pinned, f"{name} is pinned"
        assert model.state in (ModelState.READY, ModelState.BACKOFF), f"{name} is unloaded while {model.state}"
        leaving = [m.name for m in self.models.values() if m.state in (ModelState.DRAINING, ModelState.STOPPING)]
        assert not leaving, f"{name} goes while {leaving} are going"
        lingers = [m.lingers_until for m in self.models.values()]
        began = self._last_end - DRAIN - model.stop_time
        # What comes back of an earlier one, or from others, cannot be told from what comes back of the last one.
        told_apart = self.disturbed_at < began and not any(began <= until <= self.now for until in lingers)
        if max(lingers) > self.now and told_apart:
            assert self.now - self._last_end >= SETTLE_TIME, f"{name} goes before memory is back"
        assert cause == "rotation" or not busy, f"{name} is busy and goes because of {cause}"
        if cause in ("memory", "cpu", "idle"):
            ready = sum(m.state is ModelState.READY for m in self.models.values())
            assert ready > 1 or (cause == "idle" and self.rung >= Rung.WARN), f"{name} is the last one"

    def _ladder(self, now: float, share: float) -> Rung:
        """The seed's thresholds: up at once, down one rung after 3 s below its leaving point, or 15 s below pause."""
        enter = {Rung.WARN: 80.0, Rung.SHRINK: 85.0, Rung.PAUSE: 90.0, Rung.UNLOAD: 95.0}
        leave = {Rung.NORMAL: 100.0, Rung.WARN: 75.0, Rung.SHRINK: 80.0, Rung.PAUSE: 75.0, Rung.UNLOAD: 90.0}
        rung = max((r for r, level in enter.items() if share >= level), default=Rung.NORMAL)
        if self.rung is not Rung.PAUSE or share >= enter[Rung.PAUSE]:
            self._below_pause_since = now
        if now - self._below_pause_since >= 15.0:
            return Rung.SHRINK
        if rung > self.rung or share >= leave[self.rung]:
            self._quiet_since = now
            return max(rung, self.rung)
        if now - self._quiet_since < 3.0 or self.rung is Rung.NORMAL:
            return self.rung
        self._quiet_since = now
        return Rung(self.rung - 1)
