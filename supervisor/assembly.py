"""The parts of a running supervisor: built, wired, and given other settings by a reload. Holds no logic of its own.

Start: state folder, ports, workers of a killed predecessor, then control loop and proxy. Stop is the other way round.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog

from supervisor import descriptors, wiring
from supervisor import log as logs
from supervisor.admin.agent import AgentServer
from supervisor.admin.server import AdminServer
from supervisor.backstop import CpuBackstop
from supervisor.config import Settings, diff, effective, with_fixed_kept
from supervisor.control import Control
from supervisor.controller import Controller
from supervisor.credentials import ApiKeys, admin_token
from supervisor.journal import Journal
from supervisor.metrics import Metrics
from supervisor.proxy.catalog import ModelEntry
from supervisor.proxy.dispatcher import Dispatcher
from supervisor.proxy.server import ProxyServer
from supervisor.sense.infinity import InfinityQueues
from supervisor.sense.memory import total_memory
from supervisor.sense.monitor import Monitor
from supervisor.sense.peak import PeakMemory
from supervisor.service.activation import activated
from supervisor.state import OperatorPause, StateDir, default_root
from supervisor.upgrade import inherited
from supervisor.workers import logfile
from supervisor.workers.cgroup import Subtree
from supervisor.workers.pool import WorkerPool
from supervisor.workers.records import Records
from supervisor.workers.waits import cancelled

log = structlog.get_logger(__name__)


class Assembly:
    """All parts, by these settings: `start` them, `apply` others; `stack` ends what was started, last first.

    `reload` is what an operator's reload does, `accepting` tells whether requests are taken; `on_tick` is told when a
    tick of the control loop is finished. StartError where the state folder is another supervisor's.
    """

    def __init__(
        self,
        settings: Settings,
        stack: AsyncExitStack,
        reload: Callable[[], Awaitable[dict[str, Any]]],
        accepting: Callable[[], bool],
        on_tick: Callable[[], None],
    ) -> None:
        self.settings = settings
        self._on_tick = on_tick
        self._stack = stack
        self._clock = asyncio.get_running_loop().time
        self._counted_at = self._clock()
        self._state_root = Path(settings.state_dir) if settings.state_dir else default_root(os.environ)
        self.state = state = StateDir(self._state_root, settings.proxy.listen)
        state.open()
        stack.callback(state.close)

        self.metrics = Metrics(model.name for model in settings.models)
        self.journal = Journal()
        self._subtree = Subtree.find()
        stack.push_async_callback(self._subtree.close)
        self.monitor = Monitor(settings.resource_monitor.scope)
        self.monitor.start()
        stack.callback(lambda: self.monitor.close())
        peaks = PeakMemory()
        stack.callback(peaks.close)
        self.dispatcher = Dispatcher(
            wiring.served_models(settings),
            wiring.queue_limits(settings, total_memory()),
            lambda _: self.controller.poke(),
            self.metrics,
            own_cpu=lambda: self.monitor.own_cpu(),
            peaks=peaks,
        )
        stack.push_async_callback(self.dispatcher.close)
        self.pool = WorkerPool(
            wiring.worker_specs(settings),
            log_dir=state.logs,
            dispatcher=self.dispatcher,
            on_change=lambda: self.controller.poke(),
            records=Records(state.path / "workers.json"),
            hooks=self.metrics,
            subtree=self._subtree,
        )
        self.controller = Controller(
            settings.policy(),
            wiring.configured_models(settings),
            self.monitor,
            self.dispatcher,
            self.pool,
            self.journal,
            self._clock,
            self._count,
            CpuBackstop(self._subtree),
        )
        self._queues = InfinityQueues(self.dispatcher.ready_workers)
        self._pause_file = OperatorPause(state.path / "pause.json")
        self.control = Control(
            self.controller,
            self.pool,
            self._pause_file,
            names=lambda: wiring.names(self.settings),
            reload=reload,
            effective=self._effective,
            accepting=accepting,
            holds=lambda: self.settings.proxy.when_paused == "hold",
            max_requests=lambda: self.settings.proxy.queue.max_requests,
            load_timeout=lambda: self.settings.infinity.start_timeout + self.settings.infinity.drain_timeout,
            infinity=self._queues.readings,
            logs=lambda name, *which: logfile.read(state.logs, wiring.process_of(self.settings, name), *which),
        )
        admin = settings.admin.address
        self.admin = AdminServer(
            self.control,
            self.metrics,
            admin.host,
            admin.port,
            token=admin_token(settings.admin.token_file),
            socket=settings.admin.socket,
        )
        agent = settings.admin.agent_address
        self.agent = AgentServer(self.control.agent_line, (agent.host, agent.port) if agent is not None else None)
        self.proxy = ProxyServer(
            self.dispatcher,
            settings.proxy.listen,
            settings.proxy.max_body_bytes,
            self._catalogue,
            self.metrics,
            connections=descriptors.for_clients(),
        )
        self.proxy.callers.trusted = wiring.trusted_proxies(settings)
        self._keys = ApiKeys(self.proxy.callers.set_keys, settings.proxy.api_keys_file)
        self._keys.start()

    async def start(self, on_loop_end: Callable[["asyncio.Task[None]"], None]) -> None:
        """Begin to serve, or StartError; `on_loop_end` is told when the control loop ends."""
        stack, settings = self._stack, self.settings
        stack.push_async_callback(self.proxy.close)
        stack.push_async_callback(self.admin.close)
        stack.push_async_callback(self.agent.close)
        await self.admin.start()
        await self.agent.start()
        await self.proxy.start(inherited(settings.proxy.listen) or activated(settings.proxy.listen))
        self._subtree.open()  # only now: a daemon that can't have its ports leaves everything as it is
        await self.pool.start()
        self._restore_pause()
        asking = asyncio.create_task(self._queues.run(), name="Infinity's own word")
        looking = asyncio.create_task(self._keys.run(), name="API keys")
        stack.push_async_callback(cancelled, [asking, looking])
        ticking = asyncio.create_task(self.controller.run(), name="control loop")
        ticking.add_done_callback(on_loop_end)
        stack.push_async_callback(cancelled, [ticking])
        stack.push_async_callback(self.pool.shutdown)
        self.controller.preload(model.name for model in settings.models if model.preload)

    async def apply(self, new: Settings) -> dict[str, Any]:
        """Go on by these settings, but for what can't change live; what was changed, and what was not, by name."""
        changes = diff(self.settings, new)
        new = with_fixed_kept(self.settings, new)
        self.settings = new
        logs.set_level(new.logging.level)
        self.metrics.set_models(model.name for model in new.models)
        self.dispatcher.configure(wiring.served_models(new), wiring.queue_limits(new, total_memory()))
        self.proxy.set_max_body_bytes(new.proxy.max_body_bytes)
        self._let_in(new)
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

    def _let_in(self, new: Settings) -> None:
        """Callers show what these settings ask for."""
        self.proxy.callers.trusted = wiring.trusted_proxies(new)
        self._keys.set_path(new.proxy.api_keys_file)
        self.admin.set_token(admin_token(new.admin.token_file, self.admin.token))

    # -- what the parts ask of each other ---------------------------------------------------------------------------

    def _restore_pause(self) -> None:
        paused, left = self._pause_file.load()
        if self._pause_file.fault is not None:
            log.warning("pause_file_set_aside", reason=self._pause_file.fault)
        if paused:
            self.controller.operator_pause = float("inf") if left is None else self._clock() + left
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
        self._on_tick()

    def _effective(self) -> dict[str, Any]:
        total = total_memory()
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
