"""What waits for one model, in the order in which it is to leave, and the sums of it.

Owns the sums and the places: a job is in here while at least one of its rows waits, and holds its place for exactly
that long. Whose turn it is, is the fair queue's to say (`supervisor.core.fair_queue`).
"""

from collections.abc import Hashable, Iterable, Iterator

from supervisor.core.fair_queue import FairQueue, Priority
from supervisor.proxy.jobs import CLOSED, Job, Key, Slice


class JobQueue:
    """Jobs with rows that wait. `inputs` and `bytes` are the sums of what is in here."""

    __slots__ = ("_fair", "_lengths", "_open", "bytes", "inputs")

    def __init__(self) -> None:
        self._fair: FairQueue[Job] = FairQueue()
        # The inputs of each class of lengths, by kind: the rows in here that may share a part.
        self._lengths: dict[Hashable, dict[int, int]] = {}
        self._open: dict[Job, None] = {}  # those that give rows to others' parts
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
        if job.kind is None:
            return False
        alike = self.alike(job.key)
        return alike < rows and (len(job.bands) > 1 or alike < self.inputs)

    def next_of(self, key: Key) -> Job | None:
        """The next job, in order, of those that have rows with this key to give."""
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

    def take(self, job: Job, rows: int, length: int | None = None) -> Slice:
        """At most `rows` rows of this job, its next ones, or those of one class; it is out of the queue without any."""
        piece = job.take(rows, length)
        self._count(job, (piece,), -1)
        self._fair.charge(job, piece.cost)
        if job.waiting:
            self._set_keys(job, job.next_keys)
        else:
            self._left(job)
        return piece

    def open(self, first: Job, rows: int) -> None:
        """Let others have rows of this job if it is divided, and of those next in order until so many rows are open."""
        if first.divided and not first.open:
            self._open_up(first)
        opened = sum(job.waiting_inputs for job in self._open if job.kind == first.kind)
        while opened < rows and (job := self._fair.next_like(Key(first.kind, CLOSED))) is not None:
            self._open_up(job)
            opened += job.waiting_inputs

    def _open_up(self, job: Job) -> None:
        job.open = True
        self._open[job] = None
        self._set_keys(job, job.next_keys)

    def put_back(self, piece: Slice, *, alone: bool = False) -> None:
        """Rows that a worker did not answer wait again, first; with `alone`, they share no part any more."""
        job = piece.job
        if alone and job.kind is not None:
            self._count(job, job.waiting, -1)
            job.kind, job.bands = None, ()
            self._set_keys(job, ())
            self._count(job, job.waiting, 1)
        if not job.waiting:
            self.bytes += job.place.bytes
            job.place.take_again()
        job.put_back(piece)
        if job.open:
            self._open[job] = None
        self._count(job, (piece,), 1)
        self._set_keys(job, job.next_keys)
        self._fair.put_first(job)

    def drop(self, job: Job) -> None:
        """Nothing of this job waits any more; harmless when nothing did."""
        if job.waiting:
            self._count(job, job.waiting, -1)
            self._fair.remove(job)
            self._left(job)
            job.drop_waiting()

    def _set_keys(self, job: Job, keys: tuple[Key, ...]) -> None:
        """It has other rows to give, or shares no part any more."""
        before = job.keys
        if keys != before:
            job.keys = keys
            if job in self._fair:
                self._fair.rekey(job, before)

    def _count(self, job: Job, pieces: Iterable[Slice], sign: int) -> None:
        """These rows of this job are in here now (1), or are no more (-1)."""
        for piece in pieces:
            self.inputs += sign * piece.rows
            if job.kind is not None:
                for length, rows in job.lengths(piece):
                    self._count_alike(Key(job.kind, length), sign * rows)

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
        self._open.pop(job, None)
        self.bytes -= job.place.bytes
        job.place.give_back()
