"""A process that something else started: found by a pid file or by systemd, watched, and ended only when that is asked.

It leads no group of ours, so its own are itself and what descends from it; each is known by number and start time, and
nothing is sent to a number that was given to another process meanwhile.
"""

import os
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from supervisor.workers.process import Process, processes, start_ticks

_TICKS = os.sysconf("SC_CLK_TCK")
# A pid file is written by the process it names, or after its start: one that is older by more than this (s) is stale.
_WRITTEN_WITHIN = 2.0


class ForeignProcess(Process):
    """Made by `find` or `named`; `close` gives back the descriptor and leaves the process alone."""

    def __init__(self, pid: int, pidfd: int, ticks: int) -> None:
        super().__init__(pid, pidfd, ticks)
        self._family = {pid: ticks}

    @classmethod
    def find(cls, pid: int) -> "ForeignProcess":
        """The process of this number; OSError when there is none, or we may not signal it."""
        pidfd = os.pidfd_open(pid)
        try:
            ticks = start_ticks(pid)
            if ticks is None:
                raise ProcessLookupError("it is a zombie")
            signal.pidfd_send_signal(pidfd, 0)
            return cls(pid, pidfd, ticks)
        except BaseException:
            os.close(pidfd)
            raise

    @classmethod
    def named(cls, path: Path) -> "ForeignProcess":
        """The process whose number is in a file; OSError or ValueError, in words, when that is none we may stop.

        1. One number and nothing else, neither init's nor our own.
        2. A process that began after the file was written has the number by chance.
        """
        text = path.read_text(errors="replace").strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 10):  # 1
            raise ValueError("it has no process number in it")
        pid = int(text)
        if pid <= 1 or pid == os.getpid():
            raise ValueError(f"process {pid} is none that could be stopped")
        process = cls.find(pid)
        written = datetime.now(UTC).timestamp() - path.stat().st_mtime
        lived = time.clock_gettime(time.CLOCK_BOOTTIME) - process.start_ticks / _TICKS
        if lived < written - _WRITTEN_WITHIN:  # 2
            process.close()
            raise ValueError(f"it is older than process {pid}, which only has the number by chance")
        return process

    def members(self) -> list[int]:
        """The process and its descendants, as far as they live."""
        alive = processes()
        self._family = {pid: ticks for pid, ticks in self._family.items() if pid in alive and alive[pid][1] == ticks}
        grown = True
        while grown:
            born = {
                pid: ticks
                for pid, (parent, ticks) in alive.items()
                if parent in self._family and pid not in self._family
            }
            self._family |= born
            grown = bool(born)
        return list(self._family)

    def terminate(self) -> None:
        """SIGTERM to the process itself: what it started is its own to end."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and its descendants."""
        for pid in self.members():
            with suppress(ProcessLookupError, PermissionError):
                pidfd = os.pidfd_open(pid)
                try:
                    if start_ticks(pid) == self._family[pid]:
                        signal.pidfd_send_signal(pidfd, signal.Signals(number))
                finally:
                    os.close(pidfd)

    def close(self) -> None:
        """Give back the descriptor. Safe to call twice."""
        if self._pidfd < 0:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
