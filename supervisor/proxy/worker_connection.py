"""One connection to a worker: a request goes out whole, its answer is parsed as it comes.

Owns HTTP/1.1 on that connection: where an answer ends, what of it is kept, and whether the connection may carry another
request after it. The parser is llhttp (`httptools`, as in uvicorn). On asyncio's bare protocol: a part takes 20 to 65
us of CPU this way and 150 to 220 us through aiohttp's client (trivial server, uvloop, 2 cores).
"""

import asyncio
from typing import Final, cast

import httptools

from supervisor.proxy.jobs import Reply

# Head of an answer, with all that is interim before it. Infinity's has 130 bytes; a browser takes about 256 KB.
MAX_HEAD_BYTES: Final = 64 * 1024
# Up to here one copy is cheaper than a gathered write (16 KB are copied in 1 us).
COPIED_BYTES: Final = 16 * 1024
# Headers of an answer that a client is to see; the others speak about the connection to us.
_KEPT: Final = frozenset({b"content-type", b"vary", b"www-authenticate"})
_KEPT_PREFIX: Final = b"access-control-"


class NoAnswer(Exception):
    """The connection ended, or what came is not HTTP. `begun`: some of an answer had come."""

    def __init__(self, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


class WorkerConnection(asyncio.Protocol):
    """Made by `loop.create_connection`. One request at a time: `ask` again only while it is `usable`.

    `idle_since` is for whoever keeps it: the loop's time at which it was put aside.
    """

    __slots__ = (
        "_answer",
        "_chunks",
        "_framed",
        "_head_bytes",
        "_headers",
        "_in_body",
        "_keep",
        "_loop",
        "_parser",
        "_reply",
        "_surplus",
        "_transport",
        "ended",
        "idle_since",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ended: asyncio.Future[None] = loop.create_future()
        self.idle_since = 0.0
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Reply] | None = None
        self._reply: Reply | None = None
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._head_bytes = 0
        self._in_body = False
        self._framed = False
        self._surplus = False
        self._keep = False

    @property
    def usable(self) -> bool:
        """Whether another request may be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, head: bytes, body: bytes) -> Reply:
        """Send a request and wait for its answer, however long it takes.

        Whoever is cancelled here loses the connection: the answer to this request would be taken for the next one's.

        Raises:
            NoAnswer: see there.
        """
        assert self._answer is None, "one request at a time"
        transport = self._transport
        if transport is None or transport.is_closing():
            raise NoAnswer("the connection was closed", begun=False)
        self._begin()
        self._answer = self._loop.create_future()
        try:
            if len(body) <= COPIED_BYTES:
                transport.write(head + body)
            else:
                transport.writelines((head, body))
            return await self._answer
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._answer = None

    def abort(self) -> None:
        """Break it off at once; whoever waits for an answer gets NoAnswer."""
        if self._transport is not None:
            self._transport.abort()

    # -- what the loop tells ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over, whoever ended it."""
        self._transport = None
        self._fail(str(exc) if exc else "the connection was closed")
        if not self.ended.done():
            self.ended.set_result(None)

    def eof_received(self) -> bool:
        """The worker will send no more: the end of an answer that has neither a length nor chunks."""
        if self._in_body and not self._framed:
            self.on_message_complete()
            self._keep = False
            self._deliver()
        return False

    def data_received(self, data: bytes) -> None:
        """Some of an answer."""
        answer = self._answer
        if answer is None or answer.done():
            self.abort()  # nobody asked: it must not be taken for the next answer
            return
        if not self._in_body:
            self._head_bytes += len(data)
        wrong = ""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            wrong = "it wants to speak another protocol"
        except httptools.HttpParserError as error:
            wrong = str(error) or type(error).__name__
        if self._reply is not None:
            self._deliver()  # what is wrong comes after it, and is `_surplus`
        elif wrong:
            self._fail(f"the answer is no HTTP: {wrong}")
            self.abort()
        elif not self._in_body and self._head_bytes > MAX_HEAD_BYTES:
            self._fail(f"the head of the answer has more than {MAX_HEAD_BYTES} bytes")
            self.abort()

    # -- what the parser tells --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a message: one more than was asked for, if the answer is complete."""
        self._surplus = self._reply is not None

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, of which none is kept."""
        if self._in_body:
            return
        name = name.lower()
        if name == b"content-length":
            self._framed = True
        elif name in _KEPT or name.startswith(_KEPT_PREFIX):
            key = name.decode("ascii")
            text = value.decode("utf-8", "surrogateescape")
            before = self._headers.get(key)
            self._headers[key] = text if before is None else f"{before}, {text}"
        elif name == b"transfer-encoding":
            self._framed = value.rstrip().lower().endswith(b"chunked")

    def on_headers_complete(self) -> None:
        """The body follows, or the next head when this one was interim (100, 103)."""
        self._in_body = self._parser.get_status_code() >= 200

    def on_body(self, chunk: bytes) -> None:
        """Some of the body."""
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        """All of a message has come."""
        if self._reply is not None:
            return
        if not self._in_body:
            self._headers = {}
            self._framed = False
            return
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._reply = Reply(self._parser.get_status_code(), body, self._headers)
        self._keep = self._parser.should_keep_alive()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._reply = None
        self._headers = {}
        self._chunks = []
        self._head_bytes = 0
        self._in_body = False
        self._framed = False
        self._surplus = False
        self._keep = False

    def _deliver(self) -> None:
        """Hand the answer over. What was not sent of the request need not be sent any more, nor can anything else."""
        assert self._transport is not None
        assert self._reply is not None
        if self._surplus or not self._keep or self._transport.get_write_buffer_size():
            self._transport.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._reply)
        self._chunks = []

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(NoAnswer(why, begun=self._head_bytes > 0))
