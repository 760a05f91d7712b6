"""Infinity's own word at `/models`: Known, or Missing with the reason, whatever a worker makes of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from supervisor.core.endpoint import Endpoint
from supervisor.core.model import Known, Missing, Reading
from supervisor.sense import infinity
from supervisor.sense.infinity import InfinityQueues


@asynccontextmanager
async def worker(body: bytes, status: int = 200, wait: float = 0.0) -> AsyncIterator[Endpoint]:
    """Something that answers `/models` like this; the key must be right."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert request.headers["authorization"] == "Bearer key"
        await asyncio.sleep(wait)
        return web.Response(body=body, status=status)

    server = web.Server(handle)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield Endpoint("m", "127.0.0.1", listener.sockets[0].getsockname()[1], "key")
    finally:
        listener.close()
        await server.shutdown(0.1)


async def reading(endpoint: Endpoint) -> Reading:
    """What one round makes of it."""
    queues = InfinityQueues(lambda: {"m": endpoint})
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
        await queues.look(session)
    return queues.readings()["m"]


def listing(**stats: object) -> bytes:
    """`/models` as Infinity answers it."""
    return json.dumps({"data": [{"id": "other"}, {"id": "m", "stats": stats}], "object": "list"}).encode()


async def test_known() -> None:
    """The figure of the model that the worker serves."""
    async with worker(listing(queue_absolute=12, batch_size=32)) as endpoint:
        found = await reading(endpoint)
    assert isinstance(found, Known)
    assert found.value == 12


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"no", 500, "answers 500"),
        (b"{", 200, "can't be read"),
        (b"[]", 200, "does not list"),
        (b'{"data": 7}', 200, "does not list"),
        (b'{"data": [null, {"id": "other"}]}', 200, "does not list"),
        (b'{"data": [{"id": "m", "stats": []}]}', 200, "no queue figure"),
        (listing(), 200, "no queue figure"),
        (listing(queue_absolute=-1), 200, "no queue figure"),
        (listing(queue_absolute=True), 200, "no queue figure"),
    ],
)
async def test_missing(body: bytes, status: int, reason: str) -> None:
    """Anything else is Missing with a reason, never 0, and raises nothing."""
    async with worker(body, status) as endpoint:
        found = await reading(endpoint)
    assert isinstance(found, Missing)
    assert reason in found.reason


async def test_silence_is_missing() -> None:
    """A worker that does not answer in time, or is gone, is Missing."""
    async with worker(listing(queue_absolute=0), wait=2.0) as endpoint:
        late = await reading(endpoint)
    assert isinstance(late, Missing)
    assert "does not answer" in late.reason
    assert isinstance(await reading(endpoint), Missing)


async def settle(true: Callable[[], bool]) -> None:
    """Let rounds pass until it is so, a thousand at most."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


async def test_rounds_go_on_and_forget_who_left() -> None:
    """Round after round; a worker that is ready no more has no reading."""
    ready: dict[str, Endpoint] = {}
    queues = InfinityQueues(lambda: ready, interval=0.01)
    running = asyncio.create_task(queues.run())
    async with worker(listing(queue_absolute=3)) as endpoint:
        ready["m"] = endpoint
        await settle(lambda: bool(queues.readings()))
        ready.clear()
        await settle(lambda: not queues.readings())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert infinity.DEADLINE < infinity.INTERVAL
