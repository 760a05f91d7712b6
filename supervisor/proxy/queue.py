"""The order in which jobs wait for one model: first come, first served; what came back from a lost worker goes first.

Owns the order and the sums of what waits. A job is in here while at least one of its rows waits, and holds its place
for exactly that long.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator

from supervisor.proxy.jobs import Job, Slice


def _number(job: Job) -> int:
    return job.number


class JobQueue:
    """Jobs with rows that wait. `inputs` and `bytes` are the sums of what is in here."""

    __slots__ = ("_fresh", "_returned", "bytes", "inputs")

    def __init__(self) -> None:
        # An OrderedDict, not a dict: its first item is found in constant time after any number of removals.
        self._fresh: OrderedDict[int, Job] = OrderedDict()
        self._returned: list[Job] = []
        self.inputs = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._returned) + len(self._fresh)

    def __iter__(self) -> Iterator[Job]:
        """The jobs in the order in which they are to leave."""
        yield from self._returned
        yield from self._fresh.values()

    def add(self, job: Job) -> None:
        """A new job waits behind all others."""
        self._fresh[job.number] = job
        self.inputs += job.waiting_inputs
        self.bytes += job.place.bytes

    def take(self, job: Job, rows: int) -> Slice:
        """At most `rows` rows of this job; it is out of the queue when none are left."""
        piece = job.take(rows)
        self.inputs -= piece.rows
        if not job.waiting:
            self._remove(job)
        return piece

    def put_back(self, piece: Slice) -> None:
        """Rows that a worker did not answer wait again, before every job that was not yet sent."""
        job = piece.job
        if job.waiting:
            self._remove(job)
        job.put_back(piece)
        self.inputs += piece.rows
        self.bytes += job.place.bytes
        job.place.take_again()
        insort(self._returned, job, key=_number)

    def drop(self, job: Job) -> None:
        """Nothing of this job waits any more; harmless when nothing did."""
        if job.waiting:
            self.inputs -= job.waiting_inputs
            job.drop_waiting()
            self._remove(job)

    def _remove(self, job: Job) -> None:
        if self._fresh.pop(job.number, None) is None:
            self._returned.remove(job)
        self.bytes -= job.place.bytes
        job.place.give_back()
