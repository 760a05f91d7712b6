"""A cheap HTTP/1.1 client for mixed and open loads: requests are ready-made bytes, of an answer only the end is found.

One `Connection` carries one request at a time and calls back when its answer is complete, so that thousands a second
cost neither tasks nor parsing. Run it under uvloop with `under_load`.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import uvloop

from tests.bench.arithmetic import Span

LOST = 0
"""The status of a request whose connection broke."""
HUNG = -1
"""The status of a request without an answer when the load was given up."""


class Reply(NamedTuple):
    """One request: seconds of the loop's clock when its bytes were written and when its answer was complete."""

    sent: float
    ended: float
    status: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.sent

    def span(self, work: float) -> Span:
        """The same as work done between two times."""
        return Span(self.sent, self.ended, work)


class Address(NamedTuple):
    """Where to connect."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Address":
        """The address of a base URL with a port."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        return cls(parts.hostname, parts.port)


def under_load(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a load to its end, under uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


class Connection(asyncio.Protocol):
    """One connection; `done` is called with each reply."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.done: Callable[[Connection, Reply], None] | None = None
        self._sent = 0.0
        self._head = b""
        self._missing = 0
        self._status = LOST

    @property
    def closed(self) -> bool:
        """Whether it can carry no further request."""
        return self.transport is None or self.transport.is_closing()

    def send(self, request: bytes, done: "Callable[[Connection, Reply], None]") -> None:
        """Write a request; the previous one must have been answered."""
        assert self.done is None
        self.done, self._head, self._missing, self._status = done, b"", 0, LOST
        self._sent = monotonic()
        if self.transport is None or self.transport.is_closing():
            self._finish(LOST)
        else:
            self.transport.write(request)

    async def ask(self, request: bytes) -> Reply:
        """Send a request and wait for its reply."""
        answered: asyncio.Future[Reply] = self.loop.create_future()

        def done(_: Connection, reply: Reply) -> None:
            if not answered.done():
                answered.set_result(reply)

        self.send(request, done)
        return await answered

    def close(self) -> None:
        """Leave at once."""
        if self.transport is not None:
            self.transport.abort()

    def _finish(self, status: int) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(self, Reply(self._sent, monotonic(), status))

    def connection_made(self, transport: Any) -> None:
        """Ready to send."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Count bytes until the answer is complete."""
        if self._status == LOST:
            self._head += data
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._status, length = head_of(head)
            self._missing = length - len(rest)
        else:
            self._missing -= len(data)
        if self._missing <= 0:
            self._finish(self._status)

    def connection_lost(self, error: Exception | None) -> None:
        """An answer that has not come will not come."""
        self.transport = None
        self._finish(LOST)


def head_of(head: bytes) -> tuple[int, int]:
    """Status and Content-Length of an answer's head; ValueError when it does not say how long it is."""
    lower = head.lower()
    at = lower.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"an answer without Content-Length: {head[:200]!r}")
    return int(head[9:12]), int(lower[at + 17 :].partition(b"\r\n")[0])


async def connect(address: Address) -> Connection:
    """A connection; OSError when it is refused."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, address.host, address.port)
    return connection


async def closed_loop(
    address: Address, clients: Iterable[Iterator[bytes]], seconds: float, limit: float
) -> list[Reply]:
    """Each client sends its next request when it has its answer; for `seconds`, and on until nobody's answer straddles.

    What was sent after the time is left unfinished and not told: the load stays the same until the last answer that
    counts. RuntimeError when that has not come `limit` seconds after the time.
    """
    end = monotonic() + seconds
    replies: list[Reply] = []
    feeds = list(clients)
    counting = len(feeds)
    all_counted = asyncio.Event()

    async def one(requests: Iterator[bytes]) -> None:
        nonlocal counting
        connection = await connect(address)
        counted = False
        try:
            for request in requests:
                if connection.closed:
                    connection = await connect(address)
                reply = await connection.ask(request)
                if reply.sent < end:
                    replies.append(reply)
                if not counted and reply.ended >= end:
                    counted, counting = True, counting - 1
                    if counting == 0:
                        all_counted.set()
        finally:
            connection.close()

    tasks = [asyncio.create_task(one(feed)) for feed in feeds]
    waiting = asyncio.create_task(all_counted.wait())
    try:
        # A client ends by itself only when it fails.
        await asyncio.wait([waiting, *tasks], timeout=seconds + limit, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (waiting, *tasks):
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception):
            raise outcome
    if not all_counted.is_set():
        raise RuntimeError(f"{counting} clients had no answer {limit:g} s after the end of the load")
    return replies


# A high rate leaves in bunches this far apart (s): a timer for each request would take as much CPU as sending it, and
# the load shares the host with what it measures.
TICK = 0.004


class OpenLoop:
    """Requests at a fixed rate, whatever becomes of them; a connection is made when all others are busy."""

    def __init__(self, address: Address, requests: Iterator[bytes], rate: float) -> None:
        self._address = address
        self._requests = requests
        self._rate = rate
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._making: set[asyncio.Task[None]] = set()
        self.replies: list[Reply] = []
        self.lags: list[float] = []
        """By how many seconds each request left later than it was due."""

    async def run(self, seconds: float, limit: float) -> None:
        """Send for `seconds`, then wait for answers, `limit` seconds at most; those missing are `HUNG`."""
        begin = monotonic()
        sent = 0
        while (now := monotonic()) < begin + seconds:
            while sent <= (now - begin) * self._rate:
                self._send(begin + sent / self._rate)
                sent += 1
            await asyncio.sleep(max(TICK, begin + sent / self._rate - monotonic()))
        until = monotonic() + limit
        while (self._busy or self._making) and monotonic() < until:  # noqa: ASYNC110 - an event for each reply costs more
            await asyncio.sleep(0.01)
        for task in self._making:
            task.cancel()
        await asyncio.gather(*self._making, return_exceptions=True)
        for connection in list(self._busy):
            connection.done = None
            self.replies.append(Reply(connection._sent, monotonic(), HUNG))
        for connection in itertools.chain(self._busy, self._idle):
            connection.close()

    def _send(self, due: float) -> None:
        request = next(self._requests)
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                self._go(connection, request, due)
                return
        task = asyncio.create_task(self._connect_and_send(request, due))
        self._making.add(task)
        task.add_done_callback(self._making.discard)

    async def _connect_and_send(self, request: bytes, due: float) -> None:
        try:
            connection = await connect(self._address)
        except OSError:
            now = asyncio.get_running_loop().time()
            self.replies.append(Reply(now, now, LOST))
            return
        self._go(connection, request, due)

    def _go(self, connection: Connection, request: bytes, due: float) -> None:
        self.lags.append(monotonic() - due)
        self._busy.add(connection)
        connection.send(request, self._done)

    def _done(self, connection: Connection, reply: Reply) -> None:
        self._busy.discard(connection)
        self.replies.append(reply)
        if not connection.closed:
            self._idle.append(connection)


@contextlib.asynccontextmanager
async def beside(work: Awaitable[Any]) -> Any:
    """Run `work` beside the block; its failure is raised at the block's end, and so is its result awaited there."""
    task = asyncio.ensure_future(work)
    try:
        yield task
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
