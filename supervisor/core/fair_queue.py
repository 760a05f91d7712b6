"""The order in which entries leave: classes by weight, in a class round-robin over clients, by the cost served to each.

Owns the classes, their virtual times, what came back from a lost worker, and the sums of what waits. The clients inside
a class are `fair_clients`. Knows nothing of parts, workers or deadlines: its caller asks for the next entry, sends what
fits of it, and tells what that cost.

Start-time fair queueing on two levels, with the same rules (see `fair_clients`) on both: a class's tag grows by the
cost served to it, divided by its weight. Classes are never new and never forgotten, so they need no clock beside the
floor. On equal tags the higher class goes first, then the client served longest ago, then the earlier arrival.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from enum import StrEnum
from math import isclose
from typing import Final, Generic, Protocol, TypeVar

from supervisor.core.fair_clients import ANY, SLICE_DECAY, TOLERANCE, Clients, pushed
from supervisor.core.fair_order import Client


class Priority(StrEnum):
    """The classes of requests, highest first."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BULK = "bulk"

    # Enum's own is written in Python, and priorities are looked up several times for each request.
    __hash__ = str.__hash__


# Bulk keeps 1/13 (7.7 %) of what is served under any flood of the others.
WEIGHTS: Final = {Priority.INTERACTIVE: 8, Priority.NORMAL: 4, Priority.BULK: 1}
INTERACTIVE_INPUTS = 4
NORMAL_INPUTS = 256


def priority_of(header: str | None, inputs: int) -> Priority:
    """The class of a request of so many inputs.

    1. The word in its header (`x-priority`) decides, in any case of letters and with spaces around it.
    2. Without it, or with a word that is no class: up to 4 inputs are interactive, over 256 bulk, others normal.
    """
    if header is not None:
        try:
            return Priority(header.strip().lower())
        except ValueError:
            pass
    if inputs <= INTERACTIVE_INPUTS:
        return Priority.INTERACTIVE
    return Priority.BULK if inputs > NORMAL_INPUTS else Priority.NORMAL


class Entry(Protocol):
    """What waits. Only `cost` may change while it is in the queue."""

    @property
    def number(self) -> int:
        """Order of arrival: unique and increasing."""

    @property
    def client(self) -> str: ...

    @property
    def priority(self) -> Priority: ...

    @property
    def keys(self) -> Sequence[Hashable]:
        """What of it has a key may leave with what of others has the same one; without any it never merges."""

    @property
    def cost(self) -> float:
        """What of it still waits, above 0 while any does; all entries count in the same unit, whatever that is."""


E = TypeVar("E", bound=Entry)


