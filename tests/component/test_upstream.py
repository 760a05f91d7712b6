"""The client of a worker against servers that follow a script: what is sent, and where HTTP says an answer ends."""

import asyncio
import random

import pytest

from supervisor.core.payload import Inference
from supervisor.proxy.jobs import Reply
from tests.support.scripted_http import OK, Peer, Scripted, lost, saying

# -- requests -------------------------------------------------------------------------------------------------------


async def test_a_request_has_what_a_worker_needs_and_no_more() -> None:
    """Path, host, the worker's key, the given headers, the length; on one kept connection."""
    async with Scripted(saying(OK)) as server:
        assert await server.send(b'{"a": 1}', Origin="https://x.example") == Reply(
            200, b"{}", {"content-type": "application/json"}
        )
        await server.worker.send(Inference.RERANK, b"", {})
        first, second = (head.decode().split("\r\n") for head in server.seen)
        assert first[0] == "POST /embeddings HTTP/1.1"
        assert sorted(first[1:-2]) == [
            "Authorization: Bearer key",
            "Content-Length: 8",
            "Content-Type: application/json",
            f"Host: 127.0.0.1:{server.port}",
            "Origin: https://x.example",
        ]
        assert second[0] == "POST /rerank HTTP/1.1"
        assert sorted(line.split(":")[0] for line in second[1:-2]) == ["Authorization", "Content-Length", "Host"]
        assert server.connections == 1


async def test_no_header_can_be_smuggled_in() -> None:
    """Line ends in a value are spaces; what is not UTF-8 goes out as it came in."""
    async with Scripted(saying(OK)) as server:
        await server.send(Origin="a\r\nX-Evil: 1\n\0\x7fb")
        assert b"\r\nOrigin: a  X-Evil: 1   b\r\n" in server.seen[0]
        await server.send(Origin=b"\xff\xc3\xa4".decode("utf-8", "surrogateescape"))
        assert b"\r\nOrigin: \xff\xc3\xa4\r\n" in server.seen[1]


async def test_remembered_heads_are_bounded() -> None:
    """Each client may send another origin."""
    async with Scripted(saying(OK)) as server:
        for i in range(200):
            await server.send(Origin=str(i))
            assert b"\r\nOrigin: %d\r\n" % i in server.seen[-1]
        assert len(server.worker._heads) <= 64


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, 5_000_000])
async def test_bodies_of_every_size_arrive(size: int) -> None:
    """Written in one piece or two, and while the other side is slow."""
    body = random.Random(size).randbytes(size)

    async def script(peer: Peer) -> None:
        _, got = await peer.request()
        peer.writer.write(OK if got == body else b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")
        await peer.reader.read()

    async with Scripted(script) as server:
        assert (await server.send(body)).status == 200


# -- answers --------------------------------------------------------------------------------------------------------

ANSWERS = {  # the bytes after the first line and a content type, the body, how many connections two requests take
    "length": (b"content-length: 5\r\n\r\nhello", b"hello", 1),
    "chunked": (b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", b"hello", 1),
    "trailers": (b"transfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\nvary: x\r\n\r\n", b"hello", 1),
    "empty": (b"content-length: 0\r\n\r\n", b"", 1),
    "204": (b"\r\n", b"", 1),
    "304": (b"content-length: 9\r\n\r\n", b"", 1),
    "continue": (b"content-length: 5\r\n\r\nhello", b"hello", 1),
    "close": (b"connection: close\r\ncontent-length: 5\r\n\r\nhello", b"hello", 2),
    "http 1.0": (b"content-length: 5\r\n\r\nhello", b"hello", 2),
    "no reason": (b"content-length: 5\r\n\r\nhello", b"hello", 1),
    "second answer": (b"content-length: 5\r\n\r\nhello" + OK, b"hello", 2),
    "second begun": (b"content-length: 5\r\n\r\nhelloH", b"hello", 2),
    "garbage after": (b"content-length: 5\r\n\r\nhello\0\1", b"hello", 2),
}
FIRST_LINES = {
    "204": b"HTTP/1.1 204 No Content",
    "304": b"HTTP/1.1 304 Not Modified",
    "continue": b"HTTP/1.1 100 Continue\r\nvary: x\r\n\r\nHTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK",
    "http 1.0": b"HTTP/1.0 200 OK",
    "no reason": b"HTTP/1.1 200",
}


@pytest.mark.parametrize("pieces", ["whole", "bytes"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_answers_end_where_http_says(name: str, pieces: str) -> None:
    """Status, body and headers; and the connection is used again exactly when it may be."""
    rest, body, connections = ANSWERS[name]
    answer = FIRST_LINES.get(name, b"HTTP/1.1 200 OK") + b"\r\ncontent-type: a/b\r\n" + rest
    status = int(name) if name.isdigit() else 200

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            for i in range(0, len(answer), len(answer) if pieces == "whole" else 1):
                peer.writer.write(answer[i:] if pieces == "whole" else answer[i : i + 1])
                await asyncio.sleep(0)

    async with Scripted(script) as server:
        for _ in range(2):
            reply = await server.send()
            assert reply == Reply(status, body, {"content-type": "a/b"})
            await asyncio.sleep(0.02)  # what comes too late to be told from the next answer is the case below
        assert server.connections == connections


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    """Neither a length nor chunks: all until the end, unless that is a reset."""
    for reset in (False, True):

        async def script(peer: Peer, reset: bool = reset) -> None:
            await peer.request()
            peer.writer.write(b"HTTP/1.1 200 OK\r\n\r\nhel")
            await asyncio.sleep(0.02)
            peer.writer.write(b"lo")
            if reset:
                await asyncio.sleep(0.02)
                peer.reset()

        async with Scripted(script) as server:
            if reset:
                assert (await lost(server)).sent
            else:
                assert (await server.send()).body == b"hello"
                assert (await server.send()).body == b"hello"
            assert server.connections == (1 if reset else 2)


@pytest.mark.parametrize("size", [245_000, 30_000_000])
async def test_large_answers_come_whole(size: int) -> None:
    """32 long vectors, and what a batch of a thousand may be."""
    body = random.Random(size).randbytes(size)
    async with Scripted(saying(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + body)) as server:
        for _ in range(2):
            assert (await server.send()).body == body
        assert server.connections == 1


async def test_headers_for_the_client_are_kept() -> None:
    """Those that speak of the answer, lower case, repeated ones as one; not those that speak of the connection."""
    head = (
        b"HTTP/1.1 401 No\r\nDate: x\r\nServer: uvicorn\r\nContent-Type: text/plain; charset=\xff\r\n"
        b"Vary: A\r\nVary: B\r\nWWW-Authenticate: Bearer\r\n"
        b"Access-Control-Allow-Origin: *\r\nX-Other: 1\r\nContent-Length: 0\r\n\r\n"
    )
    async with Scripted(saying(head)) as server:
        reply = await server.send()
        assert not reply.ok
        assert reply.headers == {
            "content-type": "text/plain; charset=\udcff",
            "vary": "A, B",
            "www-authenticate": "Bearer",
            "access-control-allow-origin": "*",
        }
