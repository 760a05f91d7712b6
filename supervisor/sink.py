"""The way out for log lines: a descriptor that may be closed, full, broken or read too slowly.

Owns what is waiting to be written. Never raises and, on pipes, sockets and terminals, never blocks: a daemon must not
stand still because whoever reads its log does (edge-cases.md 21).
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

# A pipe that poll() calls writable takes this much without blocking (pipe(7): PIPE_BUF).
CHUNK = 4096
# What is kept for a reader that is behind; beyond it the newest lines are dropped and counted.
WAITING_BYTES = 256 * 1024


class Sink:
    """Writes lines to a descriptor, in order, from any thread.

    `notice` makes the line that tells how many were dropped; it is written where they are missing.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], str]) -> None:
        self._descriptor = descriptor
        self._notice = notice
        # Re-entrant: a destructor that the garbage collector runs in the middle of a write may log as well (asyncio
        # does, for a task that was never awaited); what it says is queued behind the line being written.
        self._lock = threading.RLock()
        self._draining = False
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self.dropped = 0

    def write(self, line: str) -> None:
        """Write one line (without its end), or keep it until the reader has caught up."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._waiting:
                self._drain()
            if self._waiting and self._bytes + len(data) > WAITING_BYTES:
                self.dropped += 1
                return
            if self.dropped:
                self._keep(self._notice(self.dropped).encode() + b"\n")
                self.dropped = 0
            self._keep(data)
            self._drain()

    def flush(self, _: float = 0.0) -> None:
        """Write what waits, as far as the reader takes it now: this is no reader to be waited for."""
        with self._lock:
            self._drain()

    def _keep(self, data: bytes) -> None:
        self._waiting.append(data)
        self._bytes += len(data)

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        try:
            while self._waiting and self._writable():
                data = self._waiting[0]
                written = os.write(self._descriptor, data[:CHUNK])
                self._bytes -= written
                if written == len(data):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = data[written:]
        except BlockingIOError:  # someone else made it non-blocking
            pass
        except (OSError, ValueError):  # closed, broken pipe, disk full: nobody is left to tell
            self._waiting.clear()
        finally:
            self._draining = False
        if not self._waiting:
            self._bytes = 0

    def _writable(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(0))
