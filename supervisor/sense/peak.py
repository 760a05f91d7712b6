"""The most memory that a process held since a moment: how the peak of one part at a worker is measured.

The kernel keeps a process's highest resident size (VmHWM) and sets it back to the present one when 5 is written to
clear_refs. Measured on a torch worker under full load: `start` 41 µs (99 of 100 below 0.11 ms), `peak` and `level`
26 µs; the median, with the descriptors kept open. Mapped files count here, which they don't in `processes`: what a
part adds to them is small (0 to 5 MB, once).

Where clear_refs may not be written, a peak that is no new record can't be seen, and the present size stands in.
"""

import contextlib
import os
from pathlib import Path

from supervisor.sense.files import KernelFile, number

RESET_PEAK = b"5"


class PeakMemory:
    """Peaks of a few processes, each from its own `start` on. Bytes; None for what can't be read. Never raises."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._watched: dict[int, _Watched] = {}

    def start(self, pid: int) -> int | None:
        """Forget the process's peak up to now; what it holds at this moment, None when it is gone."""
        watched = self._watched.get(pid)
        if watched is None:
            self._watched[pid] = watched = _Watched(self._proc / str(pid))
        watched.reset()
        look = watched.look()
        if look is None:
            self.forget(pid)
            return None
        watched.peak_before = look.peak
        return look.present

    def peak(self, pid: int) -> int | None:
        """The most that the process held since `start`; None when it is gone or was never started."""
        watched = self._watched.get(pid)
        look = watched.look() if watched is not None else None
        if watched is None or look is None:
            self.forget(pid)
            return None
        if watched.resets or look.peak > watched.peak_before:
            return look.peak
        return look.present

    def level(self, pid: int) -> int | None:
        """What the process holds now; None when it is gone. Its peak is left as it is."""
        watched = self._watched.get(pid)
        if watched is None:
            self._watched[pid] = watched = _Watched(self._proc / str(pid))
        look = watched.look()
        if look is None:
            self.forget(pid)
            return None
        return look.present

    def forget(self, pid: int) -> None:
        """Nothing of this process is wanted any more."""
        watched = self._watched.pop(pid, None)
        if watched is not None:
            watched.close()

    def close(self) -> None:
        """Give back every descriptor."""
        for pid in list(self._watched):
            self.forget(pid)


class _Look:
    """Present and highest resident size, in bytes."""

    __slots__ = ("peak", "present")

    def __init__(self, present: int, peak: int) -> None:
        # The counters are summed per CPU and may be a little behind each other.
        self.present, self.peak = present, max(present, peak)


class _Watched:
    """The files of one process. A descriptor leads to the process it was opened for, never to a later one's pid."""

    def __init__(self, folder: Path) -> None:
        self._status = KernelFile(folder / "status")
        self._clear: int | None = None
        self.resets = True
        self.peak_before = 0
        try:
            self._clear = os.open(folder / "clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            self.resets = False

    def reset(self) -> None:
        """Set the kernel's peak back, where that is permitted."""
        if self._clear is None:
            return
        try:
            os.pwrite(self._clear, RESET_PEAK, 0)
        except OSError:
            self.resets = False

    def look(self) -> _Look | None:
        """The sizes now; None when there are none (gone, a zombie) or they can't be read."""
        try:
            status = self._status.read()
            return _Look(1024 * number(status, b"VmRSS:"), 1024 * number(status, b"VmHWM:"))
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Give back the descriptors."""
        self._status.close()
        if self._clear is not None:
            with contextlib.suppress(OSError):
                os.close(self._clear)
            self._clear = None
