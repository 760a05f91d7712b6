"""What waits for one model, in the order in which it is to leave, and the sums of it.

Owns the sums and the places: a job is in here while at least one of its rows waits, and holds its place for exactly
that long. Whose turn it is, is the fair queue's to say (`supervisor.core.fair_queue`).
"""

from collections.abc import Hashable, Iterator

from supervisor.core.fair_queue import FairQueue, Priority
from supervisor.proxy.jobs import Job, Key, Slice


class JobQueue:
    """Jobs with rows that wait. `inputs` and `bytes` are the sums of what is in here."""

    __slots__ = ("_fair", "_lengths", "bytes", "inputs")

    def __init__(self) -> None:
        self._fair: FairQueue[Job] = FairQueue()
        # The inputs of each class of lengths, by kind: what is in here and may share a part.
        self._lengths: dict[Hashable, dict[int, int]] = {}
        self.inputs = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._fair)

    def __iter__(self) -> Iterator[Job]:
        """The jobs in the order in which they came; those that came back from a worker first."""
        return iter(self._fair)

    def first(self) -> Job | None:
        """The job whose turn it is."""
        return self._fair.first()

    def nearest(self, key: Key) -> list[tuple[Key, int]]:
        """The keys of those that may share a part with this one, and how many inputs each has: the likest first."""
        lengths = self._lengths.get(key.kind)
        if lengths is None:
            return []
        return [
            (Key(key.kind, length), lengths[length]) for length in sorted(lengths, key=lambda to: abs(to - key.length))
        ]

    def next_of(self, key: Key) -> Job | None:
        """The next job, in order, with this key."""
        return self._fair.next_like(key)

    @property
    def cost(self) -> float:
        """The cost of everything that waits."""
        return self._fair.cost

    def cost_ahead(self, client: str, priority: Priority, cost: float) -> float:
        """How much cost leaves until a new job of this client and cost has left whole; itself too."""
        return self._fair.cost_ahead(client, priority, cost)

    def add(self, job: Job) -> None:
        """A new job waits."""
        self._fair.add(job)
        self._count(job, job.waiting_inputs)
        self.bytes += job.place.bytes

    def take(self, job: Job, rows: int) -> Slice:
        """At most `rows` rows of this job; it is out of the queue when none are left."""
        piece = job.take(rows)
        self._count(job, -piece.rows)
        self._fair.charge(job, piece.cost)
        if not job.waiting:
            self._left(job)
        return piece

    def put_back(self, piece: Slice, *, alone: bool = False) -> None:
        """Rows that a worker did not answer wait again, first; with `alone`, they share no part any more."""
        job = piece.job
        if alone and job.key is not None:
            waits = job.waiting_inputs
            if waits:
                self._fair.remove(job)
                self._count(job, -waits)
            job.key = None
            if waits:
                self._fair.add(job)
                self._count(job, waits)
        if not job.waiting:
            self.bytes += job.place.bytes
            job.place.take_again()
        job.put_back(piece)
        self._count(job, piece.rows)
        self._fair.put_first(job)

    def drop(self, job: Job) -> None:
        """Nothing of this job waits any more; harmless when nothing did."""
        if job.waiting:
            self._count(job, -job.waiting_inputs)
            self._fair.remove(job)
            self._left(job)
            job.drop_waiting()

    def _count(self, job: Job, inputs: int) -> None:
        """So many more inputs of this job are in here; less, if negative."""
        self.inputs += inputs
        if job.key is None:
            return
        kind, length = job.key
        lengths = self._lengths.get(kind)
        if lengths is None:
            lengths = self._lengths[kind] = {}
        waiting = lengths.get(length, 0) + inputs
        if waiting:
            lengths[length] = waiting
            return
        del lengths[length]
        if not lengths:
            del self._lengths[kind]

    def _left(self, job: Job) -> None:
        self.bytes -= job.place.bytes
        job.place.give_back()
