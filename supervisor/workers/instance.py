"""One run of a worker, from spawn to an empty process group: its process, port, key, output and record belong together.

Owns these resources and gives every one of them back; decides nothing about when.
"""

import asyncio
import secrets
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from supervisor.core.endpoint import Endpoint
from supervisor.core.lifecycle import KILLED, exit_description
from supervisor.core.liveness import BUSY_SHARE
from supervisor.core.model import ModelState
from supervisor.core.start_failure import StartFailure, of_end, of_error
from supervisor.workers import bars
from supervisor.workers.cgroup import WorkerGroup
from supervisor.workers.lane import Lane
from supervisor.workers.launch import HOST, WorkerSpec, command_line, environment, free_port, is_free
from supervisor.workers.output import OutputFile, Tail
from supervisor.workers.process import AdoptedProcess, Process
from supervisor.workers.progress import Progress, standstill
from supervisor.workers.readiness import NotReady, canary, until_ready
from supervisor.workers.records import Record, boot_id
from supervisor.workers.spare import Spare
from supervisor.workers.surroundings import Surroundings, WorkerView
from supervisor.workers.watchdog import until_dead

log = structlog.get_logger(__name__)

# Seconds between looks at the output: soon while something happens, rarely while it serves (an fstat each).
_LOOK_OFTEN, _LOOK_RARELY = 0.2, 0.5
# What is left of a group a second after its leader has ended will not end by itself.
_ORPHANS_GRACE = 1.0
# Longer than this after SIGKILL lives only what hangs in the kernel; the next start does not wait for it.
_KILL_TIMEOUT = 30.0
# A port that is still held after the group has gone belongs to somebody who left it; the next start takes another.
_PORT_TIMEOUT = 2.0
# A ready worker answers a canary in milliseconds, on a saturated host in seconds (edge-cases.md 3).
_ADOPTED_WITHIN = 30.0
_LAST_LINES = 3
_LAST_CHARACTERS = 600


