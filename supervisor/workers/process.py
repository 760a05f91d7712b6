"""One worker's process and its group: spawn, signals, exit, what is left of the group, what it is busy with.

Owns descriptors and signals; knows nothing of models. A worker leads a process group of its own (in the supervisor's
session), so signals reach whatever it started.

The leader is reaped last: while it is a zombie the kernel gives its number to nobody, so a signal to the group can't
reach a stranger.
"""

import asyncio
import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")

# Between two looks at a group that is ending: at first soon, for most are gone in a moment, then ever more rarely.
_POLL_FIRST, _POLL_LAST = 0.01, 0.5


@dataclass(frozen=True, slots=True)
class Activity:
    """What a group has done so far, to be compared with a later look: CPU seconds, bytes read and written.

    Bytes are those of calls, and besides those that came from a disk: a file that is mapped into memory, as safetensors
    maps its weights, is read without a call (seen: 64 MiB were 64 MiB from disk, and 113 bytes of calls).
    """

    cpu_seconds: float
    io_bytes: int


class Process:
    """A running worker. Made by `spawn`; `close` ends what is left of it and gives back its descriptor.

    `exited` is set when the leader has ended, `status` is how (negative: the signal; None: nobody knows).
    """

    def __init__(self, pid: int, pidfd: int, start_ticks: int, popen: "subprocess.Popen[bytes] | None" = None) -> None:
        self.pid = pid
        self.pgid = pid
        self.start_ticks = start_ticks
        self.exited = asyncio.Event()
        self.status: int | None = None
        self._popen = popen
        self._pidfd = pidfd
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._on_exit)

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        env: Mapping[str, str],
        output: int,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> "Process":
        """Start a program with its output going to the descriptor `output`; OSError when it can't be started.

        Nothing of it is left when this raises. It inherits no other descriptor of ours.
        """
        popen = subprocess.Popen(argv, env=env, stdin=stdin, stdout=output, stderr=output, cwd=cwd, process_group=0)
        pidfd = -1
        _unspare(popen.pid)
        try:
            pidfd = os.pidfd_open(popen.pid)
            return cls(popen.pid, pidfd, start_ticks(popen.pid) or 0, popen)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
            if pidfd >= 0:
                os.close(pidfd)
            raise

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        with suppress(ChildProcessError):  # look at the status, but leave the zombie: it keeps the group's number
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if ended is not None:
                self.status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        self.exited.set()

    def signal_group(self, number: int) -> None:
        """Send a signal to all of the group; nothing when there is nobody left, or its number is no longer ours."""
        if self._pidfd < 0:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pgid, number)

    def members(self) -> list[int]:
        """The living processes of the group."""
        return group_members(self.pgid)

    def activity(self) -> Activity:
        """What the group has done so far."""
        return activity_of(self.members())

    async def ends_within(self, timeout: float, hurry: asyncio.Event) -> bool:
        """Whether the leader ends within `timeout` seconds; not waited for any longer once `hurry` is set."""
        waits = [self._loop.create_task(self.exited.wait()), self._loop.create_task(hurry.wait())]
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self.exited.is_set()

    async def group_empty(self, timeout: float | None = None) -> bool:
        """Wait until nothing of the group is alive; False when something still is after `timeout` seconds."""
        return await until_empty(self.members, timeout)

    async def kill_group(self, timeout: float | None = None) -> bool:
        """SIGKILL to the whole group, again as long as it lives; False when something is left after `timeout` seconds.

        Only a process that hangs in the kernel (a driver, a dead network disk) survives this.
        """
        return await until_killed(self.members, lambda: self.signal_group(signal.SIGKILL), timeout)

    def close(self) -> None:
        """Kill what is left, reap the leader, give back the descriptor. Safe to call twice.

        Waits for the leader's end, which after SIGKILL takes milliseconds; not for one that hangs in the kernel.
        """
        if self._pidfd < 0:
            return
        self.signal_group(signal.SIGKILL)
        self._loop.remove_reader(self._pidfd)
        self._reap()
        os.close(self._pidfd)
        self._pidfd = -1
        self.exited.set()

    def _reap(self) -> None:
        assert self._popen is not None, "spawned by us"
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=1.0)
            # subprocess knows -signal too, so a leader that ended just now leaves its status as well
            self.status = self._popen.returncode if self.status is None else self.status


