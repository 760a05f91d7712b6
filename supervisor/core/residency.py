"""Which models are in memory (seed section 4): loads on demand, unloads what is cold, makes room, knows when to stop.

Owns what was asked and learned; models that share a process are one here, named as their group. It asks for outcomes
(`Step`s); the pool makes them, and what came of them is seen in the next call's views. Every call decides from the
world as it is, so calls may come at any time.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from supervisor.core.eviction import Cause, Unload, for_cleanup, for_pressure
from supervisor.core.loading import Load, Refuse, Step, held_back, plan_loads
from supervisor.core.look import Look, reserved
from supervisor.core.model import LIVE_STATES, ModelState, ModelView, Rung
from supervisor.core.policy import ResidencyPolicy
from supervisor.core.recycling import Recycle, Recycling
from supervisor.core.reservation import HOST, Pressure
from supervisor.core.resident import Resident
from supervisor.core.settling import Settling, held_on
from supervisor.core.sharing import by_process

__all__ = ["Cause", "Load", "MemoryStats", "ModelMemoryManager", "Pressure", "Recycle", "Refuse", "Step", "Unload"]

_WHOLE = (ModelState.STARTING, ModelState.READY, ModelState.DRAINING)


class MemoryStats(TypedDict):
    """The seed's memory statistics."""

    total_models: int
    loaded_models: int
    total_memory_gb: float
    max_models: int


