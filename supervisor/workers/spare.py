"""The warm spare: one process of Infinity's own interpreter that has imported everything and waits for its arguments.

Owns that process from its start until it is a worker or gone. When there is to be one is decided elsewhere; what it
does while it waits is `spare_program`'s. It is in no record: it ends by itself when the supervisor does.
"""

import asyncio
import json
import os
import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from supervisor.core.lifecycle import exit_description
from supervisor.core.spare import SpareState, SpareView
from supervisor.workers import spare_program
from supervisor.workers.cgroup import Subtree, WorkerGroup
from supervisor.workers.console_script import ConsoleScript, console_script
from supervisor.workers.launch import WorkerSpec, environment
from supervisor.workers.output import clean_line
from supervisor.workers.process import Process

log = structlog.get_logger(__name__)

# What differs between workers that a spare can still become: the key is the spare's own, for Infinity reads it while it
# is imported; which GPU is read when CUDA is first asked for, and nothing that is imported asks.
_HANDED_OVER = ("INFINITY_API_KEY", "CUDA_VISIBLE_DEVICES")
# Infinity's warm-up takes 5 s, and what it warms the canary warms.
_WARM_UP_OPTIONS = ("--model-warmup", "--no-model-warmup")
# A spare that is asked answers in a millisecond, while it imports in tenths of a second. A plain start takes 20 s, so
# that asking is worth waiting for.
_ANSWERS_WITHIN = 5.0
# s until the next one after a spare that failed: each costs 16 to 20 s of a core.
_BACK_OFF_FIRST, _BACK_OFF_LAST = 60.0, 3600.0
# As for a worker: longer than this after SIGKILL lives only what hangs in the kernel.
_KILL_TIMEOUT = 30.0
_LAST_BYTES = 600


@dataclass(frozen=True, slots=True)
class Kind:
    """What a worker must have in common with a spare to be started from it: all that is read while importing."""

    script: ConsoleScript
    environ: Mapping[str, str]


class Spare:
    """The process. Made by `start`; it either becomes a worker, which then owns `process` and `group`, or is ended."""

    def __init__(
        self,
        kind: Kind,
        api_key: str,
        process: Process,
        group: WorkerGroup,
        subtree: Subtree,
        connection: socket.socket,
        output: int,
    ) -> None:
        self.kind = kind
        self.api_key = api_key
        self.process = process
        self.group = group
        self.is_warm = False
        self.stirred = asyncio.Event()  # it became warm, or it closed its end
        self._subtree = subtree
        self._connection = connection
        self._output = output
        self._said = b""
        self._awake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._listen)

    @classmethod
    def start(cls, kind: Kind, subtree: Subtree) -> "Spare":
        """Start one; OSError when that is impossible, and then nothing of it is left."""
        api_key = secrets.token_urlsafe(32)
        program = os.path.realpath(spare_program.__file__)
        ours, theirs = socket.socketpair()
        group, output = WorkerGroup(), -1
        try:
            with theirs:
                ours.setblocking(False)
                output = os.memfd_create("spare")  # some lines of warnings, if any
                group = subtree.worker_group("spare")
                process = Process.spawn(
                    [*kind.script.interpreter, program, kind.script.path],
                    {**kind.environ, "INFINITY_API_KEY": api_key},
                    output,
                    stdin=theirs.fileno(),
                )
        except BaseException:
            ours.close()
            if output >= 0:
                os.close(output)
            subtree.ended(group)
            raise
        group.place(process)
        return cls(kind, api_key, process, group, subtree, ours, output)

    def _listen(self) -> None:
        try:
            said = self._connection.recv(1024)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        self._said += said
        *lines, self._said = self._said.split(b"\n")
        if b"awake" in lines:
            self._awake.set()
        if b"warm" in lines:
            self.is_warm = True
        if b"warm" in lines or not said:
            self.stirred.set()
        if not said:
            self._loop.remove_reader(self._connection)

    async def answers(self) -> bool:
        """Whether it is there and listens."""
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(_ANSWERS_WITHIN):
                self._connection.send(b"?\n")
                await self._awake.wait()
                return True
        return False

    def become(self, argv: Sequence[str], env: Mapping[str, str], output: int) -> None:
        """Let it be the worker with this command line and environment, which writes to `output`. Does not raise.

        One that ended just now, or can't be told, ends as a start that fails.
        """
        known = any(word in _WARM_UP_OPTIONS for word in argv)
        order = {
            "argv": [self.kind.script.path, *argv[1:], *(() if known else ("--no-model-warmup",))],
            "env": {"CUDA_VISIBLE_DEVICES": env.get("CUDA_VISIBLE_DEVICES")},
        }
        with suppress(OSError):
            socket.send_fds(self._connection, [json.dumps(order).encode() + b"\n"], [output])
        self._let_go()

    def last_words(self) -> str:
        """How it ended, with the end of what it wrote."""
        size = os.fstat(self._output).st_size
        said = os.pread(self._output, _LAST_BYTES, max(0, size - _LAST_BYTES))
        lines = [text for line in said.splitlines() if (text := clean_line(line, self.api_key))]
        return f"{exit_description(self.process.status)}; " + (" | ".join(lines[-3:]) or "it wrote nothing")

    def close(self) -> None:
        """Kill it and give everything back."""
        self.process.close()
        self._subtree.ended(self.group)
        self._let_go()

    def _let_go(self) -> None:
        if self._output >= 0:
            self._loop.remove_reader(self._connection)
            self._connection.close()
            os.close(self._output)
            self._output = -1


