"""Who goes: which one model is unloaded next, and why.

Three reasons to unload, one function each: the ladder's unload rung, the regular clean-up, a model that waits for room.
Each names at most one model; the manager asks only while no other unload is under way or settling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from supervisor.core.look import Look
from supervisor.core.model import ModelState, Rung, Signal
from supervisor.core.policy import Eviction
from supervisor.core.reservation import HOST, bytes_text
from supervisor.core.resident import Resident

# Between two requests of a client that asks again at once a model is not cold; this long after its last use it is.
COLD_AFTER = 1.0
# A model that is busy keeps its place at least this long, and as long as its load took: with less, two models that are
# both asked for spend their time loading (edge cases 16 and 41).
RESIDENCE = 20.0
# While the ladder has closed the gate everything goes at floor speed: a turn lasts this many times as long.
PATIENCE_WHEN_PAUSED = 3.0


class Cause(StrEnum):
    """Why a model is unloaded: the `cause` of metrics and journal."""

    IDLE = "idle"
    EVICTED = "evicted"
    ROTATION = "rotation"
    MEMORY = "memory"
    GPU_MEMORY = "gpu_memory"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Unload:
    """`model` is to leave memory; `why` has the figures, `signal` is the one whose rung asks for it, if any."""

    model: str
    cause: Cause
    why: str
    signal: Signal | None = None


def for_pressure(look: Look) -> tuple[Resident, Unload] | None:
    """The model that the unload rung takes next.

    1. Only models that nobody would notice, never pinned ones, and never the last one that is ready.
    2. Memory: any of them; those on a GPU after the others, as most of what they hold is elsewhere.
    3. GPU memory: those on a device that is at this rung itself.
    4. CPU: only those idle past the time-out; a reload costs more CPU than it frees.
    """
    cold = [r for r in look.coldest_first(look.residents) if r.unused and r.view.state is ModelState.READY]
    if look.ready < 2:  # 1
        return None
    pressure, timeout = look.pressure, look.policy.inactive_timeout
    for resident in sorted(cold, key=lambda r: r.view.device != HOST):  # 2
        if _wants_relief(look, HOST, cold):
            return resident, _pressed(resident, Cause.MEMORY, Signal.MEMORY)
    for resident in cold:
        if _wants_relief(look, resident.view.device, cold):  # 3
            return resident, _pressed(resident, Cause.GPU_MEMORY, Signal.GPU_MEMORY)
    for resident in cold:
        if pressure.cpu >= Rung.UNLOAD and 0 < timeout < resident.idle:  # 4
            return resident, _pressed(resident, Cause.CPU, Signal.CPU)
    return None


def _wants_relief(look: Look, device: str, cold: Sequence[Resident]) -> bool:
    """Whether unloading one more model is due for a room.

    1. Not where what fills it is not ours.
    2. While what is really in use is at the unload threshold or above, and in a drill: one per settle time.
    3. Below it, not before the ladder had time to see that the last unload helped.
    4. Below it, one at once when the rung was just entered: memory is about to be exhausted.
    5. Below it otherwise (a rung is left later than it is entered): only where the cold models can bring it under the
       shrink threshold, else they would go one after the other and the pause would last all the same.
    """
    room = look.pressure.room(device)
    if room.rung < Rung.UNLOAD or look.external(device):  # 1
        return False
    if not room.real or not room.below_unload:  # 2
        return True
    if look.settling.relieved(device, look.now):  # 3
        return False
    if look.settling.just_entered(device, look.now):  # 4
        return True
    stays = cold[-1:] if len(cold) == look.ready else []
    freeable = sum(r.held for r in cold if r not in stays and r.view.device == device)
    return 0 < (room.excess or 0) <= freeable  # 5


def _pressed(resident: Resident, cause: Cause, signal: Signal) -> Unload:
    held = bytes_text(resident.view.memory_bytes)
    return Unload(resident.view.name, cause, f"the coldest model, idle {resident.idle:.0f} s, holds {held}", signal)


def for_cleanup(look: Look) -> tuple[Resident, Unload] | None:
    """The model that the regular clean-up takes next (seed section 4.1).

    1. One that has been idle for longer than the time-out; not the last one ready while the ladder is below warn.
    2. Where none is: while more models are in memory than may be, the most dispensable (`Eviction`).
    """
    cold = [r for r in look.coldest_first(look.residents) if r.unused and r.view.state is ModelState.READY]
    timeout = look.policy.inactive_timeout
    spared = look.ready < 2 and look.pressure.ladder_quiet
    for resident in cold:
        if 0 < timeout < resident.idle and not spared:  # 1
            return resident, Unload(resident.view.name, Cause.IDLE, f"idle {resident.idle:.0f} s > {timeout:g} s")
    held = look.places_held
    if held > look.policy.max_models and cold:  # 2
        first = look.dispensable_first(cold)[0]
        why = f"{held} models in memory, {look.policy.max_models} may be; {_choice(look, first)}"
        return first, Unload(first.view.name, Cause.EVICTED, why)
    return None


def for_waiter(look: Look, waiter: Resident) -> tuple[Resident, Unload] | None:
    """The model that makes room for one that waits; None = nobody yet.

    1. Where memory is missing, only models in that memory help; where only a place is, any.
    2. One that nobody uses: first any that has broken down, then the most dispensable (`Eviction`).
    3. Else one that is busy and has had its turn: in memory for `RESIDENCE`, and as long as its load took. Of those the
       one that has been there longest, but rather one that is large enough. Models that are wanted by turns so each get
       theirs, and none is loaded more often than once in that time.
    4. While an operator holds the gate shut nobody is served, so nobody loses a turn; while the ladder does, turns last
       longer.
    """
    helpful = [r for r in look.holders if r is not waiter and r.can_go]
    shortage = look.shortage(waiter)
    if shortage:  # 1
        helpful = [r for r in helpful if r.view.device == waiter.view.device]
    cold = [r for r in look.dispensable_first(helpful) if _is_cold(r, look.now)]
    for resident in sorted(cold, key=lambda r: r.view.state is not ModelState.BACKOFF):  # 2
        return resident, _evicted(resident, waiter, Cause.EVICTED, _choice(look, resident))
    turn = _turn(look)
    if turn is None:
        return None
    had_it = [r for r in helpful if look.now - r.settled_since >= turn * max(RESIDENCE, r.view.load_seconds or 0.0)]
    for resident in sorted(had_it, key=lambda r: (r.held < shortage, r.settled_since)):  # 3
        cause = Cause.EVICTED if resident.unused else Cause.ROTATION
        stayed = look.now - resident.settled_since
        return resident, _evicted(resident, waiter, cause, f"had its turn for {stayed:.0f} s")
    return None


def _choice(look: Look, resident: Resident) -> str:
    """Why this one was chosen, in words."""
    idle = f"idle {resident.idle:.0f} s"
    match look.policy.eviction:
        case Eviction.LRU:
            return f"least recently used, {idle}"
        case Eviction.LFU:
            return f"least often used, {resident.view.uses} times, {idle}"
        case Eviction.COST:
            load = f"loads in {resident.view.load_seconds:.0f} s" if resident.view.load_seconds else "load not timed"
            return f"cheapest to lose: {idle}, holds {bytes_text(resident.held)}, {load}"


def _is_cold(resident: Resident, now: float) -> bool:
    return resident.unused and (resident.view.state is ModelState.BACKOFF or now - resident.in_use_at >= COLD_AFTER)


def _evicted(resident: Resident, waiter: Resident, cause: Cause, why: str) -> Unload:
    return Unload(resident.view.name, cause, f"{waiter.view.name} waits for room; {why}")


def _turn(look: Look) -> float | None:  # 4
    """How many times the usual a turn lasts now; None = turns do not end."""
    if not look.pressure.gate_closed:
        return 1.0
    by_ladder = max(look.pressure.cpu, look.pressure.memory) >= Rung.PAUSE
    return PATIENCE_WHEN_PAUSED if by_ladder else None
