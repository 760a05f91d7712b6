"""One model in the simulated host: its worker with parts in a row, its clients, and what is learned of its parts.

The plant is crude: a part is core-seconds of work, done one after the other. What is learned is the real thing:
`CostModel` and `Window`. The order of its clients is not; a waiting query simply goes before bulk rows.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from supervisor.core.cost import CostModel
from supervisor.core.model import LaneOrders, ModelState, ModelView
from supervisor.core.window import Window
from tests.support.timeline import GIB

QUERY_LENGTH = 60  # characters


@dataclass
class Part:
    """One part at a worker: `left` of its work in core-seconds, `asked` has when its queries came."""

    rows: int
    longest: int
    sent: float
    work: float
    left: float
    predicted: float
    units: float
    asked: Sequence[float] = ()


@dataclass
class SimModel:
    """One model: what a row costs, what it holds in memory, and when clients have work for it.

    Args:
        row: seconds of the whole host for a bulk row; a query takes a tenth of it.
        overhead: seconds of the whole host for any part; unwritten, two rows.
        length: characters of a bulk row.
        demand: whether bulk work waits at that moment.
        query_every: seconds between one-line queries, None for none.
        arena: (rows served, bytes) of allocator steps that are never given back.
    """

    name: str = "model"
    row: float = 0.011
    overhead: float | None = None
    length: int = 1000
    demand: Callable[[float], bool] = lambda t: True
    query_every: float | None = None
    base: int = 2 * GIB
    load_seconds: float = 10.0
    arena: Sequence[tuple[int, int]] = ()
    state: ModelState = ModelState.READY
    since: float = 0.0
    rows: int = 0
    parts: deque[Part] = field(default_factory=deque)
    queries: list[float] = field(default_factory=list)  # when those that wait came
    waits: list[float] = field(default_factory=list)  # how long those that were answered took
    cost: CostModel = field(default_factory=CostModel)
    window: Window = field(default_factory=Window)
    _free_at: float = 0.0
    _next_query: float = 0.0

    def memory(self, now: float) -> int:
        """What its process holds: a ramp while it starts, then the model and its arenas."""
        if self.state is ModelState.STARTING:
            return int(self.base * min(1.0, (now - self.since) / self.load_seconds))
        if self.state is ModelState.STOPPED:
            return 0
        return self.base + sum(size for rows, size in self.arena if self.rows >= rows)

    def view(self, now: float) -> ModelView:
        """The model as decisions see it."""
        return ModelView(
            name=self.name,
            state=self.state,
            memory_bytes=self.memory(now),
            estimate=self.base,
            queued=int(self.wanted(now)),
            inflight=sum(part.rows for part in self.parts),
            leases=int(bool(self.parts)),
            ready_since=self.since if self.state is ModelState.READY else None,
        )

    def wanted(self, now: float) -> bool:
        """Whether a request of either kind waits; queries that are due by now have come."""
        while self.query_every is not None and self._next_query <= now:
            self.queries.append(self._next_query)
            self._next_query += self.query_every
        return bool(self.queries) or self.demand(now)

    def has_room(self, lane: LaneOrders, now: float) -> bool:
        """Whether one more part may be at the worker, as far as the window goes."""
        self.window.limit(lane.window)
        room = len(self.parts) < self.window.size
        self.window.busy(not room, now)
        return room

    def part(self, lane: LaneOrders, cores: int, now: float, chance: random.Random) -> Part:
        """The part that leaves next; it is at the worker when this returns."""
        longest = QUERY_LENGTH if self.queries else self.length
        rows = lane.batch_size
        if lane.part_seconds is not None:
            rows = self.cost.rows_within(lane.part_seconds, longest, lane.batch_size)
        asked, self.queries = self.queries[:rows], self.queries[rows:]
        rows = len(asked) or rows
        row = self.row / 10 if asked else self.row
        overhead = 2 * self.row if self.overhead is None else self.overhead
        work = (overhead + rows * row) * cores * math.exp(chance.gauss(0, 0.12))
        predicted, units = self.cost.core_seconds(rows, longest), self.cost.units(rows, longest)
        part = Part(rows, longest, now, work, work, predicted, units, asked)
        self.parts.append(part)
        return part

    def works(self, core_seconds: float, now: float) -> tuple[float, list[Part]]:
        """Use so much CPU on the parts, one after the other: what was used, and the parts that ended."""
        left, ended = core_seconds, []
        while self.parts and left > 0:
            part = self.parts[0]
            used = min(left, part.left)
            part.left -= used
            left -= used
            if part.left <= 1e-12:
                ended.append(self.parts.popleft())
                self._learns(part, now)
        return core_seconds - left, ended

    def _learns(self, part: Part, now: float) -> None:
        self.rows += part.rows
        self.waits += [now - asked for asked in part.asked]
        self.cost.note(part.rows, part.longest, now - max(part.sent, self._free_at), part.work)
        self.window.answered(part.units, now)
        self._free_at = now
