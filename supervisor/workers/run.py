"""One run of a worker, from spawn to an empty process group: its process, and the one that may take its place.

Owns the processes and what the data plane is told of them; whether there is to be a run, and another, is its `Worker`'s
to say.
"""

import asyncio
from collections.abc import Callable

import structlog

from supervisor.core.endpoint import Endpoint
from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers.instance import Instance
from supervisor.workers.instances import AnyInstance, begun
from supervisor.workers.lane import Lane
from supervisor.workers.launch import WorkerSpec
from supervisor.workers.orders import Orders
from supervisor.workers.records import Record
from supervisor.workers.serving import Fault, Order, until_over, until_ready
from supervisor.workers.standing import Standing
from supervisor.workers.successor import Successor
from supervisor.workers.surroundings import Surroundings
from supervisor.workers.waits import Waits

log = structlog.get_logger(__name__)

S = ModelState

# Of Infinity: what is relied on (shapes of requests, answers and `/models`, how it batches) was measured with these.
TESTED_VERSIONS = ("0.0.78",)


class Run:
    """The runs of one worker, one after the other. `spec` gives the settings in force; `on_serving` is told of each
    process that became ready."""

    def __init__(
        self,
        standing: Standing,
        around: Surroundings,
        orders: Orders,
        spec: Callable[[], WorkerSpec],
        on_serving: Callable[[], None],
    ) -> None:
        self.lane = Lane(around.lanes, spec().models)
        self.instance: AnyInstance | None = None
        self.successor: Successor | None = None
        self.found: Record | None = None  # what an earlier supervisor left, for the first run
        self._name = standing.view.name
        self._standing = standing
        self._around = around
        self._orders = orders
        self._spec = spec
        self._on_serving = on_serving
        self._succeeded = Waits()

    async def begin(self, patient: bool) -> AnyInstance:
        """The successor of one that failed, or what `instances.begun` gives; else NotReady."""
        found, self.found = self.found, None
        successor, next_one = self.successor, None
        if successor is not None and successor.spec.launch_key() == self._spec().launch_key():
            next_one = successor.hand_out()
        if next_one is None:
            self.drop_successor("its predecessor failed meanwhile")
        else:
            self.successor = None  # who waits for it is told once it serves, or does not
            next_one.is_alone()
        instance = next_one or await begun(self._spec, self._around, found, patient)
        self._take(instance, instance.origin)
        return instance

    async def serve(self, instance: AnyInstance) -> tuple[AnyInstance, Fault | None]:
        """Until it is over: the process that ran last, and None when it had to stop, else what is wrong with it."""
        orders = self._orders
        began = self._now()
        over = Order(lambda: orders.until(lambda: orders.run_is_over), lambda: orders.run_is_over)
        outcome = await until_ready(instance, over, self._spec)
        if outcome is None or isinstance(outcome, Fault):
            return instance, outcome
        if over.is_given():  # since a moment ago: nobody is to be told that it is ready
            return instance, None
        self._serving(instance, outcome, self._now() - began)
        self._succeeded.answer()
        called = Order(lambda: orders.until(self._is_called), self._is_called)
        while (fault := await until_over(instance, called, self.lane, self._spec)) is None:
            if orders.run_is_over:
                break
            instance = await self._succeed(instance)
        return instance, fault

    async def end(self, instance: AnyInstance, fault: Fault | None) -> None:
        """To an empty process group.

        1. Failed: nobody has to wait for its answers, and nothing of it is asked politely.
        2. Ready: let it answer what it has.
        3. SIGTERM, SIGKILL; what is in flight stays with it until it is gone, for Infinity answers after SIGTERM.
        """
        orders, spec = self._orders, self._spec()
        why = f"stopping ({orders.ending.cause})" if orders.ending else None
        if fault is not None:  # 1
            await self.lane.died(fault.culprit, killed=instance.killed)
            self._standing.move(S.STOPPING, fault.text)
            await instance.kill()
            return
        if self._standing.state is S.READY:  # 2
            self._standing.move(S.DRAINING, why)
            await self.lane.drain(spec.drain_timeout, instance.exited, orders.cut_drain)
        self._standing.move(S.STOPPING, why)  # 3
        if instance.exited.is_set():
            self.lane.detach()
        await instance.stop(spec.stop_timeout, orders.cut_stop, orders.ending.cause if orders.ending else "stop")
        self.lane.detach()

    def give_back(self) -> None:
        """Nothing of the process is left, whatever it was doing. A successor lives on."""
        instance, self.instance = self.instance, None
        if instance is not None:
            self._close(instance)
            self._standing.view = instance.shown(self._standing.view)
        self._standing.show(pid=None, pgid=None, port=None, ready_since=None)
        self.lane.detach()
        if self.successor is None:  # one that stood in for its predecessor did not get to serve
            self._succeeded.answer(WorkerError(f"the next process of {self._name} did not take over"))

    # -- the one after it -------------------------------------------------------------------------------------------

    def raise_successor(self, cause: str) -> None:
        """Bring the next process up beside the one that serves."""
        if self.successor is None:
            self._standing.show(reason=f"goes on until its next process is ready ({cause})")
            self.successor = Successor(self._spec(), self._around, cause, self._orders.nudge)
            if isinstance(self.instance, Instance) and self.successor.instance is not None:
                self.instance.tail.secrets.add(self.successor.instance.endpoints[0].api_key)

    async def succeeded(self) -> None:
        """Wait until the successor has taken over; WorkerError when it does not."""
        if self.successor is not None:
            await self._succeeded.wait()

    def drop_successor(self, why: str) -> None:
        """There is to be none: nothing of it is left, and who waits for it is told."""
        successor, self.successor = self.successor, None
        if successor is not None:
            successor.give_up()
            if self._standing.state is S.READY:
                self._standing.show(reason=None)
            self._succeeded.answer(WorkerError(f"the next process of {self._name} did not take over: {why}"))

    async def _succeed(self, instance: AnyInstance) -> AnyInstance:
        """The successor is there, or is not going to be: the process that goes on. Clients wait for the drain only.

        1. It failed, or has ended since: everything stays as it is. So it does if it ends during 2.
        2. The old one answers what it has; what it could not in time is sent to the new one again. Ordered to end
           meanwhile, it does, and the new one with it.
        3. The new one serves. The old one ends: it has nothing left that anybody waits for. Until it has gone there is
           no third one, and who asks for a new process is told of this one.
        """
        orders, spec, successor = self._orders, self._spec(), self.successor
        assert successor is not None, "it called"
        new = successor.instance
        if successor.ready is None or new is None or new.exited.is_set():  # 1
            self._is_not_to_be(successor)
            return instance
        await self.lane.drain(spec.drain_timeout, instance.exited, new.exited, orders.cut_drain)  # 2
        if orders.run_is_over:
            return instance
        if new.exited.is_set():
            self._is_not_to_be(successor)
            self.lane.attach(instance.endpoints)
            return instance
        self.lane.detach(killed=instance.exited.is_set() and instance.killed)
        successor.hand_out()
        self._take(new, "worker_succeeded")  # 3
        try:
            self._serving(new, successor.ready, successor.seconds)
            self._standing.show(reason=None)
            self._standing.restarted(successor.cause)
            await instance.stop(spec.stop_timeout, orders.cut_stop, successor.cause)
        finally:
            self._close(instance)
            new.is_alone()
            self.successor = None
        self._succeeded.answer()
        return new

    def _is_not_to_be(self, successor: Successor) -> None:
        """The process that was to take over has failed, or has ended."""
        ended = successor.instance.ending() if successor.instance is not None else "it is gone"
        why = successor.fault.text if successor.fault else f"ended by itself: {ended}"
        log.error("worker_not_succeeded", model=self._name, cause=successor.cause, why=why)
        self.drop_successor(why)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _is_called(self) -> bool:
        return self._orders.run_is_over or (self.successor is not None and self.successor.settled)

    def _take(self, instance: AnyInstance, event: str) -> None:
        """This process is the worker's from now on."""
        self.instance = instance
        self._standing.show(port=instance.port)
        pid = instance.shown(self._standing.view).pid
        log.info(event, model=self._name, pid=pid, port=instance.port)

    def _serving(self, instance: AnyInstance, endpoints: tuple[Endpoint, ...], seconds: float) -> None:
        """It became ready: requests may go to it."""
        instance.is_serving()
        endpoint = endpoints[0]
        if endpoint.version not in (None, *TESTED_VERSIONS):
            log.warning("infinity_not_tested", model=self._name, version=endpoint.version, tested=TESTED_VERSIONS)
        self.lane.attach(endpoints)
        self._standing.capabilities = {endpoint.model: endpoint.capabilities for endpoint in endpoints}
        self._standing.show(ready_since=self._now())
        if not instance.served:
            self._standing.loaded(seconds, self._now())
        if self._standing.state is S.STARTING:
            self._standing.move(S.READY, None)
        self._on_serving()

    def _close(self, instance: AnyInstance) -> None:
        instance.close()
        pid = instance.shown(self._standing.view).pid
        log.info("worker_ended", model=self._name, pid=pid, how=instance.how())

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
