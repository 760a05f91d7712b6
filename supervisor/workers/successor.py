"""The next process of a worker, brought up beside the one that serves.

Owns that process until the worker takes it over, or until it is given up: then nothing of it is left.
"""

import asyncio
from collections.abc import Callable

import structlog

from supervisor.core.endpoint import Endpoint
from supervisor.workers.instance import Instance
from supervisor.workers.launch import WorkerSpec
from supervisor.workers.readiness import NotReady
from supervisor.workers.serving import Fault, Order, until_ready
from supervisor.workers.surroundings import Surroundings

log = structlog.get_logger(__name__)


class Successor:
    """A process on its way to be ready. `ready` or `fault` is set when that is known, and `on_news` called.

    `cause` is why there is to be another one, `seconds` how long its load took.
    """

    def __init__(self, spec: WorkerSpec, around: Surroundings, cause: str, on_news: Callable[[], None]) -> None:
        self.cause = cause
        self.spec = spec
        self.instance: Instance | None = None
        self.ready: tuple[Endpoint, ...] | None = None
        self.fault: Fault | None = None
        self.seconds = 0.0
        self._on_news = on_news
        try:
            self.instance = Instance.launch(spec, around)
        except NotReady as error:
            self.fault = Fault(str(error))
            on_news()
            return
        self.instance.tail.silent = True  # both write to one file, and the first one's tail tells of it
        process = self.instance.process
        log.info("worker_successor_started", model=spec.name, pid=process.pid, port=self.instance.port)
        self._rising = asyncio.create_task(self._rise(self.instance), name=f"successor {spec.name}")

    @property
    def settled(self) -> bool:
        """Whether it is known if it becomes ready."""
        return self.ready is not None or self.fault is not None

    async def _rise(self, instance: Instance) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        never = Order(asyncio.Event().wait, lambda: False)
        outcome = await until_ready(instance, never, lambda: self.spec)
        self.seconds = loop.time() - began
        if isinstance(outcome, Fault):
            self.fault = outcome
        else:
            self.ready = outcome
        self._on_news()

    def hand_out(self) -> Instance | None:
        """Its process, as far as it has come, is the caller's from now on; None when there is none."""
        instance, self.instance = self.instance, None
        if instance is not None:
            self._rising.cancel()
        return instance

    def give_up(self) -> None:
        """End it at once; nothing of it is left."""
        instance = self.hand_out()
        if instance is not None:
            instance.close()
            log.info("worker_successor_ended", model=self.spec.name, pid=instance.process.pid, how=instance.how())
