"""Clients and their lines of entries, and which line is next.

Owns the heap of the lines with one merge key. Whose tag grows, and by what, is `fair_clients`' to say.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Final, Generic, Protocol, TypeVar

# Heaps are rebuilt when more than half of their records, and more than this, are of lines that ended.
HEAP_SLACK = 32


class Waiting(Protocol):
    """What this level needs to know of an entry."""

    @property
    def number(self) -> int: ...
    @property
    def client(self) -> str: ...
    @property
    def keys(self) -> Sequence[Hashable]: ...


W = TypeVar("W", bound=Waiting)


class Line(OrderedDict[int, W]):
    """Entries of one client in order of arrival: all of them, or those of one merge key. Ends when it is empty.

    An OrderedDict, not a dict: its first item is found in constant time after any number of removals.
    """

    __slots__ = ("client",)

    client: "Client[W]"


# What a client has who does not wait. His own empty line would make a cycle with him, which only the collector frees.
NOTHING: Final[Line[Any]] = Line()


class Client(Generic[W]):
    """One client in one class. `cost` is what of it waits and is not paid yet; `turn` is when it was last served.

    `limit` is how far its tag may be pushed until its oldest entry is served.
    """

    __slots__ = ("all", "cost", "keyed", "limit", "name", "remembered", "tag", "turn")

    def __init__(self, name: str, tag: float) -> None:
        self.name = name
        self.tag = tag
        self.limit = tag
        self.turn = 0
        self.cost = 0.0
        self.remembered = False
        self.all: Line[W] = NOTHING
        self.keyed: dict[Hashable, Line[W]] = {}


class Order(Generic[W]):
    """Lines by (tag, turn, oldest entry) of their clients, which only grow while a line lives.

    So a record is corrected when it comes to the top, not when its client is served: one service would otherwise touch
    the heap of each key that the client waits with.
    """

    __slots__ = ("_heap", "lines")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, int, Line[W]]] = []
        self.lines = 0

    def push(self, line: Line[W], serial: int) -> None:
        """A line that has got its first entry; `serial` is unique, so that lines are never compared."""
        client = line.client
        heappush(self._heap, (client.tag, client.turn, next(iter(line)), serial, line))
        self.lines += 1

    def advance(self, line: Line[W]) -> None:
        """A line has got an entry before its others: its record, which may say too late a turn, is set right."""
        for place, (_, _, _, serial, other) in enumerate(self._heap):
            if other is line:
                client = line.client
                self._heap[place] = (client.tag, client.turn, next(iter(line)), serial, line)
                heapify(self._heap)
                return

    def ended(self) -> None:
        """One of the lines has become empty."""
        self.lines -= 1
        if len(self._heap) > 2 * self.lines + HEAP_SLACK:
            self._heap = [record for record in self._heap if record[4]]
            heapify(self._heap)

    def first(self) -> Line[W]:
        """The line that is next; there must be one."""
        heap = self._heap
        while True:
            tag, turn, oldest, serial, line = heap[0]
            if not line:
                heappop(heap)
                continue
            client = line.client
            number = next(iter(line))
            if tag == client.tag and turn == client.turn and oldest == number:
                return line
            heapreplace(heap, (client.tag, client.turn, number, serial, line))

    def check(self) -> None:
        """Each line that lives has one record, none that promises it a later turn, and the first is the least."""
        live = [line for *_, line in self._heap if line]
        assert len({id(line) for line in live}) == len(live) == self.lines > 0
        assert all((tag, turn) <= (line.client.tag, line.client.turn) for tag, turn, *_, line in self._heap if line)
        assert self.first() is min(live, key=lambda line: (line.client.tag, line.client.turn, next(iter(line))))
        assert len(self._heap) <= 2 * self.lines + HEAP_SLACK
