"""How large one model's next part may be, and how many may be at its worker: what was learned from those before.

Owns what is learned of one model: what its parts take, and whether a wider window gains anything.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from supervisor.core.cost import CostModel
from supervisor.core.fair_queue import WEIGHTS
from supervisor.core.model import LaneOrders
from supervisor.core.payload import Inference
from supervisor.core.window import Window
from supervisor.proxy.jobs import Job
from supervisor.proxy.part import Part

# The pace is a mean over about so many seconds of work: smooth over single parts, quick enough to follow a CPU hold.
PACE_SECONDS: Final = 5.0
# All parts at a worker together, if more of them are to be there than were proved to pay: as long as the usual two of
# the usual size take. MiniLM with 32 short inputs (65 ms a part): about a tenth more with three than with two.
QUICK_SECONDS: Final = 0.4

# What must be gained (s) to divide a request that could leave in one piece, as its client wrote it: its answers have to
# be cut out of others and put together again.
CUTTING: Final = 0.002
# What of a part that was filled with whatever waits is padding, beside one of a single class. (MiniLM, requests of 32
# texts of 8 to 12 words: 13 to 23 % against 4 to 6.)
MIXED: Final = 0.1
# Infinity puts parts that wait at it into the same batches and answers them one right after the other: what comes
# within this share of the time before it was run together with that. (A query that left with 23 long texts: 434 ms for
# it, 1 ms for the texts, which were believed to cost nothing within a dozen parts.)
TOGETHER: Final = 0.2
# What a part may take (s) that leaves right behind one of a higher class: a quarter of a usual part.
BESIDE_HIGHER: Final = 0.05


class Batch(NamedTuple):
    """So many rows, of at most so many characters each."""

    rows: int
    longest: int


@dataclass(slots=True)
class _Answered:
    """Parts that were run together: to learn from as if they were one."""

    kind: Inference
    rows: int
    longest: int
    seconds: float
    core_seconds: float | None

    def add(self, part: Part, seconds: float, core_seconds: float | None) -> None:
        self.rows += part.inputs
        self.longest = max(self.longest, part.longest)
        self.seconds += seconds
        if core_seconds is None or self.core_seconds is None:
            self.core_seconds = None
        else:
            self.core_seconds += core_seconds


class Sizing:
    """Sizes for one lane. A worker runs its parts one after the other, in the order in which they came."""

    __slots__ = ("_answered", "_backlog_since", "_cost", "_done", "_free_at", "_seconds", "_window")

    def __init__(self, now: float) -> None:
        # Texts, images and audio of one model have prices of their own.
        self._cost = {kind: CostModel() for kind in Inference}
        self._window = Window()
        self._free_at = now  # since when the worker has run nothing older than the oldest part it has now
        # Cost answered and seconds it took, both fading. They count from one answer to the next while others wait, so
        # the time that a CPU hold takes counts too; the time of a closed gate does not.
        self._done = 0.0
        self._seconds = 0.0
        self._backlog_since: float | None = None
        self._answered: _Answered | None = None  # not learned from yet: others may have been run with it

    def worker_changed(self, now: float) -> None:
        """Another process runs the model: what it has learned to take stays, what it is busy with does not."""
        self._free_at = now
        self._learn()

    def window(self, orders: LaneOrders) -> int:
        """The most parts that may be at the worker now."""
        self._window.limit(orders.window)
        return self._window.size

    def quick(self, job: Job, orders: LaneOrders, places: int) -> bool:
        """Whether a full part of this job beside so many others is so little work that nobody notices it.

        Then no proof is needed that it pays.

        Parts that take milliseconds spend most of their time on the way (debug engine, 32 inputs each: 194 a second
        two at a time, 300 four at a time), and a single large request is over before a trial could tell.
        """
        seconds = self._cost[job.endpoint].seconds(orders.batch_size, job.waiting[0].longest)
        return seconds is not None and seconds * (places + 1) <= QUICK_SECONDS

    def delays(self, job: Job, rows: int, parts: Iterable[Part]) -> bool:
        """Whether the next rows of this job would keep a part of a higher class waiting that left before them.

        What comes to Infinity before it has begun is run in one batch with that: seen under a CPU hold, where the
        worker is often free, a query that took 230 ms instead of 30 since bulk followed it. A part that was sent behind
        others is read and staged when they end, and what is sent then comes too late to join it.
        """
        mine = WEIGHTS[job.priority]
        if all(part.sent_at < self._free_at or WEIGHTS[part.priority] <= mine for part in parts):
            return False
        seconds = self._cost[job.endpoint].seconds(rows, job.waiting[0].longest)
        return seconds is None or seconds > BESIDE_HIGHER

    def busy(self, working: bool, now: float) -> None:
        """Whether the worker has anything to do: a trial of another window counts only while it always has."""
        self._window.busy(working, now)

    def rows(self, endpoint: Inference, longest: int, orders: LaneOrders) -> int:
        """How many rows of at most `longest` characters may leave as one part; at least 1."""
        if orders.part_seconds is None:
            return orders.batch_size
        return self._cost[endpoint].rows_within(orders.part_seconds, longest, orders.batch_size)

    def pays(self, endpoint: Inference, part: Batch, others: Batch, alike: int) -> bool:
        """Whether it is less work for these `others` to join the part than to leave with the likes of them.

        Every row is padded to the longest of its part, and every part has an overhead. `alike`: how many of the others'
        length would leave together.
        """
        cost = self._cost[endpoint]
        joined = cost.units(part.rows + others.rows, max(part.longest, others.longest))
        apart = cost.units(alike, others.longest) * others.rows / alike
        return joined - cost.units(part.rows, part.longest) <= apart

    def together(self, endpoint: Inference, rows: Batch, characters: int, parts: float) -> bool:
        """Whether rows of one request, of several classes of lengths, had better leave together than with their likes.

        `characters`: how many they would be padded to, in all, with the likes of them; `parts`: how many parts they
        would be then, with the share that they would have in each.
        """
        cost = self._cost[endpoint]
        overhead = cost.units(0, rows.longest)
        padding = (cost.units(rows.rows, rows.longest) - overhead) * (1 - characters / (rows.rows * rows.longest))
        return padding <= overhead * (parts - 1) + CUTTING

    def padding_matters(self, endpoint: Inference, part: Batch) -> bool:
        """Whether a part of mixed lengths costs so much more than one of equal lengths that this may be waited for."""
        cost = self._cost[endpoint]
        return MIXED * (cost.units(*part) - cost.units(0, part.longest)) > CUTTING

    def core_seconds(self, part: Part) -> float:
        """What CPU time a part is expected to use."""
        return self._cost[part.endpoint].core_seconds(part.inputs, part.longest)

    def answered(
        self, part: Part, backlog: bool, now: float, core_seconds: float | None = None, *, last: bool = True
    ) -> None:
        """A part was answered.

        `backlog`: others waited for it. `core_seconds`: the CPU it used, where known. `last`: no other part is at the
        worker, so none can have been run with it.
        """
        together = part.sent_at < self._free_at
        seconds = now - max(part.sent_at, self._free_at)
        self._free_at = now
        passed = seconds if self._backlog_since is None else now - self._backlog_since
        self._backlog_since = now if backlog else None
        fading = math.exp(-passed / PACE_SECONDS)
        self._done = self._done * fading + part.cost
        self._seconds = self._seconds * fading + passed
        self._window.answered(self._cost[part.endpoint].units(part.inputs, part.longest), now)
        before = self._answered
        if before and together and before.kind is part.endpoint and seconds <= TOGETHER * before.seconds:
            before.add(part, seconds, core_seconds)
        else:
            self._learn()
            self._answered = _Answered(part.endpoint, part.inputs, part.longest, seconds, core_seconds)
        if last:
            self._learn()

    def seconds_for(self, cost: float) -> float:
        """How long so much cost takes at the pace of late; 0 while nothing is known."""
        return cost * self._seconds / self._done if self._done else 0.0

    def interrupted(self) -> None:
        """The gate was closed: what passes until the next answer is no measure of the pace."""
        self._backlog_since = None

    def _learn(self) -> None:
        seen, self._answered = self._answered, None
        if seen is not None:
            self._cost[seen.kind].note(seen.rows, seen.longest, seen.seconds, seen.core_seconds)

    def refused(self, now: float) -> None:
        """A part was refused by the worker, which says nothing about what it would have taken."""
        self._free_at = now
