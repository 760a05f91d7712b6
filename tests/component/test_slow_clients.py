"""Clients that send or read so slowly that they would keep others out; both ways through the server, in real time.

The times are cut down. What is looked at is that places, leases and memory are given back, not how soon.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

import orjson
import pytest
from aiohttp import web

from supervisor import connections, http_connection
from supervisor.proxy import arrivals, passthrough
from tests.support.proxying import Setup, eventually, expected, head, proxied

BODY = b'{"model": "m", "input": "a"}'
MB = 1 << 20


def announced(length: int, more: str = "", path: str = "/embeddings") -> bytes:
    """The head of a request whose body is so long."""
    lines = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{lines}Content-Length: {length}\r\n{more}\r\n".encode()


async def works(p: Setup) -> bool:
    """Whether the next client is served, and nothing of those before is left."""
    answer = await p.embed("next")
    await eventually(lambda: p.dispatcher.reserved == (0, 0))
    await eventually(lambda: p.dispatcher.totals.leases == 0)
    return answer.body == expected("embeddings", {"model": "m", "input": ["next"]})


# -- bodies ---------------------------------------------------------------------------------------------------------


async def drip(writer: asyncio.StreamWriter, bytes_: int = 1) -> None:
    """Send a little every now and then until nobody takes it any more."""
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b" " * bytes_)
            await writer.drain()
            await asyncio.sleep(0.02)


async def test_a_body_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is not enough: on the whole there has to be some progress."""
    monkeypatch.setattr(arrivals, "GRACE_SECONDS", 0.5)
    async with proxied() as p, p.raw() as (reader, writer):
        writer.write(announced(MB))
        dripping = asyncio.create_task(drip(writer))
        status, headers = await head(reader)
        assert status == 408
        assert headers["x-supervisor-reason"] == "slow_body"
        dripping.cancel()
        assert await works(p)


