"""One model's worker: a task that owns its state and walks it through the table of `core.lifecycle`.

Others never change the state: they leave an order (run, rest, restart) and may await the outcome. Orders are levels,
not events: repeating one changes nothing, and the last one counts.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import structlog

from supervisor.core.endpoint import Endpoint
from supervisor.core.lifecycle import STARTS_GIVEN_UP, BackOff, check_move
from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers.instance import Instance
from supervisor.workers.lane import Lane
from supervisor.workers.launch import WorkerSpec
from supervisor.workers.readiness import NotReady
from supervisor.workers.records import Record, is_alive
from supervisor.workers.serving import Fault, until_over
from supervisor.workers.surroundings import Surroundings, WorkerView
from supervisor.workers.waits import Waits

log = structlog.get_logger(__name__)

S = ModelState

# Of Infinity: what is relied on (shapes of requests, answers and `/models`, how it batches) was measured with these.
TESTED_VERSIONS = ("0.0.78",)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the present run has to end by our wish, and whether it is for a new one.

    Once ordered it is carried out, whatever is ordered after it: somebody may be waiting for it.
    """

    cause: str
    restart: bool


class Worker:
    """One model's worker; `start` its task once, `retire` it at the end."""

    def __init__(self, spec: WorkerSpec, around: Surroundings) -> None:
        self.name = spec.name
        self.spec = spec
        self._around = around
        self._view = WorkerView(spec.name, S.STOPPED)
        self._wanted = False  # the last order: to run, or to rest
        self._ending: Ending | None = None  # ordered for the present run
        self._retiring = False
        self._nudge = asyncio.Event()  # an order changed; only the worker's own task waits for it
        self._cut_drain, self._cut_stop = asyncio.Event(), asyncio.Event()
        self._ready_waits, self._gone_waits = Waits(), Waits()
        self._task: asyncio.Task[None] | None = None
        self._instance: Instance | None = None
        self._back_off = BackOff()
        self._restart_cause = "crash"  # of the next restart after a failure
        self._lane = Lane(around.lanes, spec.name)
        self._found: Record | None = None

    # -- orders and looks -------------------------------------------------------------------------------------------

    @property
    def state(self) -> ModelState:
        """Where it is in its life."""
        return self._view.state

    def view(self) -> WorkerView:
        """How it is now."""
        if self._instance is None:
            return self._view
        return replace(self._view, log_tail=tuple(self._instance.tail.last))

    def start(self) -> None:
        """Begin to follow orders."""
        self._task = asyncio.create_task(self._run(), name=f"worker {self.name}")
        self._task.add_done_callback(self._died)

    def adopt(self, record: Record) -> bool:
        """Begin with a worker that an earlier supervisor left; False when it is none that this one would have now."""
        if record.launched_as != self.spec.fingerprint or not is_alive(record):
            return False
        self._found, self._wanted = record, True
        return True

    def want_ready(self) -> None:
        """Have it run. A failed one stays failed until it is forgiven; one that is stopping is started again after."""
        if self.state is not S.FAILED and not self._retiring and not self._wanted:
            self._wanted = True
            self._nudge.set()

    def want_stopped(self, cause: str) -> None:
        """Have it rest: drained if it is ready, at once if it is not. Who waits for it to be ready is told."""
        if not self._wanted:
            return
        self._wanted = False
        if self._instance is not None:
            self._ending = Ending(cause, restart=False)
        self._nudge.set()
        self._ready_waits.answer(WorkerError(f"{self.name} was stopped meanwhile ({cause})"))
        if self.state is S.BACKOFF:
            self._move(S.STOPPED, f"stopped ({cause})")

    def want_restart(self, cause: str) -> None:
        """If it runs and is wanted, have it stopped and started anew."""
        if self._wanted and self._instance is not None and self._ending is None:
            self._ending = Ending(cause, restart=True)
            self._nudge.set()

    def forgive(self) -> None:
        """Forget earlier crashes: a failed worker may be started again, one in back-off is started now."""
        self._back_off.forgive()
        if self.state in (S.FAILED, S.BACKOFF):
            self._move(S.STOPPED, None)
            self._nudge.set()

    def hurry(self) -> None:
        """Cut short what a stop waits for: the drain; called again, also the patience after SIGTERM."""
        (self._cut_stop if self._cut_drain.is_set() else self._cut_drain).set()

    def respec(self, spec: WorkerSpec) -> bool:
        """Other settings, from a reload; returns whether a running worker has to be restarted for them.

        A model that was given up gets another chance, and one in back-off if its settings changed.
        """
        changed = spec.launch_key() != self.spec.launch_key()
        self.spec = spec
        if changed or self.state is S.FAILED:
            self.forgive()
        if changed:
            self.want_restart("config")
        return changed

    # -- outcomes ---------------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Wait until it is ready, as ordered before; WorkerError when that is not going to be."""
        if not self._wanted:
            raise WorkerError(self._view.reason or f"{self.name} is being stopped for good")
        if self.state is not S.READY or self._ending is not None:
            await self._ready_waits.wait()

    async def gone(self) -> None:
        """Wait until nothing is left of the process that runs now, if there is one."""
        if self._instance is not None:
            await self._gone_waits.wait()

    async def retire(self, cause: str) -> None:
        """Stop it for good: returns when nothing of it is alive and its task has ended."""
        self.want_stopped(cause)
        self._retiring = True
        self._nudge.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    # -- the task ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._until(lambda: self._wanted or self._retiring)
            if self._wanted:
                await self._life()
                await self._sit_out()
            elif self._retiring:
                return

    async def _life(self) -> None:
        """One run, from spawn to an empty process group.

        1. Start the process.
        2. Wait until it is ready, serve, until it fails or has to stop.
        3. End it: asked politely when it was our wish, at once when it failed.
        4. Give everything back, also when this task is cancelled, and say what follows.
        """
        if self.state is S.BACKOFF:
            self._count_restart(self._restart_cause)
        self._move(S.STARTING, self._view.reason if self.state is S.BACKOFF else None)
        fault: Fault | None = None
        try:
            instance = self._launch()  # 1
            fault = await self._serve(instance)  # 2
            await self._end(instance, fault)  # 3
        except NotReady as error:
            fault = Fault(str(error))
        except Exception as error:  # a mistake of ours must not leave a model without anyone who looks after it
            log.exception("worker_task_failed", model=self.name)
            fault = Fault(f"internal error: {type(error).__name__}: {error}")
        finally:
            self._give_back()  # 4
        self._settle(fault)

    def _launch(self) -> Instance:
        record, self._found = self._found, None
        if record is None:
            instance = self._instance = Instance.launch(self.spec, self._around)
        else:
            instance = self._instance = Instance.adopt(self.spec, self._around, record)
        self._show(pid=instance.process.pid, pgid=instance.process.pgid, port=instance.endpoint.port)
        log.info(
            "worker_found" if instance.adopted else "worker_started",
            model=self.name,
            pid=instance.process.pid,
            port=instance.endpoint.port,
        )
        return instance

    async def _serve(self, instance: Instance) -> Fault | None:
        """Until it is over: None when it has to stop, else what is wrong with it."""
        began = self._now()
        return await until_over(
            instance,
            self._until(self._is_over),
            self._is_over,
            lambda endpoint: self._serving(instance, endpoint, self._now() - began),
            self._lane.work,
            lambda: self.spec,
        )

    def _serving(self, instance: Instance, endpoint: Endpoint, seconds: float) -> None:
        instance.is_serving()
        if endpoint.version not in (None, *TESTED_VERSIONS):
            log.warning("infinity_not_tested", model=self.name, version=endpoint.version, tested=TESTED_VERSIONS)
        self._back_off.ready(self._now())
        self._lane.attach(endpoint)
        self._show(ready_since=self._now(), capabilities=endpoint.capabilities)
        if not instance.served:
            self._show(load_seconds=seconds, loads=self._view.loads + 1)
            self._around.hooks.on_load(self.name, seconds)
        self._move(S.READY, None)
        self._ready_waits.answer()

    async def _end(self, instance: Instance, fault: Fault | None) -> None:
        """To an empty process group.

        1. Failed: nobody has to wait for its answers, and nothing of it is asked politely.
        2. Ready: let it answer what it has.
        3. SIGTERM, SIGKILL; what is in flight stays with it until it is gone, for Infinity answers after SIGTERM.
        """
        why = f"stopping ({self._ending.cause})" if self._ending else None
        if fault is not None:  # 1
            self._lane.detach(killed=instance.killed)
            self._move(S.STOPPING, fault.text)
            await instance.kill()
            return
        if self.state is S.READY:  # 2
            self._move(S.DRAINING, why)
            await self._lane.drain(self.spec.drain_timeout, instance.process.exited, self._cut_drain)
        self._move(S.STOPPING, why)  # 3
        if instance.process.exited.is_set():
            self._lane.detach()
        await instance.stop(self.spec.stop_timeout, self._cut_stop)
        self._lane.detach()

    def _give_back(self) -> None:
        instance, self._instance = self._instance, None
        if instance is not None:
            instance.close()
            self._show(log_tail=tuple(instance.tail.last))
            log.info("worker_ended", model=self.name, pid=instance.process.pid, how=instance.how())
        self._show(pid=None, pgid=None, port=None, ready_since=None)
        self._lane.detach()

    def _settle(self, fault: Fault | None) -> None:
        """What follows a run: rest, another start at once, a back-off, or giving up."""
        ending, self._ending = self._ending, None
        if self.state is not S.STOPPING:
            self._move(S.STOPPING, fault.text if fault else None)
        if fault is not None and self._wanted:
            self._retry(fault)
        else:
            self._back_off.stopped()
            cause = ending.cause if ending else "stop"
            if ending and ending.restart and self._wanted:
                self._count_restart(cause)
            else:
                self._show(unloads=self._view.unloads + 1)
                self._around.hooks.on_unload(self.name, cause)
            self._move(S.STOPPED, f"stopped ({cause})" + (f"; {fault.text}" if fault else ""))
        self._gone_waits.answer()

    def _retry(self, fault: Fault) -> None:
        self._restart_cause = fault.cause
        wait = self._back_off.crashed(self._now())
        if self._back_off.given_up:
            reason = f"given up after {STARTS_GIVEN_UP} starts: {fault.text}"
            self._wanted = False
            self._lane.unavailable(reason, None)
            self._move(S.FAILED, reason)
            self._ready_waits.answer(WorkerError(reason))
            return
        if wait:
            self._lane.unavailable(fault.text, wait)
        self._show(backoff_until=self._now() + wait)
        self._move(S.BACKOFF, fault.text)

    async def _sit_out(self) -> None:
        """Wait for the end of a back-off, or for an order that ends it."""
        while self.state is S.BACKOFF:
            left = (self._view.backoff_until or 0.0) - self._now()
            if left <= 0:
                return
            self._nudge.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._nudge.wait()

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _died(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:  # never, or the mistake is ours
            log.critical("worker_task_died", model=self.name, state=self.state.value, exc_info=error)

    def _is_over(self) -> bool:
        return self._ending is not None or not self._wanted

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._nudge.clear()
            await self._nudge.wait()

    def _move(self, state: ModelState, reason: str | None) -> None:
        before = self.state
        check_move(before, state)
        self._show(state=state, reason=reason)
        if state is not S.BACKOFF:
            self._show(backoff_until=None)
        if state in (S.STARTING, S.STOPPED):
            self._lane.available()
        level = {S.BACKOFF: log.warning, S.FAILED: log.error}.get(state, log.info)
        told = {"reason": reason} if reason and state not in (S.STARTING, S.STOPPING) else {}  # told once
        level(f"worker_{state}", model=self.name, before=before.value, **told)
        self._around.on_change()

    def _show(self, **changes: Any) -> None:
        self._view = replace(self._view, **changes)

    def _count_restart(self, cause: str) -> None:
        self._show(restarts=self._view.restarts + 1)
        self._around.hooks.on_restart(self.name, cause)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