class _Class(Generic[E]):
    """One class: its weight, its virtual time, and how far that may be pushed until its next entry is served."""

    __slots__ = ("clients", "limit", "tag", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.tag = self.limit = 0.0
        self.clients: Clients[E] = Clients()


class _Held(Generic[E]):
    """An entry in here: `due` of its cost is still to be paid, `paid` was when it was first sent."""

    __slots__ = ("class_", "client", "due", "entry", "paid")

    def __init__(self, entry: E, class_: _Class[E], client: Client[E], due: float, paid: float) -> None:
        self.entry = entry
        self.class_ = class_
        self.client = client
        self.due = due
        self.paid = paid


class FairQueue(Generic[E]):
    """Entries that wait, in fair order. All methods take amortised O(log n) or less, but for what came back.

    `cost` is the sum of what waits, as the entries said when they were last added, charged or put first.
    """

    __slots__ = ("_classes", "_floor", "_held", "_order", "_paid", "_returned", "_slice")

    def __init__(self) -> None:
        self._classes: dict[Priority, _Class[E]] = {each: _Class(WEIGHTS[each]) for each in Priority}
        self._order = tuple(self._classes.values())
        self._floor = self._slice = 0.0
        self._held: OrderedDict[int, _Held[E]] = OrderedDict()
        # Numbers, sorted. At most what was in flight at a worker: a few hundred.
        self._returned: list[int] = []
        self._paid = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, entry: E) -> bool:
        return entry.number in self._held

    def __iter__(self) -> Iterator[E]:
        """In order of arrival, those that came back first."""
        for number in self._returned:
            yield self._held[number].entry
        back = set(self._returned)
        for number, held in self._held.items():
            if number not in back:
                yield held.entry

    @property
    def cost(self) -> float:
        """What waits."""
        total = self._paid
        for each in self._order:
            total += each.clients.backlog.cost
        return total

    def add(self, entry: E) -> None:
        """A new entry waits; raises ValueError if it is in here already."""
        if entry.number in self._held:
            raise ValueError(f"entry {entry.number} waits already")
        self._hold(entry, entry.cost, 0.0)

    def remove(self, entry: E) -> None:
        """It waits no more, for it was given up; harmless if it is not in here."""
        held = self._held.get(entry.number)
        if held is not None:
            self._remove(held)

    def rekey(self, entry: E, before: Sequence[Hashable]) -> None:
        """Its merge keys were those of `before` and are others now; raises KeyError if it is not in here."""
        held = self._held[entry.number]
        held.class_.clients.rekey(held.client, entry, before)

    def first(self) -> E | None:
        """The entry that is next, None if none waits."""
        if self._returned:
            return self._held[self._returned[0]].entry
        return self._fairest(ANY)

    def next_like(self, key: Hashable) -> E | None:
        """The next entry of those with this merge key, to fill a part; None if none waits with it."""
        for number in self._returned:
            entry = self._held[number].entry
            if key in entry.keys:
                return entry
        return self._fairest(key)

    def charge(self, entry: E, cost: float) -> None:
        """So much of it left; call it when `entry.cost` is what still waits. With nothing left, it is out of the queue.

        What came back and was paid then is not paid again. Raises KeyError if the entry is not in here, and ValueError
        for a cost that is negative or no number.
        """
        if not cost >= 0:
            raise ValueError(f"cost {cost}")
        held = self._held[entry.number]
        class_, waits = held.class_, entry.cost
        if self._returned and entry.number in self._returned:
            free = min(held.paid, cost)
            cost -= free
            left = min(held.paid - free, waits)
            self._paid += left - held.paid
            held.paid = left
            if not left:
                self._no_longer_first(held)
        self._serve(class_, cost, class_.clients.charge(held.client, entry.number, cost))
        if not waits:
            self._remove(held)
            return
        due = waits - held.paid
        class_.clients.backlog.change(held.client, due - held.due)
        held.due = due

    def put_first(self, entry: E) -> None:
        """Some of it came back from a lost worker, and `entry.cost` counts that again.

        That much goes before all that was never sent, in order of arrival, and is not paid again. What of the entry was
        never sent keeps its place: a large request does not overtake the others because a worker died under its first
        part.
        """
        held = self._held.get(entry.number)
        if held is None:
            held = self._hold(entry, 0.0, entry.cost)
            self._held.move_to_end(entry.number, last=False)
            self._paid += held.paid
        else:
            more = max(0.0, entry.cost - held.due - held.paid)
            held.paid += more
            self._paid += more
        if entry.number not in self._returned:
            insort(self._returned, entry.number)

    def cost_ahead(self, client: str, priority: Priority, cost: float) -> float:
        """About how much is served until a new entry of this cost, by this client in this class, is done; itself too.

        As if rows were divisible without end: while he is served what waits of him and this, every other client of the
        class is served as much or all of his, and every other class its share by weight or all of it. Exact up to 64
        clients in the class (but for what they are ahead or behind now, a part or so), else possibly too high.
        """
        class_ = self._classes[priority]
        served = class_.clients.cost_shared(client, cost)
        total = self._paid + served
        for other in self._order:
            if other is not class_:
                total += min(other.clients.backlog.cost, served * other.weight / class_.weight)
        return total

    def check_invariants(self) -> None:
        """What must hold between any two calls; for tests. Takes time in proportion to all that waits."""
        assert all(each.tag >= self._floor for each in self._order if each.clients.waiting)
        assert self._returned == sorted(set(self._returned))
        assert set(self._returned) <= set(self._held)
        due: dict[int, float] = {}
        for number, held in self._held.items():
            assert held.entry.number == number
            assert held.client.all[number] is held.entry
            assert held.class_ is self._classes[held.entry.priority]
            assert held.paid == 0.0 or number in self._returned
            assert isclose(held.due + held.paid, held.entry.cost, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
            due[id(held.client)] = due.get(id(held.client), 0.0) + held.due
        entries = 0
        for each in self._order:
            each.clients.check()
            for client in each.clients:
                assert isclose(client.cost, due.get(id(client), 0.0), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
                entries += len(client.all)
        assert entries == len(self._held)
        paid = sum(held.paid for held in self._held.values())
        assert isclose(self._paid, paid, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        if not self._held:
            assert self._floor == self._slice == self._paid == self.cost == 0.0
            assert all(each.tag == 0.0 and not len(each.clients) for each in self._order)

    def _hold(self, entry: E, due: float, paid: float) -> _Held[E]:
        class_ = self._classes[entry.priority]
        if not class_.clients.waiting:
            class_.tag = max(class_.tag, self._floor)
            class_.limit = class_.tag + self._slice / class_.weight
        client = class_.clients.add(entry, due, first=paid > 0)
        held = self._held[entry.number] = _Held(entry, class_, client, due, paid)
        return held

    def _remove(self, held: _Held[E]) -> None:
        entry = held.entry
        del self._held[entry.number]
        if self._returned:
            self._no_longer_first(held)
        held.class_.clients.remove(held.client, entry, held.due)
        if not self._held:
            self._floor = self._slice = 0.0
            for each in self._order:
                each.tag = 0.0

    def _serve(self, class_: _Class[E], cost: float, next_of_all: bool) -> None:
        """A class was served so much (rules 1 to 3), of the entry that was next in it or of another."""
        least = class_.tag
        for each in self._order:
            if each.tag < least and each.clients.waiting:
                least = each.tag
        self._floor = least
        slice_ = self._slice * SLICE_DECAY
        self._slice = slice_ if slice_ > cost else cost
        ahead = self._slice / class_.weight
        limit = least + ahead
        class_.tag = pushed(class_.tag, cost / class_.weight, limit if next_of_all else min(limit, class_.limit))
        if next_of_all:
            class_.limit = class_.tag + ahead

    def _fairest(self, key: Hashable) -> E | None:
        best: _Class[E] | None = None
        for each in self._order:
            if key in each.clients and (best is None or each.tag < best.tag):
                best = each
        return best.clients.first(key) if best else None

    def _no_longer_first(self, held: _Held[E]) -> None:
        """It has no place among those that came back."""
        place = bisect_left(self._returned, held.entry.number)
        if place < len(self._returned) and self._returned[place] == held.entry.number:
            del self._returned[place]
            self._paid = self._paid - held.paid if self._returned else 0.0
            held.paid = 0.0
