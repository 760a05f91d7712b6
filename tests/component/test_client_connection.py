"""The short way through the HTTP server, held against aiohttp's: what clients see of both, and what either leaves.

Which way a request took is counted, never assumed: `Ways.taken` is how many connections aiohttp's server took over. The
daemon runs on uvloop, the other tests on asyncio's loop; what a connection is told, and when, differs: both are tried.
"""

import asyncio
import contextlib
import functools
import inspect
import itertools
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import orjson
import pytest
import uvloop
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from supervisor.proxy import arrivals
from supervisor.proxy.answers import Answer
from supervisor.proxy.client_connection import AHEAD_BYTES, ClientConnection
from tests.support.proxying import Setup, eventually, expected, head, proxied

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
both_ways = pytest.mark.parametrize("way", ["plain", "aiohttp"])
# A request that is never plain, with an answer that is always the same and leaves the connection open.
OWN = b"DELETE /health HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = OWN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
MB = 1 << 20

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on asyncio's loop and on uvloop."""

    @pytest.mark.parametrize("loop", LOOPS)
    @functools.wraps(test)
    def run(*, loop: str, **given: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(50):
                await test(**given)

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(bounded())

    parameters = inspect.signature(test).parameters.values()
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*parameters, inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)]
    )
    return run


@pytest.fixture(autouse=True)
def _no_fault_in_a_callback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What a connection raises into the loop goes to asyncio's log and nowhere else."""
    yield
    assert [r.getMessage() for r in caplog.get_records("call") if r.name == "asyncio"] == []


class Ways:
    """How many connections aiohttp's server took over."""

    def __init__(self, p: Setup) -> None:
        self.taken = 0
        self._make = p.server._plain.aiohttp_server
        p.server._plain.aiohttp_server = self  # type: ignore[assignment]

    def __call__(self) -> asyncio.Protocol:
        """As the server itself."""
        self.taken += 1
        return self._make()


@contextlib.asynccontextmanager
async def watched(**options: Any) -> AsyncIterator[tuple[Setup, Ways]]:
    """A proxy, and which ways its requests take."""
    async with proxied(**options) as p:
        yield p, Ways(p)


@contextlib.asynccontextmanager
async def connected(p: Setup, ways: Ways, way: str) -> AsyncIterator[Streams]:
    """A connection whose requests go this way, and did."""
    before = ways.taken
    async with p.raw() as (reader, writer):
        if way == "aiohttp":
            writer.write(OWN)
            assert (await answered(reader)).status == 405
        yield reader, writer
        assert ways.taken - before == (way == "aiohttp")


