"""The workers' cgroups, where a cgroup v2 subtree was delegated to us: one group for each, one CPU limit for all.

    BASE/supervisor            we ourselves: processes may not live in a group whose children have controllers
    BASE/workers               cpu.max: the backstop of the CPU hold
    BASE/workers/NAME-N        one worker and all it starts; memory.events tells an OOM kill

Owns these groups and nothing beside them. Where nothing was delegated every call does nothing; what fails is told once
and costs what the groups were for, never a worker.
"""

import asyncio
import os
import re
from contextlib import suppress
from pathlib import Path

import structlog

from supervisor.sense.files import KernelFile, number
from supervisor.workers.delegation import LEAF, Delegated, delegated
from supervisor.workers.process import Process

log = structlog.get_logger(__name__)

# Of 100 ms: the kernel's own default. A worker that is out of quota stands still for less than a query takes.
PERIOD = 0.1
_NO_LIMIT = "max"
_WITHOUT = "the CPU hold works without cpu.max behind it"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST_NAME = 100
# Children that a worker starts before it is in its group are put there after it, and theirs: no more rounds than this.
_ROUNDS = 5
# What was killed is gone within milliseconds; longer than this stays only what hangs in the kernel (s).
_GONE_WITHIN, _POLL = 1.0, 0.02


