"""The proxy over loopback and everything that can be wrong with a connection: sizes, slowness, breaks, bad HTTP."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from supervisor.proxy import arrivals
from tests.support.proxying import Setup, eventually, expected, head, proxied

BODY = b'{"model": "m", "input": "a"}'


def post(body: bytes = BODY, *, length: int | None = None, more: str = "") -> bytes:
    """An embeddings request on the wire, with a length that may be a lie."""
    size = len(body) if length is None else length
    lines = "POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{lines}Content-Length: {size}\r\n{more}\r\n".encode() + body


async def works(p: Setup) -> bool:
    """Whether the next client is served, and nothing of those before is left."""
    answer = await p.embed("next")
    await eventually(lambda: p.dispatcher.reserved == (0, 0))
    await eventually(lambda: p.dispatcher.totals.leases == 0)
    return answer.body == expected("embeddings", {"model": "m", "input": ["next"]})


# -- sizes ----------------------------------------------------------------------------------------------------------


async def test_too_large_by_its_length_is_refused_unread() -> None:
    """413 before a byte of the body has come, and the connection is closed after it."""
    async with proxied(max_body_bytes=1000) as p, p.raw() as (reader, writer):
        writer.write(post(b"", length=1001))
        status, headers = await head(reader)
        assert status == 413
        assert headers["connection"] == "close"
        assert headers["x-supervisor-reason"] == "too_large"
        assert p.fake.seen == []
        assert await works(p)


async def test_too_large_in_chunks_is_refused_while_it_comes() -> None:
    """Without a length it is counted; what was reserved is given back."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    async with proxied(max_body_bytes=1000) as p:
        answer = await p.request("POST", "/embeddings", chunks())
        assert answer.status == 413
        assert await works(p)


async def test_chunked_bodies_are_read_and_counted() -> None:
    """A body without a length is reserved as it comes, and reaches the worker with one."""

    async def chunks() -> AsyncIterator[bytes]:
        yield BODY[:9]
        await asyncio.sleep(0.05)
        yield BODY[9:]

    async with proxied() as p:
        p.order(paused=True)
        task = asyncio.create_task(p.request("POST", "/embeddings", chunks()))
        await eventually(lambda: p.dispatcher.totals.queued_requests)
        assert p.dispatcher.reserved == (1, len(BODY))
        p.order()
        assert (await task).status == 200
        assert p.fake.seen[0].body == BODY
        assert p.fake.seen[0].headers["content-length"] == str(len(BODY))


async def test_a_full_queue_refuses_without_reading() -> None:
    """429 at once, although not a byte of the body was sent; with Retry-After and the reason."""
    async with proxied(max_requests=1) as p:
        p.order(paused=True)
        waiting = asyncio.create_task(p.embed("a"))
        await eventually(lambda: p.dispatcher.totals.queued_requests)
        async with p.raw() as (reader, writer):
            writer.write(post(b"", length=500_000))
            status, headers = await head(reader)
        assert status == 429
        assert headers["x-supervisor-reason"] == "queue_full"
        assert int(headers["retry-after"]) >= 1
        assert headers["connection"] == "close"
        p.order()
        assert (await waiting).status == 200
        assert await works(p)


async def test_bytes_are_reserved_before_they_come() -> None:
    """Two that promise 600 of 1,000 bytes: the second is refused although nothing was received of either."""
    async with proxied(max_bytes=1000) as p, p.raw() as (_, first), p.raw() as (reader, second):
        first.write(post(b"", length=600))
        await eventually(lambda: p.dispatcher.reserved == (1, 600))
        second.write(post(b"", length=600))
        assert (await head(reader))[0] == 429
        first.close()
        assert await works(p)


async def test_a_refused_client_that_sends_on_still_sees_its_refusal() -> None:
    """The rest of the body is read and thrown away for a moment, so that the answer is not lost to a reset."""
    async with proxied(max_body_bytes=1000) as p, p.raw() as (reader, writer):
        writer.write(post(b"x" * 300_000))
        await writer.drain()
        status, _ = await head(reader)
        assert status == 413
        assert await works(p)


