"""Answers on the wire: what every kind of client and connection gets, held against aiohttp's own response."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
from aiohttp import web

from supervisor.proxy import header_fields
from supervisor.proxy.answers import COPIED_BYTES, Answer

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server with this handler."""
    server = web.Server(handler, access_log=None)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        listener.close()
        await server.shutdown(1.0)


PROBE = b"GET /probe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def exchange(handler: Handler, request: bytes) -> tuple[bytes, bytes, bool]:
    """Head and body that a client gets for these bytes, and whether the connection takes another request then."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="probe") if request.path == "/probe" else await handler(request)

    async with served(handle) as (reader, writer), asyncio.timeout(20):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = b"" if request.startswith(b"HEAD") else await reader.readexactly(int(size or 0))
        with contextlib.suppress(ConnectionError):
            writer.write(PROBE)
            rest = await reader.read()
            assert not rest or (rest.startswith(b"HTTP/1.1 200 OK\r\n") and rest.endswith(b"\r\n\r\nprobe"))
            assert rest.count(b"HTTP/1.") == bool(rest), "there is one more than was asked for"
            return head, body, bool(rest)
        return head, body, False


def parsed(head: bytes) -> tuple[bytes, dict[str, str]]:
    """Status line, and headers without the date."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    headers = dict(line.decode().lower().split(": ", 1) for line in lines)
    assert len(headers) == len(lines)
    assert abs(parsedate_to_datetime(headers.pop("date")) - datetime.now(UTC)) < timedelta(seconds=5)
    return first, headers


FIELDS = {"Server": "s", "x-request-id": "1", "Content-Type": "a/b"}


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("status", [200, 204, 304, 429, 599])
@pytest.mark.parametrize("size", [0, 5, COPIED_BYTES + 1])
@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
async def test_an_answer_says_what_aiohttps_response_says(request_: bytes, size: int, status: int, close: bool) -> None:
    """Same status, headers, body, and the same end of the connection."""
    body = b"" if status in (204, 304) else b"x" * size
    answers = []
    for kind in (Answer, web.Response):

        async def handle(request: web.BaseRequest, kind: type = kind) -> web.StreamResponse:
            if kind is Answer:
                response: web.StreamResponse = Answer(status, body, FIELDS)
            else:
                response = web.Response(status=status, body=body, headers=FIELDS)
            if close:
                response.force_close()
            return response

        head, got, stays = await exchange(handle, request_)
        answers.append((*parsed(head), got, stays))
    ours, theirs = answers
    if request_.startswith(b"HEAD") and not body:
        theirs[1].setdefault("content-length", "0")  # allowed; aiohttp leaves it out
        ours[1].setdefault("content-length", "0")
    assert ours == theirs


async def test_it_is_sent_once_and_where_it_is_wanted() -> None:
    """A handler may send it itself, to know when the last byte is out; aiohttp then has nothing to add."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        answer = Answer(200, b"hello", FIELDS)
        answer.fields["x-more"] = "1"
        before = answer.prepared
        await answer.prepare(request)
        assert (before, answer.prepared) == (False, True)
        assert answer.keep_alive
        assert request.writer.output_size > 5
        return answer

    head, body, stays = await exchange(handle, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"\r\nx-more: 1\r\n" in head
    assert (body, stays) == (b"hello", True)
    assert FIELDS.keys() == {"Server", "x-request-id", "Content-Type"}


async def test_a_slow_reader_is_waited_for() -> None:
    """What it has not taken holds the handler, and in the end it gets every byte."""
    body = bytes(range(256)) * 100_000
    sent = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        answer = Answer(200, body, FIELDS)
        await answer.prepare(request)
        sent.set()
        return answer

    async with served(handle) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.1)
        assert not sent.is_set()
        async with asyncio.timeout(10):
            assert await reader.readexactly(len(body)) == body
            await sent.wait()


async def test_who_asks_and_never_reads_is_answered_no_more() -> None:
    """Small answers wait for the reader too: 25 MB of them are not kept for a client that only sends."""
    body = b"x" * 50_000
    answered = 0

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal answered
        answer = Answer(200, body, FIELDS)
        await answer.prepare(request)
        answered += 1
        return answer

    async with served(handle) as (reader, writer), asyncio.timeout(20):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        before = -1
        while answered != before:
            before = answered
            await asyncio.sleep(0.1)
        assert 0 < answered < 500
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(500):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(body)) == body


@pytest.mark.parametrize("size", [5, 50_000_000])
async def test_a_client_that_left_is_a_connection_error(size: int) -> None:
    """Before the answer or while it is written: never a hang."""
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        arrived.set()
        if size == 5:
            await gone.wait()
            await asyncio.sleep(0.05)
        answer = Answer(200, b"x" * size, FIELDS)
        try:
            await answer.prepare(request)
        except ConnectionError:
            ended.set_result(True)
            raise
        ended.set_result(False)
        return answer

    async with served(handle) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await arrived.wait()
        await asyncio.sleep(0.05)
        writer.transport.abort()
        gone.set()
        async with asyncio.timeout(10):
            assert await ended


HOSTILE = ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "\r\n\r\n<html>", "\x1b[31m", "\x7f"]


@pytest.mark.parametrize("value", HOSTILE)
async def test_no_value_can_end_its_line(value: str) -> None:
    """Wherever it came from: a space stands for what may not be there."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return Answer(200, b"", {"x-a": value, "x-b": "2"})

    head, _, stays = await exchange(handle, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    first, headers = parsed(head)
    assert (first, stays) == (b"HTTP/1.1 200 OK", True)
    assert headers.keys() == {"x-a", "x-b", "content-length"}
    assert headers["x-b"] == "2"


def test_what_is_allowed_in_a_value_stays() -> None:
    """Tabs, UTF-8, what is not printable but no control character, and bytes that are no UTF-8."""
    values = ["a\tb", "ä €", "no\u00a0break", b"\xff".decode("utf-8", "surrogateescape"), "", "x: y"]
    for value in values:
        wanted = b"n: " + value.encode("utf-8", "surrogateescape") + b"\r\n"
        assert header_fields.encode(header_fields.lines({"n": value})) == wanted
    assert header_fields.lines({}) == ""
