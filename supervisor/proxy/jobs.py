"""The pieces that move through the dispatcher: a job (one request), its slices, and the parts that go to a worker.

Owns the life of one request: what of it waits, what of it runs, and what its client gets in the end. Knows no queue, no
clock, no worker.
"""

import asyncio
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from supervisor.core.answer import Answer, cut
from supervisor.core.endpoint import Endpoint
from supervisor.core.fair_queue import Priority
from supervisor.core.lengths import Band, bands
from supervisor.core.merge import Merge, MergeError
from supervisor.core.part_memory import Oversize
from supervisor.core.payload import Inference, Plan, Rows, merged_body
from supervisor.core.suspicion import Suspicion
from supervisor.proxy.admission import Place
from supervisor.proxy.refusals import Reason, Refusal

# A row costs at least as much as one of this many characters: what it takes besides its text (HTTP, JSON, tokens that
# every input gets). Otherwise a client of one-word inputs would be given whole batches for another's sentence.
SHORTEST: Final = 64
# And at most as much as one of this many: the bytes of an image or of a body that can't be read say little about work.
LONGEST_UNREAD: Final = 4096

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Reply(NamedTuple):
    """What a worker answered to a part. `headers` are those a client is to see, lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = NO_HEADERS

    @property
    def ok(self) -> bool:
        """Whether it is an answer rather than Infinity's refusal."""
        return 200 <= self.status < 300


class WorkerLost(Exception):
    """A worker gave no answer. `sent` tells whether it may have begun to work on the part."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class WorkerClient(Protocol):
    """A way to send parts to one worker; its calls may overlap."""

    async def send(self, endpoint: Inference, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The worker's answer, however long it takes; raises WorkerLost and nothing else."""

    async def close(self) -> None:
        """Drop all connections."""


class Connect(Protocol):
    """Makes the client for a worker that has been attached."""

    def __call__(self, endpoint: Endpoint, /) -> WorkerClient: ...


class Asker(NamedTuple):
    """Who asks, how urgently and until when: what of a request's head matters for its turn.

    `client` tells clients apart, by key or address; `deadline` is on the loop's clock; `headers` are for the worker.
    `mergeable`: nothing in the head makes its answer another than its neighbours'.
    """

    client: str = ""
    priority: str | None = None
    deadline: float | None = None
    headers: Mapping[str, str] = NO_HEADERS
    mergeable: bool = True


class Key(NamedTuple):
    """Jobs of one `kind` may share a part; rows with the same `length`, a class, are the best company."""

    kind: Hashable
    length: int


class Slice:
    """Rows of one job, from `start` up to `stop`; `suspicion`: a worker went down that had them.

    `rows` is how many inputs it counts for, `longest` the characters of its longest row as far as they are known,
    `cost` what it counts for in the queue: rows x longest row.
    """

    __slots__ = ("cost", "job", "longest", "rows", "start", "stop", "suspicion")

    def __init__(self, job: "Job", start: int, stop: int, suspicion: Suspicion | None = None) -> None:
        self.job = job
        self.start = start
        self.stop = stop
        self.suspicion = suspicion
        self.rows = rows = stop - start
        plan = job.plan
        self.longest = longest = plan.longest(start, stop) if isinstance(plan, Rows) else job.unread
        self.cost = float(rows * (longest if longest > SHORTEST else SHORTEST))


@dataclass(slots=True, eq=False)
class Part:
    """What goes to a worker as one request: slices of one or more jobs for the same endpoint with the same options.

    `longest` in characters, `cost` as the queue counts it; `core_seconds` is what the CPU hold was charged for it.
    `trial`: only the first so many characters of one row go, to see what they take; the answer is nobody's.
    """

    slices: list[Slice]
    sent_at: float
    trial: int | None = None
    inputs: int = field(init=False)
    longest: int = field(init=False)
    cost: float = field(init=False)
    core_seconds: float = 0.0
    task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        inputs = longest = 0
        cost = 0.0
        for piece in self.slices:
            inputs += piece.rows
            cost += piece.cost
            if piece.longest > longest:
                longest = piece.longest
        self.inputs, self.longest, self.cost = inputs, longest, cost
        if self.trial is not None:
            self.longest, self.cost = self.trial, float(max(SHORTEST, self.trial))

    @property
    def endpoint(self) -> Inference:
        """The endpoint of all its requests."""
        return self.slices[0].job.endpoint

    @property
    def priority(self) -> Priority:
        """The class of all its requests."""
        return self.slices[0].job.priority

    @property
    def suspect(self) -> bool:
        """Whether a worker went down that had its rows: then it travels alone, so that the next death says something.

        Suspects are never mixed with others.
        """
        return self.slices[0].suspicion is not None

    @property
    def atomic(self) -> bool:
        """Whether it can't be divided any more."""
        return len(self.slices) == 1 and (self.inputs == 1 or not self.slices[0].job.plan.divisible)

    @property
    def shared(self) -> bool:
        """Whether it carries more than one request."""
        return len(self.slices) > 1

    @property
    def whole(self) -> bool:
        """Whether it is one whole request, whose answer needs no work."""
        return len(self.slices) == 1 and self.inputs == self.slices[0].job.plan.inputs

    def body(self, model: str) -> bytes:
        """The request body; `model` is the canonical name."""
        if self.shared:
            return merged_body([(_rows(piece), piece.start, piece.stop) for piece in self.slices], model)
        (piece,) = self.slices
        if self.trial is not None:
            return _rows(piece).beginning(self.endpoint, piece.start, self.trial)
        return piece.job.plan.part(piece.start, piece.stop)

    def answers(self, reply: Reply) -> list[Answer] | None:
        """The worker's answer, cut into one for each slice; None when it can't be told apart exactly."""
        shape = _rows(self.slices[0]).shape
        counts = [piece.rows for piece in self.slices]
        usage = [_rows(piece).usage(piece.start, piece.stop) for piece in self.slices] if self.shared else None
        return cut(shape, reply.body, counts, usage)


