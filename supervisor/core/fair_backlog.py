"""What the clients of one class still wait for, in cost, and how much of it is served beside a given amount.

Owns the sums; the clients carry their own `cost`. Exact over few clients, an upper estimate over many: it answers for
every request that arrives in an overload, before the body is read.
"""

from collections.abc import Collection, Mapping
from math import frexp, isclose
from typing import Protocol

# Up to so many clients the share is summed one by one: 64 take about as long as the bins of more.
FEW = 64
# Relative and absolute error allowed to sums of floats, in the invariants.
TOLERANCE = 1e-6


class Owed(Protocol):
    """A client: compared by identity, with what of it waits."""

    cost: float


class Backlog:
    """Costs by client. `cost` is their sum.

    Clients are also counted in bins by the power of two of their cost; those whose cost has changed since are put into
    the right bin when the bins are next asked.
    """

    __slots__ = ("_binned", "_bins", "_changed", "cost")

    def __init__(self) -> None:
        self.cost = 0.0
        self._changed: set[Owed] = set()
        # What a client counts for in the bins.
        self._binned: dict[Owed, float] = {}
        # Exponent -> how many clients, and their costs' sum.
        self._bins: dict[int, tuple[int, float]] = {}

    def change(self, client: Owed, by: float) -> None:
        """So much more of this client waits (less, if negative); it never falls below nothing."""
        if by < -client.cost:
            by = -client.cost
        client.cost += by
        self.cost += by
        self._changed.add(client)

    def drop(self, client: Owed) -> None:
        """This client is forgotten; nothing of it waits."""
        self._changed.discard(client)
        self._unbin(client)

    def clear(self) -> None:
        """Nothing waits."""
        self.cost = 0.0
        self._changed.clear()
        self._binned.clear()
        self._bins.clear()

    def share(self, client: Owed | None, clients: Mapping[str, Owed], own: float) -> float:
        """What the other clients are served while `client` is served `own`: all of theirs, or as much as he.

        `clients` are all there are. Over many of them it may be too high, by less than a factor of two for those whose
        cost is near `own`, and exact for all others.
        """
        if len(clients) <= FEW:
            total = 0.0
            for other in clients.values():
                if other is not client:
                    cost = other.cost
                    total += cost if cost < own else own
            return total
        self._settle()
        mine = self._binned.get(client, 0.0) if client else 0.0
        home = frexp(mine)[1] if mine else None
        total = 0.0
        for exponent, (many, cost) in self._bins.items():
            if exponent == home:
                many, cost = many - 1, cost - mine
            total += min(cost, many * own)
        return total

    def check(self, clients: Collection[Owed]) -> None:
        """What must hold between any two calls; for tests."""
        known = set(clients)
        assert self._changed <= known
        assert set(self._binned) <= known
        assert all(client in self._changed or self._binned.get(client, 0.0) == client.cost for client in known)
        bins: dict[int, list[float]] = {}
        for cost in self._binned.values():
            bins.setdefault(frexp(cost)[1], []).append(cost)
        assert bins.keys() == self._bins.keys()
        for exponent, costs in bins.items():
            many, total = self._bins[exponent]
            assert many == len(costs)
            assert isclose(total, sum(costs), rel_tol=TOLERANCE, abs_tol=TOLERANCE)

    def _settle(self) -> None:
        for client in self._changed:
            self._unbin(client)
            if client.cost > 0:
                exponent = frexp(client.cost)[1]
                many, cost = self._bins.get(exponent, (0, 0.0))
                self._bins[exponent] = (many + 1, cost + client.cost)
                self._binned[client] = client.cost
        self._changed.clear()

    def _unbin(self, client: Owed) -> None:
        old = self._binned.pop(client, None)
        if old is None:
            return
        exponent = frexp(old)[1]
        many, cost = self._bins[exponent]
        if many > 1:
            self._bins[exponent] = (many - 1, max(0.0, cost - old))
        else:
            del self._bins[exponent]
