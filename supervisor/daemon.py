"""The daemon's life: signals, start, reload, upgrade, stop. What it is made of is `supervisor.assembly`'s.

Stop: no new requests, held ones answered, workers drained and ended, then the rest. A second signal hurries.
"""

import asyncio
import faulthandler
import gc
import os
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import structlog
import uvloop

from supervisor import __version__
from supervisor import log as logs
from supervisor.assembly import Assembly
from supervisor.config import ConfigError, Settings, load_to_run
from supervisor.core.sentences import Action
from supervisor.errors import Refused, StartError, SupervisorError
from supervisor.service import reload as awaited
from supervisor.service.activation import port_is_kept
from supervisor.service.manager import EXTEND_EVERY, ServiceManager
from supervisor.service.status import status_line
from supervisor.upgrade import Upgrade, ready_for_signals
from supervisor.workers.waits import cancelled

log = structlog.get_logger(__name__)

# What is loaded once is not looked through for garbage again, and what lives long is so rarely: with 10,000 requests
# held the longest pause was 549 ms by Python's own settings, 30 ms by these.
GC_THRESHOLDS = (5_000, 5, 100)
NOT_DONE = "the reload was not finished: see the log"


def run(path: Path, settings: Settings) -> int:
    """Run the daemon with these settings, read from `path`, until it is told to stop; the exit status."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    for early in (signal.SIGHUP, signal.SIGUSR2):  # until the loop takes them: what is asked for now must not kill us
        signal.signal(early, signal.SIG_IGN)
    try:
        logs.configure(settings.logging.level, settings.logging.format)
        faulthandler.enable(2)  # a watchdog that bites sends SIGABRT: the traceback tells where the loop was stuck
        manager = ServiceManager.find()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            failed = runner.run(Daemon(path, settings, manager).run())
    except StartError as error:
        log.error("start_failed", reason=str(error))
        return 1
    finally:
        logs.flush()
    return 1 if failed else 0


class Daemon:
    """One running supervisor."""

    def __init__(self, path: Path, settings: Settings, manager: ServiceManager | None = None) -> None:
        self.path = path
        self._manager = manager or ServiceManager()
        self._read = settings
        self._stop = asyncio.Event()
        self._hurried = asyncio.Event()
        self._upgrade = Upgrade(path, lambda: self._started and not self._stop.is_set(), lambda: self.parts.settings)
        self._started = False
        self._failed = False
        self._reloads = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> bool:
        """Start everything (or StartError), wait for a signal, stop everything; whether it ended for its own fault."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._asked_to_reload)
        loop.add_signal_handler(signal.SIGUSR2, self._upgrade.ask)
        ready_for_signals()
        async with AsyncExitStack() as stack:
            starting = asyncio.create_task(self._start(stack), name="start")
            stopping = asyncio.create_task(self._stop.wait(), name="stop")
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                await cancelled([starting])
                return False
            await starting
            self._started = True
            self._manager.ready(self.parts.settings.resource_monitor.check_interval)
            upgrading = asyncio.create_task(self._upgrade.wanted.wait(), name="upgrade")
            await asyncio.wait((stopping, upgrading), return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                await self._go_on_as_new()
            await self._drain()
        return self._failed

    # -- start ------------------------------------------------------------------------------------------------------

    async def _start(self, stack: AsyncExitStack) -> None:
        self.parts = parts = Assembly(
            self._read, stack, self.reload, accepting=lambda: not self._stop.is_set(), on_tick=self._ticked
        )
        extending = asyncio.create_task(self._extend(), name="more time")
        try:
            await parts.start(self._loop_ended)
        finally:
            await cancelled([extending])
        settings = parts.settings
        log.info(
            "started",
            version=__version__,
            config=str(self.path),
            proxy=f"http://{settings.proxy.address.host}:{parts.proxy.port}",
            admin=f"http://{settings.admin.address.host}:{parts.admin.port}",
            mode=settings.mode,
            models=[model.name for model in settings.models],
            state=str(parts.state.path),
        )

    async def _extend(self) -> None:
        """While workers of a predecessor are ended; each of them has its own limit."""
        while True:
            self._manager.extend()
            await asyncio.sleep(EXTEND_EVERY)

    def _ticked(self) -> None:
        self._manager.tick(self._status_line())

    def _status_line(self) -> str:
        return status_line(self.parts.controller, self.parts.control.last_reload, self._stop.is_set())

    def _loop_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("control_loop_failed", exc_info=task.exception())
            self._failed = True
            self._stop.set()

    # -- reload -----------------------------------------------------------------------------------------------------

    def _asked_to_reload(self) -> None:
        if not self._started:
            log.info("reload_not_needed", reason="the configuration has just been read")
            awaited.tell(awaited.now())
            return
        task = asyncio.create_task(self._reload_and_tell(), name="reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_and_tell(self) -> None:
        with suppress(ConfigError):  # told in the log and in status by `reload`
            try:
                await self.reload()
            except Refused as refusal:
                log.warning("reload_refused", reason=str(refusal))

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again and make it so, but for what can't change live, which is named.

        Raises ConfigError, changing nothing, when it is bad.
        """
        async with self._reloads:
            began, faults = awaited.now(), [NOT_DONE]
            self._manager.reloading()
            try:
                outcome, faults = await self._reload(), []
                return outcome
            except SupervisorError as error:
                faults = [str(fault) for fault in getattr(error, "faults", [error])]
                raise
            finally:
                if not self._stop.is_set():
                    self._manager.ready(self.parts.settings.resource_monitor.check_interval)
                    self._manager.show(self._status_line())
                awaited.tell(began, faults)

    async def _reload(self) -> dict[str, Any]:
        try:
            new = await asyncio.to_thread(load_to_run, self.path)
        except ConfigError as error:
            faults = [str(fault) for fault in error.faults]
            log.error("reload_failed", faults=faults, consequence="the configuration in force stays")
            self.parts.control.last_reload = {"ok": False, "faults": faults}
            raise
        if self._stop.is_set():
            raise Refused("the supervisor is shutting down: the next start reads the configuration")
        outcome = await self.parts.apply(new)
        self.parts.control.last_reload = outcome
        self.parts.controller.decide(Action.RELOAD, target=str(self.path), why=_told(outcome))
        return outcome

    # -- upgrade in place -------------------------------------------------------------------------------------------

    async def _go_on_as_new(self) -> None:
        """Run the program anew, as this process; returns when that failed, or a stop came first: then it ends."""
        await self.parts.pool.end_spare()
        self._manager.upgrading()
        handing_over = self.parts.proxy.hand_over(self.parts.settings.infinity.drain_timeout)
        try:
            await self._upgrade.carry_out(handing_over, self._stop)
        except OSError as error:
            log.critical("upgrade_failed", error=str(error))
            self._failed = True

    # -- stop -------------------------------------------------------------------------------------------------------

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            log.warning("hurried")
            self._hurried.set()
            if self._started:
                self.parts.pool.hurry()
        else:
            log.info("stopping", note="requests that were accepted are answered first; a second signal hurries")
            self._stop.set()
            self._manager.stopping()

    async def _drain(self) -> None:
        """Answer what was accepted; what a closed gate holds, or what is not done in time, is refused.

        Who comes now is refused, or waits for the next supervisor where systemd keeps the port.
        """
        dispatcher, timeout = self.parts.dispatcher, self.parts.settings.infinity.drain_timeout
        if port_is_kept():
            finishing = self._leave_port(timeout)
        else:
            dispatcher.begin_drain()
            finishing = dispatcher.finish(timeout)
        answered = asyncio.create_task(finishing)
        hurried = asyncio.create_task(self._hurried.wait())
        await asyncio.wait((answered, hurried), return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            answered.cancel()
            await dispatcher.finish(0)
        elif not answered.result():
            self.parts.pool.hurry()  # who waits has been refused: nobody takes what a drain would wait for once more
        hurried.cancel()

    async def _leave_port(self, timeout: float) -> bool:
        descriptors = await self.parts.proxy.hand_over(timeout)
        for descriptor in descriptors:
            os.close(descriptor)
        return await self.parts.dispatcher.finish(0)


def _told(outcome: dict[str, Any]) -> str:
    """A reload's outcome in words."""
    parts = [f"{key.replace('_', ' ')}: {', '.join(value)}" for key, value in outcome.items() if key != "ok" and value]
    return "; ".join(parts) or "nothing changed"