@pytest.mark.parametrize("full", [False, True])
async def test_a_client_that_asks_first_is_told(full: bool) -> None:
    """Expect: 100-continue gets its 100 once there is a place, and only the refusal when there is none."""
    async with proxied(max_requests=1) as p, p.raw() as (reader, writer):
        held = None
        if full:
            p.order(paused=True)
            held = asyncio.create_task(p.embed("a"))
            await eventually(lambda: p.dispatcher.totals.queued_requests)
        writer.write(post(b"", length=len(BODY), more="Expect: 100-continue\r\n"))
        status, _ = await head(reader)
        if held is not None:
            assert status == 429
            p.order()
            await held
            return
        assert status == 100
        writer.write(BODY)
        assert (await head(reader))[0] == 200


# -- slow and broken clients ----------------------------------------------------------------------------------------


async def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It held a place in the queue for nobody."""
    monkeypatch.setattr(arrivals, "GRACE_SECONDS", 0.2)
    async with proxied() as p, p.raw() as (reader, writer):
        writer.write(post(BODY[:5], length=len(BODY)))
        status, headers = await head(reader)
        assert status == 408
        assert headers["connection"] == "close"
        assert await works(p)


async def test_the_deadline_runs_while_the_body_comes() -> None:
    """Also before there is anything to queue."""
    async with proxied() as p, p.raw() as (reader, writer):
        writer.write(post(b"", length=100, more="x-request-timeout-ms: 100\r\n"))
        status, headers = await head(reader)
        assert status == 504
        assert headers["x-supervisor-reason"] == "deadline_exceeded"
        assert await works(p)


@pytest.mark.parametrize("moment", ["head", "body", "queued", "running"])
async def test_a_client_that_leaves_leaves_nothing(moment: str) -> None:
    """Whenever it goes: its place is free, its queued work gone, and the others are served."""
    async with proxied() as p:
        p.order(paused=moment == "queued")
        if moment == "running":
            p.fake.free.clear()
        async with p.raw() as (_, writer):
            request = post()
            writer.write({"head": request[:30], "body": request[:-5]}.get(moment, request))
            await writer.drain()
            if moment == "body":
                await eventually(lambda: p.dispatcher.reserved[0] == 1)
            if moment == "queued":
                await eventually(lambda: p.dispatcher.totals.queued_requests == 1)
            if moment == "running":
                await eventually(lambda: p.fake.running == 1)
        if moment != "head":
            await eventually(lambda: p.counter.done)
            assert p.counter.done[0][2] == 499
        await eventually(lambda: p.dispatcher.totals.queued_requests == 0)
        if moment == "running":
            assert p.dispatcher.totals.inflight_inputs == 1, "Infinity still works on it"
        p.fake.free.set()
        p.order()
        assert await works(p)
        assert len(p.fake.seen) == (2 if moment == "running" else 1)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nhello",
        b"POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /embeddings HTTP/1.1\r\nHost: x\r\n broken: header\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET @evil.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    ],
)
async def test_bad_http_is_refused_and_closed(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of it reaches a worker, above all not one smuggled behind two lengths; and nothing fills our log."""
    async with proxied() as p, p.raw() as (reader, writer):
        writer.write(garbage)
        if not garbage.startswith(b"\x16"):
            assert (await head(reader))[0] == 400
        writer.write_eof()
        async with asyncio.timeout(5):
            await reader.read()
        assert p.fake.seen == []
        assert await works(p)
    assert caplog.records == []


