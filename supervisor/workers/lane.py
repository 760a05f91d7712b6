"""What the data plane is told about one model's worker: the interface it has to have, and a memory of what was said."""

import asyncio
from typing import Protocol

import structlog

from supervisor.core.endpoint import Endpoint
from supervisor.core.liveness import Work
from supervisor.workers.waits import cancelled

log = structlog.get_logger(__name__)


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


class Lane:
    """One model's lane; what the data plane knows already, it is not told again."""

    def __init__(self, control: LaneControl, model: str) -> None:
        self._control = control
        self._model = model
        self._attached = self._unavailable = False

    def attach(self, endpoint: Endpoint) -> None:
        """See `LaneControl.attach`."""
        self._attached = True
        self._control.attach(endpoint)

    async def drain(self, timeout: float, *unless: asyncio.Event) -> None:
        """Let the worker answer what it has, for at most `timeout` seconds, and until one of `unless` is set."""
        drained = asyncio.create_task(self._control.drain(self._model, timeout))
        others = [asyncio.create_task(event.wait()) for event in unless]
        try:
            await asyncio.wait([drained, *others], return_when=asyncio.FIRST_COMPLETED)
            if drained.done() and not drained.cancelled() and not drained.result():
                log.warning("worker_not_drained", model=self._model, waited_s=timeout)
        finally:
            await cancelled([drained, *others])

    def detach(self, killed: bool = False) -> None:
        """See `LaneControl.detach`."""
        if self._attached:
            self._attached = False
            self._control.detach(self._model, killed)

    def work(self) -> Work:
        """See `LaneControl.work`."""
        return self._control.work(self._model)

    def unavailable(self, reason: str, retry_after: float | None) -> None:
        """See `LaneControl.unavailable`."""
        self._unavailable = True
        self._control.unavailable(self._model, reason, retry_after)

    def available(self) -> None:
        """See `LaneControl.available`."""
        if self._unavailable:
            self._unavailable = False
            self._control.available(self._model)
