"""A job: one request on its way through the dispatcher, and the slices of it that wait or run.

Owns the life of one request: what of it waits, what of it runs, and what its client gets in the end. Knows no queue, no
clock, no worker.
"""

import asyncio
from collections import deque
from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from supervisor.core.answer import Answer
from supervisor.core.endpoint import Endpoint
from supervisor.core.fair_queue import Priority
from supervisor.core.lengths import Band, bands
from supervisor.core.merge import Merge, MergeError
from supervisor.core.part_memory import Oversize
from supervisor.core.payload import Inference, Plan, Rows
from supervisor.core.suspicion import Suspicion
from supervisor.proxy.admission import Place
from supervisor.proxy.refusals import Reason, Refusal

# A row costs at least as much as one of this many characters: what it takes besides its text (HTTP, JSON, tokens that
# every input gets). Otherwise a client of one-word inputs would be given whole batches for another's sentence.
SHORTEST: Final = 64
# And at most as much as one of this many: the bytes of an image or of a body that can't be read say little about work.
LONGEST_UNREAD: Final = 4096

# The class of a divided job of which nobody may have rows yet.
CLOSED: Final = -1

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
    `mergeable`: nothing in the head makes its answer another than its neighbours'. `credential` is for a worker that
    asks the clients themselves for keys, and nobody else.
    """

    client: str = ""
    priority: str | None = None
    deadline: float | None = None
    headers: Mapping[str, str] = NO_HEADERS
    mergeable: bool = True
    credential: str | None = None


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


class Job:
    """One request for a model, from when its body is understood until its answer is written.

    `outcome` gets a Reply or a Refusal, once. Slices are in `waiting`, in running parts, or done; the sum never changes
    until the job ends. `started`: some of it is at a worker or was answered; `leased`: it holds its worker. `kind`
    tells with whom it may share a part; None: with nobody. `bands` are the classes of all its rows, none where `kind`
    is None; `keys` those of which others may have some: all that wait of one that is `divided`, since it gains by not
    leaving in one piece, and `open`. `short`: what it lacks while it waits for memory.
    """

    __slots__ = (
        "_merge",
        "arrived",
        "asker",
        "asleep_mark",
        "bands",
        "client",
        "cost",
        "divided",
        "endpoint",
        "first_sent",
        "keys",
        "kind",
        "leased",
        "number",
        "open",
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
        self.kind: Hashable | None = None
        self.divided = self.open = False
        self.keys: tuple[Key, ...] = ()
        self.bands: tuple[Band, ...] = ()
        if asker.mergeable and isinstance(plan, Rows) and plan.key is not None:
            self.bands = bands(lambda at: plan.longest(at, at + 1), plan.inputs)
            # Nor do different keys: which of them the worker accepts is for it to say.
            self.kind = (plan.key, priority, asker.headers.get("Authorization"))
            self.keys = (self.key,)

    @property
    def done(self) -> bool:
        """Whether its client has an outcome, or has left."""
        return self.outcome.done()

    @property
    def suspect(self) -> bool:
        """Whether its next rows are under suspicion."""
        return bool(self.waiting) and self.waiting[0].suspicion is not None

    def alike(self, length: int) -> Slice:
        """The rows of this class that wait, as far as they follow each other; some must."""
        if len(self.bands) < 2:
            return self.waiting[0]
        for piece in self.waiting:
            start = piece.start
            for each, rows in self.lengths(piece):
                if each == length:
                    return Slice(self, start, start + rows, piece.suspicion)
                start += rows
        raise KeyError(length)

    def take(self, rows: int, length: int | None = None) -> Slice:
        """The next rows that wait, or those of one class: at most `rows`; all, if the plan can't be divided."""
        piece = self.waiting[0] if length is None else self.alike(length)
        if self.plan.divisible and piece.rows > rows:
            piece = Slice(self, piece.start, piece.start + rows, piece.suspicion)
        place = next(at for at, whole in enumerate(self.waiting) if whole.start <= piece.start < whole.stop)
        whole = self.waiting[place]
        del self.waiting[place]
        for start, stop in ((piece.stop, whole.stop), (whole.start, piece.start)):
            if start < stop:
                self.waiting.insert(place, Slice(self, start, stop, whole.suspicion))
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
    def key(self) -> Key:
        """The key of the rows that wait first; only for one that may share a part."""
        first = self.bands[0].length if len(self.bands) < 2 else self.lengths(self.waiting[0])[0][0]
        return Key(self.kind, first)

    @property
    def next_keys(self) -> tuple[Key, ...]:
        """What `keys` is to be: the key of what waits first; of a divided one, once it is open, those of all it has."""
        if len(self.bands) < 2 or not self.waiting:
            return self.keys
        if not self.divided:
            return (self.key,)
        if not self.open:
            return (Key(self.kind, CLOSED),)
        lengths = dict.fromkeys(length for piece in self.waiting for length, _ in self.lengths(piece))
        return tuple(Key(self.kind, length) for length in lengths)

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

    def divide(self) -> None:
        """From now on it leaves by classes; call it before it is queued."""
        self.divided = True
        self.keys = self.next_keys

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
