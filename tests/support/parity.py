"""For comparing the proxy with a bare Infinity: the proxy in a thread, a plain client, and what "equal" means."""

import asyncio
import base64
import http.client
import math
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from supervisor.core.endpoint import Endpoint
from supervisor.core.model import LaneOrders, ModelState, Orders
from supervisor.proxy.dispatcher import Dispatcher, QueueLimits, ServedModel
from supervisor.proxy.server import ModelEntry, ProxyServer
from tests.support import infinity

JSON = "application/json"
TOLERANCE = 1e-5
# Some of Infinity's messages name a Python object with its address.
_OBJECT_AT = re.compile(r"0x[0-9a-f]+")


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return orjson.loads(self.body)


def exchange(
    url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str | None] | None = None
) -> Answer:
    """One request on a connection of its own; a header of None is left out."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=100)
    sent = {"Content-Type": JSON if body is not None else None, **(headers or {})}
    try:
        connection.request(method, path, body, {name: value for name, value in sent.items() if value is not None})
        response = connection.getresponse()
        content = response.read()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)
    finally:
        connection.close()


class Proxy:
    """A dispatcher and its server in a thread, before Infinity servers that run already."""

    def __init__(self, workers: Mapping[str, tuple[infinity.Server, ServedModel]]) -> None:
        self._workers = workers
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = ""
        self._call(self._start())

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        served = [model for _, model in self._workers.values()]
        entries = [ModelEntry(model.name, ModelState.READY, "debugengine", 32) for model in served]
        self.dispatcher = Dispatcher(served, QueueLimits(), lambda name: None)
        self.server = ProxyServer(self.dispatcher, "127.0.0.1:0", 64 << 20, lambda: entries)
        await self.server.start()
        self.url = f"http://127.0.0.1:{self.server.port}"
        for name, (worker, _) in self._workers.items():
            address = urlsplit(worker.base_url)
            assert address.hostname
            assert address.port
            key = worker.headers.get("authorization", "").removeprefix("Bearer ")
            self.dispatcher.attach(Endpoint(name, address.hostname, address.port, key))

    def order(self, batch: int, window: int = 2) -> None:
        """Other part sizes from now on."""

        async def give() -> None:
            lanes = {name: LaneOrders(True, batch, window, None) for name in self._workers}
            self.dispatcher.set_orders(Orders(lanes=lanes))

        self._call(give())

    def close(self) -> None:
        """Stop it; the workers stay."""

        async def end() -> None:
            await self.server.close(timeout=1)
            await self.dispatcher.close()

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def same(direct: Answer, through: Answer) -> None:
    """Status, type and body are equal, all but `id`, `created` and the last bits of numbers."""
    assert through.status == direct.status, through.body[:500]
    assert through.headers["content-type"] == direct.headers["content-type"]
    assert int(through.headers["content-length"]) == len(through.body)
    assert "x-supervisor-reason" not in through.headers
    if direct.headers["content-type"] != JSON:
        assert through.body == direct.body
        return
    one, other = direct.json, through.json
    if direct.status != 200:
        assert _OBJECT_AT.sub("", through.body.decode()) == _OBJECT_AT.sub("", direct.body.decode())
        return
    assert list(other) == list(one), "the keys and their order"
    for key in ("id", "created"):
        assert type(other.pop(key)) is type(one.pop(key))
    if one["object"] == "rerank":
        _same_ranking(one.pop("results"), other.pop("results"))
    close(one, other)


def close(one: Any, other: Any, where: str = "") -> None:
    """Equal, floats (also encoded ones) within the tolerance."""
    if isinstance(one, float) and isinstance(other, float):
        assert math.isclose(one, other, rel_tol=0, abs_tol=TOLERANCE), f"{where}: {one} and {other}"
    elif isinstance(one, dict) and isinstance(other, dict):
        assert list(one) == list(other), where
        for key, value in one.items():
            if key == "embedding" and isinstance(value, str):
                close(floats(value), floats(other[key]), f"{where}.{key}")
            else:
                close(value, other[key], f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), where
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            close(left, right, f"{where}[{i}]")
    else:
        assert one == other, where


def floats(encoded: str) -> list[float]:
    """A vector that came as base64."""
    data = base64.b64decode(encoded)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _same_ranking(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """The same documents with the same scores; neighbours may change places where their scores are as good as equal."""
    close([row["relevance_score"] for row in one], [row["relevance_score"] for row in other], "scores by rank")
    for i, (left, right) in enumerate(zip(one, other, strict=True)):
        assert list(left) == list(right)
        if left["index"] == right["index"]:
            assert left["document"] == right["document"]
            continue
        twins = [row for row in one if abs(row["relevance_score"] - right["relevance_score"]) <= 2 * TOLERANCE]
        assert right["index"] in {row["index"] for row in twins} or i >= len(one) - len(twins), f"rank {i}"


def png(width: int, height: int, colour: Iterable[int]) -> str:
    """A plain picture as a data URI."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(colour) * width) * height
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def with_aiohttp(folder: Path) -> dict[str, str]:
    """An environment in which Infinity finds aiohttp, which it needs for images and does not install: ours, linked.

    Only what it lacks is linked, so nothing of its own is replaced. Both environments are of the same interpreter.
    """
    (ours,) = (infinity.SUPPORT.parent.parent / ".venv").glob("lib/python3*/site-packages")
    (its,) = infinity.HOME.glob("lib/python3*/site-packages")
    assert ours.parent.name == its.parent.name, "both environments must be of the same Python"
    names = [
        "aiohttp",
        "aiosignal",
        "aiohappyeyeballs",
        "attr",
        "attrs",
        "frozenlist",
        "multidict",
        "propcache",
        "yarl",
    ]
    for name in names:
        if not (its / name).exists():
            os.symlink(ours / name, folder / name)
    return {"PYTHONPATH": str(folder)}
