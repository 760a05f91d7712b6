"""All connections of one listener: how many there may be, and how long a client may take to read its answers.

Owns who is closed when there are too many, and when a client reads too slowly. A connection that is no longer wanted is
aborted: a friendly end could wait for the client as long as that likes.
"""

import asyncio
import fcntl
import heapq
import socket
import struct
import termios
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from supervisor.transfer import allowed

log = structlog.get_logger(__name__)

# How many idle ones are closed together: to find the oldest takes a look at all of them (16,000: 5 ms).
SHARE_CLOSED: Final = 64
# An answer of which a client takes nothing for so long (s) is lost; nginx waits as long.
READ_GRACE_SECONDS: Final = 60.0
# Slow readers are looked at so often (s).
LOOK_SECONDS: Final = 1.0
# Whoever has read for less than this (s) is not to blame for the memory that answers take.
NEWCOMER_SECONDS: Final = 5.0


class Connection(Protocol):
    """One of them, as far as it is of interest here."""

    @property
    def idle_for(self) -> float | None:
        """Seconds since its last answer, or since it was made; None while a request is being answered."""

    def abort(self) -> None:
        """Break it off."""


class Connections:
    """At most `limit` of them; answers that wait for their readers hold at most about `most_bytes()`."""

    def __init__(self, limit: int, most_bytes: Callable[[], int]) -> None:
        self.limit = limit
        self._most_bytes = most_bytes
        self._loop = asyncio.get_running_loop()
        self._open: set[Connection] = set()
        self._readers: dict[asyncio.Transport, tuple[float, int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def __contains__(self, connection: Connection) -> bool:
        """Whether it is counted."""
        return connection in self._open

    def add(self, connection: Connection, transport: asyncio.Transport) -> bool:
        """Whether there is room for one more, if need be after the longest idle ones were closed."""
        if len(self._open) >= self.limit:
            self._close_idle()
            if len(self._open) >= self.limit:
                return False
        self._open.add(connection)
        _let_the_kernel_end_it(transport)
        return True

    def replace(self, connection: Connection, successor: Connection) -> None:
        """The same connection under another protocol."""
        self._open.discard(connection)
        self._open.add(successor)

    def discard(self, connection: Connection) -> None:
        """It is closed."""
        self._open.discard(connection)

    def _close_idle(self) -> None:
        """Those that have been idle longest. One that has begun to send a request and goes no further is idle, too."""
        idle = [(seconds, id(c), c) for c in self._open if (seconds := c.idle_for) is not None]
        for _, _, connection in heapq.nlargest(max(1, self.limit // SHARE_CLOSED), idle):
            self._open.discard(connection)
            connection.abort()

    # -- slow readers -----------------------------------------------------------------------------------------------

    def reader_waits(self, transport: asyncio.Transport) -> None:
        """Its client does not take what is written as fast as it is written."""
        self._readers[transport] = (self._loop.time(), unread(transport))
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def reader_took_it(self, transport: asyncio.Transport) -> None:
        """It has taken all but what the socket's buffers hold, or has left."""
        self._readers.pop(transport, None)

    def _look(self) -> None:
        """Break off whoever reads too slowly; and where all of them together hold too much, who has longest done so."""
        self._timer = None
        now = self._loop.time()
        held = 0
        for transport, (began, size) in tuple(self._readers.items()):
            left = unread(transport)
            if now > began + allowed(size - left, READ_GRACE_SECONDS):
                self._break_off(transport, "it reads too slowly", now - began)
            else:
                held += left
        for transport, (began, _) in tuple(self._readers.items()):  # in the order in which they began to wait
            if held <= self._most_bytes() or now - began < NEWCOMER_SECONDS:
                break
            held -= unread(transport)
            self._break_off(transport, "unread answers hold too much memory", now - began)
        if self._readers:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _break_off(self, transport: asyncio.Transport, why: str, seconds: float) -> None:
        del self._readers[transport]
        log.info("slow_reader_dropped", reason=why, seconds=round(seconds, 1), unread=unread(transport))
        transport.abort()


def unread(transport: asyncio.Transport) -> int:
    """Bytes that its client has not taken: ours, and the kernel's.

    The kernel takes up to 4 MB at once and then nothing for a while, so what is left of ours moves in leaps.
    """
    kept = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return kept
    (sent,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))
    return kept + int(sent)


def _let_the_kernel_end_it(transport: asyncio.Transport) -> None:
    """Have the kernel end a connection whose client has gone, or takes nothing of what was sent, for so long.

    That holds for what no timer of ours sees any more: the last bytes of an answer whose connection is being closed.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(READ_GRACE_SECONDS * 1000))
