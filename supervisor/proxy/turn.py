"""Whose turn it is in a lane: the job of which a part may leave now, and why the others may not.

Rules only; the state is the lane's. Asked for each request that comes and each part that ends, so cheap reasons first.
"""

from itertools import islice
from typing import Final

from supervisor.core.window import USUAL
from supervisor.proxy.jobs import Job
from supervisor.proxy.lane import Grants, Lane
from supervisor.proxy.sizing import Batch

# How many of those that wait are looked at for one that fits, while the first is too long for the memory there is.
LOOK_BEHIND: Final = 256


def next_job(lane: Lane, now: float) -> Job | None:
    """The job of which a part may leave now; None when nothing may. What of it may, `lane.ration` tells.

    Memory is asked last: its first answer may be that this job's next row will never fit.
    """
    if lane.client is None or lane.grants is Grants.NONE or not lane.open or lane.suspended(now):
        return None
    orders, places = lane.orders, len(lane.parts)
    full = places >= orders.window
    crowded = places > 0 and (full or places >= lane.sizing.window(orders))
    if crowded and (full or lane.queue.inputs < orders.batch_size):
        return None
    if lane.escorted is not None:
        return None
    job = lane.first_leased() if lane.grants is Grants.LEASED else lane.queue.first()
    if job is None or (crowded and not lane.sizing.quick(job, orders, places)):
        return None
    if places and _stays(lane, job, places):
        return None
    if lane.siblings and _stays_apart(lane, job, now):
        return None
    ration = lane.ration = lane.ration_of(job)
    if ration.rows or ration.never:
        return job
    if ration.short is None:
        return None
    lane.waits_for_memory(job, ration, now)
    return _one_that_fits(lane, job) if lane.grants is Grants.ALL else None


def _stays(lane: Lane, job: Job, places: int) -> bool:
    """Whether the next rows of a job are not to join what is at the worker.

    1. There would be too much.
    2. They would delay somebody more urgent.
    3. They are under suspicion, which is cleared alone.
    4. With one part running and one staged there is time to wait for the likes of them.
    """
    rows = lane.most(job)
    return (
        lane.inflight + rows > lane.orders.batch_size * lane.orders.window  # 1
        or lane.sizing.delays(job, rows, lane.parts)  # 2
        or job.waiting[0].suspicion is not None  # 3
        or (places >= USUAL and _lacks_likes(lane, job, rows))  # 4
    )


def _stays_apart(lane: Lane, job: Job, now: float) -> bool:
    """Whether the next rows of a job are not to join what other models have at the same worker.

    When that goes down nobody knows with which of them, and what it takes of memory is that of all. So a suspect, or a
    trial, is alone there, and nothing comes before one that only waits for that.
    """
    if job.suspect or lane.room.trial_waits:
        return lane.accompanied
    return any(other.wants_alone(now) for other in lane.siblings)


def _lacks_likes(lane: Lane, job: Job, rows: int) -> bool:
    """Whether a part of it would be filled with rows of other lengths, at a price.

    (MiniLM, 16 clients with 32 texts of 8 to 12 words each: a tenth of the work was padding; without such parts it is
    6 %, and 0.95 instead of 0.89 of a bare Infinity's inputs a second, which sorts all that waits at it.)
    """
    part = Batch(max(rows, lane.orders.batch_size), job.waiting[0].longest)
    return lane.queue.mixes(job, part.rows) and lane.sizing.padding_matters(job.endpoint, part)


def _one_that_fits(lane: Lane, job: Job) -> Job | None:
    """Another one, the first that came of those with shorter rows, which may leave although this one may not."""
    shortest = job.waiting[0].longest
    for other in islice(lane.queue, LOOK_BEHIND):
        suspect_joins = other.suspect and (lane.parts or lane.accompanied)
        if other.waiting[0].longest < shortest and not suspect_joins:
            shortest = other.waiting[0].longest
            lane.ration = lane.ration_of(other)
            if lane.ration.rows:
                return other
    return None
