"""The composition root: builds the parts, wires them, starts and stops them in order. Holds no logic of its own.

Start: state folder, ports, workers of a killed predecessor, then control loop and proxy.
Stop: no new requests, held ones answered, workers drained and ended, then the rest. A second signal hurries.
"""

import asyncio
import gc
import os
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import structlog
import uvloop

from supervisor import __version__, wiring
from supervisor import log as logs
from supervisor.admin.server import AdminServer
from supervisor.backstop import CpuBackstop
from supervisor.config import ConfigError, Settings, diff, effective, load_to_run, with_fixed_kept
from supervisor.control import Control
from supervisor.controller import Controller
from supervisor.core.sentences import Action
from supervisor.errors import Refused, StartError
from supervisor.journal import Journal
from supervisor.metrics import Metrics
from supervisor.proxy.catalog import ModelEntry
from supervisor.proxy.dispatcher import Dispatcher
from supervisor.proxy.server import ProxyServer
from supervisor.sense.infinity import InfinityQueues
from supervisor.sense.monitor import Monitor
from supervisor.sense.peak import PeakMemory
from supervisor.state import OperatorPause, StateDir, default_root
from supervisor.upgrade import Upgrade, inherited, ready_for_signals
from supervisor.workers import logfile
from supervisor.workers.cgroup import Subtree
from supervisor.workers.pool import WorkerPool
from supervisor.workers.records import Records
from supervisor.workers.waits import cancelled

log = structlog.get_logger(__name__)

# What is loaded once is not looked through for garbage again, and what lives long is so rarely: with 10,000 requests
# held the longest pause was 549 ms by Python's own settings, 30 ms by these.
GC_THRESHOLDS = (5_000, 5, 100)


