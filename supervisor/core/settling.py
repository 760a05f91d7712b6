"""The time after a model has gone: is its memory really back, and did that help? (behaviour.md 2, "proof of effect")

Owns the waits that are open and what the ended ones proved. It unloads and loads nothing: `eviction` and `loading` ask.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from supervisor.core.model import LIVE_STATES, ModelView, Rung
from supervisor.core.reservation import HOST, Pressure, Room
from supervisor.core.resident import Resident

# Memory comes back up to seconds after a process has gone (edge case 13); later than this it is not ours to wait for.
SETTLE_TIME = 5.0
# This share of what a model held must come back for its unload to count as having had an effect.
PROOF = 0.5
# So much longer memory that did not come in time is watched; some systems give it back very late.
LATE = 15.0
# The ladder leaves a rung on the mean of 3 s: an unload that brought the host under the threshold is seen by then.
RELIEF_TIME = 5.0
# A prediction ("exhausted in less than 5 s") is acted upon at once; later what is in use tells more.
ENTRY_TIME = 2.0


@dataclass(frozen=True, slots=True)
class _Gone:
    """A worker that has ended: the bytes it held, and what others than our models had in use then (`foreign`)."""

    device: str
    held: int
    foreign: int
    since: float
    relieves: str | None
    makes_room_for: str | None


class Settling:
    """Waits for the memory of models that have gone, at most `SETTLE_TIME`, and judges unloads by what came back."""

    def __init__(self) -> None:
        self._open: dict[str, _Gone] = {}
        self._vain: dict[str, _Gone] = {}  # waited for in vain; their memory may still come
        self._without_effect: set[str] = set()
        self._in_vain_at: dict[str, float] = {}
        self._relieved_at: dict[str, float] = {}
        self._at_unload_since: dict[str, float] = {}

    def begin(self, gone: Resident, now: float) -> None:
        """The process of this model has ended; where it is not known what it held, the whole settle time is waited."""
        held, foreign = gone.last_whole or (0, 0)
        device = gone.view.device
        self._open[gone.view.name] = _Gone(device, held, foreign, now, gone.relieves, gone.makes_room_for)

    def look(self, models: Sequence[ModelView], pressure: Pressure, now: float) -> None:
        """End the waits whose memory is back or whose time is over, and draw the conclusion.

        1. What counts as freed leaves out what our own models took or gave back in the meantime: a load that goes on
           beside an unload must not look like an unload without effect.
        2. An unload that gave back less than `PROOF` of its bytes had no effect: others take what we give, or the usage
           is not ours. In a drill the ladder's unloads prove nothing: the reading that asked for them is not real.
        3. If its memory does come within `LATE` s more, that is taken back.
        4. For a room the verdict holds until it is below pause: spikes between pause and unload must not take a model
           each.
        """
        for waits in (self._open, self._vain):
            for name, gone in list(waits.items()):
                room = pressure.room(gone.device)
                freed = gone.held + gone.foreign - (room.used - held_on(gone.device, models))  # 1
                known = bool(room.total and gone.held)
                back = known and freed >= PROOF * gone.held
                if back or now - gone.since >= (SETTLE_TIME if waits is self._open else SETTLE_TIME + LATE):
                    del waits[name]
                    if back or waits is self._open:
                        self._judge(name, gone, pressure, vain=known and not back, now=now)  # 2, 3
        for device in {HOST, *(model.device for model in models), *self._without_effect}:
            rung = pressure.room(device).rung
            if rung < Rung.PAUSE:  # 4
                self._without_effect.discard(device)
            if rung < Rung.UNLOAD:
                self._at_unload_since.pop(device, None)
            else:
                self._at_unload_since.setdefault(device, now)

    def _judge(self, name: str, gone: _Gone, pressure: Pressure, *, vain: bool, now: float) -> None:
        """Note what an unload did for the room and for the model that it was meant to help."""
        if vain:
            self._vain[name] = gone
        if gone.makes_room_for is not None:
            if vain:
                self._in_vain_at[gone.makes_room_for] = now
            else:
                self._in_vain_at.pop(gone.makes_room_for, None)
        if gone.relieves is None or not pressure.room(gone.relieves).real:
            return
        if vain and gone.relieves == gone.device:
            self._without_effect.add(gone.relieves)
        else:
            self._without_effect.discard(gone.relieves)
            self._relieved_at[gone.relieves] = now

    @property
    def is_open(self) -> bool:
        """Whether the memory of any model that has gone is still awaited."""
        return bool(self._open)

    def is_open_on(self, device: str) -> bool:
        """Whether memory of that room is still awaited."""
        return any(gone.device == device for gone in self._open.values())

    def just_entered(self, device: str, now: float) -> bool:
        """Whether a room has come to the unload rung less than `ENTRY_TIME` ago."""
        since = self._at_unload_since.get(device)
        return since is not None and now - since < ENTRY_TIME

    def relieved(self, device: str, now: float) -> bool:
        """Whether an unload has just given a room some memory back, and the ladder may yet have to notice."""
        since = self._relieved_at.get(device)
        return since is not None and now - since < RELIEF_TIME

    def in_vain_at(self, waiter: str) -> float | None:
        """When another model last left to make room for this one and its memory did not come; None = it did."""
        return self._in_vain_at.get(waiter)

    def without_effect(self, device: str) -> bool:
        """Whether an unload for this room's relief was in vain, and the room is still under pressure."""
        return device in self._without_effect


def held_on(device: str, models: Iterable[ModelView]) -> int:
    """The bytes that our models hold of a room; one that has no process holds none, whatever was last read of it."""
    return sum(
        m.memory_bytes + (m.successor_bytes or 0) for m in models if m.device == device and m.state in LIVE_STATES
    )


def is_foreign(device: str, room: Room, models: Sequence[ModelView]) -> bool:
    """Whether a room under pressure is full because of others: without all our models it would still be above shrink.

    Then unloading cannot help (edge cases 14, 45). What a model on a GPU holds of the host's memory is not known, so
    with one of those this says nothing about the host.
    """
    if room.rung < Rung.PAUSE or not room.real or room.excess is None:
        return False
    if device == HOST and any(model.device != HOST and model.state in LIVE_STATES for model in models):
        return False
    return held_on(device, models) < room.excess
