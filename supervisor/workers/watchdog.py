"""Watches a worker that serves: asks it a canary when it does not get on, and tells when it is dead.

Owns the clock and the questions; the judgement is `core.liveness`. It kills nobody: whoever runs the worker does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import aiohttp
import structlog

from supervisor.core.liveness import CANARY_SECONDS, Doubt, Heard, Liveness, Work
from supervisor.workers.lane import Apart
from supervisor.workers.process import Activity
from supervisor.workers.readiness import NotReady, NotYet

log = structlog.get_logger(__name__)

# Seconds between two looks at what the data plane knows anyway. Part of the 15 s that a zombie lives too long.
_LOOK = 1.0
# And between two canaries that were not taken.
_AGAIN = 0.5


async def until_dead(
    model: str,
    apart: Callable[[], Apart],
    canary: Callable[[], Awaitable[None]],
    work: Callable[[], Work],
    activity: Callable[[], Activity | None],
    stall_timeout: Callable[[], float],
) -> str:
    """Return when the worker is dead, with what was seen of that.

    Args:
        model: which of the worker's.
        apart: has it alone there, so that the CPU time used is not others'. Not asked where nobody waits for it: who is
            in use is not to be held up for that.
        canary: asks the worker something small; raises what `readiness.canary` raises.
        work: what it was given and has finished.
        activity: what its processes have used so far, None where that can't be seen; walks /proc, so it is asked only
            around a canary.
        stall_timeout: as configured now.
    """
    loop = asyncio.get_running_loop()
    liveness = Liveness(loop.time())
    while True:
        await asyncio.sleep(min(_LOOK, stall_timeout() / 4))
        doubt = liveness.doubt(work(), stall_timeout(), loop.time())
        if doubt is None:
            continue
        if doubt is not Doubt.IDLE:
            log.warning("worker_in_doubt", model=model, why=_WHY[doubt], next="a canary")
        async with apart() if doubt is not Doubt.IDLE else nullcontext() as alone:
            before, began = activity(), loop.time()
            heard = await _hear(canary)
            took = loop.time() - began
            after = activity()
            used = None if before is None or after is None else max(0.0, after.cpu_seconds - before.cpu_seconds)
            wrong = liveness.verdict(work(), stall_timeout(), loop.time(), heard=heard, took=took, core_seconds=used)
            if wrong is not None:
                return wrong
            if alone is not None:
                alone.over()
        if doubt is not Doubt.IDLE:
            log.info(
                "worker_lives",
                model=model,
                canary=heard.name.lower(),
                took_s=round(took, 1),
                cpu_seconds=None if used is None else round(used, 2),
            )


_WHY = {
    Doubt.STALLED: "it has work and has finished nothing for stall_timeout",
    Doubt.REFUSES: "it refused work (429) without having too much",
    Doubt.IDLE: "nobody has asked it anything for long",
}


async def _hear(canary: Callable[[], Awaitable[None]]) -> Heard:
    """What became of a canary in `CANARY_SECONDS`: one that is not even taken is sent again until then."""
    loop = asyncio.get_running_loop()
    until = loop.time() + CANARY_SECONDS
    while (left := until - loop.time()) > 0:
        try:
            async with asyncio.timeout(left):
                await canary()
        except NotReady:
            return Heard.UNSOUND
        except (NotYet, OSError, aiohttp.ClientError, TimeoutError):  # full, or busy, or gone: ask again
            await asyncio.sleep(min(_AGAIN, max(0.0, until - loop.time())))
        else:
            return Heard.SOUND
    return Heard.NOTHING
