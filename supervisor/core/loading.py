"""Who is loaded: the line of models that somebody waits for, what fits, what has to make room, what can never be.

Decides in the order of the line; which model makes room is `eviction`'s choice.
"""

from dataclasses import dataclass, field

from supervisor.core.eviction import Unload, for_waiter
from supervisor.core.look import Look
from supervisor.core.model import ModelState, Rung
from supervisor.core.reservation import HOST, bytes_text
from supervisor.core.resident import Resident
from supervisor.core.settling import LATE

# After a load that failed a model may not make others leave for it for this long: one that cannot be loaded must not
# evict healthy models again and again (edge case 17). It still gets what is free.
PEACE_AFTER_FAILURE = 300.0
# Likewise after a model left for it and the memory did not come back: others take what we give (edge case 14).
PEACE_AFTER_VAIN = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """`model` is to be brought into memory; `why` has the figures."""

    model: str
    why: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Whoever waits for `model` waits in vain: as configured it can never be loaded; `why` has the figures."""

    model: str
    why: str


Step = Load | Unload | Refuse


@dataclass(slots=True)
class LoadPlan:
    """What is newly decided, and what each model in line still waits for, as one goes down the line."""

    may_unload: bool
    steps: list[Step] = field(default_factory=list)
    waits: dict[str, str] = field(default_factory=dict)
    _held_up: set[str] = field(default_factory=set)
    _claimed: int = 0

    def consider(self, look: Look, resident: Resident) -> None:
        """The next model in line.

        1. One that somebody else runs takes no memory of ours to give: it is looked for at once.
        2. No load while memory, or that device's, is at pause or above, or can't be read any more.
        3. No load into memory that is still coming back from a model that has gone; the place it left stays kept.
        4. What fits is loaded; loads of different models run side by side.
        5. A preload only takes what is free. One that finds every place taken is not loaded later either.
        6. For others it is made room. Nobody behind takes memory that becomes free; for a place on another device they
           may have somebody leave themselves.
        """
        name, device = resident.view.name, resident.view.device
        pressed = _pressed(look, device)
        if not resident.view.managed:  # 1
            self.steps.append(Load(name, _asked(resident)))
            resident.ask_to_load(look.now)
        elif pressed is not None:  # 2
            self.waits[name] = pressed
        elif look.settling.is_open_on(device):  # 3
            self.waits[name] = "waits for memory to come back from a model that was unloaded"
            self._claimed += resident.view.places if resident.waits else 0
        elif device in self._held_up:
            self.waits[name] = "waits its turn behind a model that was asked for earlier"
        else:
            places, shortage = look.places_missing(resident, claimed=self._claimed), look.shortage(resident)
            if places or shortage:
                self.waits[name] = _missing(look, resident, places, shortage)
                if not resident.waits:  # 5
                    resident.passed_over = resident.passed_over or places > 0
                else:  # 6
                    self._make_room(look, resident, shortage)
            elif resident.waits or not resident.passed_over:  # 4
                self.steps.append(Load(name, _why_load(look, resident)))
                resident.ask_to_load(look.now)

    def _make_room(self, look: Look, resident: Resident, shortage: int) -> None:
        """Have one model leave for another.

        1. When one has just left in vain nobody does; its memory may only be late, so for a while it is kept.
        2. Nobody leaves where others than us, or pinned models, hold what is missing, nor for one whose load has just
           failed. Those behind may go on.
        """
        device, vain = resident.view.device, look.settling.in_vain_at(resident.view.name)
        if _is_recent(vain, PEACE_AFTER_VAIN, look):  # 1
            if _is_recent(vain, LATE, look):
                self._held_up.add(device)
            return
        if not _could_fit(look, resident) or _is_recent(resident.load_failed_at, PEACE_AFTER_FAILURE, look):  # 2
            return
        self._held_up.add(device)
        chosen = for_waiter(look, resident) if self.may_unload else None
        if chosen is not None:
            victim, unload = chosen
            victim.ask_to_leave(look.now, makes_room_for=resident.view.name if shortage else None)
            self.steps.append(unload)
            self.may_unload = False


def line(look: Look) -> list[Resident]:
    """The stopped models to be loaded: those waited for, longest first, then what is to be preloaded, as configured.

    The wait is counted by model, from when it was out of memory and asked for: clients that give up early and ask again
    do not lose the model its place.
    """
    out = [r for r in look.residents if r.view.state is ModelState.STOPPED and not r.is_asked_for]
    waited = sorted((r for r in out if r.waits), key=lambda r: look.now if r.waits_since is None else r.waits_since)
    return waited + [r for r in out if r.view.wanted and not r.waits]


def plan_loads(look: Look, may_unload: bool) -> LoadPlan:
    """Go down the line, then tell those who wait for what can never be loaded, once."""
    plan = LoadPlan(may_unload)
    for resident in line(look):
        plan.consider(look, resident)
    for resident in line(look):
        never = never_fits(look, resident)
        if never is not None:
            plan.waits[resident.view.name] = never
            if _tell(resident, look.now):
                plan.steps.append(Refuse(resident.view.name, never))
    return plan


def held_back(look: Look) -> dict[str, str]:
    """The models that are not to be started again if they crash, each with why: no load begins while memory pauses.

    They keep their place; whoever kills for want of memory would only be given more to kill.
    """
    pressed = {r.view.name: _pressed(look, r.view.device) for r in look.residents if r.view.managed}
    return {name: why for name, why in pressed.items() if why is not None}


def never_fits(look: Look, resident: Resident) -> str | None:
    """Why a model can never be loaded as things are configured, with the figures; None = it can.

    What others than us use is left out: they may go. So are models that are not pinned: they can.
    """
    device = resident.view.device
    room = look.pressure.room(device)
    pinned = [r for r in look.holders if r.view.pinned and r is not resident]
    taken, most = sum(r.view.places for r in pinned), look.policy.max_models
    if taken + resident.view.places > most:
        names = ", ".join(r.view.name for r in pinned)
        what = "every place" if taken >= most else f"{taken} of the {resident.view.places + taken} places needed"
        return f"max_models_in_memory is {most}, and pinned models hold {what}: {names}"
    limit = room.limit(only=not pinned)
    if limit is None:
        return None
    beside = [r for r in pinned if r.view.device == device]
    held = sum(max(r.held, r.need if r.is_loading else 0) for r in beside)
    if resident.need + held <= limit:
        return None
    where = "memory" if device == HOST else f"memory of {device}"
    others = f" and pinned models hold {_exact(held)}: {', '.join(r.view.name for r in beside)}" if held else ""
    may = f"at most {_exact(limit)} of {_exact(room.total)} may be in use"
    return f"it needs {_exact(resident.need)} of {where}{others}; {may}"


def _tell(resident: Resident, now: float) -> bool:
    """Whether somebody waits who was not told yet; from now on they are."""
    began = now - resident.view.oldest_wait
    if resident.refused_at is not None and (not resident.waits or began <= resident.refused_at):
        return False
    resident.refused_at = now
    return True


def _pressed(look: Look, device: str) -> str | None:
    if look.pressure.memory >= Rung.PAUSE:
        return f"no load while memory is at {look.pressure.memory.label}"
    room = look.pressure.room(device)
    where = "memory" if device == HOST else f"the memory of {device}"
    if room.rung >= Rung.PAUSE:
        return f"no load while {where} is at {room.rung.label}"
    if not room.total and room.rung >= Rung.SHRINK and look.holders:
        return f"no load beside others while {where} cannot be read"
    return None


def _could_fit(look: Look, resident: Resident) -> bool:
    """Whether it would fit if every model that is not pinned made room."""
    movable = look.movable(resident)
    return not look.places_missing(resident, movable) and not look.shortage(resident, movable)


def _is_recent(since: float | None, span: float, look: Look) -> bool:
    return since is not None and look.now - since < span


def _missing(look: Look, resident: Resident, places: int, shortage: int) -> str:
    parts = []
    if places:
        parts.append(f"{look.places_held} of at most {look.policy.max_models} models are in memory")
    if shortage:
        parts.append(f"{bytes_text(shortage)} of the {bytes_text(resident.need)} that it needs are not free")
    return "waits for room: " + ", ".join(parts)


def _why_load(look: Look, resident: Resident) -> str:
    asked = _asked(resident)
    if resident.need:
        asked += f", takes {bytes_text(resident.need)}"
    return f"{asked}, {look.places_held + resident.view.places} of at most {look.policy.max_models} models in memory"


def _asked(resident: Resident) -> str:
    queued = resident.view.queued
    return f"{queued} waiting for it" if queued else "asked for" if resident.waits else "preload"


def _exact(count: int) -> str:
    return f"{bytes_text(count)} ({count} bytes)"
