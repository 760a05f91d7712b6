"""What waits for one model, in the order in which it is to leave, and the sums of it.

Owns the sums and the places: a job is in here while at least one of its rows waits, and holds its place for exactly
that long. Whose turn it is, is the fair queue's to say (`supervisor.core.fair_queue`).
"""

from collections.abc import Hashable, Iterable, Iterator

from supervisor.core.fair_queue import FairQueue, Priority
from supervisor.proxy.jobs import Job, Key, Slice


class JobQueue:
    """Jobs with rows that wait. `inputs` and `bytes` are the sums of what is in here."""

    __slots__ = ("_fair", "_lengths", "bytes", "inputs")

    def __init__(self) -> None:
        self._fair: FairQueue[Job] = FairQueue()
        # The inputs of each class of lengths, by kind: the rows in here that may share a part.
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

    def alike(self, key: Key) -> int:
        """How many inputs with this key wait."""
        return self._lengths[key.kind].get(key.length, 0) if key.kind in self._lengths else 0

    def mixes(self, job: Job, rows: int) -> bool:
        """Whether a part of so many rows that begins with this job's would take rows of several classes of lengths."""
        if job.key is None:
            return False
        alike = self.alike(job.key)
        return alike < rows and (len(job.bands) > 1 or alike < self.inputs)

    def next_of(self, key: Key) -> Job | None:
        """The next job, in order, of those whose next rows have this key."""
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
        self._count(job, job.waiting, 1)
        self.bytes += job.place.bytes

    def take(self, job: Job, rows: int) -> Slice:
        """At most `rows` rows of this job; it is out of the queue when none are left."""
        piece = job.take(rows)
        self._count(job, (piece,), -1)
        self._fair.charge(job, piece.cost)
        if job.waiting:
            self._set_key(job, job.next_key)
        else:
            self._left(job)
        return piece

    def put_back(self, piece: Slice, *, alone: bool = False) -> None:
        """Rows that a worker did not answer wait again, first; with `alone`, they share no part any more."""
        job = piece.job
        if alone and job.key is not None:
            self._count(job, job.waiting, -1)
            self._set_key(job, None)
            job.bands = ()
            self._count(job, job.waiting, 1)
        if not job.waiting:
            self.bytes += job.place.bytes
            job.place.take_again()
        job.put_back(piece)
        self._count(job, (piece,), 1)
        self._set_key(job, job.next_key)
        self._fair.put_first(job)

    def drop(self, job: Job) -> None:
        """Nothing of this job waits any more; harmless when nothing did."""
        if job.waiting:
            self._count(job, job.waiting, -1)
            self._fair.remove(job)
            self._left(job)
            job.drop_waiting()

    def _set_key(self, job: Job, key: Key | None) -> None:
        """Other rows of it are next, or it shares no part any more."""
        before = job.key
        if key != before:
            job.key = key
            if job in self._fair:
                self._fair.rekey(job, before)

    def _count(self, job: Job, pieces: Iterable[Slice], sign: int) -> None:
        """These rows of this job are in here now (1), or are no more (-1)."""
        for piece in pieces:
            self.inputs += sign * piece.rows
            if job.key is not None:
                for length, rows in job.lengths(piece):
                    self._count_alike(Key(job.key.kind, length), sign * rows)

    def _count_alike(self, key: Key, inputs: int) -> None:
        lengths = self._lengths.get(key.kind)
        if lengths is None:
            lengths = self._lengths[key.kind] = {}
        waiting = lengths.get(key.length, 0) + inputs
        if waiting:
            lengths[key.length] = waiting
            return
        del lengths[key.length]
        if not lengths:
            del self._lengths[key.kind]

    def _left(self, job: Job) -> None:
        self.bytes -= job.place.bytes
        job.place.give_back()
