"""What a run can be of: a process of ours, or an Infinity that something else runs."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from supervisor.core.endpoint import Endpoint
from supervisor.core.start_failure import StartFailure
from supervisor.workers.attached import Attached, refusal
from supervisor.workers.instance import Instance
from supervisor.workers.lane import Lane
from supervisor.workers.launch import WorkerSpec
from supervisor.workers.records import Record
from supervisor.workers.surroundings import Surroundings, WorkerView


class AnyInstance(Protocol):
    """From the start, or from the first question to it, until nothing of ours is left in it.

    `exited` is set at its end, `served` tells whether it did so before us, `killed` whether somebody else killed it.
    `origin` is the event it begins with, `remedy` what is done about a dead one.
    """

    endpoints: tuple[Endpoint, ...]
    port: int
    exited: asyncio.Event
    served: bool
    origin: str
    remedy: str

    @property
    def killed(self) -> bool: ...
    async def becomes_ready(self) -> tuple[Endpoint, ...]: ...
    async def stands_still(self, limit: Callable[[], float]) -> float: ...
    async def dies(
        self, endpoint: Endpoint, lane: Lane, turns: asyncio.Lock, stall_timeout: Callable[[], float]
    ) -> str: ...
    def is_serving(self) -> None: ...
    def shown(self, view: WorkerView) -> WorkerView: ...
    def failure(self) -> StartFailure: ...
    def ending(self) -> str: ...
    def blame(self, what: str) -> str: ...
    def how(self) -> str: ...
    async def stop(self, timeout: float, hurry: asyncio.Event, cause: str) -> None: ...
    async def kill(self) -> None: ...
    def close(self) -> None: ...


async def begun(
    spec: Callable[[], WorkerSpec], around: Surroundings, found: Record | None, patient: bool
) -> AnyInstance:
    """A worker that an earlier supervisor left, somebody else's Infinity, the spare, or a new process.

    `patient`: it may be a while until somebody else's comes. NotReady when it is impossible, and nothing is left then.
    """
    if found is not None:
        return Instance.adopt(spec(), around, found)
    spare = await around.spare.take(spec) if spec().elsewhere is None else None
    where = spec().elsewhere
    if where is None:
        return Instance.launch(spec(), around, spare)
    if spare is not None:  # a reload came while it was asked
        spare.close()
    return Attached(spec(), where, around, patient)


async def worth_a_try(spec: WorkerSpec) -> bool:
    """Whether a start that came to nothing may go better now: not where only somebody else can start it, and did not.

    To look is cheap, and quiet; a start that comes to nothing is told.
    """
    where = spec.elsewhere
    return where is None or where.systemd_unit is not None or await refusal(where) is None
