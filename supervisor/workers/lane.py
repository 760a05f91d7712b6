"""What the data plane is told about one worker: the interface it has to have, and a memory of what was said."""

import asyncio
from typing import Any, Protocol

import structlog

from supervisor.core.endpoint import Endpoint
from supervisor.core.liveness import Work
from supervisor.workers.waits import cancelled

log = structlog.get_logger(__name__)

# How long is waited for what the other models of a worker have there (s). With the watchdog's look and its canary that
# makes 14 of the 15 s that a zombie lives too long.
QUIET_SECONDS = 3.0


class LaneControl(Protocol):
    """What a worker tells the data plane about its model; calls may be repeated."""

    def attach(self, endpoint: Endpoint) -> None:
        """A worker is ready at this address: requests may go there."""

    async def drain(self, model: str, timeout: float) -> bool:
        """Let no new part leave; True once nothing is in flight, False when something still is after `timeout` s."""

    def detach(self, model: str, killed: bool = False) -> None:
        """The worker is gone: parts that were in flight are put back, requests wait for the next one.

        `killed`: it ended by SIGKILL, which was not ours, so perhaps for want of memory.
        """

    def work(self, model: str) -> Work:
        """What the worker was given and has finished."""

    def unavailable(self, model: str, reason: str, retry_after: float | None) -> None:
        """No worker for `retry_after` seconds (back-off), or until an operator acts (None: failed)."""

    def available(self, model: str) -> None:
        """A worker may be had again, so requests wait: ends what `unavailable` said."""


class Apart:
    """Entered, nothing of the other models is at their common worker, and nothing is sent there.

    The CPU time that the process uses is that of the one in doubt then. At `over` the others go on; who leaves without
    it is going to kill the worker. They take `turns`, for two in doubt must not wait for each other.
    """

    def __init__(self, control: LaneControl, others: tuple[Endpoint, ...], turns: asyncio.Lock) -> None:
        self._control = control
        self._others = others
        self._turns = turns

    async def __aenter__(self) -> "Apart":
        await self._turns.acquire()
        try:
            await self._alone()
        except BaseException:
            self._cut_short()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._cut_short()
        else:
            self._turns.release()

    def _cut_short(self) -> None:
        """Nothing came of it, and the worker may yet go on: it is given up because something else comes first."""
        self.over()
        self._turns.release()

    def over(self) -> None:
        """The others go on."""
        for endpoint in self._others:
            self._control.attach(endpoint)

    async def _alone(self) -> None:
        """Nothing of the others leaves any more, not even of what is half done; what is there ends, or is late."""
        for endpoint in self._others:
            await self._control.drain(endpoint.model, 0)
        now = asyncio.get_running_loop().time
        until = now() + QUIET_SECONDS
        while any(self._control.work(other.model).sent_at is not None for other in self._others):
            if now() >= until:
                return
            await asyncio.sleep(0.05)


class Lane:
    """The lanes of one worker's models, mostly of one; what the data plane knows already, it is not told again."""

    def __init__(self, control: LaneControl, models: tuple[str, ...]) -> None:
        self._control = control
        self._models = models
        self._endpoints: tuple[Endpoint, ...] = ()
        self._unavailable = False

    def attach(self, endpoints: tuple[Endpoint, ...]) -> None:
        """See `LaneControl.attach`."""
        self._endpoints = endpoints
        for endpoint in endpoints:
            self._control.attach(endpoint)

    async def drain(self, timeout: float, *unless: asyncio.Event) -> None:
        """Let the worker answer what it has, for at most `timeout` seconds, and until one of `unless` is set."""
        drained = [asyncio.create_task(self._control.drain(model, timeout)) for model in self._models]
        every = asyncio.gather(*drained)
        others = [asyncio.create_task(event.wait()) for event in unless]
        waits: list[asyncio.Future[Any]] = [every, *others]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if every.done() and not all(every.result()):
                log.warning("worker_not_drained", model=self._models[0], waited_s=timeout)
        finally:
            await cancelled([every, *drained, *others])

    def detach(self, killed: bool = False) -> None:
        """See `LaneControl.detach`."""
        endpoints, self._endpoints = self._endpoints, ()
        for endpoint in endpoints:
            self._control.detach(endpoint.model, killed)

    async def died(self, culprit: str | None, killed: bool) -> None:
        """The worker is dead, or gone by itself: it is detached.

        Where it is known with which model it stood still (the culprit), what the others had there is not held against
        their inputs: it is taken back as from a worker that was drained.
        """
        if culprit is not None:
            for endpoint in self.others(culprit):
                await self._control.drain(endpoint.model, 0)
        self.detach(killed)

    def others(self, model: str) -> tuple[Endpoint, ...]:
        """The other models at the same worker, while that is attached."""
        return tuple(endpoint for endpoint in self._endpoints if endpoint.model != model)

    def apart(self, model: str, turns: asyncio.Lock) -> Apart:
        """A way to have this model alone at the worker for a while."""
        return Apart(self._control, self.others(model), turns)

    def work(self, model: str) -> Work:
        """See `LaneControl.work`."""
        return self._control.work(model)

    def unavailable(self, reason: str, retry_after: float | None) -> None:
        """See `LaneControl.unavailable`."""
        self._unavailable = True
        for model in self._models:
            self._control.unavailable(model, reason, retry_after)

    def available(self) -> None:
        """See `LaneControl.available`."""
        if self._unavailable:
            self._unavailable = False
            for model in self._models:
                self._control.available(model)
