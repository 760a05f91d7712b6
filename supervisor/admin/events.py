"""Server-sent events: decisions as they are taken and the status once a second, for any number of slow readers.

Owns the fan-out. Each event is written down once and handed to bounded queues; a reader that falls behind is cut off
and can come back, it never holds up the loop or the other readers.
"""

import asyncio

import orjson
import structlog
from aiohttp import web

from supervisor.admin.control import Control, Json

log = structlog.get_logger(__name__)

STATUS_EVERY = 1.0
HEARTBEAT = 15.0
BACKLOG = 64  # events a reader may be behind: a minute of status
MAX_READERS = 32


class Reader:
    """One client's place in the stream."""

    def __init__(self, request: web.Request) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(BACKLOG)
        self._request = request

    def offer(self, event: bytes | None) -> bool:
        """Hand over one event, or None for the end; False when the reader is too far behind."""
        try:
            self.queue.put_nowait(event)
        except asyncio.QueueFull:
            return False
        return True

    def cut_off(self) -> None:
        """End the connection now, whatever is still unsent: a write that waits for the client fails at once."""
        if self._request.transport is not None:
            self._request.transport.abort()


class EventStreams:
    """All the event streams of one listener. `run()` feeds them, `serve()` is one client's request."""

    def __init__(self, control: Control, *, status_every: float = STATUS_EVERY, heartbeat: float = HEARTBEAT) -> None:
        self._control = control
        self._status_every = status_every
        self._heartbeat = heartbeat
        self._readers: set[Reader] = set()
        self._closing = False

    async def run(self) -> None:
        """Feed the streams until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed_decisions(), name="events: decisions")
            tasks.create_task(self._feed_status(), name="events: status")

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one client until it leaves, falls behind, or the listener closes."""
        if len(self._readers) >= MAX_READERS or self._closing:
            raise web.HTTPServiceUnavailable(text=f"{len(self._readers)} event streams are open, the most allowed")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        reader = Reader(request)
        self._readers.add(reader)
        try:
            await response.prepare(request)
            await response.write(event("status", self._control.status()))
            while (chunk := await self._next(reader)) is not None:
                await response.write(chunk)
        except ConnectionError:  # the client left, or was cut off
            pass
        finally:
            self._readers.discard(reader)
        return response

    def close(self) -> None:
        """End every stream; no new ones."""
        self._closing = True
        for reader in tuple(self._readers):
            if not reader.offer(None):
                reader.cut_off()

    async def _next(self, reader: Reader) -> bytes | None:
        try:
            async with asyncio.timeout(self._heartbeat):
                return await reader.queue.get()
        except TimeoutError:
            return b": heartbeat\n\n"

    async def _feed_decisions(self) -> None:
        while True:
            decisions = self._control.subscribe()
            try:
                async for decision in decisions:
                    self._send("decision", decision)
            finally:
                decisions.close()
            await asyncio.sleep(self._status_every)  # the loop was held up: take a breath, listen again

    async def _feed_status(self) -> None:
        while True:
            await asyncio.sleep(self._status_every)
            if not self._readers:
                continue
            try:
                self._send("status", self._control.status())
            except Exception:  # one status that can't be made must not end the stream of decisions
                log.exception("status_event_failed")

    def _send(self, name: str, data: Json) -> None:
        chunk = event(name, data)
        for reader in tuple(self._readers):
            if not reader.offer(chunk):
                self._readers.discard(reader)
                log.info("event_reader_dropped", behind=BACKLOG)
                reader.cut_off()


def event(name: str, data: Json) -> bytes:
    """One server-sent event; its JSON has no line ends."""
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data, default=str) + b"\n\n"
