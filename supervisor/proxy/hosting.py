"""The side of the dispatcher that the owner of the workers sees: attach, drain, detach, unavailable.

Owns the clients to workers and what their coming and going means for the requests that wait.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from supervisor.core.endpoint import Endpoint
from supervisor.core.liveness import Work
from supervisor.proxy.bell import Bell
from supervisor.proxy.jobs import Connect, Job
from supervisor.proxy.lane import Grants, Lane
from supervisor.proxy.lanes import Lanes
from supervisor.proxy.pump import Pump
from supervisor.proxy.refusals import Reason, Refusal
from supervisor.proxy.served_model import Unavailable

# Seconds after which it may be worth asking again for a model that only somebody's hand brings back. A refusal costs
# nothing, so they are few only for the client's sake; with the jitter on top no more than clients obey.
FAILED_RETRY = 40.0


class Hosting:
    """Implements the pool's LaneControl. A model that is not configured (any more) is ignored everywhere."""

    def __init__(
        self, lanes: Lanes, pump: Pump, bell: Bell, connect: Connect, on_demand: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._lanes = lanes
        self._pump = pump
        self._bell = bell
        self._connect = connect
        self._on_demand = on_demand
        self._closing: set[asyncio.Task[None]] = set()

    def attach(self, endpoint: Endpoint) -> None:
        """A worker of this model is ready, or is to go on after it was drained."""
        lane = self._lanes.of(endpoint.model)
        if lane is None:
            return
        now = self._loop.time()
        if lane.client is not None and lane.endpoint == endpoint:
            lane.trouble = None
            lane.set_grants(Grants.ALL, now)
        else:
            if lane.client is not None:
                self._take_back(lane)
            lane.attach(endpoint, self._connect(endpoint), now)
        self._pump.rearm(lane)
        self._pump.run(lane)
        self._pump.trickle(self._lanes)
        self._bell.ring()

    async def drain(self, model: str, timeout: float) -> bool:
        """Let nothing new leave for this model's worker; True once nothing is there and no request holds it.

        Requests that are half done may finish meanwhile. After `timeout` seconds nothing of theirs leaves any more
        either: it waits for the next worker. The lane stays shut until `attach`.
        """
        lane = self._lanes.of(model)
        if lane is None or lane.client is None:
            return True
        client = lane.client
        lane.set_grants(Grants.LEASED, self._loop.time())
        self._pump.rearm(lane)

        def over() -> bool:
            return lane.idle or lane.client is not client or lane.grants is Grants.ALL

        await self._bell.until(over, timeout)
        if lane.client is client and lane.grants is not Grants.ALL:
            lane.set_grants(Grants.NONE, self._loop.time())
        return lane.idle

    def detach(self, model: str, killed: bool = False) -> None:
        """The worker is gone, or about to be killed: what it had waits again, before all else.

        `killed`: it was killed already, and not by us, which counts against the memory that its parts may take.
        """
        lane = self._lanes.of(model)
        if lane is None or lane.client is None:
            return
        self._take_back(lane, killed)
        if lane.retired:
            self.retire(lane)
            self._lanes.remove(lane)
        else:
            self._refuse_out_of_reach(lane)
            self._pump.rearm(lane)
            if len(lane.queue):
                self._on_demand(model)
        self._bell.ring()

    def work(self, model: str) -> Work:
        """What this model's worker was given and has finished."""
        lane = self._lanes.of(model)
        return Work() if lane is None else lane.work()

    def retire(self, lane: Lane) -> None:
        """The model was removed from the configuration: refuse what waits, let what is half done at a worker end."""
        if lane.client is None:
            self._pump.forget(lane)
        text = f"The model {lane.model.name!r} was removed from the configuration."
        for job in list(lane.queue):
            if lane.client is None or not job.started:
                self._pump.settle(lane, job, Refusal(Reason.WORKER_UNAVAILABLE, text))

    def unavailable(self, model: str, reason: str, retry_after: float | None) -> None:
        """No worker can be had: for `retry_after` seconds, until the next attempt, or (None) until somebody intervenes.

        Requests whose deadline comes sooner are refused, those that wait and those that come.
        """
        lane = self._lanes.of(model)
        if lane is None:
            return
        until = None if retry_after is None else self._loop.time() + retry_after
        lane.trouble = Unavailable(reason, until)
        self._refuse_out_of_reach(lane)

    def available(self, model: str) -> None:
        """A worker may be had again: requests wait for it."""
        lane = self._lanes.of(model)
        if lane is not None:
            lane.trouble = None

    def refuse_waiting(self, model: str, reason: str, retry_after: float) -> None:
        """Refuse what waits for this model now, with `reason`; what comes later waits again."""
        lane = self._lanes.of(model)
        if lane is not None:
            text = f"The model {model!r} is unavailable: {reason}"
            for job in list(lane.queue):
                refusal = Refusal(Reason.WORKER_UNAVAILABLE, text, retry_after=retry_after)
                self._pump.settle(lane, job, refusal)

    def out_of_reach(self, lane: Lane, job: Job, now: float) -> Refusal | None:
        """The refusal for a job whose deadline comes before its worker's next start, if so."""
        trouble = lane.obstacle(now)
        if trouble is None or lane.client is not None:
            return None
        text = f"The model {lane.model.name!r} is unavailable: {trouble.reason}"
        seconds = FAILED_RETRY
        if trouble.until is not None:
            patience = now + lane.seconds_left(job, self._pump.max_wait, now)
            if trouble.until <= min(patience, patience if job.asker.deadline is None else job.asker.deadline):
                return None
            seconds = trouble.until - now
        failed = trouble.until is None  # a library that came again by itself would make its caller wait for nothing
        return Refusal(Reason.WORKER_UNAVAILABLE, text, retry_after=seconds, model=lane.model.name, final=failed)

    def _refuse_out_of_reach(self, lane: Lane) -> None:
        now = self._loop.time()
        for job in list(lane.queue):
            refusal = self.out_of_reach(lane, job, now)
            if refusal is not None:
                self._pump.settle(lane, job, refusal)

    async def close(self) -> None:
        """Take everything back from the workers and drop the connections to them."""
        for lane in self._lanes:
            if lane.client is not None:
                self._take_back(lane)
        await asyncio.gather(*self._closing)

    def _take_back(self, lane: Lane, killed: bool = False) -> None:
        client = lane.client
        assert client is not None, "called for attached workers"
        self._pump.take_back(lane, killed)
        self._in_background(client.close())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
