"""Worker programs in virtual time: what a process and its server do, for the production code that looks after them.

    programs = Programs(lambda model, number: Script(start=0.5))
    with programs.installed():
        pool = WorkerPool(...)                      # the real one, and real instances; nothing is really started
        Dispatcher(..., connect=programs.connect)   # the real one; its parts go to the simulated servers

Replaced are the four things that touch the world: the spawn of a process, the choice of ports, the session that asks
canaries, and the client that carries parts. What can't be true of a well-kept worker is written to `faults`: a process
too many, a port or key of somebody else, SIGTERM while parts are at the worker.
"""

import asyncio
import contextlib
import itertools
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest

from supervisor.core.endpoint import Endpoint
from supervisor.core.payload import Inference
from supervisor.proxy.jobs import Reply, WorkerLost
from supervisor.workers import instance
from supervisor.workers.pool import WorkerPool
from supervisor.workers.process import Activity, Process
from tests.support import fake_infinity

JSON = {"content-type": "application/json"}


@dataclass
class Script:
    """How one program behaves, in order of its life; times in seconds. The defaults behave well."""

    missing: bool = False
    """There is no such program."""
    start: float = 0.5
    """From its spawn until it listens."""
    fails: int | None = None
    """The status with which it ends instead."""
    answer: float = 0.001
    """A question that computes nothing, or a canary."""
    part: float = 0.05
    """A part."""
    stop: float = 0.1
    """From SIGTERM, or the last answer after it, to its end."""
    ignores_sigterm: bool = False
    dies: float = 0.002
    """From SIGKILL to its end."""
    seen: float = 0.001
    """From its end until its parent sees that."""
    port_held: float = 0.0
    """How long its port stays taken after its end."""


class Program:
    """One process with its server."""

    def __init__(self, programs: "Programs", model: str, port: int, key: str, script: Script) -> None:
        self.programs, self.model, self.port, self.key, self.script = programs, model, port, key, script
        self.loop = asyncio.get_running_loop()
        self.pid = next(programs.pids)
        self.alive, self.listening, self.leaving = True, False, False
        self.ended_at = 0.0
        self.parts = 0
        self._open: set[asyncio.Future[None]] = set()
        self.process = SimulatedProcess(self)
        self.loop.call_later(script.start, self._started)

    def _started(self) -> None:
        if self.script.fails is not None:
            self.end(self.script.fails)
        elif not self.leaving:
            self.listening = self.alive

    def signal(self, number: int) -> None:
        """What its group gets."""
        if not self.alive:
            return
        if number == signal.SIGKILL:
            self.loop.call_later(self.script.dies, self.end, -signal.SIGKILL)
        elif number == signal.SIGTERM and not self.leaving and not self.script.ignores_sigterm:
            if self.parts:
                self.programs.faults.append(f"{self.model}: SIGTERM with {self.parts} parts at the worker")
            self.leaving, self.listening = True, False
            self._leave()

    def _leave(self) -> None:
        """Infinity answers what it has, then goes."""
        if self.leaving and not self._open:
            self.loop.call_later(self.script.stop, self.end, -signal.SIGTERM)

    def end(self, status: int) -> None:
        """It is gone, for whatever reason; its connections break, its parent sees it a little later."""
        if not self.alive:
            return
        self.alive = self.listening = False
        self.ended_at = self.loop.time()
        for work in self._open:
            if not work.done():
                work.set_exception(ConnectionResetError("it is gone"))
        self.loop.call_later(self.script.seen, self.process.has_ended, status)

    async def work(self, seconds: float) -> None:
        """Compute for so long; ConnectionResetError when it does not come to that."""
        work = self.loop.create_future()
        timer = self.loop.call_later(seconds, lambda: work.done() or work.set_result(None))
        self._open.add(work)
        try:
            await work
        finally:
            timer.cancel()
            self._open.discard(work)
            self._leave()


class SimulatedProcess(Process):
    """What `Process.spawn` returns: the same object, with a program behind it that is none."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._loop = program.loop
        self.pid = self.pgid = self.start_ticks = program.pid
        self.exited = asyncio.Event()
        self.status: int | None = None

    def has_ended(self, status: int) -> None:
        """Its leader's end is seen."""
        if not self.exited.is_set():
            self.status = status
            self.exited.set()

    def signal_group(self, number: int) -> None:
        """Send a signal to all of the group."""
        self.program.signal(number)

    def members(self) -> list[int]:
        """The living processes of the group."""
        return [self.pid] if self.program.alive else []

    def activity(self) -> Activity:
        """It is busy all the time."""
        return Activity(self.program.loop.time(), 0)

    def close(self) -> None:
        """Kill what is left and wait for that, as the real one does: without an await."""
        self.program.end(-signal.SIGKILL)
        self.has_ended(-signal.SIGKILL)