class Got(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes


async def answered(reader: asyncio.StreamReader) -> Got:
    """The next answer."""
    async with asyncio.timeout(20):
        status, headers = await head(reader)
        return Got(status, headers, await reader.readexactly(int(headers["content-length"])))


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the proxy closes the connection."""
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


def asked(text: str = "a") -> dict[str, str]:
    """For an embedding."""
    return {"model": "m", "input": text}


def post(text: str = "a", more: str = "", body: bytes | None = None) -> bytes:
    """A plain request on the wire."""
    body = orjson.dumps(asked(text)) if body is None else body
    lines = "POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{lines}Content-Length: {len(body)}\r\n{more}\r\n".encode() + body


def right(answer: Got, text: str = "a") -> bool:
    """Whether it is the worker's to this text."""
    return answer.status == 200 and answer.body == expected("embeddings", asked(text))


async def nothing_left(p: Setup) -> None:
    """All that was held is given back, and the next client is served."""
    p.fake.free.set()
    p.order()
    await eventually(lambda: p.dispatcher.reserved == (0, 0))
    await eventually(lambda: p.dispatcher.totals.leases == 0)
    async with p.raw() as (reader, writer):
        writer.write(post("next"))
        assert right(await answered(reader), "next")
    await eventually(lambda: p.dispatcher.totals.leases == 0)
    await eventually(lambda: not p.server._plain.open)


def only(p: Setup) -> ClientConnection:
    """The one connection that is plain."""
    (connection,) = p.server._plain.open
    return connection


def large(p: Setup, size: int) -> bytes:
    """From now on the worker's answers have this size; what they are."""
    content = random.Random(0).randbytes(size)

    async def special(request: web.BaseRequest, body: bytes) -> web.Response:
        return web.Response(body=content)

    p.fake.special = special
    return content


def reset(writer: asyncio.StreamWriter) -> None:
    """Leave without a word of farewell."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# -- which way ------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_plain_requests_never_meet_aiohttp() -> None:
    """One after the other on one connection, each with its own answer."""
    async with watched() as (p, ways), connected(p, ways, "plain") as (reader, writer):
        for number in range(5):
            writer.write(post(f"text {number}"))
            assert right(await answered(reader), f"text {number}")
        assert len(p.server._plain.open) == 1
        assert p.counter.done == [("embeddings", "m", 200)] * 5
        assert p.dispatcher.reserved == (0, 0)
        assert p.dispatcher.totals.leases == 0


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([OWN], 405),
        ([post()[:1], post()[1:]], 200),
        ([post()[:-1], post()[-1:]], 200),
        ([post()[: post().index(b"{")], post()[post().index(b"{") :]], 200),
        ([post().replace(b"/embeddings", b"/embeddings?a=b")], 200),
        ([post().replace(b"/embeddings", b"http://x/embeddings")], 200),
        ([post(more="x-a: b\r\nx-a: c\r\n")], 200),
        ([post(more="Expect: 100-continue\r\n")], 200),
        ([post(more=f"x-a: {'b' * 8100}\r\n")], 200),
        ([post(body=b"x" * 1001)], 413),
    ],
)
@on_both_loops
async def test_what_is_not_plain_goes_to_aiohttp_for_good(pieces: list[bytes], status: int) -> None:
    """With all that has come on the connection; plain requests that follow go the same way."""
    async with watched(max_body_bytes=1000) as (p, ways), p.raw() as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02)
        assert (await answered(reader)).status == status
        assert ways.taken == 1
        assert not p.server._plain.open
        writer.write(post("after it"))
        assert right(await answered(reader), "after it")
        assert ways.taken == 1


@on_both_loops
async def test_a_plain_connection_becomes_aiohttps_in_the_middle() -> None:
    """After plain requests, with a request that is none."""
    async with watched() as (p, ways), p.raw() as (reader, writer):
        writer.write(post("first"))
        assert right(await answered(reader), "first")
        assert ways.taken == 0
        writer.write(post("second")[:-3])
        await eventually(lambda: ways.taken == 1)
        writer.write(post("second")[-3:])
        assert right(await answered(reader), "second")
        assert len(p.fake.seen) == 2


# -- pipelining -----------------------------------------------------------------------------------------------------


@on_both_loops
async def test_requests_that_come_together_are_answered_in_their_order() -> None:
    """Two and a half in one read."""
    async with watched() as (p, ways), p.raw() as (reader, writer):
        writer.write(post("one") + post("two") + post("three")[:40])
        assert right(await answered(reader), "one")
        assert right(await answered(reader), "two")
        writer.write(post("three")[40:])
        assert right(await answered(reader), "three")
        assert ways.taken == 1
        assert len(p.fake.seen) == 3


@on_both_loops
async def test_what_comes_before_an_answer_is_kept_for_after_it() -> None:
    """In pieces, and not looked at before: the first answer is to come first."""
    async with watched() as (p, ways), p.raw() as (reader, writer):
        p.order(paused=True)
        writer.write(post("one"))
        await eventually(lambda: p.dispatcher.totals.queued_requests == 1)
        for piece in (post("two")[:50], post("two")[50:], OWN + post("three")[:9]):
            seen = len(only(p)._ahead)
            writer.write(piece)
            await eventually(lambda seen=seen, piece=piece: len(only(p)._ahead) == seen + len(piece))
        assert ways.taken == 0
        assert p.dispatcher.totals.queued_requests == 1
        p.order()
        assert right(await answered(reader), "one")
        assert right(await answered(reader), "two")
        assert (await answered(reader)).status == 405
        writer.write(post("three")[9:])
        assert right(await answered(reader), "three")
        assert ways.taken == 1


@on_both_loops
async def test_a_client_far_ahead_is_read_no_further() -> None:
    """What it sends waits in its own buffers, and all of it is answered later."""
    texts = [f"{number} " + "x" * 50_000 for number in range(200)]
    async with watched() as (p, ways), p.raw() as (reader, writer):
        p.order(paused=True)
        writer.write(post("first"))
        await eventually(lambda: p.dispatcher.totals.queued_requests == 1)
        connection = only(p)
        for text in texts:
            writer.write(post(text))
        transport = connection._transport
        assert transport is not None
        await eventually(lambda: not transport.is_reading())
        await asyncio.sleep(0.05)
        assert AHEAD_BYTES < len(connection._ahead) <= AHEAD_BYTES + 256 * 1024
        p.order()
        assert right(await answered(reader), "first")
        for text in texts:
            assert right(await answered(reader), text)
        assert ways.taken == 1


# -- slow readers ---------------------------------------------------------------------------------------------------


@both_ways
@on_both_loops
async def test_a_slow_reader_holds_its_worker_until_it_has_its_answer(way: str) -> None:
    """To the last byte but those in the socket's buffers; then its connection goes on as before."""
    async with watched() as (p, ways), connected(p, ways, way) as (reader, writer):
        content = large(p, 24 * MB)
        writer.write(post())
        await eventually(lambda: p.fake.seen and not p.fake.running)
        await asyncio.sleep(0.3)
        assert p.counter.done == []
        assert p.dispatcher.totals.leases == 1
        assert p.dispatcher.reserved == (0, 0)
        assert (await answered(reader)).body == content
        await eventually(lambda: p.counter.done == [("embeddings", "m", 200)])
        assert p.dispatcher.totals.leases == 0
        p.fake.special = None
        writer.write(post("after it"))
        assert right(await answered(reader), "after it")


@on_both_loops
async def test_what_a_slow_reader_sends_meanwhile_comes_after_its_answer() -> None:
    """The connection is handed over once there is room again, with an answer still on its way."""
    async with watched() as (p, ways), p.raw() as (reader, writer):
        content = large(p, 24 * MB)
        writer.write(post())
        await eventually(lambda: not only(p)._writable)
        writer.write(OWN + post("two"))
        await eventually(lambda: only(p)._ahead == OWN + post("two"))
        p.fake.special = None
        assert (await answered(reader)).body == content
        assert (await answered(reader)).status == 405
        assert right(await answered(reader), "two")
        assert ways.taken == 1


@both_ways
@on_both_loops
async def test_a_client_that_leaves_in_the_middle_of_its_answer_has_none(way: str) -> None:
    """It is counted as one that has left, and its worker is free."""
    async with watched() as (p, ways), connected(p, ways, way) as (_, writer):
        large(p, 24 * MB)
        writer.write(post())
        await eventually(lambda: p.fake.seen and not p.fake.running)
        await asyncio.sleep(0.1)
        assert p.dispatcher.totals.leases == 1
        reset(writer)
        await eventually(lambda: p.counter.done)
        assert p.counter.done == [("embeddings", "m", 499)]
        p.fake.special = None
        await nothing_left(p)


# -- clients that leave ---------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("moment", ["queued", "running", "answered"])
@pytest.mark.parametrize("leave", ["close", "reset", "half"])
@on_both_loops
async def test_who_leaves_or_says_no_more_leaves_nothing(way: str, moment: str, leave: str) -> None:
    """Half-closed too: nobody can tell such a client from one that is gone, and it gets no answer."""
    async with watched() as (p, ways), connected(p, ways, way) as (reader, writer):
        p.order(paused=moment == "queued")
        p.fake.free.clear()
        writer.write(post())
        await eventually(lambda: p.dispatcher.totals.queued_requests if moment == "queued" else p.fake.running)
        if moment == "answered":  # in the same moment as it leaves
            p.fake.free.set()
        {"close": writer.close, "reset": lambda: reset(writer), "half": writer.write_eof}[leave]()
        if leave == "half" and moment != "answered":
            assert await ended(reader) == b""
        await eventually(lambda: p.counter.done)
        assert len(p.counter.done) == 1
        if moment != "answered":
            assert p.counter.done[0][2] == 499
            assert p.dispatcher.totals.queued_requests == 0
        await nothing_left(p)


@on_both_loops
async def test_who_leaves_with_more_ahead_leaves_nothing() -> None:
    """What it sent ahead was never a request."""
    async with watched() as (p, ways):
        async with connected(p, ways, "plain") as (_, writer):
            p.fake.free.clear()
            writer.write(post())
            await eventually(lambda: p.fake.running)
            writer.write(post("ahead"))
            await eventually(lambda: only(p)._ahead)
            reset(writer)
            await eventually(lambda: p.counter.done == [("embeddings", "m", 499)])
        await nothing_left(p)
        assert [orjson.loads(seen.body)["input"] for seen in p.fake.seen] == ["a", "next"]


# -- idle connections -----------------------------------------------------------------------------------------------


@on_both_loops
async def test_a_connection_on_which_nothing_comes_is_closed() -> None:
    """And none on which something does, or is awaited: its time begins anew with each answer."""
    loop = asyncio.get_running_loop()
    async with watched() as (p, ways):
        p.server._plain.idle_seconds = 0.4
        began = loop.time()
        async with connected(p, ways, "plain") as (reader, _):
            assert await ended(reader) == b""
            assert 0.39 < loop.time() - began < 1.5
        async with connected(p, ways, "plain") as (reader, writer):
            for _ in range(4):
                await asyncio.sleep(0.25)
                writer.write(post())
                assert right(await answered(reader))
            p.order(paused=True)
            writer.write(post())
            await asyncio.sleep(1.0)
            p.order()
            assert right(await answered(reader))
            began = loop.time()
            assert await ended(reader) == b""
            assert 0.39 < loop.time() - began < 1.5
        await nothing_left(p)


async def test_a_protocol_that_never_gets_a_connection_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio makes one before it makes the transport, and forgets it where that fails."""
    looks = []
    monkeypatch.setattr(ClientConnection, "_look_if_idle", lambda connection: looks.append(connection))
    async with watched() as (p, _):
        p.server._plain.idle_seconds = 0.01
        p.server._plain()
        await asyncio.sleep(0.05)
        assert looks == []
        async with p.raw():
            await eventually(lambda: looks)


# -- shutdown -------------------------------------------------------------------------------------------------------


@both_ways
@on_both_loops
async def test_idle_connections_are_closed_at_once(way: str) -> None:
    """Whether they have served a request or not."""
    loop = asyncio.get_running_loop()
    async with watched() as (p, ways), p.raw() as (silent, _), connected(p, ways, way) as (reader, writer):
        writer.write(post())
        assert right(await answered(reader))
        began = loop.time()
        await p.server.close(timeout=10.0)
        assert loop.time() - began < 2.0
        assert await ended(reader) == await ended(silent) == b""
        assert not p.server._plain.open


@both_ways
@on_both_loops
async def test_closing_waits_for_answers_and_takes_no_request_more(way: str) -> None:
    """What came ahead is nobody's: the connection ends with the answer."""
    async with watched() as (p, ways), connected(p, ways, way) as (reader, writer):
        p.fake.free.clear()
        writer.write(post())
        await eventually(lambda: p.fake.running)
        closing = asyncio.create_task(p.server.close(timeout=10.0))
        await asyncio.sleep(0.1)
        assert not closing.done()
        writer.write(post("too late"))
        await asyncio.sleep(0.05)
        p.fake.free.set()
        assert right(await answered(reader))
        assert await ended(reader) == b""
        async with asyncio.timeout(5):
            await closing
        assert len(p.fake.seen) == 1
        assert p.dispatcher.reserved == (0, 0)
        assert p.dispatcher.totals.leases == 0


@both_ways
@pytest.mark.parametrize("reads", [False, True])
@on_both_loops
async def test_closing_waits_no_longer_than_it_may(way: str, reads: bool) -> None:
    """For a worker that answers late, or a client that does not read."""
    async with watched() as (p, ways), connected(p, ways, way) as (reader, writer):
        if reads:
            p.fake.free.clear()
        else:
            large(p, 24 * MB)
        writer.write(post())
        await eventually(lambda: p.fake.running if reads else p.fake.seen and not p.fake.running)
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await p.server.close(timeout=0.3)
        if reads:
            assert await ended(reader) == b""
        await eventually(lambda: p.counter.done == [("embeddings", "m", 499)])
        assert p.dispatcher.totals.leases == 0
        assert not p.server._plain.open


@both_ways
@on_both_loops
async def test_who_is_connected_stays_so_when_nobody_else_may_come(way: str) -> None:
    """`stop_accepting` is for new ones."""
    async with watched() as (p, ways), connected(p, ways, way) as (reader, writer):
        port = p.server.port
        writer.write(post())
        assert right(await answered(reader))
        await p.server.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.write(post("more"))
        assert right(await answered(reader), "more")


@both_ways
@on_both_loops
async def test_while_draining_each_answer_is_the_last_on_its_connection(way: str) -> None:
    """That of a request which was admitted before, and the refusal of one that was not."""
    async with watched() as (p, ways):
        async with connected(p, ways, way) as (reader, writer):
            p.fake.free.clear()
            writer.write(post())
            await eventually(lambda: p.fake.running)
            p.dispatcher.begin_drain()
            p.fake.free.set()
            answer = await answered(reader)
            assert right(answer)
            assert answer.headers["connection"] == "close"
            assert await ended(reader) == b""
        async with connected(p, ways, way) as (reader, writer):
            writer.write(post())
            answer = await answered(reader)
            assert (answer.status, answer.headers["x-supervisor-reason"]) == (503, "draining")
            assert answer.headers["connection"] == "close"
            assert await ended(reader) == b""
        await eventually(lambda: p.dispatcher.reserved == (0, 0))
        assert p.dispatcher.totals.leases == 0


# -- refusals and faults --------------------------------------------------------------------------------------------


@both_ways
@on_both_loops
async def test_a_refusal_leaves_the_connection_open(way: str) -> None:
    """The body has come, so the next request is known to begin behind it."""
    async with watched(max_requests=1) as (p, ways), connected(p, ways, way) as (reader, writer):
        for more, body, status, reason in (
            ("", b'{"model": "nobody", "input": "a"}', 400, None),
            ("x-request-timeout-ms: soon\r\n", None, 400, "bad_request"),
            ("x-request-timeout-ms: 50\r\n", None, 504, "deadline_exceeded"),
        ):
            p.order(paused=status == 504)
            writer.write(post(more=more, body=body))
            answer = await answered(reader)
            assert answer.status == status
            assert reason is None or answer.headers["x-supervisor-reason"] == reason
            assert "connection" not in answer.headers
        async with p.raw() as (_, first):
            p.order(paused=True)
            first.write(post())
            await eventually(lambda: p.dispatcher.totals.queued_requests == 1)
            writer.write(post())
            assert (await answered(reader)).headers["x-supervisor-reason"] == "queue_full"
        await eventually(lambda: p.dispatcher.reserved == (0, 0))
        p.order()
        writer.write(post())
        assert right(await answered(reader))
        assert p.dispatcher.totals.leases == 0


@both_ways
@pytest.mark.parametrize("step", ["admit", "submit", "answer"])
@on_both_loops
async def test_a_fault_of_ours_is_one_requests(way: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is told, our log has it, and nothing of it stays; the connection goes on."""
    async with watched() as (p, ways):
        async with connected(p, ways, way) as (reader, writer):
            with monkeypatch.context() as patch, capture_logs() as lines:
                patch.setattr(p.server._infer, step, lambda *_: {}["a fault"])
                writer.write(post(more="x-request-id: mine\r\n"))
                answer = await answered(reader)
            assert (answer.status, answer.headers["x-supervisor-reason"]) == (500, "internal")
            assert answer.headers["x-request-id"] == "mine"
            assert "connection" not in answer.headers
            (line,) = [line for line in lines if line["log_level"] == "error"]
            assert (line["event"], line["request_id"]) == ("request_failed", "mine")
            writer.write(post("after it"))
            assert right(await answered(reader), "after it")
        await nothing_left(p)


@on_both_loops
async def test_a_fault_while_an_answer_is_written_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of it may be out; else the client would wait for ever, and its worker with it."""
    async with watched() as (p, ways):
        for model in ("m", "nobody"):  # an answer that comes later, and one at once
            async with connected(p, ways, "plain") as (reader, writer):
                with monkeypatch.context() as patch, capture_logs() as lines:
                    patch.setattr(Answer, "write_to", lambda *_: {}["a fault"])
                    writer.write(post(body=orjson.dumps({"model": model, "input": "a"})))
                    assert await ended(reader) == b""
                assert [line["event"] for line in lines if line["log_level"] == "error"] == ["answer_failed"]
        await eventually(lambda: [code for _, _, code in p.counter.done] == [499, 499])
        await nothing_left(p)


# -- what is remembered of heads ------------------------------------------------------------------------------------


@on_both_loops
async def test_clients_with_the_same_head_stay_different_clients() -> None:
    """Remembered is what the bytes say: neither where they came from, nor the id that we gave, nor the body."""
    async with watched() as (p, ways):
        ids = set()
        for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            async with p.raw(address) as (reader, writer):
                writer.write(post(address))
                answer = await answered(reader)
                assert right(answer, address)
                ids.add(answer.headers["x-request-id"])
        assert len(p.server._plain.heads._known) == 1
        assert [asker.client for asker in p.dispatcher.askers] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        assert len(ids) == 3
        for key in ("one", "two", "one"):
            async with p.raw() as (reader, writer):
                writer.write(post(more=f"Authorization: {key}\r\n"))
                assert right(await answered(reader))
        one, two, again = [asker.client for asker in p.dispatcher.askers[3:]]
        assert one == again != two
        assert ways.taken == 0


# -- both ways on anything ------------------------------------------------------------------------------------------

HARMLESS = [
    *("Content-Type: application/json", "Content-Type: application/json \t", "Content-Type:text/plain", "Accept: */*"),
    *("Connection: keep-alive", "User-Agent: a/1.0 (b; c)", "Cookie: a=b; c=d", "Content-Encoding: gzip", "x-empty:"),
    *("Authorization: Bearer key", "Authorization: Bearer key \t", "Authorization: \xff\xe9", "Origin: http://a  "),
    *("x-priority: bulk", "x-priority: interactive ", "x-priority: \xe9", "x-a:\t b\tc", "x-request-id: mine"),
    *("x-request-id: my own ", f"x-request-id: {'i' * 129}", "x-request-timeout-ms: 60000\t"),
    *("x-request-timeout-ms: soon", "Connection: upgrade"),
]
ODD = [
    *("Connection: close", "Connection: Keep-Alive, Close", "Proxy-Connection: close"),
    *("Expect: 100-continue", "Upgrade: h2c", "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "x : y"),
    *("Content-Length: 3", "Host: y", "Sec-WebSocket-Key1: a", " folded", "x: y\r\n folded", "x: y\nz: a", "x: \x00"),
    *("\xe9: x", "x", ": x", "\r", "x: " + "y" * 8150, "x: " + "y" * 9000, "x-a: b\r\nx-a: c"),
    "\r\n".join(f"x{number}: y" for number in range(130)),
    "\r\n".join(f"x{number}: {'y' * 500}" for number in range(30)),
]
LIES = ["", "+5", "-5", "0x5", "5 5", "5,5", "05", "0", "0" * 5000, "99999999999999999999", "3000", "\xb2", "1_0"]
BODIES = [
    *(orjson.dumps(asked()), b'{ "input" : ["a", "b"],\n "model":"nick", "extra": 1.0 }', b'{"model": "nobody"}'),
    *(b'{"model": "m", "query": "q", "documents": ["d", "e"]}', b'{"model": "m", "input": []}', b"[]", b"{]", b"\r\n}"),
    orjson.dumps(asked("x" * 2500)),
]
LIMIT = 2000
PATHS = ["/embeddings", "/v1/embeddings", "/rerank", "/v1/classify", "/embeddings_audio"]
OTHER_PATHS = ["/embeddings?a=b", "/embeddings#a", "http://x/embeddings", "/embedding%73", "//embeddings", "*", "/a"]


class Wire(NamedTuple):
    """A request, where to cut it, and what is known of it beforehand."""

    head: bytes
    body: bytes
    cuts: list[int]
    plain: bool
    lacks: int  # bytes of what it declares

    @property
    def whole(self) -> bytes:
        """In one piece."""
        return self.head + self.body

    @property
    def pieces(self) -> list[bytes]:
        """Cut."""
        bounds = [0, *self.cuts, len(self.whole)]
        return [self.whole[start:stop] for start, stop in itertools.pairwise(bounds)]


@st.composite
def wires(draw: st.DrawFn) -> Wire:
    """Plain requests, and some with one thing that makes them another's."""
    oddity = draw(
        st.sampled_from([None, None, None, "method", "path", "version", "header", "host", "lie", "size", "te"])
    )
    body = draw(st.sampled_from(BODIES))
    method = draw(st.sampled_from(["GET", "PUT", "post", "POSTS", "HEAD"])) if oddity == "method" else "POST"
    path = draw(st.sampled_from(OTHER_PATHS if oddity == "path" else PATHS))
    version = draw(st.sampled_from(["1.0", "1.2", "2.0", "0.9", "1.1 "])) if oddity == "version" else "1.1"
    lines = [] if oddity == "host" else ["Host: x"]
    lines += draw(st.lists(st.sampled_from(HARMLESS), max_size=5, unique_by=lambda line: line.partition(":")[0]))
    declared, lacks = str(len(body)), 0
    if oddity == "lie":
        declared = draw(st.sampled_from(LIES))
    elif oddity == "size":
        lacks = draw(st.sampled_from([-3, -1, 1, 2, 5]))
        if len(body) + lacks > 0:
            declared = str(len(body) + lacks)
    if oddity == "te":
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        lines.append(draw(st.sampled_from(["Content-Length: ", "Content-Length:\t", "Content-Length:"])) + declared)
    lines = draw(st.permutations(lines))
    lines = [draw(st.sampled_from([str, str.lower, str.upper]))(name) + rest for name, *_, rest in map(_name, lines)]
    if oddity == "header":
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(ODD)))
    head = "\r\n".join([f"{method} {path} HTTP/{version}", *lines]).encode("latin-1") + b"\r\n\r\n"
    plain = oddity is None and 0 < len(body) <= LIMIT
    last = len(head) + len(body) - 1 if plain else head.index(b"\r\n\r\n") + 3
    cuts = sorted(draw(st.lists(st.integers(1, last), min_size=1, max_size=2, unique=True)))
    return Wire(head, body, cuts, plain, lacks)


def _name(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    return name, colon + value


class Outcome(NamedTuple):
    """All that became of a request, but for what differs each time."""

    answers: list[tuple[bytes, dict[str, str], bytes]]
    askers: list[object]
    seen: list[object]
    told: list[object]


def parsed(raw: bytes, without_body: bool) -> list[tuple[bytes, dict[str, str], bytes]]:
    """The answers in these bytes: status line, headers, body."""
    found = []
    while raw:
        top, end, raw = raw.partition(b"\r\n\r\n")
        assert end, "half an answer"
        first, *lines = top.split(b"\r\n")
        headers = dict(line.decode("latin-1").split(": ", 1) for line in lines)
        assert len(headers) == len(lines)
        assert headers.pop("Date")
        if "x-supervisor-queue-ms" in headers:
            headers["x-supervisor-queue-ms"] = "some"
        if re.fullmatch("[0-9a-f]{32}", headers.get("x-request-id", "")):
            headers["x-request-id"] = "ours"
        size = 0 if without_body and not found else int(headers["Content-Length"])
        body, raw = raw[:size], raw[size:]
        assert len(body) == size
        if first == b"HTTP/1.0 400 Bad Request" or headers.get("Content-Type", "").startswith("text/plain"):
            # aiohttp's own: it quotes what it found in one read
            body = b""
            del headers["Content-Length"]
        found.append((first, headers, body))
    return found


async def outcome(p: Setup, ways: Ways, wire: Wire, pieces: list[bytes]) -> tuple[int, Outcome]:
    """Send these pieces, each for itself; how many connections aiohttp had taken by the first answer, and the rest.

    Behind them comes another request, to see whether the connection takes it; not where it would not even be read.
    """
    marks = len(p.dispatcher.askers), len(p.fake.seen), len(p.counter.done), len(p.counter.reasons)
    ways.taken = 0
    without_body = wire.head.startswith(b"HEAD")
    async with asyncio.timeout(15), p.raw() as (reader, writer):
        for number, piece in enumerate(pieces):
            if number:
                await eventually(lambda: ways.taken == 1)
                await asyncio.sleep(0.002)
            writer.write(piece)
        got = b""
        if wire.lacks < 0:
            got = await ended(reader)
        elif wire.lacks > 0:
            await eventually(lambda: ways.taken == 1)
            await asyncio.sleep(0.002)
        else:
            got = await reader.readuntil(b"\r\n\r\n")
            size = re.search(rb"Content-Length: (\d+)", got)
            got += await reader.readexactly(int(size[1]) if size and not without_body else 0)
        taken = ways.taken
        if b"\r\nConnection: close\r\n" not in got:
            writer.write(LAST)
        got += await ended(reader)
    await eventually(lambda: p.dispatcher.reserved == (0, 0) and p.dispatcher.totals.leases == 0)
    askers = [asker._replace(deadline=asker.deadline and 1.0) for asker in p.dispatcher.askers[marks[0] :]]
    seen = [
        (s.method, s.path, {name: value for name, value in s.headers.items() if name != "x-request-id"}, s.body)
        for s in p.fake.seen[marks[1] :]
    ]
    told = [*p.counter.done[marks[2] :], *p.counter.reasons[marks[3] :]]
    return taken, Outcome(parsed(got, without_body), [*askers], [*seen], told)


@pytest.mark.parametrize("loop", LOOPS)
def test_both_ways_answer_alike(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes in one piece, by the short way where they are plain, and in two or three, by aiohttp's.

    Alike is every answer but for its date and the ids and times in it, what the worker gets to see, for whom the
    request counts, and what is counted.
    """
    monkeypatch.setattr(arrivals, "GRACE_SECONDS", 0.5)
    counted = {True: 0, False: 0}
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        context = watched(max_body_bytes=LIMIT)
        p, ways = runner.run(context.__aenter__())

        async def both(wire: Wire) -> tuple[Outcome, Outcome]:
            taken, whole = await outcome(p, ways, wire, [wire.whole])
            assert taken == (not wire.plain)
            taken, cut = await outcome(p, ways, wire, wire.pieces)
            assert taken == 1
            return whole, cut

        @settings(max_examples=150, deadline=None, derandomize=True)
        @given(wires())
        def alike(wire: Wire) -> None:
            whole, cut = runner.run(both(wire))
            counted[wire.plain] += 1
            if wire.cuts[-1] > len(wire.head) and b"x-supervisor-reason" in b"".join(map(_bytes, cut.answers)):
                # It was refused before its body had come, and that may never come.
                whole, cut = [
                    each._replace(answers=[(a, {**h, "Connection": "?"}, b) for a, h, b in each.answers[:1]])
                    for each in (whole, cut)
                ]
            assert whole == cut

        try:
            alike()
        finally:
            runner.run(context.__aexit__(None, None, None))
    assert min(counted.values()) > 30, "too few to mean anything"


def _bytes(answer: tuple[bytes, dict[str, str], bytes]) -> bytes:
    return str(answer).encode()
