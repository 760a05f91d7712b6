"""How much a balancer should send here, as a line for HAProxy's agent-check (see its configuration manual)."""

from collections.abc import Mapping

from supervisor.core.assessment import Assessment
from supervisor.core.model import Rung, Signal
from supervisor.core.policy import Thresholds

# From shrink on parts are smaller and one at a time: what then comes beside others' requests had better go elsewhere.
SHRUNK_SHARE = 0.25


def headroom_line(
    assessment: Assessment | None, thresholds: Mapping[Signal, Thresholds], *, accepting: bool, limit: int
) -> str:
    """The whole state each time, for HAProxy keeps every word until another one of its kind comes.

    1. `up`: whoever answers this lives; what its health check says is another matter.
    2. `ready`, or `drain` while requests are not accepted or a closed gate would hold them.
    3. The weight in percent: the way left to the pause threshold of the signal that is nearest to its own, a quarter of
       that from shrink on; at least 1, since 0 would be a drain. A signal without one, or that can't be read, has no
       say: the ladder says what it means.
    4. `maxconn`: as many as may wait here; from shrink on a quarter of them. What is beyond that waits in HAProxy,
       which can send it elsewhere.
    """
    state = "ready" if accepting else "drain"  # 2
    share = 1.0
    if assessment is not None:
        for signal, seen in assessment.signals.items():
            pause = thresholds[signal].pause
            if pause and seen.percent is not None:
                share = min(share, max(0.0, 1 - seen.percent / pause))  # 3
        if assessment.rung >= Rung.SHRINK:
            share, limit = share * SHRUNK_SHARE, int(limit * SHRUNK_SHARE)
    return f"up {state} {max(1, round(100 * share))}% maxconn:{max(1, limit)}"
