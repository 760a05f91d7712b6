"""Who shares a part with the job whose turn it is.

Infinity pads every row of a batch to the longest, so the company matters: filled in the order of arrival, parts of
passages of 40 to 80 words were 28 to 38 % padding. First come those of the same class of lengths, then those nearest
to it, as long as that is less work than to let them leave with the likes of them. Among those of one class the order is
the queue's, and the queue bounds how far a client gets ahead by filling parts of others (`fair_clients`, rule 2).
"""

from supervisor.core.model import LaneOrders
from supervisor.proxy.jobs import Job, Key, Slice
from supervisor.proxy.queue import JobQueue
from supervisor.proxy.sizing import Batch, Sizing


class Filling:
    """A part as it is being filled: it stays within `most` rows, and within `up_to` characters with what joins."""

    def __init__(self, queue: JobQueue, sizing: Sizing, orders: LaneOrders, first: Slice) -> None:
        self.queue, self.sizing, self.orders = queue, sizing, orders
        self.endpoint = first.job.endpoint
        self.slices = [first]
        self.inputs, self.longest = first.rows, first.longest

    def fill(self, key: Key, most: int, up_to: int) -> list[Slice]:
        """Takes from the queue what joins; the part's slices."""
        most = min(most, self._most(self.longest))
        for near, waiting in self.queue.nearest(key):
            if self.inputs >= most:
                break
            other = self.queue.next_of(near)
            if near != key and (other is None or not self._pays(other, waiting, most)):
                continue
            while other is not None and self.inputs < most:
                longest = other.waiting[0].longest
                if longest > self.longest:
                    fewer = min(most, self._most(longest))
                    if self.inputs >= fewer or longest > up_to:
                        break
                    self.longest, most = longest, fewer
                piece = self.queue.take(other, most - self.inputs)
                self.slices.append(piece)
                self.inputs += piece.rows
                other = self.queue.next_of(near)
        return self.slices

    def _most(self, longest: int) -> int:
        return self.sizing.rows(self.endpoint, longest, self.orders)

    def _pays(self, other: Job, waiting: int, most: int) -> bool:
        longest = other.waiting[0].longest
        joining = min(waiting, most - self.inputs)
        alike = min(waiting, self._most(longest))
        return self.sizing.pays(self.endpoint, Batch(self.inputs, self.longest), Batch(joining, longest), alike)
