"""Who shares a part with the job whose turn it is.

Infinity pads every row of a batch to the longest, so the company matters: filled in the order of arrival, parts of
passages of 40 to 80 words were 28 to 38 % padding. Rows of one class of lengths leave together, then come those nearest
to it, as long as that is less work than to let them leave with the likes of them. A request whose own rows differ is
divided for that when it gains more than it costs, and gives rows of any class to others' parts while it is open. Among
rows of one class the order is the queue's, and the queue bounds how far a client gets ahead by filling parts of others
(`fair_clients`, rule 2).
"""

from collections.abc import Callable
from typing import Final

from supervisor.core.model import LaneOrders
from supervisor.proxy.jobs import Job, Key, Slice
from supervisor.proxy.queue import JobQueue
from supervisor.proxy.sizing import Batch, Sizing

# Divided requests are open to others' parts as long as those have fewer rows than so many batches. With fewer than 6 a
# class has too few; with all that wait, all of them are done at the same moment and the worker has nothing to do until
# their clients have sent the next ones (16 clients with 32 short texts each, 0.98 instead of 1.06 of a bare Infinity,
# which also takes what waits at it in lots of 8 batches).
POOL: Final = 8


class Filling:
    """A part of at most `most` rows as it is being filled; it begins with `first`, which may share it (`key`)."""

    def __init__(self, queue: JobQueue, sizing: Sizing, orders: LaneOrders, first: Job, key: Key, most: int) -> None:
        self.queue, self.sizing, self.orders = queue, sizing, orders
        self.endpoint, self.key = first.endpoint, key
        self.slices: list[Slice] = []
        self.inputs, self.longest = 0, first.waiting[0].longest
        self.most = min(most, self._most(self.longest))
        queue.open(first, POOL * orders.batch_size)
        self._take(first)

    def fill(self, up_to: int) -> list[Slice]:
        """Takes from the queue what joins, rows of up to so many characters; the part's slices."""
        for near, waiting in self.queue.nearest(self.key):
            if self.inputs >= self.most:
                break
            other = self.queue.next_of(near)
            if near != self.key and (other is None or not self._pays(other.alike(near.length), waiting)):
                continue
            while other is not None and self.inputs < self.most:
                alike = other.alike(near.length)
                longest = alike.longest
                if alike.suspicion is not None:  # travels with its like only
                    break
                if longest > self.longest:
                    fewer = min(self.most, self._most(longest))
                    if self.inputs >= fewer or longest > up_to:
                        break
                    self.longest, self.most = longest, fewer
                self._take(other, near.length)
                other = self.queue.next_of(near)
        return self.slices

    def _take(self, job: Job, length: int | None = None) -> None:
        """Its next rows, into the part; of one that is divided already, those of the class that is wanted."""
        if length is None or job.key.length == length:
            piece = self.queue.take(job, self._rows(job))
        else:
            piece = self.queue.take(job, self.most - self.inputs, length)
        self.inputs += piece.rows
        place = self._before(piece) if job.plan.inputs > 1 else None
        if place is None:
            self.slices.append(piece)
        else:
            self.slices[place] = Slice(job, self.slices[place].start, piece.stop, piece.suspicion)

    def _before(self, piece: Slice) -> int | None:
        """The place of the slice that this one goes on, if they can be one; all of a request only if it still can."""
        plan = piece.job.plan
        for place, before in enumerate(self.slices):
            if before.job is piece.job and before.stop == piece.start and before.suspicion == piece.suspicion:
                return place if plan.raw or piece.stop - before.start < plan.inputs else None
        return None

    def _rows(self, job: Job) -> int:
        """How many of a job's next rows: all there is room for, or only the class of the first."""
        next_ = job.waiting[0]
        rows = min(self.most - self.inputs, next_.rows)
        if len(job.bands) < 2:
            return rows
        piece = Slice(job, next_.start, next_.start + rows)
        lengths = job.lengths(piece)
        if len(lengths) < 2 or not gains_by_division(
            piece,
            self.sizing,
            lambda length, longest: min(self.queue.alike(Key(job.kind, length)), self._most(longest)),
        ):
            return rows
        return lengths[0][1]

    def _most(self, longest: int) -> int:
        return self.sizing.rows(self.endpoint, longest, self.orders)

    def _pays(self, others: Slice, waiting: int) -> bool:
        longest = others.longest
        joining = min(waiting, self.most - self.inputs)
        alike = min(waiting, self._most(longest))
        return self.sizing.pays(self.endpoint, Batch(self.inputs, self.longest), Batch(joining, longest), alike)


def gains_by_division(piece: Slice, sizing: Sizing, company: Callable[[int, int], int]) -> bool:
    """Whether these rows of several classes had better leave by classes.

    `company` tells how many rows of a class, as long as its longest here, would make a part.
    """
    job, start, characters, parts = piece.job, piece.start, 0, 0.0
    for length, alike in job.lengths(piece):
        longest = Slice(job, start, start + alike).longest
        characters += alike * longest
        parts += alike / company(length, longest)
        start += alike
    return not sizing.together(job.endpoint, Batch(piece.rows, piece.longest), characters, parts)
