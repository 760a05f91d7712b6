"""Workers of a `dispatching.World` that need memory, and a host that has only so much of it, in virtual time.

memory = Memory(need, limit)
async with world("a", peaks=memory) as w:
    memory.place(w, w.up("a"))             # from now on its parts take what `need` says
    async with memory.sampled(w):          # once a second the dispatcher is told what is left
        ...
    assert memory.kills == 0
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from supervisor.proxy.jobs import Reply, WorkerLost
from tests.support.dispatching import Sent, Worker, World

MIB = 1 << 20
LOADED = 500 * MIB
Need = Callable[[int, int], float]


def squared(rows: int, longest: int) -> float:
    """A model with attention: 8 KiB a character and 1 byte a squared one, for each row, and 6 MiB for any part."""
    return 6 * MIB + rows * (8192 * longest + longest**2)


def truncating(rows: int, longest: int) -> float:
    """A model that reads 1,500 characters of a row."""
    return squared(rows, min(longest, 1500))


def unpadded(rows: int, longest: int) -> float:
    """A model that needs no mask for one row alone: what a torch worker really does."""
    return 6 * MIB + rows * (400 * longest + (0 if rows == 1 else 0.5 * longest**2))


@dataclass
class Process:
    """One worker's process: what it holds, with the parts that run, and the most since somebody began to look."""

    kept: float = 0.0
    highest: float = 0.0
    peak: float = 0.0
    running: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Memory:
    """A host with `limit` bytes, `foreign` of them used by others; also the peaks as the dispatcher sees them.

    Rows that are at a worker together run together, padded, up to 32: the worst that Infinity may do. A worker keeps a
    share of the most that a part ever took.
    """

    need: Need
    limit: int
    foreign: int = 0
    keeps: float = 0.0
    seconds: float = 0.2
    kills: int = 0
    reads: int = 0

    def __post_init__(self) -> None:
        self.processes: dict[int, Process] = {}

    # -- the workers --------------------------------------------------------------------------------------------------

    def place(self, w: World, worker: Worker) -> Process:
        """This worker's process, new; its parts take memory from now on."""
        model = worker.endpoint.model
        pid = next(pid for pid, served in enumerate(w.models, 1) if served.name == model)
        process = self.processes[pid] = Process()

        def takes(sent: Sent) -> float:
            process.running[id(sent)] = (len(sent.rows), max(map(len, sent.rows)))
            process.peak = max(process.peak, self._held(process))
            return self.seconds

        def script(sent: Sent) -> Reply | None:
            if self.used > self.limit:
                self.kills += 1
                self.processes.pop(pid, None)
                asyncio.get_running_loop().call_later(0.01, w.dispatcher.detach, model, True)
                raise WorkerLost("killed", sent=True)
            process.highest = max(process.highest, self._running(process))
            del process.running[id(sent)]
            process.kept = self.keeps * process.highest
            return None

        worker.takes, worker.script = takes, script
        return process

    def _running(self, process: Process) -> float:
        if not process.running:
            return 0.0
        rows = min(32, sum(rows for rows, _ in process.running.values()))
        return self.need(rows, max(longest for _, longest in process.running.values()))

    def _held(self, process: Process) -> float:
        return LOADED + process.kept + self._running(process)

    # -- the host -----------------------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """By everybody."""
        return self.foreign + sum(int(self._held(process)) for process in self.processes.values())

    def order(self, w: World, **orders: int) -> None:
        """What the controller orders on this moment's sample."""
        last = int(0.95 * self.limit)
        more = {"batch": 32, "window": 2, **orders}
        room = int(0.85 * self.limit) - self.used
        w.order(**more, room=room, last=last - self.used, ever=last - LOADED)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def sampled(self, w: World, **orders: int) -> AsyncIterator[None]:
        """Orders on a new sample once a second."""

        async def ticks() -> None:
            while True:
                self.order(w, **orders)
                await asyncio.sleep(1.0)

        task = asyncio.get_running_loop().create_task(ticks())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            task.cancel()

    # -- peaks --------------------------------------------------------------------------------------------------------

    def start(self, pid: int) -> int | None:
        """Forget the peak."""
        level = self.level(pid)
        if level is not None:
            self.processes[pid].peak = level
        return level

    def peak(self, pid: int) -> int | None:
        """The most since then."""
        self.reads += 1
        process = self.processes.get(pid)
        return None if process is None else int(max(process.peak, self._held(process)))

    def level(self, pid: int) -> int | None:
        """What it holds now."""
        self.reads += 1
        process = self.processes.get(pid)
        return None if process is None else int(self._held(process))

    def forget(self, pid: int) -> None:
        """Nothing is remembered here."""
