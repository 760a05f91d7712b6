"""One worker, of one model or a group: a task that owns its state and walks it through the table of `core.lifecycle`.

Others never change the state: they leave an order (run, rest, restart) and may await the outcome. Orders are levels,
not events: repeating one changes nothing, and the last one counts.
"""

import asyncio
from dataclasses import replace

import structlog

from supervisor.core.lifecycle import BackOff, Outlook
from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers.instances import worth_a_try
from supervisor.workers.launch import WorkerSpec
from supervisor.workers.orders import Ending, Orders
from supervisor.workers.readiness import NotEnded, NotReady
from supervisor.workers.records import Record, is_alive
from supervisor.workers.run import Run
from supervisor.workers.serving import Fault
from supervisor.workers.standing import Standing
from supervisor.workers.surroundings import Surroundings, WorkerView
from supervisor.workers.waits import Waits

log = structlog.get_logger(__name__)

S = ModelState

# Seconds between two looks whether somebody else has started what only they can start.
LOOK_AGAIN = 2.0


class Worker:
    """One process, run after run; `start` its task once, `retire` it at the end."""

    def __init__(self, spec: WorkerSpec, around: Surroundings) -> None:
        self.name = spec.name
        self.spec = spec
        self._orders = Orders()
        self._standing = Standing(spec, around)
        self._run = Run(self._standing, around, self._orders, lambda: self.spec, self._on_serving)
        self._ready_waits, self._gone_waits = Waits(), Waits()
        self._task: asyncio.Task[None] | None = None
        self._back_off = BackOff()
        self._restart_cause = "crash"  # of the next restart after a failure
        self._proven: object = None  # the settings with which it became ready last
        self.not_ended: str | None = None  # why its last run, which was to be stopped, goes on without us

    # -- orders and looks -------------------------------------------------------------------------------------------

    @property
    def state(self) -> ModelState:
        """Where it is in its life."""
        return self._standing.state

    def views(self) -> dict[str, WorkerView]:
        """How each of its models is now: all are as it is."""
        view, run = self._standing.view, self._run
        if run.instance is not None:
            view = run.instance.shown(view)
        if run.successor is not None and run.successor.instance is not None:
            view = replace(view, successor_pgid=run.successor.instance.process.pgid)
        can = self._standing.capabilities
        return {name: replace(view, name=name, capabilities=can.get(name, frozenset())) for name in self.spec.models}

    def start(self) -> None:
        """Begin to follow orders."""
        self._task = asyncio.create_task(self._follow(), name=f"worker {self.name}")
        self._task.add_done_callback(self._died)

    def adopt(self, record: Record) -> bool:
        """Begin with a worker that an earlier supervisor left; False when it is none that this one would have now."""
        if self._run.found or record.launched_as != self.spec.fingerprint or not is_alive(record):
            return False
        self._run.found = record
        self._orders.run()
        return True

    def want_ready(self) -> None:
        """Have it run. A failed one stays failed until it is forgiven; one that is stopping is started again after."""
        if self.state is not S.FAILED:
            self._orders.run()

    def want_stopped(self, cause: str) -> None:
        """Have it rest: drained if it is ready, at once if it is not. Who waits for it to be ready is told."""
        if not self._orders.wanted:
            return
        self._orders.wanted = False
        if self._runs:
            self._orders.end(Ending(cause, restart=False))
        self._orders.nudge()
        self._ready_waits.answer(WorkerError(f"{self.name} was stopped meanwhile ({cause})"))
        if self.state is S.BACKOFF:
            self._run.drop_successor(f"stopped ({cause})")
            self._move(S.STOPPED, f"stopped ({cause})")

    def want_restart(self, cause: str) -> None:
        """If it runs and is wanted, have it stopped and started anew."""
        if self._orders.wanted and self._run.instance is not None:
            self._orders.end(Ending(cause, restart=True))

    def want_successor(self, cause: str) -> bool:
        """If it serves, have its next process brought up beside it, to take its place; False when it does not, or it is
        not ours to start."""
        if self.state is not S.READY or self._orders.run_is_over or self.spec.elsewhere is not None:
            return False
        self._run.raise_successor(cause)
        return True

    def hold_back(self, why: str | None) -> None:
        """When it crashed, and until this is called with None, do not start it again."""
        if self._orders.held_back != why:
            self._orders.held_back = why
            self._orders.nudge()

    def forgive(self) -> None:
        """Forget earlier crashes: a failed worker may be started again, one in back-off is started now."""
        self._back_off.forgive()
        if self.state in (S.FAILED, S.BACKOFF):
            self._move(S.STOPPED, None)
            self._orders.nudge()

    def hurry(self) -> None:
        """Cut short what a stop waits for: the drain; called again, also the patience after SIGTERM."""
        self._orders.hurry()

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
        if not self._orders.wanted:
            raise WorkerError(self._standing.view.reason or f"{self.name} is being stopped for good")
        if self.state is not S.READY or self._orders.ending is not None:
            await self._ready_waits.wait()

    async def succeeded(self) -> None:
        """Wait until the next process has taken its place, as ordered before; WorkerError when it did not."""
        await self._run.succeeded()

    def gone(self) -> "asyncio.Future[None]":
        """When nothing is left of the process that runs, or is about to, at this call; at once if there is none."""
        return self._gone_waits.wait(over=not self._runs)

    async def retire(self, cause: str) -> None:
        """Stop it for good: returns when nothing of it is alive and its task has ended."""
        self.want_stopped(cause)
        self._orders.retiring = True
        self._orders.nudge()
        if self._task is not None:
            await asyncio.wait([self._task])

    # -- the task ---------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        orders = self._orders
        try:
            while True:
                await orders.until(lambda: orders.wanted or orders.retiring)
                if orders.wanted:
                    await self._life()
                    await self._sit_out()
                elif orders.retiring:
                    return
        finally:
            self._run.drop_successor("cancelled")  # also in a back-off, where it is about to stand in

    async def _life(self) -> None:
        """One run, from spawn to an empty process group.

        1. Start the process. 2. Wait until it is ready, serve, until it fails or has to stop. 3. End it: asked politely
        when it was our wish, at once when it failed. 4. Give everything back, also when this task is cancelled, and say
        what follows.
        """
        again = self.state is S.BACKOFF
        if again:
            self._standing.restarted(self._restart_cause)
        self._move(S.STARTING, self._standing.view.reason if again else None)
        fault, self.not_ended = None, None
        try:
            instance = await self._run.begin(patient=not self._back_off.fruitless)  # 1
            instance, fault = await self._run.serve(instance)  # 2
            await self._run.end(instance, fault)  # 3
        except NotReady as error:
            fault = Fault(str(error), outlook=error.outlook)
        except NotEnded as error:
            fault, self.not_ended = Fault(str(error)), str(error)
        except Exception as error:  # a mistake of ours must not leave a model without anyone who looks after it
            log.exception("worker_task_failed", model=self.name)
            fault = Fault(f"internal error: {type(error).__name__}: {error}")
        finally:
            self._run.give_back()  # 4
        self._settle(fault)

    def _on_serving(self) -> None:
        self._proven = self.spec.launch_key()
        self._back_off.ready(asyncio.get_running_loop().time())
        self._ready_waits.answer()

    def _settle(self, fault: Fault | None) -> None:
        """What follows a run: rest, another start at once, a back-off, or giving up."""
        orders = self._orders
        ending, orders.ending = orders.ending, None
        if self.state is not S.STOPPING:
            self._move(S.STOPPING, fault.text if fault else None)
        if fault is not None and orders.wanted:
            self._retry(fault)
        else:
            self._back_off.stopped()
            cause = ending.cause if ending else "stop"
            self._run.drop_successor(f"stopped ({cause})")
            if ending and ending.restart and orders.wanted:
                self._standing.restarted(cause)
            else:
                self._standing.unloaded(cause)
            self._move(S.STOPPED, f"stopped ({cause})" + (f"; {fault.text}" if fault else ""))
        self._gone_waits.answer()

    def _retry(self, fault: Fault) -> None:
        """Another start, at once where the next process is on its way already."""
        self._restart_cause = fault.cause
        outlook = fault.outlook
        if outlook is Outlook.HOPELESS and self._proven == self.spec.launch_key():
            outlook = Outlook.PASSING  # it has run so before: what is missing is being installed anew, or mounted
        now = asyncio.get_running_loop().time()
        wait = self._back_off.crashed(now, outlook) if self._run.successor is None else 0.0
        never_given_up = self.spec.elsewhere is not None  # whoever runs it may start it at any time
        if self._back_off.given_up and not never_given_up:
            reason = f"{self._back_off.given_up_text}: {fault.text}"
            self._orders.wanted = False
            self._run.lane.unavailable(reason, None)
            self._move(S.FAILED, reason)
            self._ready_waits.answer(WorkerError(reason))
            return
        if never_given_up and self._back_off.fruitless:
            self._run.lane.unavailable(fault.text, None)
        elif wait:
            self._run.lane.unavailable(fault.text, wait)
        self._standing.show(backoff_until=now + wait)
        self._move(S.BACKOFF, fault.text)

    async def _sit_out(self) -> None:
        """Wait for the end of a back-off, and as long as it is held back, or for an order that ends it.

        A next process that is on its way already is not held back: what it takes it has taken.
        """
        until = self._standing.view.backoff_until
        if self.state is S.BACKOFF and until is not None:
            left = until - asyncio.get_running_loop().time()
            await self._orders.until(lambda: self.state is not S.BACKOFF, max(0.0, left))
        if self.state is S.BACKOFF and self._orders.held_back and self._run.successor is None:
            why = self._orders.held_back
            log.warning("worker_held_back", model=self.name, why=why)
            self._standing.show(reason=f"{why}; before: {self._standing.view.reason}")
            await self._orders.until(lambda: self.state is not S.BACKOFF or not self._orders.held_back)
        while self.state is S.BACKOFF and self._back_off.fruitless and not await worth_a_try(self.spec):
            await self._orders.until(lambda: self.state is not S.BACKOFF, LOOK_AGAIN)

    # -- helpers ----------------------------------------------------------------------------------------------------

    @property
    def _runs(self) -> bool:
        """Whether there is a process, or is about to be one."""
        return self._run.instance is not None or self.state is S.STARTING

    def _died(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:  # never, or the mistake is ours
            log.critical("worker_task_died", model=self.name, state=self.state.value, exc_info=error)

    def _move(self, state: ModelState, reason: str | None) -> None:
        self._standing.move(state, reason)
        if state in (S.STARTING, S.STOPPED):
            self._run.lane.available()
