"""The dispatcher: takes requests in, lets them leave for workers in parts, and hands out what became of them.

Knows no HTTP server and no process: requests come from `supervisor.proxy.server`, workers are attached and detached by
whoever runs them (`Hosting`), orders come from the controller. Everything happens on one event loop, and only the
`async` methods await, so every other one is a single step.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from supervisor.core.body import Body
from supervisor.core.endpoint import Endpoint
from supervisor.core.fair_queue import priority_of
from supervisor.core.model import LaneOrders, Orders
from supervisor.core.payload import Inference, understand
from supervisor.proxy import forecast
from supervisor.proxy.admission import Admission, Place, QueueLimits
from supervisor.proxy.bell import Bell
from supervisor.proxy.hosting import Hosting
from supervisor.proxy.jobs import Asker, Connect, Job
from supervisor.proxy.lane import Lane
from supervisor.proxy.lanes import Demand, Lanes
from supervisor.proxy.observer import NullObserver, ProxyObserver
from supervisor.proxy.part_room import Rooms
from supervisor.proxy.pump import Pump, poisonous
from supervisor.proxy.refusals import Reason, Refusal
from supervisor.proxy.served_model import ServedModel
from supervisor.proxy.upstream import HttpWorker
from supervisor.proxy.worker_memory import Peaks

__all__ = ["Demand", "Dispatcher", "QueueLimits", "ServedModel"]

NOBODY: Final = Asker()
SHUTTING_DOWN: Final = "The supervisor is shutting down. Try again in a few seconds, or elsewhere."


class Dispatcher(Hosting):
    """One lane per model. `on_demand(model)` is called when a request waits for a model without a ready worker.

    `own_cpu` counts the core-seconds that our workers have used so far, for the CPU hold; `peaks` looks at the memory
    of their processes, so that parts to come fit (None: nobody looks).

    For every request: `admit`, then `submit`, then `job.outcome`; and `end`, whatever happened in between.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        limits: QueueLimits,
        on_demand: Callable[[str], None],
        observer: ProxyObserver | None = None,
        *,
        connect: Connect = HttpWorker,
        own_cpu: Callable[[], float] = lambda: 0.0,
        peaks: Peaks | None = None,
    ) -> None:
        bell = Bell()
        pump = Pump(asyncio.get_running_loop(), observer or NullObserver(), bell, own_cpu)
        self._rooms = Rooms(peaks)
        super().__init__(Lanes(self._rooms), pump, bell, connect, on_demand)
        self._admission = Admission(limits, self.drain_estimate)
        self._orders = Orders()
        self._jobs: dict[Job, Lane] = {}
        self._numbers = 0
        self._cores = 1.0
        self._draining = False
        self.leaving = False  # answers close their connections, so that the next supervisor gets what follows
        self.configure(models, limits)

    def configure(self, models: Sequence[ServedModel], limits: QueueLimits) -> None:
        """Serve these models from now on, in this order. One that is gone is refused; what runs of it ends."""
        self.limits = limits
        self._admission.set_limits(limits)
        self._pump.max_wait, self._pump.start_timeout = limits.max_wait, limits.start_timeout
        for lane in self._lanes.configure(models, self._loop.time()):
            self.retire(lane)
        self.set_orders(self._orders)
        for lane in self._lanes:
            self._pump.rearm(lane)

    # -- requests ---------------------------------------------------------------------------------------------------

    def admit(self, size: int, asker: Asker = NOBODY) -> Place:
        """Room for a request with a body of `size` bytes (0: unknown), to be reserved before it is read.

        Raises:
            Refusal: the queue is full, the wait would be too long, or no request is accepted any more.
        """
        self.check_accepting()
        refusal = forecast.refusal_unread(self._lanes, asker, size, self.limits.max_wait, self._loop.time())
        if refusal is not None:
            raise refusal
        return self._admission.reserve(size)

    def check_accepting(self) -> None:
        """Raises Refusal while no request is accepted: at the end, and while paused if nothing may be held."""
        if self._draining:
            raise Refusal(Reason.DRAINING, SHUTTING_DOWN)
        if self._orders.paused and not self.limits.hold:
            raise self._paused()

    def submit(
        self,
        endpoint: Inference,
        body: Body,
        place: Place,
        *,
        arrived: float,
        asker: Asker = NOBODY,
    ) -> Job:
        """Queue a request that was admitted; times are on the loop's clock.

        Raises:
            Refusal: no such model, no worker of it can be had in time, or the wait would be too long.
        """
        now = self._loop.time()
        lane = self._lanes.asked_for(body)
        plan = understand(endpoint, body, lane.model.name, lane.model.max_inputs)
        if lane.model.passes_keys and asker.credential is not None:
            asker = asker._replace(headers={**asker.headers, "Authorization": asker.credential})
        self._numbers += 1
        priority = priority_of(asker.priority, plan.inputs)
        job = Job(self._numbers, endpoint, plan, asker, priority, place, arrived, self._loop.create_future())
        if not (lane.open or self.limits.hold):
            raise self._paused(lane)
        if lane.suspects.known:
            lane.suspects.recognise(job, now)
        if lane.suspects.guilty and (index := lane.suspects.guilty_index(job, now)) is not None:
            raise poisonous(lane, index if plan.divisible else None, "of late")
        refusal = forecast.refusal_of(lane, job, self.limits.max_wait, now)
        if refusal is not None:
            refusal.model = lane.model.name
            raise refusal
        lane.add(job, now)
        refusal = self.out_of_reach(lane, job, now)
        if refusal is not None:
            lane.queue.drop(job)
            raise refusal
        self._jobs[job] = lane
        if asker.deadline is not None:
            self._pump.deadline(lane, job, asker.deadline)
        self._pump.run(lane)
        if job.waiting:
            if not lane.ready:
                self._on_demand(lane.model.name)
            elif not lane.open:
                self._pump.trickle(self._lanes)
        return job

    def end(self, place: Place, job: Job | None) -> None:
        """The request is over: its answer is written to the last byte, or its client has left, as a job or before.

        What of it waits is dropped. What of it is at a worker stays there, since Infinity can't be told to stop: the
        lane counts it until it is answered.
        """
        lane = None if job is None else self._jobs.pop(job, None)
        if job is not None and lane is not None:
            waited = job.waiting_inputs
            self._pump.drop(lane, job)
            lane.end_lease(job)
            if waited:  # the next one may be smaller than the one that left and fit where that did not
                self._pump.run(lane)
        place.give_back()
        self._bell.ring()

    def model_of(self, job: Job) -> str:
        """The canonical name of the model that a job is for."""
        return self._jobs[job].model.name

    # -- orders and reports -----------------------------------------------------------------------------------------

    def set_orders(self, orders: Orders) -> None:
        """The state the data plane is to be in from now on."""
        self._orders = orders
        default = LaneOrders()
        grown = 0
        for lane in self._lanes:
            lane.set_orders(orders.lanes.get(lane.model.name, default), orders.paused)
            grown += lane.room.sampled(lane.orders)
        self._rooms.host.set(orders.memory_room, orders.memory_last, grown)
        # Only now: a hold that ends lets go what it held, and that is to leave under the new orders.
        self._pump.throttle.set_target(orders.cpu_hold, self._cores)
        for lane in self._lanes:
            self._pump.run(lane)
            if not (lane.open or self.limits.hold):
                for job in [job for job in lane.queue if not job.started]:
                    self._pump.settle(lane, job, self._paused(lane))
        self._pump.allow_trickle(orders.trickle_size if orders.trickle else None)
        self._pump.trickle(self._lanes)

    def _paused(self, lane: Lane | None = None) -> Refusal:
        """The refusal of what would have to wait at a closed gate, and may not (`proxy.when_paused`)."""
        what, model = ("it", None) if lane is None else (f"the model {lane.model.name!r}", lane.model.name)
        why = f" ({self._orders.reason})" if self._orders.reason else ""
        text = f"The supervisor holds {what} back to protect the host{why}. Ask another one, or try again later."
        return Refusal(Reason.PAUSED, text, model=model)

    def lower_cap(self, model: str) -> None:
        """A model's worker is restarted because of what its parts have made it grow to: smaller ones from now on."""
        lane = self._lanes.of(model)
        if lane is not None:
            lane.room.lower_cap()

    def observe_cpu(self, busy: float | None, cores: float, now: float) -> None:
        """Everybody on the host used `busy` of its `cores` of late; None while that can't be read."""
        if cores != self._cores:
            self._cores = cores
            self._pump.throttle.set_target(self._orders.cpu_hold, cores)
        if busy is not None:
            self._pump.throttle.observe(busy, now)

    @property
    def external_load(self) -> bool:
        """Whether others alone use more of the CPU than the hold aims at."""
        return self._pump.throttle.external_load

    def demand(self) -> dict[str, Demand]:
        """What is wanted of each configured model."""
        return self._lanes.demand(self._loop.time())

    @property
    def totals(self) -> Demand:
        """The same, summed over all models."""
        return self._lanes.total(self._loop.time())

    @property
    def reserved(self) -> tuple[int, int]:
        """Requests and bytes that have a place in the queue: what waits, and what is still being read."""
        return self._admission.requests, self._admission.bytes

    def longest_part(self, now: float) -> float:
        """Seconds: the age of the oldest part that runs, or the longest that ended in the last 2 s if longer."""
        return self._pump.pace.longest((part for lane in self._lanes for part in lane.parts), now)

    def drain_estimate(self) -> float:
        """In how many seconds the queue will be empty at the pace of late; 0 while nothing is known."""
        return sum(lane.sizing.seconds_for(lane.queue.cost + lane.running_cost) for lane in self._lanes)

    # -- any worker, for what is no inference -----------------------------------------------------------------------

    def ready_workers(self) -> dict[str, Endpoint]:
        """The workers that are ready, by model, in the order of the configuration."""
        ready = (lane for lane in self._lanes if lane.ready and not lane.retired)
        return {lane.model.name: lane.endpoint for lane in ready if lane.endpoint is not None}

    def ready_worker(self) -> Endpoint | None:
        """The first of them."""
        return next(iter(self.ready_workers().values()), None)

    @contextmanager
    def visit(self, worker: Endpoint) -> Iterator[None]:
        """Hold a ready worker until the last byte came from it, as a request does; and keep it no warmer."""
        lane, guest = self._lanes.of(worker.model), object()
        if lane is not None and lane.endpoint == worker:
            lane.guests.add(guest)
        try:
            yield
        finally:
            if lane is not None:
                lane.guests.discard(guest)
            self._bell.ring()

    async def wait_for_worker(self, timeout: float) -> Endpoint | None:
        """A worker that is ready, waiting for one at most `timeout` seconds."""
        await self._bell.until(lambda: self.ready_worker() is not None, timeout)
        return self.ready_worker()

    # -- the end ----------------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the service is about to end."""
        return self._draining

    def begin_drain(self) -> None:
        """Refuse new requests from now on; those that were admitted go on."""
        self._draining = self.leaving = True

    async def finish(self, timeout: float) -> bool:
        """Wait until every request has its answer; after `timeout` seconds refuse those that have none.

        Returns whether all were answered.
        """

        def over() -> bool:
            return not self._jobs and not self._admission.requests

        if await self._bell.until(over, timeout):
            return True
        for job, lane in list(self._jobs.items()):
            self._pump.settle(lane, job, Refusal(Reason.DRAINING, SHUTTING_DOWN))
        return False

    async def close(self) -> None:
        """Drop everything: what waits is refused, what runs is forgotten."""
        self.begin_drain()
        for job, lane in list(self._jobs.items()):
            self._pump.settle(lane, job, Refusal(Reason.DRAINING, SHUTTING_DOWN))
        await super().close()
        await self._pump.close()
