"""The client of a worker when connections break: what is sent again, what is a lost worker, what is never reused."""

import asyncio
import contextlib
import random

import pytest

from supervisor.core.endpoint import Endpoint
from supervisor.core.payload import Inference
from supervisor.proxy import upstream
from supervisor.proxy.jobs import WorkerLost
from supervisor.proxy.upstream import HttpWorker
from supervisor.proxy.worker_connection import MAX_HEAD_BYTES
from tests.support.proxying import eventually
from tests.support.scripted_http import JSON, OK, Peer, Scripted, lost, saying

# -- breaks ---------------------------------------------------------------------------------------------------------


async def test_a_worker_that_does_not_listen_was_not_sent_anything() -> None:
    """Refused: nothing can have begun to work on the part."""
    async with Scripted(saying(OK)) as server:
        port = server.port
    worker = HttpWorker(Endpoint("m", "127.0.0.1", port, "key"))
    with pytest.raises(WorkerLost) as caught:
        await worker.send(Inference.EMBEDDINGS, b"", JSON)
    assert not caught.value.sent
    await worker.close()


BAD = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 2",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "half a body": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
    "half a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
    "no last chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "only interim": b"HTTP/1.1 100 Continue\r\n\r\n",
}
GARBAGE = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "bad status": b"HTTP/1.1 abc OK\r\n\r\n",
    "bad length": b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "switched": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "long status line": b"HTTP/1.1 200 " + b"x" * (MAX_HEAD_BYTES + 300_000),
    "long header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD_BYTES + 300_000),
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (MAX_HEAD_BYTES // 6 + 50_000),
    "many continues": b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD_BYTES // 25 + 20_000),
}


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("name", BAD)
async def test_an_answer_that_breaks_off_is_a_lost_worker(name: str, how: str) -> None:
    """On a new connection, whatever had come of it: sent once, and said so."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(BAD[name])
        await asyncio.sleep(0.02)
        if how == "reset":
            peer.reset()

    async with Scripted(script) as server:
        assert (await lost(server)).sent
        assert len(server.seen) == 1


@pytest.mark.parametrize("name", GARBAGE)
async def test_what_is_no_http_is_a_lost_worker(name: str) -> None:
    """At once, although the connection stays open; and nothing grows without bounds."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(GARBAGE[name])
        await peer.reader.read()

    async with Scripted(script) as server:
        assert (await lost(server)).sent
        assert len(server.seen) == 1


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_kept_connection_that_ends_costs_a_retry(how: str) -> None:
    """Each connection carries three requests and ends under the fourth: no client hears of it."""

    async def script(peer: Peer) -> None:
        for _ in range(3):
            await peer.request()
            peer.writer.write(OK)
        await peer.request()
        if how == "reset":
            peer.reset()

    async with Scripted(script) as server:
        for _ in range(12):
            assert (await server.send()).status == 200
        assert server.connections == 4
        assert len(server.seen) == 12 + 3


async def test_the_retry_is_one_and_on_a_new_connection() -> None:
    """Several kept ones may have ended together; and a worker that ends under the part again is lost."""
    broken = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if not broken.is_set():
            await asyncio.sleep(0.02)
            peer.writer.write(OK)
            await peer.request()

    async with Scripted(script) as server:
        await asyncio.gather(*(server.send() for _ in range(4)))
        assert server.connections == 4
        broken.set()
        assert (await lost(server)).sent
        assert server.connections == 5
        assert len(server.seen) == 6


async def test_a_kept_connection_that_breaks_in_an_answer_is_a_lost_worker() -> None:
    """The worker had worked on it: to send it again is for whoever counts that."""
    async with Scripted(saying(OK, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", per_connection=2)) as server:
        await server.send()
        assert (await lost(server)).sent
        assert server.connections == 1


async def test_a_worker_that_ended_after_its_last_answer_may_have_begun() -> None:
    """The kept connection took the part, the new one is refused: `sent`."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(OK)
        await peer.request()
        server.listener.close()

    async with Scripted(script) as server:
        await server.send()
        assert (await lost(server)).sent


async def test_an_answer_nobody_asked_for_is_nobodys() -> None:
    """It came between two requests: its connection carries none any more."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(OK)
        if peer.number == 1:
            await asyncio.sleep(0.02)
            peer.writer.write(OK.replace(b"{}", b"no"))
        await peer.reader.read()

    async with Scripted(script) as server:
        await server.send()
        await asyncio.sleep(0.05)
        assert (await server.send()).body == b"{}"
        assert server.connections == 2


async def test_an_answer_before_the_request_is_written_is_the_answer() -> None:
    """A refusal by the length alone: it counts, and the rest of the request never meets another answer."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n" if peer.number == 1 else OK)
        await asyncio.sleep(0.05)
        while await peer.reader.read(1 << 20):
            pass

    async with Scripted(script) as server:
        assert (await server.send(b"x" * 50_000_000)).status == 413
        assert (await server.send()).status == 200
        assert server.connections == 2


# -- many, and the end ----------------------------------------------------------------------------------------------


async def test_who_is_cancelled_takes_the_connection_along() -> None:
    """The answer that comes then must not be the next one's."""

    async def script(peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            if body == b"slow":
                await peer.reader.read()
                return
            peer.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with Scripted(script) as server:
        assert (await server.send(b"first")).body == b"first"
        slow = asyncio.create_task(server.send(b"slow"))
        await eventually(lambda: len(server.seen) == 2)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        await eventually(lambda: server.ended == 1)
        assert (await server.send(b"next")).body == b"next"
        assert server.connections == 2


async def test_many_at_once_get_their_own() -> None:
    """A connection for each that runs, at random speeds, some cancelled; kept ones are used again."""
    chance = random.Random(7)

    async def script(peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            await asyncio.sleep(chance.random() * 0.005)
            peer.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with Scripted(script) as server:

        async def client(number: int) -> int:
            answered = 0
            for i in range(30):
                body = f"{number}.{i}".encode()
                send = asyncio.create_task(server.send(body))
                if chance.random() < 0.1:
                    await asyncio.sleep(0.002)
                    send.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    assert (await send).body == body
                    answered += 1
            return answered

        answered = sum(await asyncio.gather(*(client(number) for number in range(20))))
        assert answered > 20 * 30 * 0.8
        assert server.connections <= 20 + 20 * 30 - answered


async def test_idle_connections_are_dropped_before_the_worker_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a timer that runs only while there are any, and never used once they are old."""
    monkeypatch.setattr(upstream, "IDLE_SECONDS", 0.2)
    async with Scripted(saying(OK)) as server:
        await asyncio.gather(*(server.send() for _ in range(3)))
        opened = server.connections
        await eventually(lambda: server.ended == opened)
        assert server.worker._sweep is None
        await server.send()
        assert server.connections == opened + 1


async def test_an_old_connection_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the timer did not get to run."""
    async with Scripted(saying(OK)) as server:
        await server.send()
        await server.send()
        assert server.connections == 1
        monkeypatch.setattr(upstream, "IDLE_SECONDS", 0.0)
        await server.send()
        assert server.connections == 2


async def test_close_ends_what_runs_and_what_comes() -> None:
    """Whoever waits hears that the worker is lost; whoever comes later, that nothing was sent."""
    arrived = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        arrived.set()
        await peer.reader.read()

    async with Scripted(script) as server:
        waiting = asyncio.create_task(lost(server))
        await arrived.wait()
        await server.worker.close()
        assert (await waiting).sent
        assert not (await lost(server)).sent
        assert server.connections == 1
