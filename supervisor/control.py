"""What an operator may ask of a running daemon, by the admin API and by signals: each call returns the outcome.

Owns no state of its own but the last reload's outcome; asks the controller and the worker pool.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import structlog

from supervisor import report, world
from supervisor.controller import Controller
from supervisor.core.headroom_line import headroom_line
from supervisor.core.model import LIVE_STATES, ModelState, Reading, Signal
from supervisor.core.sentences import Action
from supervisor.errors import NotInTime, Refused, UnknownModel, WorkerError
from supervisor.journal import Subscription
from supervisor.state import OperatorPause

log = structlog.get_logger(__name__)

OPERATOR = "asked for by the operator"
POLL = 0.05  # s between looks at a worker's state while an operator waits for it


class Pool(Protocol):
    """The outcomes an operator can ask of the worker processes."""

    def forgive(self, name: str) -> None: ...
    async def ensure_stopped(self, name: str, cause: str) -> None: ...
    async def restart(self, name: str, cause: str, beside: bool = False) -> None: ...


class Control:
    """One method for each thing the admin API can do."""

    def __init__(
        self,
        controller: Controller,
        pool: Pool,
        pause_file: OperatorPause,
        names: Callable[[], Mapping[str, str]],
        reload: Callable[[], Awaitable[dict[str, Any]]],
        effective: Callable[[], dict[str, Any]],
        accepting: Callable[[], bool],
        holds: Callable[[], bool],
        max_requests: Callable[[], int],
        load_timeout: Callable[[], float],
        infinity: Callable[[], Mapping[str, Reading]],
        logs: Callable[[str, int, int | None], tuple[list[str], int]],
    ) -> None:
        self._controller = controller
        self._pool = pool
        self._pause_file = pause_file
        self._names = names
        self._reload = reload
        self._effective = effective
        self._accepting = accepting
        self._holds = holds
        self._max_requests = max_requests
        self._load_timeout = load_timeout
        self._infinity = infinity
        self._logs = logs
        self._started_at = controller.clock()
        self.last_reload: dict[str, Any] | None = None

    # -- looks ------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The status document."""
        notes = {"last_reload": self.last_reload}
        return report.status(self._controller, self._started_at, self._infinity(), notes)

    def history(self) -> list[dict[str, Any]]:
        """One row a tick, oldest first."""
        return list(self._controller.history)

    def decisions(self, n: int) -> list[dict[str, Any]]:
        """The last `n` decisions, oldest first."""
        return [decision.as_dict() for decision in self._controller.journal.last(n)]

    def subscribe(self) -> Subscription:
        """Decisions as they are taken."""
        return self._controller.journal.subscribe()

    def config(self) -> dict[str, Any]:
        """The effective configuration, without secrets."""
        return self._effective()

    def logs(self, name: str, count: int, after: int | None) -> dict[str, Any]:
        """The last `count` lines of a model's worker, or what it wrote since the position `after`; and the next one."""
        lines, position = self._logs(self._known(name), count, after)
        return {"lines": lines, "position": position}

    def alive(self) -> tuple[bool, str]:
        """Whether the control loop ticks, and a word about it."""
        controller = self._controller
        late = controller.clock() - controller.ticked_at
        limit = max(5.0, 5 * controller.policy.check_interval)
        return late <= limit, f"last tick {late:.1f} s ago"

    def accepting(self) -> tuple[bool, str]:
        """Whether the proxy accepts requests (held ones included), and a word about it."""
        orders = self._controller.orders
        if not self._accepting():
            return False, "shutting down"
        if orders.paused and not self._holds():
            return False, f"paused: {orders.reason or 'every model'}"
        return True, "accepting requests"

    def agent_line(self) -> str:
        """What a balancer's agent check is told."""
        controller = self._controller
        return headroom_line(
            controller.assessment,
            controller.policy.thresholds,
            accepting=self._accepting() and not controller.orders.paused,
            limit=self._max_requests(),
        )

    # -- acts -------------------------------------------------------------------------------------------------------

    async def load(self, name: str) -> dict[str, Any]:
        """Have a model, and its group, loaded, others evicted for it if need be; returns once it is ready."""
        name = self._known(name)
        self._pool.forgive(name)
        self._decide(Action.LOAD, name)
        self._controller.want(name)
        await self._until_ready(name)
        return self._outcome(name)

    async def unload(self, name: str) -> dict[str, Any]:
        """Drain and stop a model's worker, and so its group, pinned or last as it may be."""
        name = self._stoppable(name)
        for each in (name, *self._together_with(name)):
            self._controller.unwant(each)
        self._decide(Action.UNLOAD, name)
        await self._bounded(self._pool.ensure_stopped(name, "operator"))
        return self._outcome(name)

    async def restart(self, name: str) -> dict[str, Any]:
        """Have a new process of a model; returns once it is ready.

        1. It serves, and there is memory for both: the old one goes on until the new one is ready. 2. It runs: it is
        drained and stopped first, and keeps its place in memory. 3. Else it is loaded.
        """
        name = self._stoppable(name)
        self._decide(Action.RESTART, name)
        if self._controller.workers.views()[name].state in LIVE_STATES:
            beside = self._controller.residency.fits_beside(name)
            await self._bounded(self._pool.restart(name, "operator", beside))
        else:
            self._pool.forgive(name)
            self._controller.want(name)
            await self._until_ready(name)
        return self._outcome(name)

    async def pause(self, seconds: float | None) -> dict[str, Any]:
        """Close the gate until resumed or for a time; kept over a restart of the daemon."""
        try:
            self._pause_file.save(seconds)
        except OSError as error:
            log.warning("pause_not_kept", error=str(error), consequence="a restart of the daemon ends this pause")
        self._controller.decide(Action.PAUSE, target=None if seconds is None else f"{seconds:g} s")
        self._controller.pause(float("inf") if seconds is None else self._controller.clock() + seconds)
        return {"paused": True, "seconds": seconds}

    async def resume(self) -> dict[str, Any]:
        """End the operator's pause; a pause of the ladder goes on."""
        try:
            self._pause_file.clear()
        except OSError as error:
            log.warning("pause_not_forgotten", error=str(error), consequence="a restart of the daemon pauses again")
        self._controller.decide(Action.RESUME)
        self._controller.resume()
        return {"paused": self._controller.orders.paused, "reason": self._controller.orders.reason}

    async def drill(self, signals: Mapping[str, float], seconds: float) -> dict[str, Any]:
        """Replace the readings of these signals for a time; in force when this returns."""
        if seconds > 0:
            injected = ", ".join(f"{name} {percent:g} %" for name, percent in signals.items())
            self._controller.decide(Action.DRILL, target=f"{injected} for {seconds:g} s")
        else:
            self._controller.decide(Action.DRILL_END)
        self._controller.drill({Signal(name): percent for name, percent in signals.items()}, seconds)
        return {"signals": dict(signals), "seconds": seconds}

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again; raises with every fault when it is bad, and changes nothing then."""
        return await self._reload()

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _known(self, name: str) -> str:
        names = self._names()
        if name not in names:
            raise UnknownModel(f"no model named {name!r}; configured: {', '.join(sorted(set(names.values())))}")
        return names[name]

    def _stoppable(self, name: str) -> str:
        name = self._known(name)
        if any(model.name == name and not model.stoppable for model in self._controller.models):
            raise Refused(f"{name}: attached by url, without pid_file or systemd_unit; this supervisor cannot stop it")
        return name

    def _together_with(self, name: str) -> list[str]:
        return world.together_with(name, self._controller.workers.views())

    def _decide(self, action: Action, name: str) -> None:
        others = self._together_with(name)
        why = f"{OPERATOR}, together with {', '.join(others)}" if others else OPERATOR
        self._controller.decide(action, target=name, why=why)

    def _outcome(self, name: str) -> dict[str, Any]:
        view = self._controller.workers.views().get(name)
        if view is None:
            return {"model": name, "state": ModelState.STOPPED.value, "reason": "removed from the configuration"}
        outcome = {"model": name, "state": view.state.value, "reason": view.reason}
        others = self._together_with(name)
        return {**outcome, "together_with": others} if others else outcome

    async def _until_ready(self, name: str) -> None:
        refusals = self._controller.refusals
        refusals.pop(name, None)
        deadline = self._controller.clock() + self._load_timeout()
        while True:
            views = self._controller.workers.views()
            if name not in views:
                raise UnknownModel(f"{name!r} was removed from the configuration meanwhile")
            view = views[name]
            if view.state is ModelState.READY:
                return
            if view.state in (ModelState.FAILED, ModelState.BACKOFF):
                self._controller.unwant(name)
                raise Refused(view.reason or f"{name} could not be loaded")
            if name in refusals:
                self._controller.unwant(name)
                raise Refused(refusals.pop(name))
            if self._controller.clock() >= deadline:
                why = self._controller.residency.waits_for(name) or "see status"
                raise NotInTime(f"{name} is still {view.state.value}: {why}; it is loaded as soon as that allows")
            await asyncio.sleep(POLL)

    async def _bounded(self, outcome: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._load_timeout()):
                await outcome
        except TimeoutError as error:
            raise NotInTime("the worker has not come to that yet; it goes on, see status") from error
        except WorkerError as error:
            raise Refused(str(error)) from error
