"""One worker from its start until it is over: which comes first, the order to stop, its end, its death.

Owns the questions that are asked of it meanwhile; states, orders and what follows are its `Worker`'s.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import structlog

from supervisor.core.endpoint import Endpoint
from supervisor.core.liveness import Work
from supervisor.workers.instance import Instance
from supervisor.workers.launch import WorkerSpec
from supervisor.workers.readiness import NotReady
from supervisor.workers.waits import cancelled

log = structlog.get_logger(__name__)


class Fault(NamedTuple):
    """What is wrong with a worker, in words, and the cause that its restart is counted under."""

    text: str
    cause: str = "crash"


async def until_over(
    instance: Instance,
    ordered: Coroutine[Any, Any, None],
    is_over: Callable[[], bool],
    on_ready: Callable[[Endpoint], None],
    work: Callable[[], Work],
    spec: Callable[[], WorkerSpec],
) -> Fault | None:
    """Wait until it is over with a worker that was started: None when that was `ordered`, else what is wrong.

    `is_over` tells whether it is ordered, also in the moment in which the worker ends: then that is no crash.

    1. It becomes ready, if it goes on making progress for so long. 2. It serves, if it gets on with its work.
    """
    stop = asyncio.create_task(ordered)
    exited = asyncio.create_task(instance.process.exited.wait())
    becoming = asyncio.create_task(instance.becomes_ready())
    still = asyncio.create_task(instance.stands_still(lambda: spec().start_timeout))
    tasks: list[asyncio.Task[Any]] = [stop, exited, becoming, still]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # 1
        if is_over():
            return None
        if exited.done():
            return Fault(f"ended by itself while starting: {instance.ending()}")
        if not becoming.done():
            return Fault(f"no progress for {still.result():.0f} s while starting; {instance.last_words()}")
        on_ready(becoming.result())
        await cancelled([becoming, still])
        dead = asyncio.create_task(instance.dies(work, lambda: spec().stall_timeout))
        tasks.append(dead)
        await asyncio.wait([stop, exited, dead], return_when=asyncio.FIRST_COMPLETED)  # 2
        if is_over():
            return None
        if exited.done():
            return Fault(f"ended by itself: {instance.ending()}")
        log.error("worker_dead", model=spec().name, why=dead.result(), next="SIGKILL, and what it had is sent again")
        return Fault(f"dead: {dead.result()}", "stalled")
    except NotReady as error:
        return Fault(f"{error}; {instance.last_words()}")
    finally:
        await cancelled(tasks)