class Instance:
    """A running worker process with all that belongs to it. Made by `launch`, given back by `close`."""

    def __init__(
        self,
        spec: WorkerSpec,
        around: Surroundings,
        process: Process,
        endpoints: tuple[Endpoint, ...],
        output: OutputFile,
        tail: Tail,
        group: WorkerGroup,
    ) -> None:
        self.spec = spec
        self.process = process
        self.endpoints = endpoints  # one for each model: the same address
        self.port = endpoints[0].port
        self.tail = tail
        self.served = False  # for an earlier supervisor
        self.remedy = "SIGKILL, and what it had is sent again"
        self._around = around
        self._output = output
        self._group = group
        self._progress: Progress | None = None  # while it starts
        around.taken.add(self.port)
        self._follower = asyncio.get_running_loop().create_task(tail.follow())
        self.exited = process.exited
        self.origin = "worker_found" if isinstance(process, AdoptedProcess) else "worker_started"
        self._record = Record(
            model=spec.name,
            pid=process.pid,
            pgid=process.pgid,
            start_ticks=process.start_ticks,
            boot_id=boot_id(),
            port=self.port,
            api_key=endpoints[0].api_key,
            launched_as=spec.fingerprint,
        )
        self._remember()

    @classmethod
    def launch(cls, spec: WorkerSpec, around: Surroundings, spare: Spare | None = None) -> "Instance":
        """Start a worker, from a spare if there is one; NotReady when that can't be, and then nothing of it is left."""
        try:
            return cls._launch(spec, around, spare)
        except OSError as error:
            if spare is not None:
                spare.close()
            what = error.filename or spec.command[0]
            failure = of_error(error.errno if what == spec.command[0] else None, spec.model_id, spec.command[0])
            why = failure.text or f"{what}: {error.strerror or error}"
            raise NotReady(f"cannot be started: {why}", failure.outlook) from error

    @classmethod
    def _launch(cls, spec: WorkerSpec, around: Surroundings, spare: Spare | None) -> "Instance":
        port = free_port(around.taken)
        api_key = secrets.token_urlsafe(32) if spare is None else spare.api_key
        argv, env = command_line(spec, port), environment(spec, around.environ, api_key, around.log_dir)
        output = OutputFile(around.log_dir, spec.name)
        group = around.subtree.worker_group(spec.name) if spare is None else spare.group
        try:
            tail = Tail(spec.name, output, secret=api_key, interval=_LOOK_OFTEN)
            process = Process.spawn(argv, env, output.fd) if spare is None else spare.process
        except BaseException:
            output.close()
            around.subtree.ended(group)
            raise
        group.place(process)
        instance = cls(spec, around, process, _endpoints(spec, port, api_key), output, tail, group)
        if spare is not None:  # only now: it is recorded
            spare.become(argv, env, output.fd)
        return instance

    @classmethod
    def adopt(cls, spec: WorkerSpec, around: Surroundings, record: Record) -> "Instance":
        """Take over a worker that an earlier supervisor started; NotReady when it has ended.

        It goes on with the output file it has open; what it wrote while nobody looked is there, but not in our log.
        """
        try:
            process = AdoptedProcess.find(record.pid, record.start_ticks)
        except OSError as error:
            raise NotReady(f"an earlier supervisor's worker has ended: {error.strerror or error}") from error
        try:
            output = OutputFile(around.log_dir, spec.name)
            tail = Tail(spec.name, output, secret=record.api_key, interval=_LOOK_OFTEN)
        except OSError as error:
            process.close()  # nobody would look after it
            raise NotReady(f"an earlier supervisor's worker can't be taken over: {error}") from error
        group = around.subtree.worker_group(spec.name)
        group.place(process)
        endpoints = _endpoints(spec, record.port, record.api_key)
        instance = cls(spec, around, process, endpoints, output, tail, group)
        instance.served = record.ready
        return instance

    async def becomes_ready(self) -> tuple[Endpoint, ...]:
        """Wait until it serves all its models; raises NotReady when it is not going to.

        One that has served already has to answer soon: it may be a zombie, whose canary never comes back. But it may
        also be busy with what the supervisor before us gave it: as long as it uses CPU, it is asked again.
        """
        used = self.process.activity().cpu_seconds
        while True:
            try:
                async with asyncio.timeout(_ADOPTED_WITHIN if self.served else None):
                    ready = [await until_ready(self._around.session(), endpoint) for endpoint in self.endpoints]
                self.endpoints = tuple(ready)
                return self.endpoints
            except TimeoutError as error:
                before, used = used, self.process.activity().cpu_seconds
                if used - before < BUSY_SHARE * _ADOPTED_WITHIN:
                    raise NotReady(f"adopted, but no canary came back in {_ADOPTED_WITHIN:.0f} s") from error

    async def stands_still(self, limit: Callable[[], float]) -> float:
        """Return when it made no progress for `limit()` seconds, with how long that was; for one that starts."""

        def show(progress: Progress) -> None:
            self._progress = progress

        return await standstill(self.process.activity, lambda: self.tail.written, limit, show)

    async def dies(
        self, endpoint: Endpoint, lane: Lane, turns: asyncio.Lock, stall_timeout: Callable[[], float]
    ) -> str:
        """Return when it does not get on with this model's work any more, with what was seen of that."""
        return await until_dead(
            endpoint.model,
            lambda: lane.apart(endpoint.model, turns),
            lambda: canary(self._around.session(), endpoint),
            lambda: lane.work(endpoint.model),
            self.process.activity,
            stall_timeout,
        )

    def is_serving(self) -> None:
        """It became ready: little is going to be said from now on."""
        self.tail.interval = _LOOK_RARELY
        self._record = replace(self._record, ready=True)
        self._remember()

    def is_alone(self) -> None:
        """The one that it was brought up beside has gone."""
        self._look(final=False)
        self.tail.silent = False

    def shown(self, view: WorkerView) -> WorkerView:
        """The worker's view with what is known here; while it starts what it does, then what ended the start before."""
        view = replace(view, pid=self.process.pid, pgid=self.process.pgid, log_tail=tuple(self.tail.last))
        if view.state is not ModelState.STARTING or self._progress is None:
            return view
        doing = self._progress.in_words(asyncio.get_running_loop().time(), bars.in_words(self.tail.bar))
        before = f"before: {view.reason}" if view.reason and doing else view.reason
        return replace(view, reason="; ".join(filter(None, (doing, before))) or None)

    def how(self) -> str:
        """How its process ended; whether the kernel killed for want of memory is known where it has a cgroup."""
        killed = self._group.oom_kills()
        why = f"; out of memory: the kernel killed {killed} of its processes" if killed else ""
        return exit_description(self.process.status) + why

    @property
    def killed(self) -> bool:
        """Whether it, or one of its processes, was killed before we did that: by the kernel, as far as anyone can tell.

        A shell that ran it tells of SIGKILL by its own exit status.
        """
        return self.process.status in KILLED or bool(self._group.oom_kills())

    def failure(self) -> StartFailure:
        """Why it ended while it was starting, with its last words."""
        ending, kills = self.ending(), self._group.oom_kills()
        ids = [member.model_id for member in self.spec.members]
        named = ", ".join([each for each in ids if each in ending] or ids)  # of several the one that it complains of
        failure = of_end(self.process.status, kills, self.tail.last, named, self.spec.command[0])
        return failure._replace(text=f"{failure.text}; {ending}")

    def ending(self) -> str:
        """How it ended, with its last words: "exit status 3; last lines: …"."""
        return self.blame(self.how())

    def blame(self, what: str) -> str:
        """What is wrong with it, with its last words."""
        return f"{what}; {self.last_words()}"

    def last_words(self) -> str:
        """The end of its output, short enough for a reason."""
        self._look(final=True)
        lines = [line for line in self.tail.last if any(map(str.isalnum, line))]  # no rules, no frames
        words = " | ".join(lines[-_LAST_LINES:])
        if len(words) > _LAST_CHARACTERS:
            words = "…" + words[-_LAST_CHARACTERS:]
        return f"last lines: {words}" if words else "it wrote nothing"

    async def stop(self, timeout: float, hurry: asyncio.Event, cause: str) -> None:
        """SIGTERM to the group; SIGKILL when it has not ended after `timeout` seconds, or as soon as `hurry` is set.

        One of our own goes, whatever the cause. Returns when nothing of the group is alive and the port is free.
        """
        loop = asyncio.get_running_loop()
        self.tail.interval = _LOOK_OFTEN
        until = loop.time() + timeout
        self.process.signal_group(signal.SIGTERM)
        if await self.process.ends_within(timeout, hurry):
            await self.process.group_empty(min(_ORPHANS_GRACE, max(0.0, until - loop.time())))
        elif not hurry.is_set():
            log.warning(
                "worker_ignores_sigterm", model=self.spec.name, pid=self.process.pid, waited_s=timeout, next="SIGKILL"
            )
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL to the group; returns when nothing of it is alive and the port is free."""
        if not await self.process.kill_group(_KILL_TIMEOUT):
            log.error("worker_not_killed", model=self.spec.name, pids=self.process.members(), after_s=_KILL_TIMEOUT)
        loop = asyncio.get_running_loop()
        until = loop.time() + _PORT_TIMEOUT
        while not is_free(self.port):
            if loop.time() > until:
                log.warning("worker_port_still_held", model=self.spec.name, port=self.port)
                break
            await asyncio.sleep(0.05)
        with suppress(TimeoutError):  # the exit status comes with the next turn of the loop
            async with asyncio.timeout(1.0):  # wait_for of Python 3.11 forgets a cancellation that comes with the end
                await self.process.exited.wait()

    def close(self) -> None:
        """Give back everything, killing what still runs: on the ordinary way nothing does."""
        self._follower.cancel()
        self.process.close()
        self._around.subtree.ended(self._group)
        self._look(final=True)
        self._output.close()
        self._around.taken.discard(self.port)
        if self._around.records is not None:
            self._around.records.remove(self.process.pid)

    def _remember(self) -> None:
        if self._around.records is not None:
            self._around.records.put(self._record)

    def _look(self, *, final: bool) -> None:
        self.tail.look(asyncio.get_running_loop().time(), final=final)


def _endpoints(spec: WorkerSpec, port: int, api_key: str) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(model, HOST, port, api_key) for model in spec.models)
