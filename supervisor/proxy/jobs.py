"""The pieces that move through the dispatcher: a job (one request), its slices, and the parts that go to a worker.

Owns the life of one request: what of it waits, what of it runs, and what its client gets in the end. Knows no queue, no
clock, no worker.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from supervisor.core.endpoint import Endpoint
from supervisor.core.merge import Merge, MergeError
from supervisor.core.payload import Inference, Plan, Rows
from supervisor.proxy.admission import Place
from supervisor.proxy.refusals import Reason, Refusal

# How often a part is sent that gets no answer: a worker that dies under it is no accident the third time.
MAX_SENDS = 3


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker answered to a part. `headers` are those a client is to see, lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

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


@dataclass(slots=True, eq=False)
class Slice:
    """Rows of one job, from `start` up to `stop`; `sends` counts how often they went to a worker that was lost."""

    job: "Job"
    start: int
    stop: int
    sends: int = 0

    @property
    def rows(self) -> int:
        """How many inputs it counts for."""
        return self.stop - self.start


@dataclass(slots=True, eq=False)
class Part:
    """What goes to a worker as one request: slices of one or more jobs for the same endpoint with the same options."""

    slices: list[Slice]
    inputs: int
    sent_at: float
    task: asyncio.Task[None] | None = None

    def body(self) -> bytes:
        """The request body."""
        (piece,) = self.slices
        return piece.job.plan.part(piece.start, piece.stop)


class Job:
    """One request for a model, from when its body is understood until its answer is written.

    `outcome` gets a Reply or a Refusal, once. Slices are in `waiting`, in running parts, or done; the sum never changes
    until the job ends. `started`: some of it is at a worker or was answered; `leased`: it holds its worker.
    """

    __slots__ = (
        "_merge",
        "arrived",
        "asleep_mark",
        "deadline",
        "endpoint",
        "first_sent",
        "headers",
        "leased",
        "number",
        "outcome",
        "place",
        "plan",
        "ready_mark",
        "running",
        "started",
        "timer",
        "waiting",
        "waiting_inputs",
    )

    def __init__(
        self,
        number: int,
        endpoint: Inference,
        plan: Plan,
        headers: Mapping[str, str],
        place: Place,
        arrived: float,
        deadline: float | None,
        outcome: "asyncio.Future[Reply | Refusal]",
    ) -> None:
        self.number = number
        self.endpoint = endpoint
        self.plan = plan
        self.headers = headers
        self.place = place
        self.arrived = arrived
        self.deadline = deadline
        self.outcome = outcome
        self.waiting: deque[Slice] = deque((Slice(self, 0, plan.inputs),))
        self.waiting_inputs = plan.inputs
        self.running = 0
        self.leased = False
        self.started = False
        self.first_sent: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        # Where its lane's clocks stood when it began to wait (see Lane).
        self.ready_mark = 0.0
        self.asleep_mark = 0.0
        self._merge: Merge | None = None

    @property
    def done(self) -> bool:
        """Whether its client has an outcome, or has left."""
        return self.outcome.done()

    def take(self, rows: int) -> Slice:
        """The next rows that wait, at most `rows` of them (all, if the plan can't be divided)."""
        piece = self.waiting.popleft()
        if self.plan.divisible and piece.rows > rows:
            self.waiting.appendleft(Slice(self, piece.start + rows, piece.stop, piece.sends))
            piece.stop = piece.start + rows
        self.waiting_inputs -= piece.rows
        return piece

    def put_back(self, piece: Slice) -> None:
        """These rows wait again, before the others."""
        self.waiting.appendleft(piece)
        self.waiting_inputs += piece.rows

    def drop_waiting(self) -> None:
        """None of its rows shall leave any more."""
        self.waiting.clear()
        self.waiting_inputs = 0

    def absorb(self, piece: Slice, reply: Reply) -> Reply | Refusal | None:
        """Takes a worker's answer to some rows; the outcome, once there is one.

        A refusal of Infinity's for one part is its refusal of the request.
        """
        if not reply.ok or piece.rows == self.plan.inputs:
            return reply
        assert isinstance(self.plan, Rows), "only rows are sent in several parts"
        if self._merge is None:
            self._merge = self.plan.merge()
        try:
            self._merge.add(piece.start, piece.stop, reply.body)
            if not self._merge.complete:
                return None
            return Reply(reply.status, self._merge.result(), reply.headers)
        except MergeError as error:
            return Refusal(Reason.WORKER_UNAVAILABLE, f"The worker's answers do not fit together: {error}.")