class SpareKeeper:
    """Has at most one spare; made and given up by order, taken by a worker that starts."""

    def __init__(
        self, environ: Mapping[str, str], folder: Path, subtree: Subtree, on_change: Callable[[], None]
    ) -> None:
        self._environ, self._folder, self._subtree = environ, folder, subtree
        self._on_change = on_change
        self._specs: Sequence[WorkerSpec] = ()
        self._impossible: str | None = None
        self._spare: Spare | None = None
        self._fits: frozenset[str] = frozenset()
        self._failures = 0
        self._failed: tuple[str, float] | None = None  # why, and until when there is no other
        self._minding: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def configure(self, specs: Sequence[WorkerSpec]) -> None:
        """Take settings into use; a spare that none of them could use goes."""
        self._specs = [spec for spec in specs if spec.warm_spare]
        self._failures, self._failed = 0, None
        before, self._impossible = self._impossible, None
        if self._specs:
            kind = self._kind(self._specs[0])
            self._impossible = kind if isinstance(kind, str) else None
            if self._impossible is not None and self._impossible != before:
                log.warning("spare_impossible", reason=kind, consequence="every start is a plain one")
        self._fits = self._users(self._spare)
        if self._spare is not None and not self._fits:
            self.drop("other settings")

    def view(self) -> SpareView:
        """How it is now."""
        if self._spare is not None:
            state = SpareState.WARM if self._spare.is_warm else SpareState.WARMING
            return SpareView(state, self._spare.process.pid, self._spare.process.pgid, None, self._fits)
        if self._impossible is not None or not self._specs:
            return SpareView(SpareState.OFF, reason=self._impossible)
        if self._failed is not None and self._now() < self._failed[1]:
            return SpareView(SpareState.BACKOFF, reason=self._failed[0])
        return SpareView(SpareState.ABSENT)

    def make(self, names: Sequence[str]) -> None:
        """Start one that the first of these models could use; nothing while there is one, or may be none."""
        if self.view().state is not SpareState.ABSENT:
            return
        spec = min(self._specs, key=lambda spec: names.index(spec.name) if spec.name in names else len(names))
        kind = self._kind(spec)
        if isinstance(kind, str):  # changed on disk since the settings were read
            self._fail(kind)
            return
        try:
            spare = Spare.start(kind, self._subtree)
        except OSError as error:
            self._fail(f"cannot be started: {error.strerror or error}")
            return
        log.info("spare_started", pid=spare.process.pid)
        self._spare, self._fits = spare, self._users(spare)
        self._minding = asyncio.create_task(self._mind(spare, spec.start_timeout), name="warm spare")
        self._on_change()

    def drop(self, why: str) -> None:
        """Have it killed, if there is one."""
        spare = self._release()
        if spare is not None:
            log.info("spare_dropped", pid=spare.process.pid, why=why)
            self._end(spare)
            self._on_change()

    async def take(self, spec: Callable[[], WorkerSpec]) -> Spare | None:
        """The spare, for a worker that starts with these settings; None = it is to be started plainly.

        1. None where there is none, or one of another kind; one that is of no model's kind any more goes: Infinity was
           installed anew.
        2. One that doesn't answer is ended. Who waits here meanwhile may be given other settings.

        The caller owns what it gets.
        """
        spare = self._spare
        if spare is None:  # 1
            return None
        if self._kind(spec()) != spare.kind:
            self._fits = self._users(spare)
            if not self._fits:
                self.drop("it has what was installed before")
            return None
        self._release()
        try:
            awake = await spare.answers()
        except BaseException:
            spare.close()
            raise
        if awake and self._kind(spec()) == spare.kind:  # 2
            log.info("spare_taken", model=spec().name, pid=spare.process.pid, warm=spare.is_warm)
            return spare
        if not awake:
            self._fail(f"no answer in {_ANSWERS_WITHIN:.0f} s; {spare.last_words()}")
        self._end(spare)
        return None

    async def close(self) -> None:
        """End it for good; nothing of it is left when this returns."""
        self._specs = ()
        self.drop("the supervisor is ending")
        if self._ending:
            await asyncio.wait(self._ending)

    async def _mind(self, spare: Spare, timeout: float) -> None:
        """See it get warm, and see it end by itself: until it is released nothing else may happen to it."""
        began, why = self._now(), "ended by itself"
        try:
            async with asyncio.timeout(timeout):
                await spare.stirred.wait()
                if not spare.is_warm:  # it closed its end
                    await spare.process.exited.wait()
            if spare.is_warm:
                log.info("spare_warm", pid=spare.process.pid, seconds=round(self._now() - began, 1))
                self._failures = 0
                self._on_change()
            await spare.process.exited.wait()
        except TimeoutError:
            why = f"not warm after {timeout:.0f} s"
        self._spare = self._minding = None
        self._fail(f"{why}: {spare.last_words()}")
        self._end(spare)
        self._on_change()

    def _release(self) -> Spare | None:
        spare, self._spare = self._spare, None
        if self._minding is not None:
            self._minding.cancel()
            self._minding = None
        return spare

    def _fail(self, why: str) -> None:
        wait = min(_BACK_OFF_FIRST * 2**self._failures, _BACK_OFF_LAST)
        self._failures += 1
        self._failed = why, self._now() + wait
        log.warning("spare_failed", reason=why, next_in_s=wait, consequence="the next start is a plain one")

    def _end(self, spare: Spare) -> None:
        spare.process.signal_group(signal.SIGKILL)

        async def end() -> None:
            if not await spare.process.kill_group(_KILL_TIMEOUT):
                log.error("spare_not_killed", pids=spare.process.members())
            spare.close()

        task = asyncio.create_task(end(), name="end of the spare")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _users(self, spare: Spare | None) -> frozenset[str]:
        if spare is None:
            return frozenset()
        return frozenset(name for spec in self._specs if self._kind(spec) == spare.kind for name in spec.models)

    def _kind(self, spec: WorkerSpec) -> Kind | str:
        env = environment(spec, self._environ, "", self._folder)
        kept = {name: value for name, value in env.items() if name not in _HANDED_OVER}
        script = console_script(spec.command[0], env)
        return script if isinstance(script, str) else Kind(script, kept)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
