"""One model's lane: its queue, its worker, and what may leave for it now.

Owns the state of one model in the data plane and the rules by which parts are cut. Does no I/O and reads no clock:
`now` comes in, parts come out, the dispatcher sends them.

Invariants, for rows that can be divided:
- a part has at most `batch_size` inputs, as it is when the part leaves;
- a part leaves only when, with it, at most `batch_size * window` inputs are at the worker.
A request that goes whole obeys the second where it can; where it is larger than the window it waits until the worker
has nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from supervisor.core.endpoint import Endpoint
from supervisor.core.model import LaneOrders
from supervisor.core.payload import DEFAULT_MAX_INPUTS
from supervisor.proxy.jobs import MAX_SENDS, Job, Part, Slice, WorkerClient
from supervisor.proxy.queue import JobQueue

# After a worker could not be reached: how long its lane pauses, and how far that doubles (s). The pool sees a process
# that ended within milliseconds and detaches it; this is for one that lives and refuses, such as one that is ending.
FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 5.0
# Sums of seconds are off by rounding, and uvloop's timers fire up to half a millisecond early: what is left below this
# counts as nothing, or a timer would be set for now again.
CLOSE_ENOUGH: Final = 0.001


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients know it. `max_inputs` is its worker's INFINITY_MAX_CLIENT_BATCH_SIZE."""

    name: str
    aliases: tuple[str, ...] = ()
    max_inputs: int = DEFAULT_MAX_INPUTS


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why no worker can be had; `until` is when the next attempt begins, None = not before somebody intervenes."""

    reason: str
    until: float | None


class Grants(Enum):
    """Who may send to the worker that is attached."""

    ALL = auto()
    LEASED = auto()  # draining: only requests that are half done
    NONE = auto()  # drained, or its time is up


class Lane:
    """The state of one model. Its worker is ready while it is attached and grants go to all."""

    def __init__(self, model: ServedModel, now: float) -> None:
        self.model = model
        self.queue = JobQueue()
        self.parts: set[Part] = set()
        self.inflight = 0
        self.leases = 0
        self.uses = 0
        self.last_used: float | None = None
        self.orders = LaneOrders()
        self.paused = False
        self.endpoint: Endpoint | None = None
        self.client: WorkerClient | None = None
        self.grants = Grants.NONE
        self.trouble: Unavailable | None = None
        self.retired = False
        self._suspended_until = now
        self._pause = FIRST_PAUSE
        # Two clocks that never run at once: seconds with a ready worker, and without.
        self._clock_at = now
        self._ready_seconds = 0.0
        self._asleep_seconds = 0.0

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a worker takes new requests, gate aside."""
        return self.client is not None and self.grants is Grants.ALL

    @property
    def open(self) -> bool:
        """Whether the gate is open: for the host and for this model."""
        return self.orders.open and not self.paused

    @property
    def idle(self) -> bool:
        """Whether nothing is at the worker and no request holds it."""
        return not self.parts and not self.leases

    def suspended(self, now: float) -> bool:
        """Whether the worker could not be reached a moment ago."""
        return now + CLOSE_ENOUGH < self._suspended_until

    def obstacle(self, now: float) -> Unavailable | None:
        """Why no worker can be had, while that is so."""
        if self.trouble is not None and self.trouble.until is not None and self.trouble.until <= now:
            self.trouble = None
        return self.trouble

    # -- the worker -------------------------------------------------------------------------------------------------

    def attach(self, endpoint: Endpoint, client: WorkerClient, now: float) -> None:
        """A worker is ready."""
        self.endpoint, self.client = endpoint, client
        self.trouble = None
        self._suspended_until, self._pause = now, FIRST_PAUSE
        self.set_grants(Grants.ALL, now)

    def set_grants(self, grants: Grants, now: float) -> None:
        """Who may send from now on."""
        self._tick(now)
        self.grants = grants

    def detach(self, now: float) -> list[Job]:
        """The worker is gone: all it had waits again, first. Returns the jobs whose rows it had once too often.

        It counts against a part only when the worker went by itself, not when it was being drained.
        """
        counted = self.grants is Grants.ALL
        self.set_grants(Grants.NONE, now)
        self.endpoint = self.client = None
        pieces = [piece for part in self.parts for piece in part.slices]
        for part in tuple(self.parts):
            self._forget(part)
        exhausted = self._put_back(pieces, counted)
        for piece in pieces:
            self._mark(piece.job, now)
        for job in self.queue:
            self.end_lease(job)
        return exhausted

    def lost(self, part: Part, sent: bool, now: float) -> list[Job]:
        """A part got no answer: it waits again, first, and the lane pauses for a moment. Returns like `detach`.

        What was not even sent goes on with the wait it had begun, so a worker that can't be reached is no endless one.
        """
        self._forget(part)
        if sent:
            for piece in part.slices:
                self._mark(piece.job, now)
        self._suspended_until = now + self._pause
        self._pause = min(LONGEST_PAUSE, self._pause * 2)
        return self._put_back(part.slices, sent)

    @property
    def resumes_at(self) -> float:
        """When parts may leave again after the worker could not be reached."""
        return self._suspended_until

    # -- jobs -------------------------------------------------------------------------------------------------------

    def add(self, job: Job, now: float) -> None:
        """A new job waits."""
        self._mark(job, now)
        self.queue.add(job)

    def next_part(self, now: float) -> Part | None:
        """The next part that may leave now, taken from the queue; None when nothing may."""
        if self.client is None or self.grants is Grants.NONE or not self.open or self.suspended(now):
            return None
        job = self._first(self.grants is Grants.LEASED)
        if job is None:
            return None
        size = self.orders.batch_size
        rows = min(job.waiting[0].rows, size) if job.plan.divisible else job.waiting[0].rows
        if self.inflight and self.inflight + rows > size * self.orders.window:
            return None
        return self._cut(job, size, now)

    def trickles(self, now: float) -> bool:
        """Whether one small part may pass the closed gate: not while one is at the worker, for that is progress."""
        return self.ready and not self.open and not self.parts and len(self.queue) > 0 and not self.suspended(now)

    def trickle_part(self, size: int, now: float) -> Part:
        """One part of at most `size` inputs of the oldest job, gate or not."""
        return self._cut(next(iter(self.queue)), size, now)

    def answered(self, part: Part, now: float) -> None:
        """The worker answered a part."""
        self._forget(part)
        self._pause = FIRST_PAUSE
        self.last_used = now

    def end_lease(self, job: Job) -> None:
        """The job no longer holds the worker."""
        if job.leased:
            job.leased = False
            self.leases -= 1

    # -- time -------------------------------------------------------------------------------------------------------

    def seconds_left(self, job: Job, max_wait: float, now: float) -> float:
        """How much of `max_wait` a job that was not yet sent has left."""
        self._tick(now)
        return job.ready_mark + max_wait - self._ready_seconds

    def expired(self, max_wait: float, longest_sleep: float, now: float) -> tuple[list[Job], float | None]:
        """The jobs whose time is up, and in how many seconds to look again (None: nothing waits).

        1. With a ready worker: those that waited `max_wait` for it and of which nothing is sent. The clock stands still
           without one, so time spent on loading does not count.
        2. Without one: those that waited `longest_sleep` for it.

        Jobs that were never sent stand in the order of their marks, so the first of them that has time left ends the
        search; the few that came back stand before them and have later marks.
        """
        self._tick(now)
        due: list[Job] = []
        soonest: float | None = None
        for job in self.queue:
            if not self.ready:
                left = job.asleep_mark + longest_sleep - self._asleep_seconds
            elif job.started:
                continue
            else:
                left = job.ready_mark + max_wait - self._ready_seconds
            if left <= CLOSE_ENOUGH:
                due.append(job)
                continue
            soonest = left if soonest is None else min(soonest, left)
            if job.first_sent is None:
                break
        if soonest is None and len(self.queue) > len(due):
            soonest = max_wait  # only half-done jobs wait now; whoever comes next may wait this long
        return due, soonest

    # -- inside -----------------------------------------------------------------------------------------------------

    def _first(self, leased: bool) -> Job | None:
        """The first job that waits; with `leased`, the first of those that hold the worker already."""
        jobs: Iterator[Job] = iter(self.queue)
        for job in jobs:
            if not leased or job.leased:
                return job
            if not job.started:
                return None  # nobody behind it was sent anything
        return None

    def _cut(self, job: Job, size: int, now: float) -> Part:
        piece = self.queue.take(job, size)
        part = Part([piece], piece.rows, now)
        self.parts.add(part)
        self.inflight += part.inputs
        job.running += 1
        job.started = True
        if not job.leased:
            job.leased = True
            self.leases += 1
        if job.first_sent is None:
            job.first_sent = now
            self.uses += 1
        self.last_used = now
        return part

    def _forget(self, part: Part) -> None:
        self.parts.discard(part)
        self.inflight -= part.inputs
        for piece in part.slices:
            piece.job.running -= 1

    def _put_back(self, pieces: list[Slice], counted: bool) -> list[Job]:
        exhausted: list[Job] = []
        # Backwards, since each is put before the others.
        for piece in sorted(pieces, key=lambda piece: (piece.job.number, piece.start), reverse=True):
            if piece.job.done:
                continue
            piece.sends += counted
            self.queue.put_back(piece)
            if piece.job.waiting_inputs == piece.job.plan.inputs:
                piece.job.started = False
            if piece.sends >= MAX_SENDS:
                exhausted.append(piece.job)
        return exhausted

    def _mark(self, job: Job, now: float) -> None:
        self._tick(now)
        job.ready_mark, job.asleep_mark = self._ready_seconds, self._asleep_seconds

    def _tick(self, now: float) -> None:
        passed, self._clock_at = now - self._clock_at, now
        if self.ready:
            self._ready_seconds += passed
        else:
            self._asleep_seconds += passed
