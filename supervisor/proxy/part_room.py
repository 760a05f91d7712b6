"""Memory ahead of time: what of a lane's next rows may leave, by what they will take at the worker.

Owns what was learned of one model's parts (`supervisor.core.part_memory`), their reservation, and the measuring. All
lanes share one account of the host (`supervisor.core.memory_room`).

Infinity puts rows that wait at it into one batch, up to its own batch size and padded to the longest, so all parts that
a lane has there count as one: their rows together, as long as the longest of them.

Nothing is asked while the orders name no room: memory drilled or unreadable, observe mode, and models on a GPU, whose
memory this does not foretell. Where there is plenty, asking is three comparisons, and /proc is read ten times a second
at most, only to go on learning.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from supervisor.core.memory_room import MemoryRoom
from supervisor.core.model import LaneOrders
from supervisor.core.part_memory import FIRST_COST, FIRST_ROOM, FIXED, MIB, Oversize, PartMemory
from supervisor.core.payload import Inference
from supervisor.proxy.part import Part
from supervisor.proxy.worker_memory import Peaks, WorkerMemory

# Plenty: a whole batch of rows up to some length is predicted to take at most this share of the room.
PLENTY: Final = 0.25
# The shortest and the longest rows for which that is asked, as powers of two.
SHORT, LONG = 6, 20
# Parts that take less than this go as long as the last level leaves so much: a host that others keep a little above the
# shrink threshold is not to be served row by row.
LITTLE: Final = 64 * MIB
# A trickled row that takes less than this goes however full the host is: never dead.
NEXT_TO_NOTHING: Final = 32 * MIB


class Ration(NamedTuple):
    """What may leave now: up to `rows` rows of up to `longest` characters; 0: nothing, `short` says what is missing.

    `trial`: first so many characters of the one next row, alone, only to see what they take. `never`: the row that
    `short` tells of will not fit, however long it waits.
    """

    rows: int
    longest: int
    trial: int | None = None
    short: Oversize | None = None
    never: bool = False


FREE: Final = Ration(1 << 30, 1 << 60)
WAIT: Final = Ration(0, 0)


class _Plenty(NamedTuple):
    """While so many bytes are left, whole batches of rows up to this length need no closer look."""

    longest: int
    least: int
    ration: Ration


class _Sent(NamedTuple):
    """What was at the worker together, what it was to take, and the room it had; None where there was plenty."""

    memory: PartMemory
    rows: int
    longest: int
    need: int
    room: int | None

    @property
    def tight(self) -> bool:
        """Whether it may well have taken more than the room. (While nothing is known of a model no room is plenty: a
        `kill -9` under its first short part once made every text too large for it.)"""
        return self.room is not None and self.need > PLENTY * self.room


class Rooms:
    """What all lanes share: the host's account, how workers are measured, and who waits for what others have."""

    def __init__(self, peaks: Peaks | None = None) -> None:
        self.host = MemoryRoom()
        self.peaks = peaks
        self.waiting: set[PartRoom] = set()