def run(path: Path, settings: Settings) -> int:
    """Run the daemon with these settings, read from `path`, until it is told to stop; the exit status."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    for early in (signal.SIGHUP, signal.SIGUSR2):  # until the loop takes them: what is asked for now must not kill us
        signal.signal(early, signal.SIG_IGN)
    logs.configure(settings.logging.level, settings.logging.format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            failed = runner.run(Daemon(path, settings).run())
    except StartError as error:
        log.error("start_failed", reason=str(error))
        return 1
    finally:
        logs.flush()
    return 1 if failed else 0


class Daemon:
    """One running supervisor."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings
        self._stop = asyncio.Event()
        self._hurried = asyncio.Event()
        self._upgrade = Upgrade(path, lambda: self._started and not self._stop.is_set(), lambda: self.settings)
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
            starting = asyncio.create_task(self._start(stack, loop), name="start")
            stopping = asyncio.create_task(self._stop.wait(), name="stop")
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                await cancelled([starting])
                return False
            await starting
            self._started = True
            upgrading = asyncio.create_task(self._upgrade.wanted.wait(), name="upgrade")
            await asyncio.wait((stopping, upgrading), return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                await self._go_on_as_new()
            await self._drain()
        return self._failed

    # -- start ------------------------------------------------------------------------------------------------------

    async def _start(self, stack: AsyncExitStack, loop: asyncio.AbstractEventLoop) -> None:
        settings = self.settings
        self._counted_at = loop.time()
        total_memory = psutil.virtual_memory().total
        self._state_root = Path(settings.state_dir) if settings.state_dir else default_root(os.environ)
        state = StateDir(self._state_root, settings.proxy.listen)
        state.open()
        stack.callback(state.close)

        self.metrics = Metrics(model.name for model in settings.models)
        self.journal = Journal()
        subtree = Subtree.find()
        stack.push_async_callback(subtree.close)
        self.monitor = Monitor(settings.resource_monitor.scope)
        self.monitor.start()
        stack.callback(lambda: self.monitor.close())
        peaks = PeakMemory()
        stack.callback(peaks.close)
        self.dispatcher = Dispatcher(
            wiring.served_models(settings),
            wiring.queue_limits(settings, total_memory),
            lambda _: self.controller.poke(),
            self.metrics,
            own_cpu=lambda: self.monitor.own_cpu(),
            peaks=peaks,
        )
        self.pool = WorkerPool(
            wiring.worker_specs(settings),
            log_dir=state.logs,
            dispatcher=self.dispatcher,
            on_change=lambda: self.controller.poke(),
            records=Records(state.path / "workers.json"),
            hooks=self.metrics,
            subtree=subtree,
        )
        self.controller = Controller(
            settings.policy(),
            wiring.configured_models(settings),
            self.monitor,
            self.dispatcher,
            self.pool,
            self.journal,
            loop.time,
            self._count,
            CpuBackstop(subtree),
        )
        queues = InfinityQueues(self.dispatcher.ready_workers)
        pause_file = OperatorPause(state.path / "pause.json")
        self.control = Control(
            self.controller,
            self.pool,
            pause_file,
            names=lambda: wiring.names(self.settings),
            reload=self.reload,
            effective=self._effective,
            accepting=lambda: not self._stop.is_set(),
            load_timeout=lambda: self.settings.infinity.start_timeout + self.settings.infinity.drain_timeout,
            infinity=queues.readings,
            logs=lambda name, *which: logfile.read(state.logs, wiring.process_of(self.settings, name), *which),
        )
        proxy_address, admin_address = settings.proxy.address, settings.admin.address
        self.admin = AdminServer(self.control, self.metrics, admin_address.host, admin_address.port)
        self.proxy = ProxyServer(
            self.dispatcher, settings.proxy.listen, settings.proxy.max_body_bytes, self._catalogue, self.metrics
        )
        stack.push_async_callback(self.dispatcher.close)
        stack.push_async_callback(self.proxy.close)
        stack.push_async_callback(self.admin.close)
        await self.admin.start()
        await self.proxy.start(inherited(settings.proxy.listen))
        subtree.open()  # only now: a daemon that can't have its ports leaves everything as it is
        await self.pool.start()
        self._restore_pause(pause_file, loop.time())
        asking = asyncio.create_task(queues.run(), name="Infinity's own word")
        stack.push_async_callback(cancelled, [asking])
        ticking = asyncio.create_task(self.controller.run(), name="control loop")
        ticking.add_done_callback(self._loop_ended)
        stack.push_async_callback(cancelled, [ticking])
        stack.push_async_callback(self.pool.shutdown)
        self.controller.preload(model.name for model in settings.models if model.preload)
        log.info(
            "started",
            version=__version__,
            config=str(self.path),
            proxy=f"http://{proxy_address.host}:{self.proxy.port}",
            admin=f"http://{admin_address.host}:{self.admin.port}",
            mode=settings.mode,
            models=[model.name for model in settings.models],
            state=str(state.path),
        )

    def _restore_pause(self, pause_file: OperatorPause, now: float) -> None:
        paused, left = pause_file.load()
        if pause_file.fault is not None:
            log.warning("pause_file_set_aside", reason=pause_file.fault)
        if paused:
            self.controller.operator_pause = float("inf") if left is None else now + left
            log.warning("operator_pause_kept", seconds_left=left, remedy="infinity-supervisor resume")

    def _count(self, controller: Controller) -> None:
        """After each tick: what metrics show of it."""
        assessment = controller.assessment
        if assessment is not None and assessment.rung is not assessment.rung_before:
            moved = assessment.deciding
            self.metrics.transition(assessment.rung_before, assessment.rung, moved.signal if moved else None)
        now = controller.clock()
        if controller.orders.paused:
            self.metrics.paused_for(now - self._counted_at)
        self._counted_at = now
        logs.flush()

    def _effective(self) -> dict[str, Any]:
        total = psutil.virtual_memory().total
        return effective(self.settings, total_memory=total, state_dir=str(self._state_root))

    def _catalogue(self) -> list[ModelEntry]:
        views = self.pool.views()
        return [
            ModelEntry(
                name=model.name,
                state=views[model.name].state,
                engine=model.engine if model.url is None else "attached",
                batch_size=self.controller.batch_in_use,
                capabilities=views[model.name].capabilities,
            )
            for model in self.settings.models
            if model.name in views
        ]

    def _loop_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("control_loop_failed", exc_info=task.exception())
            self._failed = True
            self._stop.set()

    # -- reload -----------------------------------------------------------------------------------------------------

    def _asked_to_reload(self) -> None:
        if not self._started:
            log.info("reload_not_needed", reason="the configuration has just been read")
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
            try:
                new = await asyncio.to_thread(load_to_run, self.path)
            except ConfigError as error:
                faults = [str(fault) for fault in error.faults]
                log.error("reload_failed", faults=faults, consequence="the configuration in force stays")
                self.control.last_reload = {"ok": False, "faults": faults}
                raise
            if self._stop.is_set():
                raise Refused("the supervisor is shutting down: the next start reads the configuration")
            outcome = await self._apply(new)
            self.control.last_reload = outcome
            self.controller.decide(Action.RELOAD, target=str(self.path), why=_told(outcome))
            return outcome

    async def _apply(self, new: Settings) -> dict[str, Any]:
        changes = diff(self.settings, new)
        new = with_fixed_kept(self.settings, new)
        self.settings = new
        logs.set_level(new.logging.level)
        self.metrics.set_models(model.name for model in new.models)
        self.dispatcher.configure(wiring.served_models(new), wiring.queue_limits(new, psutil.virtual_memory().total))
        self.proxy.set_max_body_bytes(new.proxy.max_body_bytes)
        if "resource_monitor.scope" in changes.live:
            self.monitor.close()
            self.monitor = self.controller.sampler = Monitor(new.resource_monitor.scope)
            self.monitor.start()
        applied = asyncio.create_task(self.pool.apply(wiring.worker_specs(new)))
        await asyncio.sleep(0)  # the new set of workers is in force now; what was removed or changed is ending
        self.controller.set_policy(new.policy(), wiring.configured_models(new))
        added = set(changes.models_added)
        self.controller.preload(model.name for model in new.models if model.preload and model.name in added)
        await applied
        return {
            "ok": True,
            "changed": list(changes.live),
            "needs_restart": list(changes.needs_restart),
            "models_added": list(changes.models_added),
            "models_removed": list(changes.models_removed),
            "models_restarted": list(changes.models_changed),
        }

    # -- upgrade in place -------------------------------------------------------------------------------------------

    async def _go_on_as_new(self) -> None:
        """Run the program anew, as this process; returns when that failed, or a stop came first: then it ends."""
        await self.pool.end_spare()
        handing_over = self.proxy.hand_over(self.settings.infinity.drain_timeout)
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
                self.pool.hurry()
        else:
            log.info("stopping", note="requests that were accepted are answered first; a second signal hurries")
            self._stop.set()

    async def _drain(self) -> None:
        """Answer what was accepted; what a closed gate holds, or what is not done in time, is refused."""
        self.dispatcher.begin_drain()
        answered = asyncio.create_task(self.dispatcher.finish(self.settings.infinity.drain_timeout))
        hurried = asyncio.create_task(self._hurried.wait())
        await asyncio.wait((answered, hurried), return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            answered.cancel()
            await self.dispatcher.finish(0)
        elif not answered.result():
            self.pool.hurry()  # who waits has been refused: nobody takes what a drain would wait for once more
        hurried.cancel()


def _told(outcome: dict[str, Any]) -> str:
    """A reload's outcome in words."""
    parts = [f"{key.replace('_', ' ')}: {', '.join(value)}" for key, value in outcome.items() if key != "ok" and value]
    return "; ".join(parts) or "nothing changed"
