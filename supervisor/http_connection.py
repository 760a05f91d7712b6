"""aiohttp's side of a connection, bounded: in number, in what it keeps of a request's head, in what comes ahead.

Owns the bounds that aiohttp has not. It keeps 128 headers of 8 KB of each request, and 32 requests that come ahead of
their turn: 33 MB a connection.
"""

import asyncio
import logging
from typing import Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from supervisor.connections import Connections

# nginx takes 32 KB.
LONGEST_HEAD: Final = 64 * 1024
# What a client may send ahead of its turn before nothing more is read; one read may add as much as 256 KB.
AHEAD_BYTES: Final = 64 * 1024
_HEAD_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


def _worth_logging(record: logging.LogRecord) -> bool:
    """Whoever sends bad HTTP gets a 400, and who leaves while he is answered gets nothing: neither a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))


# What aiohttp itself has to say; a fault in a handler never gets that far.
http_log = logging.getLogger("supervisor.http")
http_log.addFilter(_worth_logging)


class HttpConnection(web.RequestHandler):
    """A connection that `connections` counts; `server` answers what comes on it."""

    __slots__ = ("_ahead", "_all", "_head", "_wire")

    def __init__(self, server: web.Server, connections: Connections) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **server._kwargs)
        self._all = connections
        self._wire: asyncio.Transport | None = None
        self._head = 0  # bytes of a head that is not complete
        self._ahead = 0  # bytes that came while a request is being answered

    @property
    def idle_for(self) -> float | None:
        """Seconds since its last answer, or since it was made; None while a request is being answered."""
        if self._waiter is None or self._waiter.done():
            return None
        return self._loop.time() - (self._next_keepalive_close_time - self._keepalive_timeout)

    def abort(self) -> None:
        """Break it off."""
        if self._wire is not None:
            self._wire.abort()

    # -- what the loop tells ----------------------------------------------------------------------------------------

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has left, or we closed it."""
        self._all.discard(self)
        if self._wire is not None:
            self._all.reader_took_it(self._wire)
        self._wire = None
        super().connection_lost(exc)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: now, or a while ago and counted already."""
        wire = cast(asyncio.Transport, transport)
        if self not in self._all and not self._all.add(self, wire):
            wire.abort()
            return
        self._wire = wire
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Some of a request, of its body, or of those that follow it."""
        request = self._current_request
        answering = request is not None and request.content.is_eof()
        super().data_received(data)
        if self._waiter is not None and not self._waiter.done():
            self._ahead = 0
            self._head += len(data)
            if self._head > LONGEST_HEAD and self._wire is not None:
                self._wire.write(_HEAD_TOO_LARGE)
                self.force_close()
            return
        self._head = 0
        if not answering:
            self._ahead = 0
            return
        self._ahead += len(data)
        if self._ahead > AHEAD_BYTES and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def pause_writing(self) -> None:
        """The client reads slowly."""
        super().pause_writing()
        if self._wire is not None:
            self._all.reader_waits(self._wire)

    def resume_writing(self) -> None:
        """It has read all but what the socket's buffers hold."""
        super().resume_writing()
        if self._wire is not None:
            self._all.reader_took_it(self._wire)
