"""HTTP to one worker: parts go out, replies come back.

Owns the connections to a worker, which of them are kept, and the head of a request: whatever goes wrong on the way is
`WorkerLost`, whatever the worker answers is a `Reply`. There is no time-out on an answer (edge-cases.md 22): a part may
take minutes, and whoever runs the worker ends it when it is dead.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from supervisor.core.endpoint import Endpoint
from supervisor.core.payload import Inference
from supervisor.proxy import header_fields
from supervisor.proxy.jobs import Reply, WorkerLost
from supervisor.proxy.worker_connection import NoAnswer, WorkerConnection

# uvicorn closes a connection that was idle for 5 s: drop it before, so that a part rarely meets its end.
IDLE_SECONDS: Final = 4.0
# Loopback connects at once or never; a full backlog is the only thing that takes time.
CONNECT_SECONDS: Final = 10.0
GONE: Final = "the worker is no longer ours"
# Heads that are remembered: clients vary them only by their content type and origin.
_HEADS: Final = 64


class HttpWorker:
    """A client of one worker. Connections are kept and reused; a reused one that turns out closed costs a retry."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._heads: dict[tuple[Inference, tuple[tuple[str, str], ...]], bytes] = {}
        self._open: set[WorkerConnection] = set()
        self._kept: list[WorkerConnection] = []  # the one used last is used next: the others may grow old
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(self, endpoint: Inference, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The worker's answer, however long it takes.

        A worker may close a kept connection at the very moment a part is sent on it. That is no failure: the part is
        sent once more, at once, on a new connection. If that fails too, the worker is lost; so it is when a connection
        breaks that was new, or in the middle of an answer.

        Raises:
            WorkerLost: no answer.
        """
        if self._closed:
            raise WorkerLost(GONE, sent=False)
        head = b"%bContent-Length: %d\r\n\r\n" % (self._head(endpoint, headers), len(body))
        sent = False
        connection = self._take()
        if connection is not None:
            try:
                return await self._ask(connection, head, body)
            except NoAnswer as error:
                if error.begun:
                    raise WorkerLost(str(error), sent=True) from error
                sent = True
        try:
            connection = await self._connect()
        except (OSError, TimeoutError) as error:
            raise WorkerLost(str(error) or "it accepts no connection", sent=sent) from error
        try:
            return await self._ask(connection, head, body)
        except NoAnswer as error:
            raise WorkerLost(str(error), sent=True) from error

    async def close(self) -> None:
        """Drop all connections."""
        self._closed = True
        self._kept.clear()
        if self._sweep is not None:
            self._sweep.cancel()
        ended = [connection.ended for connection in self._open]
        for connection in self._open:
            connection.abort()
        if ended:
            await asyncio.wait(ended)

    # -- connections ------------------------------------------------------------------------------------------------

    async def _ask(self, connection: WorkerConnection, head: bytes, body: bytes) -> Reply:
        reply = await connection.ask(head, body)
        if connection.usable and not self._closed:
            connection.idle_since = self._loop.time()
            self._kept.append(connection)
            if self._sweep is None:
                self._sweep = self._loop.call_later(IDLE_SECONDS, self._drop_idle)
        return reply

    def _take(self) -> WorkerConnection | None:
        """A kept connection that the worker has no reason to close yet."""
        oldest = self._loop.time() - IDLE_SECONDS
        while self._kept:
            connection = self._kept.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> WorkerConnection:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, connection = await self._loop.create_connection(
                lambda: WorkerConnection(self._loop), self._endpoint.host, self._endpoint.port
            )
        self._open.add(connection)
        connection.ended.add_done_callback(lambda _: self._open.discard(connection))
        if self._closed:  # meanwhile
            connection.abort()
            raise ConnectionError(GONE)
        return connection

    def _drop_idle(self) -> None:
        oldest = self._loop.time() - IDLE_SECONDS
        for connection in self._kept:
            if connection.idle_since <= oldest:
                connection.abort()
        self._kept = [connection for connection in self._kept if connection.usable]
        self._sweep = None
        if self._kept:
            self._sweep = self._loop.call_at(self._kept[0].idle_since + IDLE_SECONDS, self._drop_idle)

    # -- heads ------------------------------------------------------------------------------------------------------

    def _head(self, endpoint: Inference, headers: Mapping[str, str]) -> bytes:
        """Everything before the length of the body."""
        key = (endpoint, tuple(headers.items()))
        head = self._heads.get(key)
        if head is None:
            worker = self._endpoint
            ours = {"Authorization": f"Bearer {worker.api_key}"} if worker.api_key else {}
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            lines = header_fields.lines({"Host": worker.authority, **headers, **ours})
            head = self._heads[key] = header_fields.encode(f"POST {endpoint.path} HTTP/1.1\r\n{lines}")
        return head
