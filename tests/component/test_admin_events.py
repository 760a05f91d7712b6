"""Server-sent events: order, heartbeats, slow readers."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from supervisor.admin import events
from supervisor.admin.api import Api
from supervisor.admin.events import EventStreams
from supervisor.core.sentences import Action
from supervisor.journal import Decision
from supervisor.metrics import Metrics
from tests.support.admin_client import call, until
from tests.support.fake_control import FakeControl


class Listener:
    """A listener whose event streams have intervals of the test's choice."""

    def __init__(self, status_every: float = 3600.0, heartbeat: float = 3600.0) -> None:
        self.control = FakeControl()
        self.streams = EventStreams(self.control, status_every=status_every, heartbeat=heartbeat)
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Listener"]:
        """Listening, until the block ends."""
        app = Api(self.control, Metrics(), self.streams, "127.0.0.1").application()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        feed = asyncio.create_task(self.streams.run())
        try:
            yield self
        finally:
            self.streams.close()
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)
            await runner.cleanup()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[asyncio.StreamReader]:
        """One reader of the events, past the response's head."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in head
            assert b"text/event-stream" in head
            yield reader
        finally:
            writer.close()


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """The stream's text by HTTP chunk, which is one event each, until it ends."""
    while True:
        try:
            size = int(await reader.readuntil(b"\r\n"), 16)
            data = await reader.readexactly(size + 2)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        if not size:
            return
        yield data[:-2].decode()


async def next_event(stream: AsyncIterator[str]) -> tuple[str, Any]:
    """The next event's name and data."""
    async with asyncio.timeout(30):
        lines = (await anext(stream)).split("\n")
    assert lines[2:] == ["", ""]
    return lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))


async def test_decisions_arrive_as_they_are_taken() -> None:
    """A reader first gets the status, then each decision, also when its outcome is filled in later."""
    async with Listener().running() as listener, listener.stream() as reader:
        stream = chunks(reader)
        assert await next_event(stream) == ("status", listener.control.status())
        kept = listener.control.journal.append(Decision(Action.LOAD, target="line\nend"))
        listener.control.journal.update(kept.id, "ready")
        name, first = await next_event(stream)
        _, second = await next_event(stream)
        assert (name, first["id"], first["target"], first["outcome"]) == ("decision", kept.id, "line\nend", None)
        assert second["outcome"] == "ready"


async def test_the_status_comes_again_and_again() -> None:
    """Every reader gets the status at each interval."""
    async with (
        Listener(status_every=0.05).running() as listener,
        listener.stream() as one,
        listener.stream() as two,
    ):
        for reader in (one, two):
            stream = chunks(reader)
            assert [(await next_event(stream))[0] for _ in range(3)] == ["status"] * 3


async def test_a_quiet_stream_has_heartbeats() -> None:
    """When nothing happens, a comment keeps the connection alive."""
    async with Listener(heartbeat=0.05).running() as listener, listener.stream() as reader:
        stream = chunks(reader)
        await next_event(stream)
        async with asyncio.timeout(30):
            assert [await anext(stream) for _ in range(2)] == [": heartbeat\n\n"] * 2


async def test_a_status_that_fails_does_not_end_the_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in making the status is logged; decisions go on."""
    async with Listener(status_every=0.02).running() as listener, listener.stream() as reader:
        stream = chunks(reader)
        await next_event(stream)
        monkeypatch.setattr(listener.control, "status", lambda: 1 / 0)
        await asyncio.sleep(0.1)
        listener.control.journal.append(Decision(Action.LOAD, target="minilm"))
        names = [(await next_event(stream))[0]]
        while names[-1] == "status":
            names.append((await next_event(stream))[0])
        assert names[-1] == "decision"


async def test_a_slow_reader_is_dropped_and_stalls_nobody() -> None:
    """A client that does not read is cut off; the others get every event, the API answers meanwhile."""
    async with Listener().running() as listener, listener.stream() as fast:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", listener.port))
        slow.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            await until(lambda: len(listener.streams._readers) == 2)
            stream = chunks(fast)
            await next_event(stream)
            sent = 0
            async with asyncio.timeout(60):
                while len(listener.streams._readers) > 1:
                    listener.control.journal.append(Decision(Action.LOAD, target="x" * 100_000))
                    sent += 1
                    assert (await next_event(stream))[0] == "decision"
            assert sent > events.BACKLOG
            assert (await call(listener.port, "GET", "/healthz")).status == 200
        finally:
            slow.close()


async def test_a_reader_that_leaves_is_forgotten() -> None:
    """A closed connection leaves nothing behind."""
    async with Listener(status_every=0.02).running() as listener:
        async with listener.stream() as reader:
            await next_event(chunks(reader))
            assert len(listener.streams._readers) == 1
        await until(lambda: not listener.streams._readers)


async def test_there_is_a_most_of_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream too many is 503 with a reason."""
    monkeypatch.setattr(events, "MAX_READERS", 1)
    async with Listener().running() as listener, listener.stream() as reader:
        await next_event(chunks(reader))
        answer = await call(listener.port, "GET", "/api/v1/events")
        assert (answer.status, answer.reason) == (503, "too_many_streams")


async def test_streams_end_with_the_listener() -> None:
    """When the daemon ends, an open stream is ended at once and in order."""
    async with Listener().running() as listener, listener.stream() as reader:
        stream = chunks(reader)
        await next_event(stream)
        listener.streams.close()
        async with asyncio.timeout(30):
            assert [chunk async for chunk in stream] == []


async def test_decisions_go_on_after_a_lost_subscription() -> None:
    """If the feed itself fell behind, it subscribes again instead of falling silent."""
    async with Listener(status_every=0.02).running() as listener, listener.stream() as reader:
        stream = chunks(reader)
        await next_event(stream)
        for subscription in tuple(listener.control.journal._listeners):
            subscription.close()
        await until(lambda: listener.control.journal._listeners)
        listener.control.journal.append(Decision(Action.LOAD, target="minilm"))
        async with asyncio.timeout(30):
            while (await next_event(stream))[0] != "decision":
                pass
