"""Bodies that are still coming: how long each may take, and which of them make room when the queue is full.

Owns their deadlines. A body has its place in the queue before it is read, so those that never come would keep all
others out.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from supervisor.transfer import GRACE_SECONDS, allowed

# While others want its place nothing of a body may be missing for longer (s): two retransmissions of a lost packet.
WANTED_GRACE_SECONDS: Final = 2.0
# To look through 2,048 bodies takes 0.6 ms, a refusal 0.1: under a flood of requests, not before each refusal.
LOOK_SECONDS: Final = 0.1


class Room(Protocol):
    """What a body holds in the queue."""

    def give_back(self) -> None: ...


class Arrival:
    """One body; `until` is its client's own deadline."""

    __slots__ = ("_began", "_given_up", "_last", "_place", "_received", "_timeout", "_until")

    def __init__(self, place: Room, until: float | None, timeout: asyncio.Timeout, now: float) -> None:
        self._place = place
        self._until = until
        self._timeout = timeout
        self._began = self._last = now
        self._received = 0
        self._given_up = False
        timeout.reschedule(self._due())

    @property
    def overslept(self) -> bool:
        """Once it was given up: whether that was by the client's own deadline."""
        return self._until is not None and self._timeout.when() == self._until

    def came(self, size: int, now: float) -> None:
        """So many bytes more have come."""
        self._received += size
        self._last = now
        if not self._given_up:
            self._timeout.reschedule(self._due())

    def behind(self, now: float) -> bool:
        """Whether it comes too slowly for a place that others want."""
        return now > self._limit(WANTED_GRACE_SECONDS)

    def give_up(self, now: float) -> None:
        """Take its place from it; whoever reads it gets a TimeoutError."""
        self._given_up = True
        self._place.give_back()
        if not self._timeout.expired():
            self._timeout.reschedule(now)

    def _due(self) -> float:
        due = self._limit(GRACE_SECONDS)
        return due if self._until is None else min(due, self._until)

    def _limit(self, grace: float) -> float:
        """Neither may nothing come for that long, nor too little on the whole."""
        return min(self._last + grace, self._began + allowed(self._received, grace))


class Arrivals:
    """All of them."""

    def __init__(self) -> None:
        self._coming: set[Arrival] = set()
        self._looked = float("-inf")

    @asynccontextmanager
    async def expected(self, place: Room, until: float | None) -> AsyncIterator[Arrival]:
        """A body that is read in this block: TimeoutError when it is given up; `until` is its client's deadline."""
        async with asyncio.timeout(None) as timeout:
            arrival = Arrival(place, until, timeout, asyncio.get_running_loop().time())
            self._coming.add(arrival)
            try:
                yield arrival
            finally:
                self._coming.discard(arrival)

    def make_room(self) -> None:
        """The queue is full: give up all that come too slowly."""
        if not self._coming:
            return
        now = asyncio.get_running_loop().time()
        if now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        for arrival in [arrival for arrival in self._coming if arrival.behind(now)]:
            self._coming.discard(arrival)
            arrival.give_up(now)
