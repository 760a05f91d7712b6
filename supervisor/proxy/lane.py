"""One model's lane: its queue, its worker, and the parts that are there.

Owns the state of one model in the data plane and how parts are cut; whose turn it is, is `turn`'s to say. Does no I/O
and reads no clock: `now` comes in, parts come out, the dispatcher sends them.

Invariants, for rows that can be divided:
- a part has at most `batch_size` inputs, as it is when the part leaves, and no more than take about `part_seconds`;
- a part leaves only when, with it, at most `window` parts and `batch_size * window` inputs are at the worker.
A request that goes whole obeys the second where it can; where it is larger than the window it waits until the worker
has nothing else.
"""

from enum import Enum, auto
from typing import Final

from supervisor.core.endpoint import Endpoint
from supervisor.core.liveness import Work
from supervisor.core.model import LaneOrders
from supervisor.proxy.filling import Filling, gains_by_division
from supervisor.proxy.jobs import Job, Slice, WorkerClient
from supervisor.proxy.part import Part
from supervisor.proxy.part_room import FREE, PartRoom, Ration, Rooms
from supervisor.proxy.patience import CLOSE_ENOUGH, Patience
from supervisor.proxy.queue import JobQueue
from supervisor.proxy.served_model import ServedModel, Unavailable
from supervisor.proxy.sizing import Sizing
from supervisor.proxy.suspects import Blame, Suspects, company

# After a worker could not be reached: how long its lane pauses, and how far that doubles (s). The pool sees a process
# that ended within milliseconds and detaches it; this is for one that lives and refuses, such as one that is ending.
FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 5.0


class Grants(Enum):
    """Who may send to the worker that is attached."""

    ALL = auto()
    LEASED = auto()  # draining: only requests that are half done
    NONE = auto()  # drained, or its time is up