class Questions:
    """Stands for the `aiohttp.ClientSession` that asks workers whether they serve."""

    def __init__(self, programs: "Programs") -> None:
        self._programs = programs

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        data: bytes | None,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        allow_redirects: bool,
    ) -> AsyncIterator["Answer"]:
        """One question to the program at a port."""
        where = urlsplit(url)
        program = self._programs.reach(where.port or 0, headers["authorization"].removeprefix("Bearer "))
        if program is None:
            raise ConnectionRefusedError(111, "nobody listens")
        try:
            async with asyncio.timeout(timeout.total):
                await program.work(program.script.answer)
        except ConnectionResetError as error:
            raise aiohttp.ServerDisconnectedError from error
        yield Answer(200, _said(program, where.path, data))


@dataclass
class Answer:
    """A response, as far as it is looked at."""

    status: int
    body: bytes

    async def read(self) -> bytes:
        """All of it."""
        return self.body


def _said(program: Program, path: str, data: bytes | None) -> bytes:
    match path:
        case "/models":
            return orjson.dumps({"data": [{"id": program.model, "capabilities": ["embed"]}]})
        case "/openapi.json":
            return orjson.dumps({"info": {"version": "0.0.78"}})
        case "/embeddings":
            return fake_infinity.answer("embeddings", data or b"", model=program.model)[1]
    return b"{}"


class Parts:
    """Stands for `HttpWorker`: the dispatcher's client of one worker."""

    def __init__(self, programs: "Programs", endpoint: Endpoint) -> None:
        self._programs, self._endpoint = programs, endpoint

    async def send(self, endpoint: Inference, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The worker's answer; WorkerLost when there is none."""
        program = self._programs.reach(self._endpoint.port, self._endpoint.api_key)
        if program is None:
            raise WorkerLost("nobody listens", sent=False)
        program.parts += 1
        try:
            await program.work(program.script.part)
        except ConnectionResetError as error:
            raise WorkerLost(str(error), sent=True) from error
        finally:
            program.parts -= 1
        status, content = fake_infinity.answer(endpoint.value, body, model=program.model)
        return Reply(status, content, JSON)

    async def close(self) -> None:
        """There is no connection."""


class Programs:
    """The process table: `all` that were ever started, by the scripts that `script(model, number of the start)` gives.

    It has `spawn`, and so stands for the class `Process` where instances are made. `beside` says how many others of its
    model may live when one is started: none, unless somebody asked for a successor.
    """

    def __init__(self, script: Callable[[str, int], Script] = lambda model, number: Script()) -> None:
        self.script = script
        self.all: list[Program] = []
        self.starts: Counter[str] = Counter()
        self.beside: Counter[str] = Counter()
        self.faults: list[str] = []
        self.pids = itertools.count(4000)
        self._ports = itertools.count(20000)

    @contextlib.contextmanager
    def installed(self) -> Iterator["Programs"]:
        """In the place of real processes, for whatever instance is made meanwhile."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(instance, "Process", self)
            patch.setattr(instance, "free_port", self.free_port)
            patch.setattr(instance, "is_free", self.is_free)
            patch.setattr(WorkerPool, "_http", lambda pool: Questions(self))
            yield self

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        output: int,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> SimulatedProcess:
        """Start one."""
        options = dict(itertools.pairwise(argv))
        model, port = options["--served-model-name"], int(options["--port"])
        if len(self.alive(model)) > min(1, self.beside[model]):
            self.faults.append(f"{model}: one process more beside {[each.pid for each in self.alive(model)]}")
        if not self.is_free(port):
            self.faults.append(f"{model}: its port {port} is not free")
        script = self.script(model, self.starts[model])
        self.starts[model] += 1
        if script.missing:
            raise FileNotFoundError(2, "No such file or directory", argv[0])
        program = Program(self, model, port, env["INFINITY_API_KEY"], script)
        self.all.append(program)
        return program.process

    def alive(self, model: str | None = None) -> list[Program]:
        """Those that live, of one model if it is named."""
        return [each for each in self.all if each.alive and model in (None, each.model)]

    def free_port(self, taken: Collection[int] = ()) -> int:
        """One that was never used."""
        return next(self._ports)

    def is_free(self, port: int) -> bool:
        """Whether nobody holds it, or not any more."""
        now = asyncio.get_running_loop().time()
        holders = (each for each in self.all if each.port == port)
        return not any(each.alive or now < each.ended_at + each.script.port_held for each in holders)

    def reach(self, port: int, key: str) -> Program | None:
        """Who listens there; None: nobody."""
        found = next((each for each in self.all if each.port == port and each.listening), None)
        if found is not None and found.key != key:
            self.faults.append(f"{found.model}: asked with a key that is not its own")
        return found

    def connect(self, endpoint: Endpoint) -> Parts:
        """The dispatcher's client of a worker."""
        return Parts(self, endpoint)