class ModelMemoryManager:
    """Decides which models to load, to unload and to refuse.

    What always holds of its steps: a load never makes more models live than `max_models`; a pinned model is never
    unloaded; a ladder's unload never takes a busy or the last ready model; between two unloads the first one's memory
    has come back, or `settling.SETTLE_TIME` has passed; an unchanged world gives no new step.
    """

    def __init__(self, policy: ResidencyPolicy) -> None:
        self._policy = policy
        self._residents: dict[str, Resident] = {}
        self._process_of: dict[str, str] = {}
        self._settling = Settling()
        self._recycling = Recycling()
        self._look: Look | None = None
        self._cleaned_at: float | None = None
        self._waits: Mapping[str, str] = {}
        self.held_back: Mapping[str, str] = {}
        """The processes that, at the last call, were not to be started again if they crash, each with why."""
        self._external = False

    def set_policy(self, policy: ResidencyPolicy) -> None:
        """Decide by another policy from the next call on; what was learned and asked stays."""
        self._policy = policy

    def steps(self, models: Sequence[ModelView], pressure: Pressure, now: float) -> list[Step | Recycle]:
        """What is to be done now that was not asked for before, in this order; at most one unload.

        Call it every check interval, and at once when a worker's state or the demand for a model changes. A step is
        given once. It is given again only if the world does not show it within `resident.ASK_AGAIN` s.

        1. What the unload rung takes.
        2. At the clean-up interval: what is idle or too many, one after the other.
        3. The line of those that wait: loads, refusals, and one unload to make room.
        4. Where nothing of that is to be done: a worker that has grown too large is replaced.

        Args:
            models: every configured model, in the order of the configuration; steps for those of a group name that,
                but for refusals, which somebody is to be told, model by model. `memory_bytes` and `estimate` are meant
                on the model's own device. `wanted` with an `oldest_wait` above 0 is somebody's command and may make
                others leave; without, it is a preload and takes only what is free.
            pressure: the host as it was last assessed.
            now: not before that of the call before.
        """
        models = by_process(models)
        self._process_of = {name: model.name for model in models for name in model.models}
        self._take_in(models, pressure, now)
        look = Look(models, self._residents, pressure, self._policy, self._settling, now)
        steps: list[Step | Recycle] = []
        if not look.act_is_open:
            chosen = for_pressure(look) or self._cleanup(look)  # 1, 2
            if chosen is not None:
                victim, unload = chosen
                victim.ask_to_leave(now, relieves=_relieved_room(unload, victim))
                steps.append(unload)
        plan = plan_loads(look, may_unload=not look.act_is_open)  # 3
        self.held_back = held_back(look)
        self._waits = plan.waits
        self._look = look
        recycle = self._recycling.due(look, may_act=not (look.act_is_open or steps or plan.steps))  # 4
        if recycle is not None:
            steps.append(recycle)
        self._external = any(look.external(device) for device in {HOST, *(model.device for model in models)})
        return [each for step in steps + plan.steps for each in self._to_be_told(step)]

    def _to_be_told(self, step: Step | Recycle) -> list[Step | Recycle]:
        if not isinstance(step, Refuse):
            return [step]
        return [Refuse(name, step.why) for name in self._residents[step.model].view.models]

    def _take_in(self, models: Sequence[ModelView], pressure: Pressure, now: float) -> None:
        known, self._residents = self._residents, {}
        devices = {view.device for view in models}
        foreign = {device: pressure.room(device).used - held_on(device, models) for device in devices}
        for view in models:
            resident = self._residents[view.name] = known.get(view.name) or Resident(view, now)
            closed = pressure.gate_closed or not pressure.paused.isdisjoint(view.models)
            if resident.look(view, closed, now) and view.managed:
                self._settling.begin(resident, now)
            if view.state in _WHOLE:
                resident.last_whole = (view.memory_bytes, foreign[view.device])
        self._settling.look(models, pressure, now)

    def _cleanup(self, look: Look) -> tuple[Resident, Unload] | None:
        """What the clean-up takes; it comes round again only when it finds nothing more."""
        if self._cleaned_at is None:
            self._cleaned_at = look.now
        if look.now - self._cleaned_at < self._policy.cleanup_interval:
            return None
        chosen = for_cleanup(look)
        if chosen is None:
            self._cleaned_at = look.now
        return chosen

    def fits_beside(self, name: str) -> bool:
        """Whether, at the last call, there was room for a second process of a model while the first one serves."""
        resident = self._resident(name)
        if self._look is None or resident is None:
            return False
        room = self._look.pressure.room(resident.view.device)
        return room.rung < Rung.SHRINK and self._look.fits_beside(resident)

    def models_of(self, name: str) -> tuple[str, ...]:
        """The models of a group that a step names, or the one."""
        resident = self._resident(name)
        return resident.view.models if resident is not None else (name,)

    def idle_seconds(self, name: str) -> float:
        """How long a ready model had been idle at the last call, without the time its gate was closed; else 0."""
        resident = self._resident(name)
        return resident.idle if resident is not None and resident.view.state is ModelState.READY else 0.0

    def waits_for(self, name: str) -> str | None:
        """Why a model that is asked for is not being loaded, with the figures; None when nothing keeps it."""
        return self._waits.get(self._process_of.get(name, name))

    def learned_bytes(self, name: str) -> int | None:
        """The memory that a load of the model was seen to take; None before its first."""
        resident = self._resident(name)
        return resident.learned if resident is not None else None

    @property
    def external_pressure(self) -> bool:
        """Whether memory, or that of a GPU, is filled by others than us, so that nothing more is unloaded for it."""
        return self._external

    def reserved(self, device: str) -> int:
        """The bytes of a room that loads under way were still going to take at the last call."""
        return reserved(self._residents.values(), device)

    @property
    def busy(self) -> bool:
        """Whether a process was loading, leaving, or waiting to be loaded at the last call."""

        def moves(resident: Resident) -> bool:
            waits = resident.waits and resident.view.managed and not resident.holds_place
            return resident.is_loading or resident.leaves or waits or resident.view.successor_bytes is not None

        return any(map(moves, self._residents.values()))

    def stats(self) -> MemoryStats:
        """Models known and in memory, and what they hold (GB of 10^9 bytes)."""
        live = [r for r in self._residents.values() if r.view.state in LIVE_STATES]
        return MemoryStats(
            total_models=sum(resident.view.places for resident in self._residents.values()),
            loaded_models=sum(resident.view.places for resident in live),
            total_memory_gb=round(sum(resident.held for resident in live) / 1e9, 2),
            max_models=self._policy.max_models,
        )

    def _resident(self, name: str) -> Resident | None:
        return self._residents.get(self._process_of.get(name, name))


def _relieved_room(unload: Unload, victim: Resident) -> str | None:
    """The room for whose relief a model is unloaded; None when it is for another reason."""
    if unload.cause is Cause.MEMORY:
        return HOST
    return victim.view.device if unload.cause is Cause.GPU_MEMORY else None
