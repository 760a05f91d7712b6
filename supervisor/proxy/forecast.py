"""How long a request would wait, told before its body is read: whether to take it at all, and when to come again.

Owns the estimate. It is a fluid one: what is served before the newcomer, by the rules of the fair queue, at the pace of
late. Nothing is foretold for a model that is not ready or whose gate is closed: how long that lasts, nobody knows.
"""

from collections.abc import Iterable
from typing import Final

from supervisor.core.fair_queue import Priority, priority_of
from supervisor.proxy.jobs import SHORTEST, Asker, Job
from supervisor.proxy.lane import Lane
from supervisor.proxy.refusals import Reason, Refusal

# A wait that is foreseen to fill more of the time a client allows than this is too long: the estimate is a mean, parts
# are filled past those whose length is rare, and a request that is taken and then runs into its deadline has waited for
# nothing. (At ten times the capacity, 2 s allowed: of those taken 19 % expired with 0.8, 16 % with 0.7, 7 % with 0.6.)
SURE_OF_TIME: Final = 0.6
# Until its body is read, a request up to this size is taken for a line or two, a larger one for a list of texts.
SMALL_BODY: Final = 4096


def refusal_unread(lanes: Iterable[Lane], asker: Asker, size: int, max_wait: float, now: float) -> Refusal | None:
    """The refusal of a request of which only the head is known, if no model could answer it in time.

    `size` is the declared length of its body: all its texts together, so hardly less than rows x longest row.
    """
    priority = priority_of(asker.priority, 1 if size <= SMALL_BODY else 5)
    cost = float(max(SHORTEST, size))
    shortest: Refusal | None = None
    for lane in lanes:
        if not lane.retired:
            refusal = _refusal(lane, asker, priority, cost, max_wait, now)
            if refusal is None:
                return None
            if shortest is None or (refusal.retry_after or 0.0) < (shortest.retry_after or 0.0):
                shortest = refusal
    return shortest


def refusal_of(lane: Lane, job: Job, max_wait: float, now: float) -> Refusal | None:
    """The refusal of a request that is about to wait in this lane, if it would wait too long there."""
    return _refusal(lane, job.asker, job.priority, job.cost, max_wait, now)


def _refusal(lane: Lane, asker: Asker, priority: Priority, cost: float, max_wait: float, now: float) -> Refusal | None:
    """Whether the wait is too long.

    1. Until the first part leaves: beyond `max_wait`.
    2. Until the last one is answered: beyond what the client's own deadline leaves, with a margin.
    """
    if not lane.queue.inputs or not (lane.ready and lane.open):
        return None
    running, queue, seconds_for = lane.running_cost, lane.queue, lane.sizing.seconds_for
    enough = max_wait if asker.deadline is None else min(max_wait, SURE_OF_TIME * (asker.deadline - now))
    if seconds_for(running + queue.cost + cost) <= enough:  # even behind all others: nothing more is asked for most
        return None
    seconds = seconds_for(running + queue.cost_ahead(asker.client, priority, cost))
    if seconds <= enough:
        return None
    if seconds > max_wait:  # only then the first part may leave too late
        first = seconds_for(running + queue.cost_ahead(asker.client, priority, 0.0))
        if first > max_wait:  # 1
            why = f"about {first:.0f} s behind others, {max_wait:.0f} may (queue.max_wait)"
            return _too_long(why, first - max_wait)
    if asker.deadline is not None:  # 2
        left = asker.deadline - now
        if seconds > SURE_OF_TIME * left:
            return _too_long(f"about {seconds:.1f} s, x-request-timeout-ms leaves {left:.1f} s", seconds)
    return None


def _too_long(why: str, retry_after: float) -> Refusal:
    return Refusal(Reason.PREDICTED_WAIT, f"The request would wait {why}. Try again later.", retry_after=retry_after)
