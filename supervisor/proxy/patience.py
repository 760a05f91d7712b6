"""How long the jobs of one model have waited: with a ready worker, and without one.

Owns two clocks that never run at once. `max_wait` counts seconds with a ready worker, so the time that a model loads or
waits for its turn in memory does not count; without one, only a multiple of the start time-out does.
"""

from collections.abc import Iterable
from typing import Final

from supervisor.proxy.jobs import Job

# Sums of seconds are off by rounding, and uvloop's timers fire up to half a millisecond early: what is left below this
# counts as nothing, or a timer would be set for now again.
CLOSE_ENOUGH: Final = 0.001


class Patience:
    """The two clocks; `tick` before the readiness of the model changes."""

    __slots__ = ("_asleep_seconds", "_at", "_ready_seconds")

    def __init__(self, now: float) -> None:
        self._at = now
        self._ready_seconds = 0.0
        self._asleep_seconds = 0.0

    def tick(self, ready: bool, now: float) -> None:
        """Time passed, all of it with (or all of it without) a ready worker."""
        passed, self._at = now - self._at, now
        if ready:
            self._ready_seconds += passed
        else:
            self._asleep_seconds += passed

    def mark(self, job: Job) -> None:
        """This job begins to wait now."""
        job.ready_mark, job.asleep_mark = self._ready_seconds, self._asleep_seconds

    def renew(self, jobs: Iterable[Job]) -> None:
        """The time that these waited for a worker that was dead does not count; the time without one does."""
        for job in jobs:
            job.ready_mark = self._ready_seconds

    def seconds_left(self, job: Job, max_wait: float) -> float:
        """How much of `max_wait` a job that was not yet sent has left."""
        return job.ready_mark + max_wait - self._ready_seconds

    def expired(
        self, jobs: Iterable[Job], ready: bool, max_wait: float, longest_sleep: float
    ) -> tuple[list[Job], float | None]:
        """The jobs whose time is up, and the seconds until the next one's may be (None: nothing waits).

        1. With a ready worker: those that waited `max_wait` for it and of which nothing is sent.
        2. Without one: those that waited `longest_sleep` for it.

        `jobs` come in the order of arrival: those that were never sent stand in the order of their marks, so the first
        of them that has time left ends the search; the few that came back stand before them and have later marks.
        """
        due: list[Job] = []
        soonest: float | None = None
        waiting = False
        for job in jobs:
            if not ready:
                left = job.asleep_mark + longest_sleep - self._asleep_seconds  # 2
            elif job.started:
                waiting = True
                continue
            else:
                left = self.seconds_left(job, max_wait)  # 1
            if left <= CLOSE_ENOUGH:
                due.append(job)
                continue
            soonest = left if soonest is None else min(soonest, left)
            if job.first_sent is None:
                break
        if soonest is None and waiting:
            soonest = max_wait  # only half-done jobs wait now; whoever comes next may wait this long
        return due, soonest