async def test_a_slow_line_is_no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that takes ten times the grace is read to its end, as long as it keeps coming."""
    monkeypatch.setattr(arrivals, "GRACE_SECONDS", 0.3)
    body = BODY + b" " * 200_000
    async with proxied() as p, p.raw() as (reader, writer):
        writer.write(announced(len(body)))
        for start in range(0, len(body), 2000):
            writer.write(body[start : start + 2000])
            await asyncio.sleep(0.03)
        assert (await head(reader))[0] == 200
        assert await works(p)


async def test_bodies_that_never_come_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """They fill the queue and are given up when somebody else wants in, with 408; what waits with its body stays."""
    monkeypatch.setattr(arrivals, "WANTED_GRACE_SECONDS", 0.2)
    async with proxied(max_requests=5) as p, contextlib.AsyncExitStack() as stack:
        p.order(paused=True)
        held = asyncio.create_task(p.embed("held"))
        await eventually(lambda: p.dispatcher.totals.queued_requests == 1)
        slow = []
        for _ in range(4):
            slow.append(await stack.enter_async_context(p.raw()))
            slow[-1][1].write(announced(10))
        await eventually(lambda: p.dispatcher.reserved[0] == 5)
        await asyncio.sleep(0.5)
        assert not any(reader.at_eof() for reader, _ in slow)  # nobody wants their places
        new = asyncio.create_task(p.embed("new"))
        await eventually(lambda: p.dispatcher.totals.queued_requests == 2)
        for reader, _ in slow:
            assert (await head(reader))[0] == 408
        assert p.dispatcher.reserved[0] == 2
        p.order()
        assert (await held).status == (await new).status == 200
        assert await works(p)


async def test_bytes_that_never_come_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the queue is full by its bytes; also in the way of one that grows as it comes."""
    monkeypatch.setattr(arrivals, "WANTED_GRACE_SECONDS", 0.2)
    async with proxied(max_bytes=MB) as p, p.raw() as (reader, writer), p.raw() as (chunked, out):
        out.write(b"POST /embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
        writer.write(announced(MB - 10))
        await eventually(lambda: p.dispatcher.reserved == (2, MB - 9))
        dripping = asyncio.create_task(drip(writer))
        await asyncio.sleep(0.4)
        out.write(b"40\r\n" + b" " * 64 + b"\r\n")
        assert (await head(reader))[0] == 408
        dripping.cancel()
        assert p.dispatcher.reserved[1] < 1000
        out.close()
        assert (await p.embed("new")).status == 200
        assert await works(p)
        del chunked


async def test_bodies_in_time_keep_their_places() -> None:
    """A queue that is full of bodies on their way refuses the next client, and reads all of them."""
    async with proxied(max_requests=3) as p, contextlib.AsyncExitStack() as stack:
        coming = []
        for _ in range(3):
            coming.append(await stack.enter_async_context(p.raw()))
            coming[-1][1].write(announced(len(BODY)))
        await eventually(lambda: p.dispatcher.reserved[0] == 3)
        assert (await p.embed("one more")).status == 429
        for _, writer in coming:
            writer.write(BODY)
        for reader, _ in coming:
            assert (await head(reader))[0] == 200
        assert await works(p)


async def test_a_body_that_passes_through_has_to_come_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds a worker: 408, and the worker is free."""
    monkeypatch.setattr(passthrough, "GRACE_SECONDS", 0.3)
    async with proxied() as p, p.raw() as (reader, writer):
        writer.write(announced(MB, path="/other"))
        dripping = asyncio.create_task(drip(writer))
        assert (await head(reader))[0] == 408
        dripping.cancel()
        assert await works(p)


async def test_what_passes_through_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a connection to a worker, and no queue: one too many is refused with 429, the others are answered."""
    monkeypatch.setattr(passthrough, "AT_ONCE", 3)
    async with proxied() as p:
        go_on = asyncio.Event()

        async def late(request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            await go_on.wait()
            return web.Response(text="late")

        p.fake.special = late
        waiting = [asyncio.create_task(p.request("GET", "/docs")) for _ in range(3)]
        await eventually(lambda: len(p.fake.seen) == 3)
        refused = await p.request("GET", "/docs")
        assert refused.status == 429
        assert refused.headers["x-supervisor-reason"] == "queue_full"
        go_on.set()
        assert [(await task).status for task in waiting] == [200] * 3
        assert (await p.request("GET", "/docs")).status == 200


# -- heads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["", "an answer"])
async def test_a_head_without_an_end_is_refused(after: str) -> None:
    """Not kept, whatever size each of its lines has; on a new connection and on one that was used."""
    async with proxied() as p, p.raw() as (reader, writer):
        if after:
            writer.write(b"DELETE /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await head(reader))[0] == 405
            await reader.readexactly(len(b'{"detail":"Method Not Allowed"}'))
        writer.write(b"POST /embeddings HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(100):
                writer.write(f"x-{number}: {'y' * 4000}\r\n".encode())
                await writer.drain()
                await asyncio.sleep(0.002)
        with contextlib.suppress(ConnectionError):
            assert (await head(reader))[0] == 431
        assert await works(p)


async def test_a_client_far_ahead_is_read_no_further_by_aiohttp_either() -> None:
    """While one of its requests is answered; afterwards all of them are, in their order."""
    texts = [f"{number}-{'x' * 9000}" for number in range(60)]
    async with proxied(max_requests=100) as p, p.raw() as (reader, writer):
        writer.write(b"DELETE /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await head(reader))[0] == 405
        await reader.readexactly(len(b'{"detail":"Method Not Allowed"}'))
        p.order(paused=True)

        def post(text: str) -> bytes:
            body = orjson.dumps({"model": "m", "input": text})
            return announced(len(body)) + body

        writer.write(post("first"))
        await eventually(lambda: p.dispatcher.totals.queued_requests == 1)
        (connection,) = p.server._http.connections
        for text in texts:
            writer.write(post(text))
        assert isinstance(connection, http_connection.HttpConnection)
        await eventually(lambda: connection._wire is not None and not connection._wire.is_reading())
        await asyncio.sleep(0.05)
        assert http_connection.AHEAD_BYTES < connection._ahead <= http_connection.AHEAD_BYTES + 256 * 1024
        p.order()
        for text in ("first", *texts):
            status, headers = await head(reader)
            assert status == 200
            body = await reader.readexactly(int(headers["content-length"]))
            assert body == expected("embeddings", {"model": "m", "input": text})


# -- answers --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def reading_nothing(p: Setup, request: bytes, first: bytes = b"") -> AsyncIterator[socket.socket]:
    """A client that asks and then reads nothing, with little room in its socket."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", p.server.port))
        if first:
            await loop.sock_sendall(client, first)
            await loop.sock_recv(client, 4096)
        await loop.sock_sendall(client, request)
        yield client


WAYS = {
    "plain": (announced(len(BODY)) + BODY, b""),
    "aiohttp": (announced(len(BODY)) + BODY, b"DELETE /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    "passed": (b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    "closing": (announced(len(BODY), "Connection: close\r\n") + BODY, b""),
}


def large(p: Setup, size: int) -> None:
    """Have the worker answer so much to whatever it is asked."""

    async def much(request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        return web.Response(body=b"x" * size)

    p.fake.special = much


@pytest.mark.parametrize("way", WAYS)
async def test_who_reads_nothing_loses_his_answer(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it the memory that it takes and the lease on its worker are given back."""
    monkeypatch.setattr(connections, "READ_GRACE_SECONDS", 1.0)
    async with proxied() as p:
        large(p, 24 * MB)
        request, first = WAYS[way]
        async with reading_nothing(p, request, first):
            await eventually(lambda: p.server.connected)
            await eventually(lambda: not p.server.connected, 20)
            await eventually(lambda: p.dispatcher.totals.leases == 0)
            p.fake.special = None
            assert await works(p)


async def test_who_reads_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the grace, as long as it is not too slow on the whole."""
    monkeypatch.setattr(connections, "READ_GRACE_SECONDS", 1.0)
    size = 24 * MB
    async with proxied() as p:
        large(p, size)
        async with reading_nothing(p, WAYS["plain"][0]) as client:
            loop, got, began = asyncio.get_running_loop(), 0, time.monotonic()
            while got < size:
                piece = await loop.sock_recv(client, MB)
                assert piece, f"only {got} bytes came"
                got += len(piece)
                await asyncio.sleep(0.05 if time.monotonic() < began + 3 else 0)


async def test_unread_answers_hold_no_more_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the queue's bytes those who have kept theirs waiting longest lose them; a newcomer is left alone."""
    monkeypatch.setattr(connections, "NEWCOMER_SECONDS", 1.0)
    async with proxied(max_bytes=50 * MB) as p, contextlib.AsyncExitStack() as stack:
        large(p, 24 * MB)
        for count in range(1, 5):
            await stack.enter_async_context(reading_nothing(p, WAYS["plain"][0]))
            await eventually(lambda count=count: len(p.fake.seen) == count and not p.fake.running)
        assert p.server.connected == 4
        await eventually(lambda: p.server.connected == 2, 20)
        await asyncio.sleep(1.5)
        assert p.server.connected == 2
