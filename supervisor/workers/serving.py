"""One worker from its start until it is over: which comes first, the order to stop, its end, its death.

Owns the questions that are asked of it meanwhile; states, orders and what follows are its `Worker`'s.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import structlog

from supervisor.core.endpoint import Endpoint
from supervisor.core.lifecycle import Outlook
from supervisor.workers.instances import AnyInstance
from supervisor.workers.lane import Lane
from supervisor.workers.launch import WorkerSpec
from supervisor.workers.readiness import NotReady
from supervisor.workers.waits import cancelled

log = structlog.get_logger(__name__)


class Fault(NamedTuple):
    """What is wrong with a worker, in words, the cause that its restart is counted under, and with which model.

    `outlook` is of a start that came to nothing.
    """

    text: str
    cause: str = "crash"
    culprit: str | None = None
    outlook: Outlook = Outlook.OPEN


class Order(NamedTuple):
    """What ends the wait for a worker: `given` returns when it is, `is_given` tells whether.

    Also in the moment in which the worker ends: then that is no crash.
    """

    given: Callable[[], Coroutine[Any, Any, Any]]
    is_given: Callable[[], bool]


async def until_ready(
    instance: AnyInstance, order: Order, spec: Callable[[], WorkerSpec]
) -> tuple[Endpoint, ...] | Fault | None:
    """Wait until a worker that was started serves, if it goes on making progress for so long.

    Its endpoints; what is wrong with it; or None when the order came first.
    """
    given = asyncio.create_task(order.given())
    exited = asyncio.create_task(instance.exited.wait())
    becoming = asyncio.create_task(instance.becomes_ready())
    still = asyncio.create_task(instance.stands_still(lambda: spec().start_timeout))
    tasks: list[asyncio.Task[Any]] = [given, exited, becoming, still]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if order.is_given():
            return None
        if exited.done():
            failure = instance.failure()
            return Fault(failure.text, outlook=failure.outlook)
        if becoming.done():
            return becoming.result()
        return Fault(instance.blame(f"no progress for {still.result():.0f} s while starting"))
    except NotReady as error:
        return Fault(instance.blame(str(error)))
    finally:
        await cancelled(tasks)


async def until_over(instance: AnyInstance, order: Order, lane: Lane, spec: Callable[[], WorkerSpec]) -> Fault | None:
    """Wait as long as a worker that serves gets on with its work, that of each of its models.

    What is wrong, or None when the order came first.
    """
    given = asyncio.create_task(order.given())
    exited = asyncio.create_task(instance.exited.wait())
    turns = asyncio.Lock()
    dying = {
        asyncio.create_task(instance.dies(each, lane, turns, lambda: spec().stall_timeout)): each.model
        for each in instance.endpoints
    }
    tasks: list[asyncio.Task[Any]] = [given, exited, *dying]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if order.is_given():
            return None
        if exited.done():
            return Fault(f"ended by itself: {instance.ending()}")
        why, culprit = next((task.result(), model) for task, model in dying.items() if task.done())
        log.error("worker_dead", model=culprit, why=why, next=instance.remedy)
        return Fault(f"dead: {why}" if len(dying) == 1 else f"dead with {culprit}: {why}", "stalled", culprit)
    except NotReady as error:
        return Fault(instance.blame(str(error)))
    finally:
        await cancelled(tasks)
