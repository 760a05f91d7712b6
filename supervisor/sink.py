"""The way out for log lines: a descriptor that may be closed, full, broken or read too slowly.

Owns what is waiting to be written. Never raises and, on pipes, sockets and terminals, never blocks: a daemon must not
stand still because whoever reads its log does (edge-cases.md 21).
"""

import os
import select
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

# A pipe that poll() calls writable takes this much without blocking (pipe(7): PIPE_BUF).
CHUNK = 4096
# What is kept for a reader that is behind; beyond it the newest lines are dropped and counted.
WAITING_BYTES = 256 * 1024

T = TypeVar("T", bound="bytes | tuple[bytes, ...]")


class Backlog(ABC, Generic[T]):
    """Lines on their way to a reader, in order, from any thread; `encode` makes one of whatever is written.

    `notice` makes the line that tells how many were dropped; it is written where they are missing.
    """

    def __init__(self, notice: Callable[[int], object]) -> None:
        self._notice = notice
        # Re-entrant: a destructor that the garbage collector runs in the middle of a write may log as well (asyncio
        # does, for a task that was never awaited); what it says is queued behind the line being written.
        self._lock = threading.RLock()
        self._draining = False
        self._waiting: deque[T] = deque()
        self._bytes = 0
        self.dropped = 0

    @abstractmethod
    def encode(self, line: object) -> T:
        """A line as it is sent."""

    @abstractmethod
    def writable(self) -> bool:
        """Whether the reader takes something now, without keeping us waiting."""

    @abstractmethod
    def send(self, data: T) -> T | None:
        """Send it; what the reader did not take of it, if anything. OSError or ValueError when there is no reader."""

    def write(self, line: object) -> None:
        """Write one line, or keep it until the reader has caught up."""
        data = self.encode(line)
        with self._lock:
            if self._waiting:
                self._drain()
            if self._waiting and self._bytes + _size(data) > WAITING_BYTES:
                self.dropped += 1
                return
            if self.dropped:
                self._keep(self.encode(self._notice(self.dropped)))
                self.dropped = 0
            self._keep(data)
            self._drain()

    def flush(self) -> None:
        """Write what waits, as far as the reader takes it now."""
        with self._lock:
            self._drain()

    def _keep(self, data: T) -> None:
        self._waiting.append(data)
        self._bytes += _size(data)

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        try:
            while self._waiting and self.writable():
                data = self._waiting[0]
                left = self.send(data)
                self._bytes -= _size(data) - (_size(left) if left else 0)
                if left:
                    self._waiting[0] = left
                else:
                    self._waiting.popleft()
        except BlockingIOError:  # someone else made it non-blocking
            pass
        except (OSError, ValueError):  # closed, broken pipe, disk full: nobody is left to tell
            self._waiting.clear()
        finally:
            self._draining = False
        if not self._waiting:
            self._bytes = 0


class Sink(Backlog[bytes]):
    """Writes lines to a descriptor."""

    def __init__(self, descriptor: int, notice: Callable[[int], object]) -> None:
        super().__init__(notice)
        self._descriptor = descriptor

    def encode(self, line: object) -> bytes:
        """The line with its end."""
        return str(line).encode("utf-8", "backslashreplace") + b"\n"

    def writable(self) -> bool:
        """Whether the descriptor takes a chunk now."""
        return takes_more(self._descriptor)

    def send(self, data: bytes) -> bytes | None:
        """Write a chunk of it."""
        return data[os.write(self._descriptor, data[:CHUNK]) :] or None


def takes_more(descriptor: int, within: float = 0.0) -> bool:
    """Whether a write to it would not block, now or within so many seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(within * 1000))


def _size(data: "bytes | tuple[bytes, ...]") -> int:
    return len(data) if isinstance(data, bytes) else sum(map(len, data))
