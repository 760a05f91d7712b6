"""The pump: sends parts when their lane lets them leave, waits for the answers, and ends jobs whose time is up.

Owns the tasks that wait for workers and the lanes' timers. It decides nothing about order or size: that is the lane's.
Everything but the tasks themselves is one step without an await.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from supervisor.core.part_memory import Oversize
from supervisor.proxy.bell import Bell
from supervisor.proxy.jobs import Job, Reply, WorkerLost
from supervisor.proxy.lane import Lane
from supervisor.proxy.observer import ProxyObserver
from supervisor.proxy.pace import Pace
from supervisor.proxy.part import Part
from supervisor.proxy.refusals import Reason, Refusal
from supervisor.proxy.suspects import Blame
from supervisor.proxy.throttle import Throttle
from supervisor.proxy.turn import next_job

log = structlog.get_logger(__name__)

# A request waits for a worker at most this many times `start_timeout`: once for its turn in memory, once for the load.
# A load that makes progress may take longer than that, but its clients have then gone (openai's patience is 600 s).
SLEEP_FACTOR: Final = 2.0
# What Infinity answers to work beyond its INFINITY_QUEUE_SIZE, which our window never reaches by itself.
TOO_MANY: Final = 429
# The most of a client's time that is set aside for the work itself.
LEAD_SHARE: Final = 0.3


class Pump:
    """Moves parts from lanes to workers. `max_wait` and `start_timeout` (s) are those of `QueueLimits`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, observer: ProxyObserver, bell: Bell, own_cpu: Callable[[], float]
    ) -> None:
        self._loop = loop
        self._observer = observer
        self._bell = bell
        self.pace = Pace()
        self.throttle = Throttle(loop, own_cpu, self.run)
        self.max_wait = 60.0
        self.start_timeout = 300.0
        self._trickle: int | None = None
        self._short: dict[Lane, None] = {}  # those that wait for memory which other lanes have
        self._timers: dict[Lane, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- sending ----------------------------------------------------------------------------------------------------

    def run(self, lane: Lane) -> None:
        """Send what may leave."""
        now = self._loop.time()
        while (job := next_job(lane, now)) is not None:
            if lane.ration.never:
                self.settle(lane, job, _too_large(lane.model.name, lane.ration.short))
            elif self.throttle.permits(lane, now):
                self._send(lane, lane.cut(job, now))
            else:
                break
        if lane.room.waits:
            self._short[lane] = None
        lane.sizing.busy(bool(lane.parts), now)
        if lane.queue.inputs and lane not in self._timers:
            self.rearm(lane)

    def _run_siblings(self, lane: Lane) -> None:
        """Send what may leave of other models at the same worker, now that less is there."""
        for other in lane.siblings:
            self.run(other)

    def allow_trickle(self, size: int | None) -> None:
        """From now on one part of at most `size` inputs may pass a closed gate; None = none may. Not added up."""
        self._trickle = size

    def trickle(self, lanes: Iterable[Lane]) -> None:
        """Send the one part that may pass a closed gate, of the lane with the oldest request; no hold stops it."""
        if self._trickle is None:
            return
        now = self._loop.time()
        waiting = [lane for lane in lanes if lane.trickles(now)]
        if waiting:
            lane = min(waiting, key=_oldest)
            self._send(lane, lane.trickle_part(self._trickle, now))
            self._trickle = None

    def _send(self, lane: Lane, part: Part) -> None:
        self.throttle.sent(lane, part)
        for piece in part.slices:
            if piece.job.first_sent == part.sent_at:
                self._observer.queue_waited(part.sent_at - piece.job.arrived)
        part.task = task = self._loop.create_task(self._wait_for(lane, part))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait_for(self, lane: Lane, part: Part) -> None:
        """One part's stay at the worker. A part that its lane has forgotten meanwhile was taken back: nothing to do."""
        client = lane.client
        assert client is not None, "parts are cut for attached workers only"
        first = part.slices[0].job
        try:
            reply = await client.send(part.endpoint, part.body(lane.model.name), first.asker.headers)
            if part in lane.parts and reply.status == TOO_MANY:
                self._overloaded(lane, part)
            elif part in lane.parts:
                self._answered(lane, part, reply)
        except WorkerLost as lost:
            if part in lane.parts:
                self._lost(lane, part, lost)
        except Exception:  # a fault of ours must not leave the part at the worker, or its clients waiting, for ever
            log.exception("part_failed", model=lane.model.name, inputs=part.inputs)
            if part in lane.parts:
                self._ended(lane, part, False, self._loop.time())
            text = "A fault in the supervisor; its log has the details."
            for piece in part.slices:
                self.settle(lane, piece.job, Refusal(Reason.INTERNAL, text))
            self.run(lane)
            self._run_siblings(lane)

    def _answered(self, lane: Lane, part: Part, reply: Reply) -> None:
        """What becomes of a reply.

        1. An answer: first the next part, then the merging, for the worker is not to wait for us.
        2. A refusal of a part with several requests is nobody's yet: each is sent again by itself.
        3. A refusal of one request's part is its refusal of the request, so what waits of it is not to leave: the next
           part comes last.
        A trial's answer is nobody's; its row waits again.
        """
        now = self._loop.time()
        self._ended(lane, part, reply.ok, now)
        self._give_memory()
        if reply.ok and part.trial is not None:
            lane.tried(part)
            self.run(lane)
        elif reply.ok:  # 1
            self.run(lane)
            self._observer.inputs_done(lane.model.name, part.inputs)
            self._hand_out(lane, part, reply)
        elif part.shared:  # 2
            lane.alone(part)
            self.run(lane)
        else:  # 3
            self.settle(lane, part.slices[0].job, reply)
            self.run(lane)
        self._run_siblings(lane)
        self.throttle.release()
        self._bell.ring()

    def _ended(self, lane: Lane, part: Part, ok: bool, now: float) -> None:
        self.pace.note(part, now)
        lane.answered(part, ok, now, self.throttle.ended(lane, part, now))

    def _hand_out(self, lane: Lane, part: Part, reply: Reply) -> None:
        """Give each request its rows of an answer, and those that are complete their outcome."""
        if part.whole:
            self.settle(lane, part.slices[0].job, reply)
            return
        answers = part.answers(reply)
        if answers is None and part.shared:
            # Usage that is no sum of characters (--lengths-via-tokenize), or another Infinity: it stays that way.
            log.warning("answers_not_told_apart", model=lane.model.name, consequence="each request is sent by itself")
            lane.shares = False
            lane.alone(part)
            self.run(lane)
            return
        for piece, answer in zip(part.slices, answers or (None,), strict=True):
            if not piece.job.done:
                outcome = piece.job.absorb(piece, answer, reply)
                if outcome is not None:
                    self.settle(lane, piece.job, outcome)

    def _lost(self, lane: Lane, part: Part, lost: WorkerLost) -> None:
        log.warning("part_lost", model=lane.model.name, inputs=part.inputs, sent=lost.sent, error=str(lost))
        now = self._loop.time()
        self.throttle.ended(lane, part, now)
        lane.lost(part, lost.sent, now)
        self._pause(lane)

    def _overloaded(self, lane: Lane, part: Part) -> None:
        """The worker has no room for a part. That is no answer to anybody: it is sent again, and the worker doubted."""
        log.warning("worker_says_too_many", model=lane.model.name, inputs=part.inputs)
        now = self._loop.time()
        self.throttle.ended(lane, part, now)
        lane.overloaded(part, now)
        self._pause(lane)

    def _pause(self, lane: Lane) -> None:
        """Go on with a lane after the moment that it pauses, unless its worker has gone by then."""
        self._loop.call_at(lane.resumes_at, self._resume, lane)
        self.rearm(lane)
        self._bell.ring()

    def _resume(self, lane: Lane) -> None:
        if lane.ready:
            # Its worker lives, or has not been seen to end yet: how it did is not known, so it takes more to be blamed.
            self.blame(lane, lane.suspects.judge(True, self._loop.time()))
        self.run(lane)
        self._run_siblings(lane)

    def _give_memory(self) -> None:
        """A part has ended: first the lanes that wait for memory may have their turn."""
        waiting, self._short = self._short, {}
        for lane in waiting:
            lane.room.stop_waiting()
            self.run(lane)

    def blame(self, lane: Lane, blame: Blame | None) -> None:
        """End the request whose input takes workers down."""
        if blame is not None:
            log.error("poison_input", model=lane.model.name, index=blame.at, deaths=blame.deaths)
            self.settle(lane, blame.job, poisonous(lane, blame.at, f"{blame.deaths} times"))

    def take_back(self, lane: Lane, killed: bool = False) -> None:
        """The worker is gone: forget the tasks that wait for it and let their rows wait again."""
        now = self._loop.time()
        for part in lane.parts:
            self.throttle.ended(lane, part, now)
            if part.task is not None:
                part.task.cancel()
        self.blame(lane, lane.detach(killed, now))

    # -- ends -------------------------------------------------------------------------------------------------------

    def settle(self, lane: Lane, job: Job, outcome: Reply | Refusal) -> None:
        """Give a job its outcome, if it has none yet; none of its rows leaves any more."""
        self._drop(lane, job)
        if job.timer is not None:
            job.timer.cancel()
        if not job.done:
            job.outcome.set_result(outcome)

    def drop(self, lane: Lane, job: Job) -> None:
        """Nobody waits for this job any more."""
        self._drop(lane, job)
        if job.timer is not None:
            job.timer.cancel()
        job.outcome.cancel()

    def _drop(self, lane: Lane, job: Job) -> None:
        if lane.siblings and job.suspect:  # others may have waited for it
            self._loop.call_soon(self._run_siblings, lane)
        lane.queue.drop(job)

    def deadline(self, lane: Lane, job: Job, at: float) -> None:
        """End a job at the time its client gave it, whatever becomes of its model.

        One that has not begun by when it would have to is ended then: what it cost would be for nothing (under lasting
        overload all that is served is about to be too late, seen: 37 % of the work was of use to somebody).
        """
        lead = min(lane.sizing.seconds_for(lane.running_cost + job.cost), LEAD_SHARE * (at - job.arrived))
        job.timer = self._loop.call_at(at - lead, self._hopeless, lane, job, at)

    def _hopeless(self, lane: Lane, job: Job, at: float) -> None:
        if job.started and self._loop.time() < at:
            job.timer = self._loop.call_at(at, self._hopeless, lane, job, at)
        else:
            text = "The time that x-request-timeout-ms allows is over, or what is left of it is too short."
            self.settle(lane, job, Refusal(Reason.DEADLINE_EXCEEDED, text))

    # -- timers -----------------------------------------------------------------------------------------------------

    def rearm(self, lane: Lane) -> None:
        """End the jobs of a lane whose time is up and look again when the next one's may be.

        Called when a lane's readiness or the limits changed, and by its timer. A timer may fire too early, since jobs
        leave meanwhile; it never fires late, since the clocks it is set by only stop, never jump.
        """
        timer = self._timers.pop(lane, None)
        if timer is not None:
            timer.cancel()
        now = self._loop.time()
        due, seconds = lane.expired(self.max_wait, SLEEP_FACTOR * self.start_timeout, now)
        for job in due:
            self.settle(lane, job, self._too_late(lane, job, now))
        if seconds is not None:
            self._timers[lane] = self._loop.call_at(now + seconds, self.rearm, lane)

    def _too_late(self, lane: Lane, job: Job, now: float) -> Refusal:
        name = lane.model.name
        if not lane.ready:
            text = f"No worker for {name!r} became ready in {SLEEP_FACTOR * self.start_timeout:.0f} s."
            return Refusal(Reason.WORKER_UNAVAILABLE, f"{text} Try again later.", retry_after=self.start_timeout)
        if not lane.open:
            text = f"The supervisor holds requests to protect the host, by now for longer than {self.max_wait:.0f} s"
            return Refusal(Reason.PAUSED, f"{text} (queue.max_wait). Try again later.")
        if job.short is not None:
            why = f"{_figures(job.short)} It waited {self.max_wait:.0f} s (queue.max_wait) for others to use less."
            return Refusal(Reason.PAUSED, f"{why} Try again later.")
        if lane.suspended(now):
            return Refusal(Reason.WORKER_UNAVAILABLE, f"The worker of {name!r} does not answer. Try again later.")
        text = f"The request waited {self.max_wait:.0f} s (queue.max_wait) behind others."
        return Refusal(Reason.DEADLINE_EXCEEDED, f"{text} Send fewer at a time, or allow longer waits.")

    def forget(self, lane: Lane) -> None:
        """The lane is no more."""
        self.throttle.forget(lane)
        self._short.pop(lane, None)
        timer = self._timers.pop(lane, None)
        if timer is not None:
            timer.cancel()

    async def close(self) -> None:
        """Stop waiting for anything."""
        self.throttle.close()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def poisonous(lane: Lane, index: int | None, how: str) -> Refusal:
    """The answer to a request with a guilty input."""
    what = "This request" if index is None else f"Input {index} of this request"
    text = f"{what} took the worker of {lane.model.name!r} down {how}, while nothing else ran there. Leave it out."
    return Refusal(Reason.POISON_INPUT, text, param="input", model=lane.model.name)


def _oldest(lane: Lane) -> tuple[float, int]:
    job = next(iter(lane.queue))
    return job.arrived, job.number


def _figures(short: Oversize | None) -> str:
    assert short is not None, "a row that does not fit lacks something"
    needed, room = max(1, short.needed >> 20), max(0, short.room >> 20)
    return (
        f"The longest input of this request needs about {needed:,} MiB of memory; this host has {room:,} MiB for it, "
        f"enough for about {short.fits:,} characters."
    )


def _too_large(model: str, short: Oversize | None) -> Refusal:
    return Refusal(Reason.TOO_LARGE, f"{_figures(short)} Send it in shorter pieces.", model=model)