class PartRoom:
    """Memory for one lane. `parts` is the lane's own set of what is at the worker; `batch` that one's batch size."""

    def __init__(self, rooms: Rooms, parts: Collection[Part], batch: int) -> None:
        self.batch = batch
        self._rooms = rooms
        self._host = rooms.host
        self._parts = parts
        self._memory: dict[Inference, PartMemory] = {}
        self._plenty: dict[Inference, _Plenty] = {}
        self._needs: dict[tuple[Inference, int, int], int] = {}
        self._ever: int | None = None
        self._room: int | None = None  # what the next part has; None: plenty
        self.trying = False  # a trial is at the worker: nothing else may be, or it tells nothing
        self._sent: _Sent | None = None
        self._lost: _Sent | None = None
        self._largest: _Sent | None = None  # of those since the worker was loaded
        self._worker = WorkerMemory(rooms.peaks)
        self.siblings: tuple[PartRoom, ...] = ()  # of models with the same worker: its levels are theirs, too
        self.trial_waits = False  # for what others have there to end, or it would tell nothing

    @property
    def waits(self) -> bool:
        """Whether rows wait for what other lanes have reserved: until then none of these sends a second part."""
        return self in self._rooms.waiting

    def stop_waiting(self) -> None:
        """It is asked again, or there is nothing to ask for."""
        self._rooms.waiting.discard(self)

    @property
    def _on(self) -> bool:
        return self._ever is not None and self._host.room is not None

    @property
    def _accompanied(self) -> bool:
        """Whether anything of other models is at the worker: then what that takes tells nothing of ours."""
        return any(room._parts for room in self.siblings)

    # -- the host and the worker --------------------------------------------------------------------------------------

    def sampled(self, orders: LaneOrders) -> int:
        """New orders on a new sample; how much of what is reserved the worker had in use already."""
        self._ever = orders.memory_ever
        self._plenty.clear()
        if self._ever is None:
            return 0
        busy = bool(self._parts) or self._accompanied
        return self._worker.sampled(orders.main_pid, not busy, 0 if self._accompanied else self._host.reserved(self))

    def attached(self) -> None:
        """The worker is loaded: what parts take counts from here."""
        self._lost = self._largest = None
        self._worker.loaded()

    def detached(self, killed: bool) -> None:
        """The worker is gone. `killed`: somebody did that with SIGKILL, and not we.

        Where no cgroup tells why, that is how the kernel ends what takes too much memory. If parts were at the worker,
        it is taken for that: the cap falls. What they took counts as measured only where the room was tight, for others
        kill as well, and where there was plenty it is hard to believe.
        """
        self._missed()
        if killed and self._lost is not None:
            lost, self._lost = self._lost, None
            lost.memory.lower_cap(min(lost.rows, self.batch), lost.longest, lost.room if lost.tight else None)
            self._learned()
        self._worker.follow(None)
        self.trying = self.trial_waits = False
        self.stop_waiting()
        self._host.forget(self)

    def lower_cap(self) -> None:
        """What the worker has grown to is too much: its parts are not to be as large as the largest it was sent."""
        if self._largest is not None:
            self._largest.memory.lower_cap(min(self._largest.rows, self.batch), self._largest.longest)
            self._learned()

    # -- asking -------------------------------------------------------------------------------------------------------

    def ration(self, kind: Inference, rows: int, longest: int, divisible: bool) -> Ration:
        """What of the next `rows` rows, the longest of `longest` characters, may leave now."""
        if not self._on:
            return FREE
        if self.trying:
            return WAIT
        self.trial_waits = False
        plenty = self._plenty.get(kind) or self._look_for_plenty(kind)
        if longest <= plenty.longest and self._host.left(self) >= plenty.least and not self._rooms.waiting:
            self._room = None
            return plenty.ration
        ask = self._beside if self._parts else self._first
        return ask(kind, rows, longest, divisible)

    def trickle(self, kind: Inference, longest: int, divisible: bool) -> Ration:
        """What may pass a closed gate while nothing is at the worker: one row, if it fits at the last."""
        if not self._on:
            return FREE
        self._look()
        self._room = max(self._host.left_at_last(self), NEXT_TO_NOTHING)
        return self._one(self._memory_of(kind), longest, self._room, divisible) or WAIT

    def _look_for_plenty(self, kind: Inference) -> _Plenty:
        """The longest rows of which whole batches take little of the room."""
        memory, left = self._memory_of(kind), self._host.left(self)
        found = _Plenty(-1, 0, WAIT)  # not even of empty rows
        for power in range(SHORT, LONG):
            longest = 1 << power
            need = memory.predict(self.batch, longest)
            # A part that takes half of the room is no matter how far it is from what was measured: so half of it is
            # given, twice what plenty means.
            room = int(2 * PLENTY * left)
            if need is None or need > PLENTY * left or memory.rows_that_fit(self.batch, longest, room) < self.batch:
                break
            found = _Plenty(longest, 2 * need, Ration(FREE.rows, longest))
        self._plenty[kind] = found
        return found

    def _beside(self, kind: Inference, rows: int, longest: int, divisible: bool) -> Ration:
        """What may leave beside what is at the worker; what does not fit there waits until that is answered."""
        if self._rooms.waiting or any(part.endpoint is not kind for part in self._parts):
            return WAIT
        there = sum(part.inputs for part in self._parts)
        widest = max(longest, *(part.longest for part in self._parts))
        room = self._usual()
        fits = self._memory_of(kind).rows_that_fit(min(self.batch, there + rows), widest, room)
        free = rows if fits >= self.batch else fits - there
        if free < 1 or (free < rows and not divisible):
            return WAIT
        self._room = room
        return Ration(free, longest)

    def _first(self, kind: Inference, rows: int, longest: int, divisible: bool) -> Ration:
        """What may leave while nothing is at the worker.

        1. As many rows as fit the room. 2. One, perhaps after trials: what can't be divided goes whole if one row of it
        would fit. 3. One row, up to the last level. 4. Nothing: it waits, or will never fit.
        """
        memory = self._memory_of(kind)
        self.stop_waiting()
        self._look()
        last = self._host.left_at_last(self)
        room = self._usual()
        fits = memory.rows_that_fit(min(rows, self.batch), longest, room)
        if fits > 1:
            self._room = room
            return Ration(rows if fits >= self.batch or not divisible else fits, longest)  # 1
        for self._room in (room, last):
            if (ration := self._one(memory, longest, self._room, divisible)) is not None:
                return ration  # 2, 3
        if self._host.shared(self):
            self._rooms.waiting.add(self)
        return self._none(memory, longest, last)  # 4

    def _one(self, memory: PartMemory, longest: int, room: int, divisible: bool) -> Ration | None:
        """One row, or first a trial of it; None when it does not fit. A trial that can't be measured has no end."""
        if memory.rows_that_fit(1, longest, room) < 1:
            return None
        trial = memory.trial(longest, room) if divisible and self._worker.visible else None
        self.trial_waits = trial is not None and self._accompanied
        return WAIT if self.trial_waits else Ration(1, longest, trial)

    def _none(self, memory: PartMemory, longest: int, last: int) -> Ration:
        """A row that does not fit now waits, or, if it would not fit at best either, is not going to.

        What the worker has kept is no room, for it does not come back. Where at best there is much more than at the
        last, no more than a guess is known of such a row until others use less.
        """
        assert self._ever is not None, "asked for only while the host is known"
        best = max(last, self._ever - self._worker.never_back)
        short = memory.figures(longest, best)
        known = best - last <= max(LITTLE, last / 4) or memory.trial(longest, best) is None
        if short.needed > best and known:
            self.stop_waiting()
            return Ration(0, 0, short=short, never=True)
        return Ration(0, 0, short=memory.figures(longest, last))

    def _usual(self) -> int:
        """The room, but a little while the last level leaves that."""
        return max(self._host.left(self), min(LITTLE, self._host.left_at_last(self)))

    def _look(self) -> None:
        """What the worker has kept, rather than what it may have."""
        kept = None if self._accompanied else self._worker.kept()
        if kept is not None:
            self._host.keeps(self, kept)

    def _memory_of(self, kind: Inference) -> PartMemory:
        """What was learned of this kind of parts: a picture's length says nothing about a text's."""
        memory = self._memory.get(kind)
        if memory is None:
            memory = self._memory[kind] = PartMemory()
        return memory

    # -- parts come and go --------------------------------------------------------------------------------------------

    def leaves(self, part: Part, now: float) -> None:
        """A part is on its way, as the last ration allowed it; it is among the lane's parts."""
        if not self._on:
            return
        rows = longest = 0
        for each in self._parts:
            rows += each.inputs
            if each.longest > longest:
                longest = each.longest
        self.trying = part.trial is not None
        memory = self._memory_of(part.endpoint)
        need = self._need(part.endpoint, memory, min(rows, self.batch), longest)
        self._host.reserve(self, need)
        self._sent = sent = _Sent(memory, rows, longest, need, self._room)
        if self._largest is None or rows * longest > self._largest.rows * self._largest.longest:
            self._largest = sent
        for room in self.siblings:
            room._worker.disturbed()
        if not self._accompanied and (self._room is not None or self._worker.concerned(now)):
            self._worker.measure(memory, part, len(self._parts), min(rows, self.batch), longest)

    def answered(self, part: Part, ok: bool) -> None:
        """A part was answered and is no longer among the lane's; only one that is `ok` tells what it took."""
        self._lost = None
        if not self._parts:
            self._ended()
            self._sent = None
        if self._worker.measured(part, ok, self._memory_of(part.endpoint), self.batch):
            self._learned()

    def lost(self, part: Part, sent: bool) -> None:
        """A part got no answer, though it was sent perhaps, and is no longer among the lane's."""
        self._worker.measured(part, False, self._memory_of(part.endpoint), self.batch)
        if sent:
            self._missed()
        if not self._parts:
            self._ended()

    def _ended(self) -> None:
        """Nothing is at the worker any more; where that counts, what it has kept is looked at."""
        self.trying = False
        self._host.release(self)
        if self._sent is not None and self._sent.room is not None:
            self._look()

    def _missed(self) -> None:
        """What was at the worker is remembered until it is known what became of that."""
        if self._sent is not None:
            self._lost, self._sent = self._sent, None

    def _need(self, kind: Inference, memory: PartMemory, rows: int, longest: int) -> int:
        """What so much is predicted to take: for the next of eight lengths in each octave, remembered."""
        step = max(0, longest.bit_length() - 4)
        key = (kind, rows, (longest >> step) + 1 << step)
        need = self._needs.get(key)
        if need is None:
            guess = FIXED + FIRST_ROOM * rows * longest**2 // FIRST_COST  # as the first part of all is cut by
            need = self._needs[key] = memory.predict(rows, key[2]) or guess
        return need

    def _learned(self) -> None:
        self._plenty.clear()
        self._needs.clear()
