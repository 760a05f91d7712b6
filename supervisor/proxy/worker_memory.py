"""One worker's memory as a lane sees it: its levels, and the part whose peak is being measured. Bytes everywhere.

Reads through `Peaks`, which is somebody else's; without one, or without a process to look at, nothing is known.
"""

from typing import Final, Protocol

from supervisor.core.part_memory import PartMemory
from supervisor.proxy.part import Part

# Seconds between two measurements where there is plenty of memory. (Each costs some 70 µs.)
MEASURE_EVERY: Final = 0.1


class Peaks(Protocol):
    """The memory of processes, in bytes; None for what can't be read. Implemented by `sense.peak`."""

    def start(self, pid: int) -> int | None: ...
    def peak(self, pid: int) -> int | None: ...
    def level(self, pid: int) -> int | None: ...
    def forget(self, pid: int) -> None: ...


class WorkerMemory:
    """Levels of the process `pid`: once loaded, with nothing to do, and of that at the last sample of the host."""

    def __init__(self, peaks: Peaks | None) -> None:
        self._peaks = peaks
        self._pid: int | None = None
        self._base = self._rest = self._sampled = 0
        self._measured: Part | None = None
        self._held = 0
        self._next_at = float("-inf")

    def follow(self, pid: int | None) -> None:
        """Look at this process from now on; nothing of ours runs there yet."""
        if self._peaks is not None and self._pid is not None and pid != self._pid:
            self._peaks.forget(self._pid)
        self._pid, self._measured = pid, None
        self._base = self._rest = self._sampled = self._level() or 0

    def loaded(self) -> None:
        """The process has loaded its model: what parts take counts from here."""
        self.follow(self._pid)

    def sampled(self, pid: int | None, idle: bool, reserved: int) -> int:
        """The host was sampled; how much of what is reserved was in use already. `idle`: nothing of ours runs."""
        if pid is not None and pid != self._pid:
            self.follow(pid)
        level = self._level()
        if level is None:
            return 0
        if idle:
            self._rest = self._sampled = level
            self._base = min(self._base, level)
            return 0
        grown = max(0, min(level - self._rest, reserved))
        self._sampled = level - grown
        return grown

    def kept(self) -> int | None:
        """How much more it holds than at the last sample, while nothing runs; None when that can't be seen."""
        level = self._level()
        if level is None:
            return None
        self._rest, self._base = level, min(self._base, level)
        return max(0, level - self._sampled)

    @property
    def visible(self) -> bool:
        """Whether its memory can be read."""
        return self._level() is not None

    @property
    def never_back(self) -> int:
        """What it held above its first level when nothing ran last: only its end would give it back."""
        return self._rest - self._base

    # -- measuring ------------------------------------------------------------------------------------------------

    def measure(self, memory: PartMemory, part: Part, parts: int, rows: int, longest: int) -> None:
        """A part left, to be measured if that will tell something; or the one that is being measured goes on.

        It is one of `parts` there, which make a batch of `rows` rows, the longest of `longest` characters. Only the
        longest of those that overlap tells what it takes itself, and only while they make its batch no more than twice
        as large; one row alone only if nothing overlaps, since it takes no mask.
        """

        def tells(this: Part) -> bool:
            return parts == 1 or (this.inputs > 1 and rows <= 2 * this.inputs and this.longest >= longest)

        if self._measured is not None:
            if tells(self._measured):
                return
            self._measured = None
        if self._peaks is None or self._pid is None or not tells(part):
            return
        if part.trial is not None or memory.wants(min(part.inputs, rows), part.longest):
            level = self._peaks.start(self._pid)
            if level is not None:
                self._measured, self._held = part, level - self._base
                self._next_at = part.sent_at + MEASURE_EVERY

    def disturbed(self) -> None:
        """Something of another model is at the worker now: the part that is being measured tells nothing any more."""
        self._measured = None

    def concerned(self, now: float) -> bool:
        """Whether `measure` is to be told even where there is plenty."""
        return self._measured is not None or now >= self._next_at

    def measured(self, part: Part, ok: bool, memory: PartMemory, batch: int) -> bool:
        """A part ended. If it was measured and is `ok`, `memory` is told what it took: whether that was so."""
        if self._measured is not part:
            return False
        self._measured = None
        peak = self._peaks.peak(self._pid) if ok and self._peaks is not None and self._pid is not None else None
        if peak is None:
            return False
        memory.note(min(part.inputs, batch), part.longest, peak - self._base, self._held)
        return True

    def _level(self) -> int | None:
        return None if self._peaks is None or self._pid is None else self._peaks.level(self._pid)
