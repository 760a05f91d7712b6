"""One client's connection, as long as its requests are plain: each whole in one read, and nothing unusual in its head.

Owns the short way through the HTTP server, for clients that send single short inputs: there HTTP costs more than
inference, and aiohttp's server about 25 us of 130 a request. What is not plain (another path or method, a body in
pieces, `Expect`, pipelining, broken HTTP) is handed over to aiohttp's server, with the connection and what has come on
it, for good: all that is delicate in HTTP has one place. The steps of a request are those of `InferenceHandler`.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, cast

import structlog
from aiohttp import web

from supervisor.connections import Connections
from supervisor.http_connection import HttpConnection
from supervisor.proxy import reading
from supervisor.proxy.answers import Answer
from supervisor.proxy.inference import CLIENT_GONE, InferenceHandler, Visit
from supervisor.proxy.jobs import Reply
from supervisor.proxy.plain_head import END, PlainHead, PlainHeads
from supervisor.proxy.refusals import Reason, Refusal

log = structlog.get_logger(__name__)

# What a client may send ahead of its answer before nothing more is read.
AHEAD_BYTES: Final = 64 * 1024


class PlainConnections:
    """Makes the connections, and closes those that are still plain; `aiohttp_server` takes over the others."""

    def __init__(
        self, handler: InferenceHandler, aiohttp_server: web.Server, idle_seconds: float, connected: Connections
    ) -> None:
        self.handler = handler
        self.aiohttp_server: Callable[[], HttpConnection] = partial(HttpConnection, aiohttp_server, connected)
        self.idle_seconds = idle_seconds
        self.heads = PlainHeads()
        self.loop = asyncio.get_running_loop()
        self.connected = connected
        self.open: set[ClientConnection] = set()

    def __call__(self) -> "ClientConnection":
        """A connection that is about to be made."""
        return ClientConnection(self)

    async def drain(self, idle_seconds: float) -> None:
        """Wait until none is left, or all that are have been idle for so long."""
        while recent := [  # noqa: ASYNC110
            c.idle_for for c in self.open if c.idle_for is not None and c.idle_for < idle_seconds
        ]:
            await asyncio.sleep(idle_seconds - min(recent))  # time is what is waited for: no event tells of it

    async def close(self, timeout: float) -> None:
        """Close all: idle ones at once, the others when they are answered, at most `timeout` seconds from now."""
        ended = [connection.ended for connection in self.open]
        for connection in tuple(self.open):
            connection.close_when_answered()
        if ended:
            await asyncio.wait(ended, timeout=timeout)
        for connection in tuple(self.open):
            connection.abort()


class ClientConnection(asyncio.Protocol):
    """A connection; `ended` is done when it was lost or handed over."""

    __slots__ = (
        "_ahead",
        "_all",
        "_closing",
        "_code",
        "_idle_since",
        "_remote",
        "_timer",
        "_transport",
        "_visit",
        "_writable",
        "ended",
    )

    def __init__(self, connections: PlainConnections) -> None:
        self._all = connections
        self.ended: asyncio.Future[None] = connections.loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._remote = ""
        self._visit: Visit | None = None  # the request that is being answered
        self._code: int | None = None  # of its answer, once that was written
        self._ahead = b""
        self._writable = True
        self._closing = False
        self._idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle_for(self) -> float | None:
        """Seconds since its last answer, or since it was made; None while a request is being answered."""
        return None if self._visit is not None else self._all.loop.time() - self._idle_since

    def close_when_answered(self) -> None:
        """Take no further request."""
        self._closing = True
        if self._visit is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Break it off."""
        if self._transport is not None:
            self._transport.abort()

    # -- what the loop tells ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)
        if not self._all.connected.add(self, self._transport):
            self._refuse()
            return
        self._all.open.add(self)
        self._idle_since = self._all.loop.time()
        # Not before: where no transport can be made, as when we stop listening right then, nobody ever ends a protocol.
        self._timer = self._all.loop.call_later(self._all.idle_seconds, self._look_if_idle)
        peer = transport.get_extra_info("peername")
        self._remote = str(peer[0]) if peer else ""

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left, or we closed it: what of its request waits is dropped."""
        visit, self._visit = self._visit, None
        self._all.connected.discard(self)
        if self._transport is not None:
            self._all.connected.reader_took_it(self._transport)
        self._leave()
        if visit is not None:
            self._all.handler.end(visit, CLIENT_GONE)  # also in the middle of its answer

    def data_received(self, data: bytes) -> None:
        """A request, or some of one."""
        if self._visit is not None:
            self._ahead += data
            if len(self._ahead) > AHEAD_BYTES and self._transport is not None:
                self._transport.pause_reading()
            return
        end = data.find(END)
        head = self._all.heads.read(data[:end]) if end > 0 else None
        if head is None or len(data) != end + len(END) + head.length or head.length > self._all.handler.max_body_bytes:
            self._hand_over(data)
        else:
            self._serve(head, data[end + len(END) :])

    def pause_writing(self) -> None:
        """The client reads slowly."""
        self._writable = False
        if self._transport is not None:
            self._all.connected.reader_waits(self._transport)

    def resume_writing(self) -> None:
        """It has read all but what the socket's buffers hold."""
        self._writable = True
        if self._transport is not None:
            self._all.connected.reader_took_it(self._transport)
        if self._code is not None:
            self._end(self._code)

    # -- one request ------------------------------------------------------------------------------------------------

    def _serve(self, head: PlainHead, raw: bytes) -> None:
        handler, now = self._all.handler, self._all.loop.time()
        if self._writable and not self._closing and (again := handler.refused_lately(head, self._remote, now)):
            assert self._transport is not None, "a request has come on it"
            self._idle_since = now
            self._transport.write(again)
            return
        visit = self._visit = Visit(head.endpoint, reading.request_id(head.headers), now)
        try:
            headers = head.headers
            caller = handler.callers.identify(headers, self._remote, headers.get("x-forwarded-for"))
            asker = reading.asker(headers, caller, visit.arrived)
            handler.admit(visit, head.length, asker)
            job = handler.submit(visit, raw, head.headers.get("content-type"), asker)
        except Refusal as refusal:
            handler.told(head, self._remote, visit, refusal)
            self._write(handler.refuse(visit, refusal))
        except Exception:  # whatever it is, it is one request's: the client gets an answer, the log the details
            log.exception("request_failed", path=head.endpoint.path, request_id=visit.request_id)
            self._write(handler.refuse(visit, Refusal(Reason.INTERNAL, reading.OUR_FAULT)))
        else:
            job.outcome.add_done_callback(self._answer)

    def _answer(self, outcome: "asyncio.Future[Reply | Refusal]") -> None:
        visit = self._visit
        if visit is None or outcome.cancelled():  # the client has left
            return
        try:
            answer = self._all.handler.answer(visit, outcome.result())
        except Exception:
            log.exception("request_failed", path=visit.endpoint.path, request_id=visit.request_id)
            answer = self._all.handler.refuse(visit, Refusal(Reason.INTERNAL, reading.OUR_FAULT))
        self._write(answer)

    def _write(self, answer: Answer) -> None:
        """Write the answer; the request is over when all but what the socket's buffers hold was taken."""
        assert self._transport is not None, "who has no connection has no visit"
        self._code = answer.status
        try:
            if not answer.write_to(self._transport):
                self._closing = True
        except Exception:  # whatever of it was written, nothing else may follow
            log.exception("answer_failed", status=answer.status)
            self._transport.abort()
            return
        if self._writable:
            self._end(answer.status)

    def _end(self, code: int) -> None:
        visit, self._visit, self._code = self._visit, None, None
        assert visit is not None, "it was answered"
        self._all.handler.end(visit, code)
        transport = self._transport
        if transport is None:
            return
        if self._closing:
            transport.close()
        elif self._ahead:
            transport.resume_reading()
            self._hand_over(self._ahead)
        else:
            self._idle_since = self._all.loop.time()

    # -- its end ----------------------------------------------------------------------------------------------------

    def _refuse(self) -> None:
        """All connections that there may be are busy."""
        transport, self._transport = self._transport, None
        assert transport is not None, "it has just been made"
        refusal = Refusal(Reason.QUEUE_FULL, f"{len(self._all.connected)} connections are busy. Try again later.")
        self._all.handler.refusal(refusal, reading.request_id({}), unread=True).write_to(transport)
        transport.close()
        self.ended.set_result(None)

    def _hand_over(self, data: bytes) -> None:
        """From now on this connection is aiohttp's."""
        transport = self._transport
        assert transport is not None, "something has come on it"
        if transport.is_closing():
            return
        self._leave()
        successor = self._all.aiohttp_server()
        self._all.connected.replace(self, successor)
        transport.set_protocol(successor)
        successor.connection_made(transport)
        successor.data_received(data)

    def _leave(self) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._all.open.discard(self)
        if not self.ended.done():
            self.ended.set_result(None)

    def _look_if_idle(self) -> None:
        idle, limit = self._all.loop.time() - self._idle_since, self._all.idle_seconds
        if self._visit is None and idle >= limit and self._transport is not None:
            self._transport.close()
        else:
            left = limit if self._visit is not None else limit - idle
            self._timer = self._all.loop.call_later(left, self._look_if_idle)