def _rows(piece: Slice) -> Rows:
    assert isinstance(piece.job.plan, Rows), "only rows are sent in several parts, or together"
    return piece.job.plan


class Job:
    """One request for a model, from when its body is understood until its answer is written.

    `outcome` gets a Reply or a Refusal, once. Slices are in `waiting`, in running parts, or done; the sum never changes
    until the job ends. `started`: some of it is at a worker or was answered; `leased`: it holds its worker. `key` tells
    with whom its next rows may share a part; None: with nobody. `bands` are the classes of all its rows, none where
    `key` is None. `short`: what it lacks while it waits for memory.
    """

    __slots__ = (
        "_merge",
        "arrived",
        "asker",
        "asleep_mark",
        "bands",
        "client",
        "cost",
        "endpoint",
        "first_sent",
        "key",
        "leased",
        "number",
        "outcome",
        "place",
        "plan",
        "priority",
        "ready_mark",
        "running",
        "short",
        "started",
        "timer",
        "unread",
        "waiting",
        "waiting_inputs",
    )

    def __init__(
        self,
        number: int,
        endpoint: Inference,
        plan: Plan,
        asker: Asker,
        priority: Priority,
        place: Place,
        arrived: float,
        outcome: "asyncio.Future[Reply | Refusal]",
    ) -> None:
        self.number = number
        self.endpoint = endpoint
        self.plan = plan
        self.asker = asker
        self.client = asker.client
        self.priority = priority
        self.place = place
        self.arrived = arrived
        self.outcome = outcome
        self.unread = 0 if plan.divisible else min(LONGEST_UNREAD, len(plan.raw) // plan.inputs)
        whole = Slice(self, 0, plan.inputs)
        self.waiting: deque[Slice] = deque((whole,))
        self.cost = whole.cost  # of what waits, as its slices count it
        self.waiting_inputs = plan.inputs
        self.running = 0
        self.leased = False
        self.started = False
        self.short: Oversize | None = None
        self.first_sent: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        # Where its lane's clocks stood when it began to wait (see Patience).
        self.ready_mark = 0.0
        self.asleep_mark = 0.0
        self._merge: Merge | None = None
        # Classes never share a part: a one-line query is not to wait for the bulk that happens to leave with it.
        self.key: Key | None = None
        self.bands: tuple[Band, ...] = ()
        if asker.mergeable and isinstance(plan, Rows) and plan.key is not None:
            self.bands = bands(lambda at: plan.longest(at, at + 1), plan.inputs)
            self.key = Key((plan.key, priority), self.bands[0].length)

    @property
    def done(self) -> bool:
        """Whether its client has an outcome, or has left."""
        return self.outcome.done()

    def take(self, rows: int) -> Slice:
        """The next rows that wait, at most `rows` of them (all, if the plan can't be divided)."""
        piece = self.waiting.popleft()
        if self.plan.divisible and piece.rows > rows:
            middle = piece.start + rows
            self.waiting.appendleft(Slice(self, middle, piece.stop, piece.suspicion))
            piece = Slice(self, piece.start, middle, piece.suspicion)
        self.waiting_inputs -= piece.rows
        # Not a difference: rows leave longest first, so what remains of a slice costs less than its share.
        self.cost = sum(rest.cost for rest in self.waiting) if self.waiting else 0.0
        return piece

    def put_back(self, piece: Slice) -> None:
        """These rows wait again, before the others."""
        self.waiting.appendleft(piece)
        self.waiting_inputs += piece.rows
        self.cost += piece.cost

    @property
    def next_key(self) -> Key | None:
        """What `key` is to be, by the rows that wait first."""
        if len(self.bands) < 2 or self.key is None or not self.waiting:
            return self.key
        return Key(self.key.kind, self.lengths(self.waiting[0])[0][0])

    def lengths(self, piece: Slice) -> list[tuple[int, int]]:
        """The classes of these rows, and how many are of each, in their order."""
        if len(self.bands) == 1:
            return [(self.bands[0].length, piece.rows)]
        start, found = piece.start, []
        for length, stop in self.bands:
            if start < stop:
                stop = min(stop, piece.stop)
                found.append((length, stop - start))
                start = stop
            if start == piece.stop:
                break
        return found

    def drop_waiting(self) -> None:
        """None of its rows shall leave any more."""
        self.waiting.clear()
        self.waiting_inputs = 0
        self.cost = 0.0

    def absorb(self, piece: Slice, answer: Answer | None, reply: Reply) -> Reply | Refusal | None:
        """Takes the answer to some of its rows, from a worker's reply to their part; the outcome, once there is one.

        None instead of an answer: the reply is none of Infinity's.
        """
        if answer is None:
            return Refusal(Reason.WORKER_UNAVAILABLE, "The worker's answer to a part is not one of Infinity's.")
        assert isinstance(self.plan, Rows), "only rows are sent in several parts, or together"
        if self._merge is None:
            if (body := self.plan.alone(answer)) is not None:
                return Reply(reply.status, body, reply.headers)
            self._merge = self.plan.merge()
        try:
            self._merge.add(piece.start, piece.stop, answer)
            if not self._merge.complete:
                return None
            return Reply(reply.status, self._merge.result(), reply.headers)
        except MergeError as error:
            return Refusal(Reason.WORKER_UNAVAILABLE, f"The worker's answers do not fit together: {error}.")
