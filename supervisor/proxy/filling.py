"""Who shares a part with the job whose turn it is.

Infinity pads every row of a batch to the longest, so the company matters: filled in the order of arrival, parts of
passages of 40 to 80 words were 28 to 38 % padding. Rows of one class of lengths leave together, then come those nearest
to it, as long as that is less work than to let them leave with the likes of them. A request whose own rows differ is
divided for that when it gains more than it costs. Among rows of one class the order is the queue's, and the queue
bounds how far a client gets ahead by filling parts of others (`fair_clients`, rule 2).
"""

from supervisor.core.model import LaneOrders
from supervisor.proxy.jobs import Job, Key, Slice
from supervisor.proxy.queue import JobQueue
from supervisor.proxy.sizing import Batch, Sizing


class Filling:
    """A part of at most `most` rows as it is being filled; it begins with `first`, which may share it (`key`)."""

    def __init__(self, queue: JobQueue, sizing: Sizing, orders: LaneOrders, first: Job, key: Key, most: int) -> None:
        self.queue, self.sizing, self.orders = queue, sizing, orders
        self.endpoint, self.key = first.endpoint, key
        self.slices: list[Slice] = []
        self.inputs, self.longest = 0, first.waiting[0].longest
        self.most = min(most, self._most(self.longest))
        self._take(first)

    def fill(self, up_to: int) -> list[Slice]:
        """Takes from the queue what joins, rows of up to so many characters; the part's slices."""
        for near, waiting in self.queue.nearest(self.key):
            if self.inputs >= self.most:
                break
            other = self.queue.next_of(near)
            if near != self.key and (other is None or not self._pays(other, waiting)):
                continue
            while other is not None and self.inputs < self.most:
                longest = other.waiting[0].longest
                if other.waiting[0].suspicion is not None:  # travels with its like only
                    break
                if longest > self.longest:
                    fewer = min(self.most, self._most(longest))
                    if self.inputs >= fewer or longest > up_to:
                        break
                    self.longest, self.most = longest, fewer
                self._take(other)
                other = self.queue.next_of(near)
        return self.slices

    def _take(self, job: Job) -> None:
        """Its next rows, into the part."""
        piece = self.queue.take(job, self._rows(job))
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
        lengths = job.lengths(Slice(job, next_.start, next_.start + rows))
        if len(lengths) < 2:
            return rows
        assert job.key is not None, "what has bands has a key"
        start, characters, parts = next_.start, 0, 0.0
        for length, alike in lengths:
            longest = Slice(job, start, start + alike).longest
            full = min(self.queue.alike(Key(job.key.kind, length)), self._most(longest))
            characters += alike * longest
            parts += alike / full
            start += alike
        whole = self.sizing.together(self.endpoint, Batch(rows, next_.longest), characters, parts)
        return rows if whole else lengths[0][1]

    def _most(self, longest: int) -> int:
        return self.sizing.rows(self.endpoint, longest, self.orders)

    def _pays(self, other: Job, waiting: int) -> bool:
        longest = other.waiting[0].longest
        joining = min(waiting, self.most - self.inputs)
        alike = min(waiting, self._most(longest))
        return self.sizing.pays(self.endpoint, Batch(self.inputs, self.longest), Batch(joining, longest), alike)