class Lane:
    """The state of one model. Its worker is ready while it is attached and grants go to all."""

    def __init__(self, model: ServedModel, rooms: Rooms, now: float) -> None:
        self.model = model
        self.queue = JobQueue()
        self.sizing = Sizing(now)
        self.shares = model.counts_characters  # until an answer could not be told apart by request
        self.parts: set[Part] = set()
        self.suspects = Suspects()
        self.escorted: Part | None = None  # a suspect at the worker: nobody else is to be there
        self.siblings: tuple[Lane, ...] = ()  # those of the same worker: requests wait apart, suspects need it alone
        self.room = PartRoom(rooms, self.parts, model.batch_size)
        self.ration = FREE  # of the job that is next (`turn.next_job`)
        self.inflight = 0
        self.running_cost = 0.0
        self.leases = 0
        self.guests: set[object] = set()  # that hold the worker and send no parts
        self.uses = 0
        self.last_used: float | None = None
        self._answered_at: float | None = None  # by the worker that is there now
        self._refused_at: float | None = None
        self.orders = LaneOrders()
        self.paused = False
        self.endpoint: Endpoint | None = None
        self.client: WorkerClient | None = None
        self.grants = Grants.NONE
        self.trouble: Unavailable | None = None
        self.retired = False
        self._suspended_until = now
        self._pause = FIRST_PAUSE
        self._patience = Patience(now)

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
        return not (self.parts or self.leases or self.guests)

    @property
    def accompanied(self) -> bool:
        """Whether anything of other models is at the worker."""
        return any(lane.parts for lane in self.siblings)

    def wants_alone(self, now: float) -> bool:
        """Whether a suspect or a trial is at the worker, or is next: then nothing of other models is to be there."""
        job = self.queue.first() if self.ready and self.open and not self.suspended(now) else None
        next_alone = job is not None and job.short is None and (job.suspect or self.room.trial_waits)
        return next_alone or self.escorted is not None or self.room.trying

    def set_orders(self, orders: LaneOrders, paused: bool) -> None:
        """What may be done from now on; `paused` closes the gates of all models."""
        self.orders, self.paused = orders, paused
        if not self.open:
            self.sizing.interrupted()

    def suspended(self, now: float) -> bool:
        """Whether the worker could not be reached a moment ago."""
        return now + CLOSE_ENOUGH < self._suspended_until

    def obstacle(self, now: float) -> Unavailable | None:
        """Why no worker can be had, while that is so."""
        if self.trouble is not None and self.trouble.until is not None and self.trouble.until <= now:
            self.trouble = None
        return self.trouble

    # -- the worker -------------------------------------------------------------------------------------------------

    def work(self) -> Work:
        """What the worker was given and has finished."""
        sent_at = min((part.sent_at for part in self.parts), default=None)
        return Work(sent_at, self._answered_at, self._refused_at)

    def attach(self, endpoint: Endpoint, client: WorkerClient, now: float) -> None:
        """A worker is ready."""
        self.endpoint, self.client = endpoint, client
        self._answered_at = self._refused_at = None
        self.trouble = None
        self.shares = self.model.counts_characters
        self.sizing.worker_changed(now)
        self.room.attached()
        self._suspended_until, self._pause = now, FIRST_PAUSE
        self.set_grants(Grants.ALL, now)

    def set_grants(self, grants: Grants, now: float) -> None:
        """Who may send from now on."""
        self._patience.tick(self.ready, now)
        self.grants = grants

    def detach(self, killed: bool, now: float) -> Blame | None:
        """The worker is gone: all it had waits again, first. Returns who is to blame for that, if it is clear.

        Nobody is when the worker was being drained. `killed` as `PartRoom.detached` takes it. Whoever waited behind a
        dead one waits anew.
        """
        by_itself = self.grants is Grants.ALL
        if by_itself:
            self.suspects.accuse(self.parts, 0, now)
        self.set_grants(Grants.NONE, now)
        if by_itself and self.open:  # what waits at a closed gate waits for that
            self._patience.renew(self.queue)
        self.endpoint = self.client = None
        self.guests.clear()
        pieces = [piece for part in self.parts for piece in part.slices]
        for part in tuple(self.parts):
            self._forget(part)
        self.room.detached(killed)
        self._put_back(pieces)
        for piece in pieces:
            self._mark(piece.job, now)
        for job in self.queue:
            self.end_lease(job)
        if by_itself:
            return self.suspects.judge(killed, now)
        self.suspects.acquit()
        return None

    def lost(self, part: Part, sent: bool, now: float) -> None:
        """A part got no answer: it waits again, first, and the lane pauses for a moment; then `judge`.

        What was not even sent goes on with the wait it had begun, so a worker that can't be reached is no endless one.
        """
        self._forget(part)
        self.room.lost(part, sent)
        if sent and self.grants is Grants.ALL:  # while it drains, its end is ours
            self.suspects.accuse((part,), len(self.parts), now)
        if sent:
            for piece in part.slices:
                self._mark(piece.job, now)
            for lane in self.siblings:  # what they sent now could go down with it, and be a suspect for nothing
                lane._suspended_until = max(lane._suspended_until, now + self._pause)
        self._suspended_until = now + self._pause
        self._pause = min(LONGEST_PAUSE, self._pause * 2)
        self._put_back(part.slices)

    def overloaded(self, part: Part, now: float) -> None:
        """The worker says that it has too much to do (429), though nearly all it has is ours: as if it was not sent."""
        self._refused_at = now
        self.lost(part, False, now)

    @property
    def resumes_at(self) -> float:
        """When parts may leave again after the worker could not be reached."""
        return self._suspended_until

    # -- jobs -------------------------------------------------------------------------------------------------------

    def add(self, job: Job, now: float) -> None:
        """A new job waits. One that would gain by it, with enough company, leaves by classes of lengths."""
        self._mark(job, now)
        if len(job.bands) > 1:
            full = self.orders.batch_size
            if gains_by_division(job.waiting[0], self.sizing, lambda _length, _longest: full):
                job.divide()
        self.queue.add(job)

    def first_leased(self) -> Job | None:
        """The first job of those that hold the worker already and still wait with some of their rows."""
        return next((job for job in self.queue if job.leased), None) if self.leases else None

    def most(self, job: Job) -> int:
        """How many of a job's next rows may leave as one part."""
        piece = job.waiting[0]
        if not job.plan.divisible:
            return piece.rows
        return min(piece.rows, self.sizing.rows(job.endpoint, piece.longest, self.orders))

    def ration_of(self, job: Job) -> Ration:
        """What memory allows of this job and those that may leave with it."""
        rows = self.orders.batch_size if job.plan.divisible else job.plan.inputs
        return self.room.ration(job.endpoint, rows, job.waiting[0].longest, job.plan.divisible)

    def waits_for_memory(self, job: Job, ration: Ration, now: float) -> None:
        """Nothing of this job can leave before memory is free elsewhere: if it is half done, it waits anew."""
        job.short = ration.short
        if job.started:
            job.started = False
            self._mark(job, now)

    def cut(self, job: Job, now: float) -> Part:
        """A part of this job, taken from the queue, and of those that share it (`filling`)."""
        most, up_to, trial, _, _ = self.ration
        if trial is not None:
            return self._part([self.queue.take(job, 1)], now, trial)
        if job.waiting[0].suspicion is not None:
            waiting = self.queue if self.shares and self.grants is Grants.ALL else ()
            fit = self.sizing.rows(job.endpoint, job.waiting[0].longest, self.orders)
            together = company(job, waiting, min(most, fit))
            return self._part([self.queue.take(each, rows) for each, rows in together], now)
        if job.kind is None or not self.shares or self.grants is not Grants.ALL:
            return self._part([self.queue.take(job, min(most, self.most(job)))], now)
        return self._part(Filling(self.queue, self.sizing, self.orders, job, job.key, most).fill(up_to), now)

    def trickles(self, now: float) -> bool:
        """Whether one small part may pass the closed gate: not while one is at the worker, for that is progress."""
        job = self.queue.first()
        if job is None or not self.ready or self.open or self.parts or self.accompanied or self.suspended(now):
            return False
        self.ration = self.room.trickle(job.endpoint, job.waiting[0].longest, job.plan.divisible)
        return self.ration.rows > 0

    def trickle_part(self, size: int, now: float) -> Part:
        """One part of at most `size` inputs of the job whose turn it is, gate or not; as `trickles` said just now."""
        job = self.queue.first()
        assert job is not None, "asked for only while something waits"
        piece = self.queue.take(job, min(size, self.ration.rows))
        return self._part([piece], now, self.ration.trial)

    def answered(self, part: Part, ok: bool, now: float, core_seconds: float | None = None) -> None:
        """The worker answered a part; only one that is `ok` tells what parts of its size take."""
        self._forget(part)
        self.room.answered(part, ok)
        self._pause = FIRST_PAUSE
        self.last_used = self._answered_at = now
        if part.suspect:
            self.suspects.clear(part)
        if ok:
            self.sizing.answered(part, self.queue.inputs > 0 and self.open, now, core_seconds, last=not self.parts)
        else:
            self.sizing.refused(now)

    def alone(self, part: Part) -> None:
        """The answer to a part is no answer to its requests: they wait again, first, each to be sent by itself.

        Infinity refused one of them (which one, it does not say), or its answer can't be told apart.
        """
        for piece in reversed(part.slices):
            if not piece.job.done:
                self.queue.put_back(piece, alone=True)

    def tried(self, part: Part) -> None:
        """A trial was answered: its row waits again, first, and more is known of what it takes."""
        self._put_back(part.slices)

    def end_lease(self, job: Job) -> None:
        """The job no longer holds the worker."""
        if job.leased:
            job.leased = False
            self.leases -= 1

    # -- time -------------------------------------------------------------------------------------------------------

    def seconds_left(self, job: Job, max_wait: float, now: float) -> float:
        """How much of `max_wait` a job that was not yet sent has left."""
        self._patience.tick(self.ready, now)
        return self._patience.seconds_left(job, max_wait)

    def expired(self, max_wait: float, longest_sleep: float, now: float) -> tuple[list[Job], float | None]:
        """The jobs whose time is up, and in how many seconds to look again (None: nothing waits); see `Patience`."""
        self._patience.tick(self.ready, now)
        return self._patience.expired(self.queue, self.ready, max_wait, longest_sleep)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _part(self, slices: list[Slice], now: float, trial: int | None = None) -> Part:
        part = Part(slices, now, trial)
        self.parts.add(part)
        if part.suspect:
            self.escorted = part
        self.room.leaves(part, now)
        self.inflight += part.inputs
        self.running_cost += part.cost
        for job in (piece.job for piece in slices):
            job.running += 1
            job.started = True
            job.short = None
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
        if part is self.escorted:
            self.escorted = None
        self.inflight -= part.inputs
        self.running_cost = self.running_cost - part.cost if self.parts else 0.0
        for piece in part.slices:
            piece.job.running -= 1

    def _put_back(self, pieces: list[Slice]) -> None:
        # Backwards, since each is put before the others.
        for piece in sorted(pieces, key=lambda piece: (piece.job.number, piece.start), reverse=True):
            if piece.job.done:
                continue
            self.queue.put_back(piece)
            if piece.job.waiting_inputs == piece.job.plan.inputs:
                piece.job.started = False

    def _mark(self, job: Job, now: float) -> None:
        self._patience.tick(self.ready, now)
        self._patience.mark(job)