class WorkerGroup:
    """One worker's group; without a `path` there is none, and everything is as if it were empty."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._oom_kills = 0

    def place(self, process: Process) -> None:
        """Put a worker that was just started here, and what it may have started meanwhile."""
        if self.path is None:
            return
        procs = self.path / "cgroup.procs"
        try:
            _move(procs, process.pid)
            for _ in range(_ROUNDS):
                outside = set(process.members()) - set(map(int, procs.read_text().split()))
                if not outside:
                    break
                for pid in outside:
                    _move(procs, pid)
        except OSError as error:
            _fault("worker_cgroup_not_entered", error, pid=process.pid)

    def oom_kills(self) -> int:
        """How many processes of the worker the kernel killed for want of memory."""
        if self.path is not None:
            with suppress(OSError, ValueError, IndexError):
                lines = (self.path / "memory.events").read_text().splitlines()
                counts = [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]
                self._oom_kills = counts[0]
        return self._oom_kills

    def remove(self) -> bool:
        """Remove it, killing what left the worker's process group and stayed here; whether it is gone.

        A killed process takes a moment to go: then a later call removes the group.
        """
        if self.path is None:
            return True
        self.oom_kills()
        try:
            self.path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            with suppress(OSError):  # kernels before 5.14 have no such file
                _write(self.path / "cgroup.kill", "1")
            return False
        self.path = None
        return True


class Subtree:
    """All groups of ours. Made by `find`, taken into use by `open`, given back by `close`."""

    def __init__(self, found: Delegated | str) -> None:
        self._found = found
        self._workers: Path | None = None
        self._usage: KernelFile | None = None
        self._failed = False
        self._made = 0
        self._ended: list[WorkerGroup] = []

    @classmethod
    def find(cls, proc: Path = Path("/proc"), sys_cgroup: Path = Path("/sys/fs/cgroup")) -> "Subtree":
        """What was delegated to us, if anything. Only looks."""
        return cls(delegated(proc, sys_cgroup))

    @property
    def reason(self) -> str | None:
        """Why nothing is ours, None when something is."""
        return self._found if isinstance(self._found, str) else None

    def open(self) -> None:
        """Take it into use, before any worker is started; says in the log whether and why not.

        1. What a killed predecessor left is taken over; of its groups those that are empty are removed.
        2. We go into a leaf, and then only the controllers can be switched on.
        """
        if isinstance(self._found, str):
            log.info("cpu_backstop_off", reason=self._found, consequence=_WITHOUT)
            return
        base, own = self._found.base, self._found.own
        workers = base / "workers"
        try:
            workers.mkdir(exist_ok=True)
            _remove_empty(workers)  # 1
            if own == base:  # 2
                (base / LEAF).mkdir(exist_ok=True)
                _write(base / LEAF / "cgroup.procs", str(os.getpid()))
            _write(base / "cgroup.subtree_control", "+cpu")
            with suppress(OSError):  # memory only tells more; it is not ours everywhere
                for group in (base, workers):
                    _write(group / "cgroup.subtree_control", "+memory")
            _write(workers / "cpu.max", _cpu_max(None))
        except OSError as error:
            _fault("cpu_backstop_failed", error, consequence=_WITHOUT)
            self._withdraw(base, own)
            return
        self._workers, self._usage = workers, KernelFile(workers / "cpu.stat")
        log.info("cpu_backstop_on", group=str(workers))

    def worker_group(self, name: str) -> WorkerGroup:
        """A group for a worker that is about to be started."""
        self._tidy()
        if self._workers is None:
            return WorkerGroup()
        safe = _UNSAFE.sub("_", name)[:_LONGEST_NAME]
        while True:
            self._made += 1
            path = self._workers / f"{safe}-{self._made}"
            try:
                path.mkdir()
            except FileExistsError:  # a predecessor's, with somebody in it
                continue
            except OSError as error:
                _fault("worker_cgroup_not_made", error)
                return WorkerGroup()
            return WorkerGroup(path)

    def ended(self, group: WorkerGroup) -> None:
        """Nothing of this worker is alive any more: its group goes, now or soon."""
        if not group.remove():
            self._ended.append(group)

    def set_limit(self, cores: float | None) -> None:
        """Let all workers together use so many cores from now on; None: as many as they can."""
        self._tidy()
        if self._workers is None or self._failed:
            return
        try:
            _write(self._workers / "cpu.max", _cpu_max(cores))
        except OSError as error:
            self._failed = True
            _fault("cpu_backstop_failed", error, consequence=_WITHOUT)
            with suppress(OSError):  # without its controller, the limit in force is none
                _write(self._workers.parent / "cgroup.subtree_control", "-cpu")

    def cpu_seconds(self) -> float | None:
        """What all workers used so far, also those that have ended, in core-seconds; None where nothing is ours."""
        if self._usage is None:
            return None
        try:
            return number(self._usage.read(), b"usage_usec ") / 1e6
        except (OSError, ValueError):
            return None

    async def close(self) -> None:
        """Give everything back, when all workers have ended: every group of ours goes, and we are where we began."""
        workers, self._workers = self._workers, None
        if self._usage is not None:
            self._usage.close()
            self._usage = None
        until = asyncio.get_running_loop().time() + _GONE_WITHIN
        self._tidy()
        while self._ended and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_POLL)
            self._tidy()
        if workers is not None and isinstance(self._found, Delegated):
            _remove_empty(workers)
            self._withdraw(self._found.base, self._found.own)

    def _tidy(self) -> None:
        self._ended = [group for group in self._ended if not group.remove()]

    @staticmethod
    def _withdraw(base: Path, own: Path) -> None:
        """Undo what `open` did, as far as it got; what is in the way (a worker that hangs in the kernel) stays."""
        with suppress(OSError):
            (base / "workers").rmdir()
        for controller in ("memory", "cpu"):
            with suppress(OSError):
                _write(base / "cgroup.subtree_control", f"-{controller}")
        if own in (base, base / LEAF):  # another leaf was made by whoever put us there
            with suppress(OSError):
                _write(base / "cgroup.procs", str(os.getpid()))
                (base / LEAF).rmdir()


def _write(file: Path, text: str) -> None:
    """Write one of the kernel's files; OSError, with its name, when the kernel won't have it."""
    descriptor = os.open(file, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        os.close(descriptor)


def _move(procs: Path, pid: int) -> None:
    with suppress(ProcessLookupError):  # it has ended meanwhile
        _write(procs, str(pid))


def _cpu_max(cores: float | None) -> str:
    """The limit as the kernel takes it: microseconds of CPU in each period, and the period."""
    period = round(PERIOD * 1e6)
    return f"{_NO_LIMIT if cores is None else max(1000, round(cores * period))} {period}"


def _remove_empty(workers: Path) -> None:
    with suppress(OSError):
        for group in workers.iterdir():
            if group.is_dir():
                with suppress(OSError):
                    group.rmdir()


def _fault(event: str, error: OSError, **fields: object) -> None:
    log.warning(event, file=error.filename, error=error.strerror or str(error), **fields)