class AdoptedProcess(Process):
    """A worker that an earlier supervisor started. Made by `find`.

    It is no child of ours, unless we are that supervisor after an upgrade in place. So nothing keeps the number of its
    group when its leader has ended: from then on only those are taken for its members that were there before.
    """

    _ended_at: float | None = None  # in clock ticks since boot

    @classmethod
    def find(cls, pid: int, ticks: int) -> "AdoptedProcess":
        """The process of this number that was started then; OSError when there is none, or no more."""
        pidfd = os.pidfd_open(pid)
        if start_ticks(pid) != ticks:  # looked at only now: from here on the number can't be given to another
            os.close(pidfd)
            raise ProcessLookupError(errno.ESRCH, "it has ended, and its number is another's")
        return cls(pid, pidfd, ticks)

    def _on_exit(self) -> None:
        self._ended_at = time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS
        super()._on_exit()

    def members(self) -> list[int]:
        """The living processes of the group."""
        members, ended_at = super().members(), self._ended_at
        if ended_at is None:
            return members
        return [pid for pid in members if (started := start_ticks(pid)) is not None and started <= ended_at]

    def signal_group(self, number: int) -> None:
        """Send a signal to all of the group; nothing when there is nobody left."""
        if self._ended_at is None:
            super().signal_group(number)
            return
        for pid in self.members():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _reap(self) -> None:
        select.select([self._pidfd], [], [], 1.0)
        with suppress(ChildProcessError):
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG)
            if ended is not None and self.status is None:
                self.status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _unspare(pid: int) -> None:
    """Where the kernel is told to spare us when memory runs out (OOMScoreAdjust=), it shall not spare a worker."""
    with suppress(OSError, ValueError):
        if int((_PROC / "self" / "oom_score_adj").read_text()) < 0:
            (_PROC / str(pid) / "oom_score_adj").write_text("0")


def start_ticks(pid: int) -> int | None:
    """When the process was started, in clock ticks since boot; None when it does not exist or is dead.

    Together with the boot id this tells a process from a later one of the same number.
    """
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def processes() -> dict[int, tuple[int, int]]:
    """Every living process: its parent, and when it was started, in clock ticks since boot."""
    alive = {}
    for name in os.listdir(_PROC):
        fields = _stat(int(name)) if name.isdigit() else None
        if fields is not None and fields[0] not in "ZX":
            alive[int(name)] = int(fields[1]), int(fields[19])
    return alive


def group_members(pgid: int) -> list[int]:
    """The living processes of a group. Zombies do not count: an orphan's is reaped by whoever init is, if at all.

    Without a descriptor to look with, a group that exists is taken to live: waiting longer harms less than forgetting.
    """
    members = []
    try:
        names = os.listdir(_PROC)
    except OSError:
        return [pgid] if _exists(pgid) else []
    for name in names:
        if not name.isdigit():
            continue
        try:
            if os.getpgid(int(name)) != pgid:
                continue
        except OSError:
            continue
        fields = _stat(int(name))
        if fields is not None and fields[0] not in "ZX":
            members.append(int(name))
    return members


def group_activity(pgid: int) -> Activity:
    """CPU time and I/O of a group's processes together; what can't be read counts as nothing."""
    return activity_of(group_members(pgid))


def activity_of(pids: Iterable[int]) -> Activity:
    """CPU time and I/O of these processes together; what can't be read counts as nothing."""
    ticks, io_bytes = 0, 0
    for pid in pids:
        if fields := _stat(pid):
            ticks += int(fields[11]) + int(fields[12])
        with suppress(OSError, ValueError, KeyError):
            lines = (_PROC / str(pid) / "io").read_text().splitlines()
            count = {name: int(value) for name, _, value in (line.partition(":") for line in lines)}
            io_bytes += count["rchar"] + count["wchar"] + count["read_bytes"]
    return Activity(ticks / _TICKS, io_bytes)


async def group_empty(pgid: int, timeout: float | None = None) -> bool:
    """Wait until nothing of the group is alive; False when something still is after `timeout` seconds."""
    return await until_empty(lambda: group_members(pgid), timeout)


async def until_empty(members: Callable[[], list[int]], timeout: float | None = None) -> bool:
    """Wait until there are no members; False when there still are after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    until = None if timeout is None else loop.time() + timeout
    pause = _POLL_FIRST
    while members():
        if until is not None:
            if loop.time() >= until:
                return False
            pause = min(pause, until - loop.time())
        await asyncio.sleep(max(pause, 0))
        pause = min(_POLL_LAST, pause * 1.5)
    return True


async def kill_group(pgid: int, timeout: float | None = None) -> bool:
    """SIGKILL to a whole group until nothing of it is alive; False when something is left after `timeout` seconds."""

    def kill() -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pgid, signal.SIGKILL)

    return await until_killed(lambda: group_members(pgid), kill, timeout)


async def until_killed(
    members: Callable[[], list[int]], kill: Callable[[], None], timeout: float | None = None
) -> bool:
    """Kill until there are no members, at once and then each second; False when some are left after `timeout` s."""
    loop = asyncio.get_running_loop()
    until = None if timeout is None else loop.time() + timeout
    while True:
        kill()
        left = 1.0 if until is None else min(1.0, until - loop.time())
        if await until_empty(members, max(left, 0)):
            return True
        if until is not None and loop.time() >= until:
            return False


def _exists(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the program's name before them may hold anything."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
