"""A server that follows a script, byte by byte, and a client of it: for what no HTTP library would ever send."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest

from supervisor.core.endpoint import Endpoint
from supervisor.core.payload import Inference
from supervisor.proxy.jobs import Reply, WorkerLost
from supervisor.proxy.upstream import HttpWorker
from tests.support.proxying import eventually

JSON = {"Content-Type": "application/json"}
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Peer:
    """One connection as the server sees it; `number` counts them from 1."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes]):
        self.number = number
        self.reader = reader
        self.writer = writer
        self._seen = seen

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self._seen.append(head)
        return head, await self.reader.readexactly(size)

    def reset(self) -> None:
        """Break the connection off so that the other side gets a reset."""
        option = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class Scripted:
    """A listening server and a client of it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.ended = 0
        self.seen: list[bytes] = []

    async def __aenter__(self) -> "Scripted":
        self.listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self.listener.sockets[0].getsockname()[1]
        self.worker = HttpWorker(Endpoint("m", "127.0.0.1", self.port, "key"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.close()
        self.listener.close()
        await eventually(lambda: self.ended == self.connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self.script(Peer(self.connections, reader, writer, self.seen))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.ended += 1

    async def send(self, body: bytes = b"{}", **headers: str) -> Reply:
        """One part; a test that hangs is a failure, although the client itself knows no time-out."""
        async with asyncio.timeout(20):
            return await self.worker.send(Inference.EMBEDDINGS, body, {**JSON, **headers})


def saying(*answers: bytes, per_connection: int = 10**9) -> Script:
    """Answers the requests of a connection with these, the last one again and again; then closes it."""

    async def script(peer: Peer) -> None:
        for i in range(per_connection):
            await peer.request()
            peer.writer.write(answers[min(i, len(answers) - 1)])
            await peer.writer.drain()

    return script


async def lost(server: Scripted, body: bytes = b"{}") -> WorkerLost:
    """The exception that a part ends with."""
    with pytest.raises(WorkerLost) as caught:
        await server.send(body)
    return caught.value
