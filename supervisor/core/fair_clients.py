"""Round-robin over clients, by the cost served to each: the inner level of the fair queue, once per class.

Owns each client's virtual time, its lines of entries, what of its cost waits, and when a client that left is forgotten.
Knows no classes and no entries that came back.

The rules, in virtual time (all in cost units):
1. A client's tag is its own virtual time: it grows by what is served to it. The smallest tag is next.
2. A part is also filled with what is not next but has its key. Nobody gets further ahead of the smallest tag that way
   than one slice, nor further than one slice between two services of his oldest entry: beyond that he was given room
   that no one else could use, and would starve (or his oldest entry, with a rarer key) for having taken it.
3. The floor is the smallest tag that waited at the last service. Who returns starts at his own tag, or as a new
   client if the floor has reached it: being away earns nothing, leaving with a debt forgives nothing.
4. A new client starts at the clock, which grows by what is served, divided by the number of clients that wait, and
   stays within one slice above the floor. If it were the floor, clients that come once each could starve all who wait.
5. A client that left is remembered until the floor reaches its tag; from then on, there is no debt.
6. When nobody waits there is nothing to share: all is forgotten, so no number here grows for ever.
"""

from collections.abc import Hashable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count
from math import isclose
from typing import Final, Generic

from supervisor.core.fair_backlog import Backlog
from supervisor.core.fair_order import NOTHING, Client, Line, Order, W

# The merge key under which every entry is found, besides its own ones.
ANY: Final = object()
# How much of the largest slice's weight is left at the next charge: one huge row loosens rule 2 for a few dozen parts.
SLICE_DECAY = 0.99
# So many clients that left are remembered at most, those who owe most: 4,096 take about 1 MB.
LEFT_MOST = 4096
# Relative and absolute error allowed to sums of floats, in the invariants.
TOLERANCE = 1e-6


def pushed(tag: float, by: float, limit: float) -> float:
    """The tag after a service: grown, but not beyond the limit; it never falls."""
    grown = tag + by
    if grown <= limit:
        return grown
    return tag if tag > limit else limit


