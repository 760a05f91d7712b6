"""The proxy on loopback before a fake Infinity, and clients that speak HTTP as badly as a test wants."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from supervisor.core.endpoint import Endpoint
from supervisor.core.model import LaneOrders, ModelState, Orders
from supervisor.proxy.admission import Place
from supervisor.proxy.dispatcher import NOBODY, Dispatcher, QueueLimits, ServedModel
from supervisor.proxy.jobs import Asker
from supervisor.proxy.server import ModelEntry, ProxyServer
from tests.support.fake_infinity import FakeInfinity, answer

JSON = {"Content-Type": "application/json"}


@dataclass
class Counter:
    """An observer that remembers."""

    done: list[tuple[str, str | None, int]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def request_done(self, endpoint: str, model: str | None, code: int, seconds: float) -> None:
        """Remembered."""
        assert seconds >= 0
        self.done.append((endpoint, model, code))

    def refused(self, reason: str) -> None:
        """Remembered."""
        self.reasons.append(reason)

    def queue_waited(self, seconds: float) -> None:
        """Not looked at here."""

    def inputs_done(self, model: str, n: int) -> None:
        """Not looked at here."""


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return orjson.loads(self.body)


class Recorded(Dispatcher):
    """A dispatcher that remembers who asked, in the order in which they did."""

    def __init__(self, *args: Any) -> None:
        self.askers: list[Asker] = []
        super().__init__(*args)

    def admit(self, size: int, asker: Asker = NOBODY) -> Place:
        """Remembered, whatever comes of it."""
        self.askers.append(asker)
        return super().admit(size, asker)


class Setup:
    """A proxy for the model "m" (alias "nick"); `fake` is its worker once `attach` was called."""

    def __init__(self, fake: FakeInfinity, limits: QueueLimits, max_body_bytes: int, models: tuple[ServedModel, ...]):
        self.fake = fake
        self.counter = Counter()
        self.demanded: list[str] = []
        self.entries = [ModelEntry(m.name, ModelState.STOPPED, "debugengine", 32) for m in models]
        self.dispatcher = Recorded(models, limits, self.demanded.append, self.counter)
        self.server = ProxyServer(self.dispatcher, "127.0.0.1:0", max_body_bytes, lambda: self.entries, self.counter)
        self.session = aiohttp.ClientSession(auto_decompress=False)

    def attach(self, model: str = "m") -> None:
        """The worker is ready."""
        self.dispatcher.attach(Endpoint(model, "127.0.0.1", self.fake.port, "worker-key"))

    def order(self, batch: int = 16, window: int = 2, *, paused: bool = False) -> None:
        """New orders for every model."""
        lanes = {entry.name: LaneOrders(True, batch, window) for entry in self.entries}
        self.dispatcher.set_orders(Orders(paused, None, lanes))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.port}"

    async def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; a body that is not bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) or hasattr(body, "__aiter__") else orjson.dumps(body)
        sent = {**(JSON if data is not None else {}), **{k.replace("_", "-"): v for k, v in headers.items()}}
        async with self.session.request(
            method, self.url + path, data=data, headers=sent, allow_redirects=False
        ) as response:
            received = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, received, await response.read())

    @property
    def rows(self) -> list[list[str]]:
        """The inputs of each part that reached the worker, in the order in which they came."""
        return [orjson.loads(seen.body)["input"] for seen in self.fake.seen]

    async def embed(self, *texts: str, **headers: str) -> Answer:
        """Embeddings for these texts."""
        return await self.request("POST", "/embeddings", {"model": "m", "input": list(texts)}, **headers)

    @contextlib.asynccontextmanager
    async def raw(self, address: str = "127.0.0.1") -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare connection from this address."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, local_addr=(address, 0))
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def proxied(
    *,
    attached: bool = True,
    max_body_bytes: int = 1 << 20,
    models: tuple[ServedModel, ...] = (ServedModel("m", ("nick",)),),
    **limits: Any,
) -> AsyncIterator[Setup]:
    """A proxy that listens, before a fake worker that is attached if wanted."""
    fake = FakeInfinity()
    await fake.start()
    setup = Setup(fake, QueueLimits(**limits), max_body_bytes, models)
    await setup.server.start()
    try:
        if attached:
            setup.attach()
        yield setup
    finally:
        fake.free.set()
        await setup.session.close()
        await setup.server.close(timeout=2.0)
        await setup.dispatcher.close()
        await fake.die()


def expected(endpoint: str, request: object) -> bytes:
    """What a worker alone would answer."""
    return answer(endpoint, orjson.dumps(request))[1]


async def eventually(true: Any, seconds: float = 10.0) -> None:
    """Wait until `true()`, in real time."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 — what is waited for has no event: it is the state of the code under test
            await asyncio.sleep(0.005)


async def head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer on a bare connection."""
    async with asyncio.timeout(10):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), headers
