"""One run of a model whose Infinity something else runs: from the first question to it until it is let go.

Owns the questions, the look-out for its end, and what is told of it meanwhile. Nothing is started here but by a service
manager, and nothing is ended but by an order to unload it, or when it is dead. It has no record: the next supervisor
finds it where it is.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from supervisor.core.endpoint import Endpoint
from supervisor.core.lifecycle import Outlook
from supervisor.core.model import ModelState
from supervisor.core.start_failure import StartFailure
from supervisor.workers.foreign import ForeignProcess
from supervisor.workers.handle import handle_on
from supervisor.workers.lane import Lane
from supervisor.workers.launch import Elsewhere, WorkerSpec
from supervisor.workers.progress import standstill
from supervisor.workers.readiness import NotEnded, NotReady, canary, until_ready
from supervisor.workers.surroundings import Surroundings, WorkerView
from supervisor.workers.watchdog import until_dead

log = structlog.get_logger(__name__)

# Seconds between two knocks at a port where nobody listens, while requests wait for that.
_KNOCK = 0.5
# And between two looks whether somebody still listens: a connection that is dropped at once costs both sides 0.2 ms.
_LOOK = 2.0
# One refused connection may be a full table; two in a row, `_LOOK` apart, are a server that has gone.
_REFUSED = 2
# Whoever listens accepts within this time (s), or is too busy to, and there all the same.
_ACCEPTS_WITHIN = 1.0
# One that did not come within `start_timeout` is waited for no longer: it listens, so it answers a canary in seconds,
# on a saturated host too (edge-cases.md 3).
_ANSWERS_WITHIN = 30.0
# Causes for which the Infinity is only let go: it was there before us, and is there after us.
_LETS_GO = frozenset({"shutdown", "removed", "config"})


class Attached:
    """A server at some address, with what gives us a hand on it. `patient`: it may just be starting."""

    origin = "worker_looked_for"
    served = False
    killed = False  # by whom nobody knows

    def __init__(self, spec: WorkerSpec, where: Elsewhere, around: Surroundings, patient: bool) -> None:
        self.endpoints: tuple[Endpoint, ...] = (Endpoint(spec.name, where.host, where.port, ""),)
        self.port = where.port
        self.exited = asyncio.Event()
        self._spec, self._where, self._around, self._patient = spec, where, around, patient
        self._handle = handle_on(where)
        ends_it = where.pid_file is not None or where.systemd_unit is not None
        self.remedy = "SIGKILL, and what it had is sent again" if ends_it else "what it had waits for its canary"
        self._process: ForeignProcess | None = None
        self._found = asyncio.Event()
        self._look_out: asyncio.Task[None] | None = None
        self._url = self.endpoints[0].base_url
        self._says = f"asks {self._url}"
        self._dead = False
        self._how = "let go"

    async def becomes_ready(self) -> tuple[Endpoint, ...]:
        """Wait until it serves its model; raises NotReady when it does not, as far as it may be waited for.

        1. Whoever runs it gets `start_timeout` to start it; one that did not come then has to answer soon. A service
           that we start ourselves may take any time as long as it moves, as workers do (`stands_still`).
        2. The key is read anew each time: another one takes another start of that Infinity.
        """
        start_timeout = self._spec.start_timeout
        limit = start_timeout if self._patient else min(start_timeout, _ANSWERS_WITHIN)
        try:
            async with asyncio.timeout(None if self._handle.starts else limit):  # 1
                endpoint = replace(self.endpoints[0], api_key=_key(self._where.api_key_file))  # 2
                self._process = await self._handle.process(self._say, start_timeout)
                if self._process is not None:
                    self._found.set()
                    self._watch(self._process_ends(self._process))
                while (why := await refusal(self._where)) is not None:
                    self._say(f"nobody listens at {self._url} ({why})")
                    await asyncio.sleep(_KNOCK)
                self._say(f"{self._url} listens, but has not answered a canary yet")
                self.endpoints = (await self._serves(endpoint),)
                return self.endpoints
        except TimeoutError as error:
            raise NotReady(f"{self._says}, for {limit:.0f} s: whoever runs it has to start it") from error

    async def _serves(self, endpoint: Endpoint) -> Endpoint:
        try:
            return await until_ready(self._around.session(), endpoint, clients_keys=self._where.clients_keys)
        except NotReady as error:
            hint = "; is `api_key_file` right?" if "answers 401" in str(error) else ""
            raise NotReady(f"{self._url}: {error}{hint}") from error

    async def stands_still(self, limit: Callable[[], float]) -> float:
        """Return when a service that we started made no progress for `limit()` seconds, with how long that was."""
        await self._found.wait()
        if not self._handle.starts or self._process is None:
            await asyncio.Event().wait()  # `becomes_ready` has a limit of its own
        assert self._process is not None
        return await standstill(self._process.activity, lambda: 0, limit)

    async def dies(
        self, endpoint: Endpoint, lane: Lane, turns: asyncio.Lock, stall_timeout: Callable[[], float]
    ) -> str:
        """Return when it does not get on with its work any more, with what was seen of that."""
        why = await until_dead(
            endpoint.model,
            lambda: lane.apart(endpoint.model, turns),
            lambda: canary(self._around.session(), endpoint),
            lambda: lane.work(endpoint.model),
            lambda: None if self._process is None else self._process.activity(),
            stall_timeout,
        )
        self._dead = True
        return why

    def is_serving(self) -> None:
        """It became ready: from now on its end is looked out for."""
        if self._process is None:
            self._watch(self._nobody_listens())

    def shown(self, view: WorkerView) -> WorkerView:
        """The worker's view with what is known here; while it is looked for, that is the reason."""
        pid = None if self._process is None else self._process.pid
        reason = self._says if view.state is ModelState.STARTING else view.reason
        return replace(view, pid=pid, pgid=pid, reason=reason)

    def failure(self) -> StartFailure:
        """Why its start came to nothing: nobody here knows what it wrote."""
        return StartFailure(f"ended by itself while starting; {self.ending()}", Outlook.OPEN)

    def ending(self) -> str:
        """What is known of its end."""
        return self._how

    def blame(self, what: str) -> str:
        """What is wrong with it; its output is somebody else's."""
        return what

    def how(self) -> str:
        """What became of it."""
        return self._how

    async def stop(self, timeout: float, hurry: asyncio.Event, cause: str) -> None:
        """Have it ended, where the cause asks for that and we can; NotEnded when it was tried in vain."""
        if cause not in _LETS_GO:
            try:
                await self._handle.stop(self._process, timeout, hurry)
            except NotReady as error:
                raise NotEnded(f"it could not be stopped: {error}") from error
            self._how = f"stopped ({cause})"

    async def kill(self) -> None:
        """End it if it is dead; whatever else is wrong with it is for whoever runs it."""
        if self._dead:
            await self._handle.kill(self._process)

    def close(self) -> None:
        """Let it go."""
        if self._look_out is not None:
            self._look_out.cancel()
        if self._process is not None:
            self._process.close()

    def _say(self, what: str) -> None:
        self._says = what

    def _watch(self, end: Coroutine[Any, Any, None]) -> None:
        self._look_out = asyncio.get_running_loop().create_task(end)

    async def _process_ends(self, process: ForeignProcess) -> None:
        await process.exited.wait()
        self._how = f"its process {process.pid} has ended"
        self.exited.set()

    async def _nobody_listens(self) -> None:
        refused = 0
        while refused < _REFUSED:
            await asyncio.sleep(_LOOK)
            refused = refused + 1 if await refusal(self._where) is not None else 0
        self._how = f"nobody listens at {self._url} any more"
        self.exited.set()


async def refusal(where: Elsewhere) -> str | None:
    """Why no connection can be had there; None when one can, or nobody answered that yet."""
    try:
        async with asyncio.timeout(_ACCEPTS_WITHIN):
            _, writer = await asyncio.open_connection(where.host, where.port)
    except TimeoutError:
        return None
    except OSError as error:
        return error.strerror or str(error)
    writer.transport.abort()
    return None


def _key(path: str | None) -> str:
    """The key in a file, "" without one; NotReady when it can't be read."""
    if path is None:
        return ""
    try:
        key = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotReady(f"api_key_file {path}: {error}") from error
    if not key or not key.isprintable():
        raise NotReady(f"api_key_file {path}: it has no key of one line in it")
    if (mode := Path(path).stat().st_mode & 0o777) & 0o077:
        log.warning("api_key_not_private", file=path, mode=f"{mode:o}", remedy="chmod 600")
    return key