class Clients(Generic[W]):
    """The clients of one class. `waiting` is how many of them have entries in here, `backlog` what these cost."""

    __slots__ = ("_clients", "_clock", "_floor", "_left", "_orders", "_serial", "_slice", "_turn", "backlog", "waiting")

    def __init__(self) -> None:
        self._clients: dict[str, Client[W]] = {}
        self._orders: dict[Hashable, Order[W]] = {}
        # Who left with a tag above the floor: one record each, perhaps of an earlier tag.
        self._left: list[tuple[float, int, Client[W]]] = []
        self._serial = count()
        self._clock = self._floor = self._slice = 0.0
        self._turn = 0
        self.waiting = 0
        self.backlog = Backlog()

    def add(self, entry: W, cost: float, first: bool = False) -> Client[W]:
        """The client with whom it waits now, behind his others or before them; `cost` of it is not paid yet."""
        client = self._clients.get(entry.client)
        if client is None:
            client = self._clients[entry.client] = Client(entry.client, self._clock)
        number = entry.number
        if client.all:
            client.all[number] = entry
        else:
            self._join(client, number, entry)
        for key in entry.keys:
            self._add_alike(client, key, number, entry, first)
        if first:
            client.all.move_to_end(number, last=False)
            self._orders[ANY].advance(client.all)
        self.backlog.change(client, cost)
        return client

    def remove(self, client: Client[W], entry: W, cost: float) -> None:
        """It waits no more; `cost` is what of it was not paid."""
        self.backlog.change(client, -cost)
        del client.all[entry.number]
        for key in entry.keys:
            self._remove_alike(client, entry.number, key)
        if not client.all:
            self._leave(client)

    def rekey(self, client: Client[W], entry: W, before: Sequence[Hashable]) -> None:
        """Its merge keys were those of `before` and are others now."""
        number = entry.number
        for key in before:
            if key not in entry.keys:
                self._remove_alike(client, number, key)
        for key in entry.keys:
            if key not in before:
                line = client.keyed.get(key)
                self._add_alike(client, key, number, entry, first=line is not None and number < next(iter(line)))

    def charge(self, client: Client[W], number: int, cost: float) -> bool:
        """So much of an entry of this client was served (rules 1 to 4); whether that was the next of all."""
        first = self._orders[ANY].first()
        least = first.client.tag
        slice_ = self._slice * SLICE_DECAY
        if cost > slice_:
            slice_ = cost
        ceiling = least + slice_
        oldest = next(iter(client.all)) == number
        client.tag = pushed(client.tag, cost, ceiling if oldest else min(ceiling, client.limit))
        if oldest:
            client.limit = client.tag + slice_
        self._turn += 1
        client.turn = self._turn
        clock = self._clock + cost / self.waiting
        self._clock = least if clock < least else ceiling if clock > ceiling else clock
        self._floor = least
        self._slice = slice_
        if self._left:
            self._forget()
        return oldest and first is client.all

    def first(self, key: Hashable) -> W | None:
        """The next entry with this merge key (ANY: with whichever)."""
        order = self._orders.get(key)
        return next(iter(order.first().values())) if order else None

    def __contains__(self, key: Hashable) -> bool:
        """Whether an entry with this merge key waits."""
        return key in self._orders

    def __len__(self) -> int:
        """How many clients are known, with those that left and are remembered."""
        return len(self._clients)

    def __iter__(self) -> Iterator[Client[W]]:
        return iter(self._clients.values())

    def cost_shared(self, name: str, cost: float) -> float:
        """What the class is served before `cost` more of this client is: his own that waits, and the others' share."""
        client = self._clients.get(name)
        own = cost + (client.cost if client else 0.0)
        return own + self.backlog.share(client, self._clients, own)

    def check(self) -> None:
        """What must hold between any two calls; for tests."""
        waiting = [client for client in self._clients.values() if client.all]
        assert self.waiting == len(waiting)
        assert self._floor <= self._clock <= self._floor + self._slice
        assert len(self._left) <= LEFT_MOST
        assert bool(self.waiting) == bool(self._clients) == bool(self._orders)
        keys: dict[Hashable, int] = {ANY: len(waiting)} if waiting else {}
        for name, client in self._clients.items():
            assert client.name == name
            assert client.tag >= self._floor
            assert client.all or (client.remembered and client.tag > self._floor and not client.cost)
            keyed = {(key, number) for key, line in client.keyed.items() for number in line}
            assert keyed == {(key, number) for number, entry in client.all.items() for key in entry.keys}
            for key, line in client.keyed.items():
                assert line
                keys[key] = keys.get(key, 0) + 1
        assert {key: order.lines for key, order in self._orders.items()} == keys
        for order in self._orders.values():
            order.check()
        assert sorted(id(client) for _, _, client in self._left) == sorted(
            id(client) for client in self._clients.values() if client.remembered
        )
        self.backlog.check(self._clients.values())
        total = sum(client.cost for client in waiting)
        assert isclose(self.backlog.cost, total, rel_tol=TOLERANCE, abs_tol=TOLERANCE)

    def _add_alike(self, client: Client[W], key: Hashable, number: int, entry: W, first: bool) -> None:
        """It waits with his others of this key, behind them or before them."""
        line = client.keyed.get(key)
        if line is None:
            client.keyed[key] = self._begin(key, client, number, entry)
            return
        line[number] = entry
        if first:
            line.move_to_end(number, last=False)
            self._orders[key].advance(line)

    def _remove_alike(self, client: Client[W], number: int, key: Hashable) -> None:
        line = client.keyed[key]
        del line[number]
        if not line:
            del client.keyed[key]
            self._end(key)

    def _join(self, client: Client[W], number: int, entry: W) -> None:
        """Rule 3: who is remembered has a tag above the floor, who is not begins at the clock."""
        client.limit = client.tag + self._slice
        client.all = self._begin(ANY, client, number, entry)
        self.waiting += 1

    def _leave(self, client: Client[W]) -> None:
        """Rules 5 and 6."""
        self.waiting -= 1
        client.all = NOTHING
        self._end(ANY)
        if not self.waiting:
            self._clients.clear()
            self._left.clear()
            self._clock = self._floor = self._slice = 0.0
            self._turn = 0
            self.backlog.clear()
            return
        self.backlog.change(client, -client.cost)  # what the rounding of sums has left
        if client.tag <= self._floor:
            self._drop(client)
        elif not client.remembered:
            self._remember(client)

    def _remember(self, client: Client[W]) -> None:
        client.remembered = True
        heappush(self._left, (client.tag, next(self._serial), client))
        if len(self._left) > LEFT_MOST:
            self._forget()

    def _forget(self) -> None:
        """Drops who left and whose tag the floor has reached, and who owe least if they are too many."""
        while self._left and (self._left[0][0] <= self._floor or len(self._left) > LEFT_MOST):
            tag, _, client = heappop(self._left)
            client.remembered = False
            if client.all:
                continue
            if client.tag > tag:
                self._remember(client)
            else:
                self._drop(client)

    def _drop(self, client: Client[W]) -> None:
        del self._clients[client.name]
        self.backlog.drop(client)

    def _begin(self, key: Hashable, client: Client[W], number: int, entry: W) -> Line[W]:
        """A new line of this client, in the order of this key."""
        line: Line[W] = Line()
        line.client = client
        line[number] = entry
        order = self._orders.get(key)
        if order is None:
            order = self._orders[key] = Order()
        order.push(line, next(self._serial))
        return line

    def _end(self, key: Hashable) -> None:
        """One of the lines with this key has ended."""
        order = self._orders[key]
        order.ended()
        if not order.lines:
            del self._orders[key]
