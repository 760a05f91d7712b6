"""What gives us a hand on an Infinity that something else runs: nothing, its pid file, or its systemd unit.

Owns how its process is found and ended. When that is done, and for whom, is the caller's; what is impossible is
NotReady, in words.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from supervisor.workers.foreign import ForeignProcess
from supervisor.workers.launch import Elsewhere
from supervisor.workers.readiness import NotReady
from supervisor.workers.waits import cancelled

log = structlog.get_logger(__name__)

# Seconds between two looks at a pid file that names nobody.
_AGAIN = 0.5
# What a process started may outlive it by this much (s); then it does not end by itself.
_ORPHANS_GRACE = 1.0
# Longer than this after SIGKILL (s) lives only what hangs in the kernel.
_KILL_TIMEOUT = 30.0
# systemctl answers at once, unless systemd itself is in trouble (s).
_QUESTION_TIMEOUT = 10.0

Tell = Callable[[str], None]


class Handle(Protocol):
    """`starts`: the Infinity is brought up by asking here; else whoever runs it has to."""

    starts: bool

    async def process(self, tell: Tell, within: float) -> ForeignProcess | None:
        """Its process; waited for where it can only come by itself, with what is missing told meanwhile."""

    async def stop(self, process: ForeignProcess | None, timeout: float, hurry: asyncio.Event) -> None:
        """Have it end; by force after `timeout` seconds, or as soon as `hurry` is set."""

    async def kill(self, process: ForeignProcess | None) -> None:
        """End it by force, now."""


def handle_on(where: Elsewhere) -> Handle:
    """The hand that we have on it."""
    if where.systemd_unit is not None:
        return Unit(where.systemd_unit)
    return NoHandle() if where.pid_file is None else PidFile(Path(where.pid_file))


class NoHandle:
    """Somebody else's altogether: it is only let go."""

    starts = False

    async def process(self, tell: Tell, within: float) -> ForeignProcess | None:
        """Nobody knows it."""
        return None

    async def stop(self, process: ForeignProcess | None, timeout: float, hurry: asyncio.Event) -> None:
        """It goes on."""

    async def kill(self, process: ForeignProcess | None) -> None:
        """It goes on."""


class PidFile:
    """A file with its process number: it can be ended, but only whoever runs it starts it again."""

    starts = False

    def __init__(self, path: Path) -> None:
        self._path = path

    async def process(self, tell: Tell, within: float) -> ForeignProcess | None:
        """The process that the file names, once there is one."""
        while True:
            try:
                return ForeignProcess.named(self._path)
            except (OSError, ValueError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or str(error)
                tell(f"pid_file {self._path}: {why}")
            await asyncio.sleep(_AGAIN)

    async def stop(self, process: ForeignProcess | None, timeout: float, hurry: asyncio.Event) -> None:
        """SIGTERM to the process; SIGKILL to it and its descendants when it has not ended in time."""
        if process is None:
            return
        process.terminate()
        if await process.ends_within(timeout, hurry):
            await process.group_empty(_ORPHANS_GRACE)
        elif not hurry.is_set():
            log.warning("worker_ignores_sigterm", pid=process.pid, waited_s=timeout, next="SIGKILL")
        await self.kill(process)

    async def kill(self, process: ForeignProcess | None) -> None:
        """SIGKILL to the process and its descendants."""
        if process is not None and not await process.kill_group(_KILL_TIMEOUT):
            log.error("worker_not_killed", pids=process.members(), after_s=_KILL_TIMEOUT)


class Unit:
    """The systemd service that runs it: systemctl starts and stops it."""

    starts = True

    def __init__(self, name: str) -> None:
        self._name = name

    async def process(self, tell: Tell, within: float) -> ForeignProcess | None:
        """Start the service, which changes nothing where it runs, and find its main process."""
        tell(f"{self._name} is being started")
        await systemctl("start", self._name, within=within)
        said = await systemctl("show", "--property=MainPID", "--value", self._name, within=_QUESTION_TIMEOUT)
        pid = int(said) if said.isdecimal() else 0
        if pid <= 1:
            raise NotReady(f"{self._name} has no main process: `systemctl status {self._name}` says why")
        try:
            return ForeignProcess.find(pid)
        except OSError as error:
            raise NotReady(f"{self._name}: process {pid}: {error.strerror or error}") from error

    async def stop(self, process: ForeignProcess | None, timeout: float, hurry: asyncio.Event) -> None:
        """Stop the service; SIGKILL to all of it when that takes too long."""
        stopping = asyncio.create_task(systemctl("stop", self._name, within=timeout + _KILL_TIMEOUT))
        hurried = asyncio.create_task(hurry.wait())
        try:
            await asyncio.wait((stopping, hurried), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                if not hurry.is_set():
                    log.warning("worker_ignores_sigterm", unit=self._name, waited_s=timeout, next="SIGKILL")
                await self._kill()
            await stopping
        finally:
            await cancelled([stopping, hurried])

    async def kill(self, process: ForeignProcess | None) -> None:
        """SIGKILL to all of the service, which is then at rest."""
        await self._kill()
        await systemctl("stop", self._name, within=_KILL_TIMEOUT)

    async def _kill(self) -> None:
        await systemctl("kill", "--signal=SIGKILL", self._name, within=_QUESTION_TIMEOUT)


async def systemctl(command: str, *words: str, within: float) -> str:
    """What `systemctl` says; NotReady, with its own words, when it fails or takes longer than `within` seconds."""
    try:
        process = await asyncio.create_subprocess_exec(
            *("systemctl", "--no-ask-password", command, *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            process_group=0,  # Ctrl-C is for the supervisor
        )
    except OSError as error:
        raise NotReady(f"systemctl can't be run: {error.strerror or error}") from error
    try:
        async with asyncio.timeout(within):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise NotReady(f"`systemctl {command} {words[-1]}` is not done after {within:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = output.decode(errors="replace").strip()
    if process.returncode:
        raise NotReady(f"`systemctl {command} {words[-1]}`: {' '.join(said.split())[:300] or 'failed'}")
    return said