async def test_bad_chunks_are_refused_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that breaks its own rules is no request (aiohttp tells it like one that stops coming)."""
    monkeypatch.setattr(arrivals, "GRACE_SECONDS", 0.2)
    async with proxied() as p, p.raw() as (reader, writer):
        head_ = b"POST /embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head_ + b"5\r\nhello\r\n")
        await eventually(lambda: p.dispatcher.reserved[0] == 1)
        writer.write(b"zz\r\n")
        assert (await head(reader))[0] in (400, 408)
        async with asyncio.timeout(5):
            await reader.read()
        assert p.fake.seen == []
        assert await works(p)


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    """Two on one connection before the first is answered."""
    async with proxied() as p, p.raw() as (reader, writer):
        bodies = [orjson.dumps({"model": "m", "input": text}) for text in ("first", "second")]
        writer.write(post(bodies[0]) + post(bodies[1]))
        for body in bodies:
            status, headers = await head(reader)
            assert status == 200
            content = await reader.readexactly(int(headers["content-length"]))
            assert content == expected("embeddings", orjson.loads(body))


async def test_many_idle_connections_disturb_nobody() -> None:
    """500 clients that connect and say nothing; 10,000 are for a process of its own."""
    async with proxied() as p:
        idle = [await asyncio.open_connection("127.0.0.1", p.server.port) for _ in range(500)]
        try:
            assert await works(p)
        finally:
            for _, writer in idle:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for _, writer in idle))


# -- workers --------------------------------------------------------------------------------------------------------


async def test_a_kept_connection_that_the_worker_closed_costs_nothing() -> None:
    """Closed at the very moment a request was sent on it: sent again at once on a new one, never a 502."""
    async with proxied() as p:
        used: set[object] = set()

        async def close_when_used_again(request: web.BaseRequest, body: bytes) -> web.Response | None:
            if request.protocol in used:
                assert request.transport is not None
                request.transport.abort()
                raise ConnectionResetError("as a worker does whose keep-alive time is over")
            used.add(request.protocol)
            return None

        p.fake.special = close_when_used_again
        for i in range(6):
            answer = await p.embed(f"t{i}")
            assert answer.status == 200
            assert float(answer.headers["x-supervisor-queue-ms"]) < 200, "at once, not after a pause"
        assert p.dispatcher.totals.inflight_parts == 0


async def test_a_worker_that_dies_under_a_request_costs_the_client_time_only() -> None:
    """Its parts wait and go to the next worker."""
    async with proxied() as p:
        p.fake.free.clear()
        texts = [f"t{i}" for i in range(40)]
        task = asyncio.create_task(p.embed(*texts))
        await eventually(lambda: p.fake.running == 2)
        await p.fake.die()
        p.dispatcher.detach("m")
        await eventually(lambda: p.dispatcher.totals.queued_inputs == 40)
        assert p.demanded == ["m"]
        p.fake.free.set()
        await p.fake.start()
        p.attach()
        answer = await task
        assert answer.body == expected("embeddings", {"model": "m", "input": texts})


async def test_a_worker_that_ends_before_anybody_noticed_is_tried_again() -> None:
    """Connections are refused for a while and nobody detaches it: the request waits it out."""
    async with proxied() as p:
        assert (await p.embed("a")).status == 200
        port = p.fake.port
        await p.fake.die()
        task = asyncio.create_task(p.embed("b"))
        await asyncio.sleep(0.4)
        assert not task.done()
        assert p.fake.port == port
        await p.fake.start()
        assert (await task).status == 200


# -- under uvloop ---------------------------------------------------------------------------------------------------

UNDER_UVLOOP = """
import asyncio, uvloop
from tests.support.proxying import eventually, expected, proxied

async def main():
    async with proxied() as p:
        for n in (1, 16, 17, 300):
            texts = [f"t{i}" for i in range(n)]
            answer = await p.embed(*texts)
            assert answer.body == expected("embeddings", {"model": "m", "input": texts})
        p.fake.free.clear()
        assert (await p.embed("a", x_request_timeout_ms="100")).status == 504
        gone = asyncio.create_task(p.embed(*texts))
        await eventually(lambda: p.dispatcher.totals.queued_requests)
        gone.cancel()
        await eventually(lambda: p.dispatcher.totals.queued_requests == 0)
        p.fake.free.set()
        assert (await p.request("GET", "/docs")).status == 404
        p.order(paused=True)
        assert await p.dispatcher.drain("m", 1.0)
    print("fine")

uvloop.run(main())
"""


async def test_all_of_it_runs_under_uvloop() -> None:
    """The daemon's loop: split, deadline, leaving, passing through, closing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-c", UNDER_UVLOOP),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
    assert output == b"fine\n", output.decode()
