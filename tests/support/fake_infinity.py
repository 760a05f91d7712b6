"""A small Infinity: the same answers in the same shapes, from a few lines that a test can hold, delay and break.

`answer` is pure; `FakeInfinity` serves it on loopback. tests/infinity/test_parity.py holds it against the real one.
Vectors are made from the text itself, so that an answer that went to the wrong input is seen.
"""

import asyncio
import base64
import contextlib
import json
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

# Unicode's White_Space: what Infinity strips (pydantic is Rust). Python's `strip()` also takes \x1c to \x1f.
WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
FIELDS = {"embeddings": "input", "classify": "input", "rerank": "documents"}


def lengths(text: str) -> list[float]:
    """What the debug engine answers: 13 times the length."""
    return [float(len(text))] * 13


def spread(text: str) -> list[float]:
    """Numbers that no two texts share, with digits that show every rounding."""
    seed = zlib.crc32(text.encode())
    return [float(len(text)), seed / 7.0, 1.0 / (seed + 3), -1e-17 * seed]


def score(query: str, document: str) -> float:
    """A relevance in single precision, as Infinity's are; equal for documents that start alike, so that ties occur."""
    exact = zlib.crc32((query + document[:2]).encode()) / 2**32
    single: float = struct.unpack("f", struct.pack("f", exact))[0]
    return single


def answer(
    endpoint: str, body: bytes, *, model: str = "m", limit: int = 2048, vector: Callable[[str], list[float]] = spread
) -> tuple[int, bytes]:
    """Status and body for a request to `/endpoint`, as a single-model Infinity gives them (422s without their text)."""
    try:
        request: dict[str, Any] = json.loads(body)
        rows = request[FIELDS[endpoint]]
        rows = [rows] if isinstance(rows, str) and endpoint == "embeddings" else rows
        if not isinstance(rows, list) or not 0 < len(rows) <= limit:
            raise ValueError("the inputs")
        rows = [row.strip(WHITE) for row in rows]
        result = {"embeddings": _embeddings, "rerank": _rerank, "classify": _classify}[endpoint](request, rows, vector)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        return 422, orjson.dumps({"detail": [{"msg": str(error)}]})
    tokens = sum(len(row) + len(request.get("query", "")) for row in rows)
    shape = "list" if endpoint == "embeddings" else endpoint
    field = "results" if endpoint == "rerank" else "data"
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return 200, orjson.dumps(
        {"object": shape, field: result, "model": model, "usage": usage, "id": "infinity-0", "created": 1}
    )


def _embeddings(request: dict[str, Any], rows: list[str], vector: Callable[[str], list[float]]) -> list[Any]:
    def encoded(row: str) -> Any:
        numbers = vector(row)[: request.get("dimensions") or None]
        if request.get("encoding_format", "float") == "base64":
            return base64.b64encode(struct.pack(f"{len(numbers)}f", *numbers)).decode()
        return numbers

    return [{"object": "embedding", "embedding": encoded(row), "index": i} for i, row in enumerate(rows)]


def _rerank(request: dict[str, Any], rows: list[str], _: object) -> list[Any]:
    shown = bool(request.get("return_documents"))
    ranked = [
        {"relevance_score": score(request["query"], row), "index": i, "document": row if shown else None}
        for i, row in enumerate(rows)
    ]
    ranked.sort(key=lambda row: row["relevance_score"], reverse=True)  # type: ignore[arg-type, return-value]
    return ranked[: request.get("top_n")]


def _classify(request: dict[str, Any], rows: list[str], vector: Callable[[str], list[float]]) -> list[Any]:
    return [[{"score": number, "label": f"L{i}"} for i, number in enumerate(vector(row)[:2])] for row in rows]


@dataclass
class Seen:
    """A request that reached the fake."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Special = Callable[[web.BaseRequest, bytes], Awaitable[web.StreamResponse | None]]


@dataclass
class FakeInfinity:
    """A worker on loopback. `special` may answer a request its own way (None: as usual); `free` cleared holds all."""

    model: str = "m"
    special: Special | None = None
    keep_alive: float = 75.0
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    running: int = 0
    port: int = 0

    def __post_init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self._http: web.Server | None = None
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port, or on the one it had before."""
        self._http = web.Server(self._handle, auto_decompress=False, access_log=None, keepalive_timeout=self.keep_alive)
        loop = asyncio.get_running_loop()

        def accepted() -> asyncio.Protocol:
            self.connections += 1
            assert self._http is not None
            return self._http()

        self._listener = await loop.create_server(accepted, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def die(self) -> None:
        """Break all connections off and stop listening."""
        assert self._listener is not None
        assert self._http is not None
        self._listener.close()
        for connection in self._http.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._http.shutdown(0.1)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.path_qs, headers, body))
        self.running += 1
        try:
            await self.free.wait()
            if self.special is not None and (response := await self.special(request, body)) is not None:
                return response
        finally:
            self.running -= 1
        endpoint = request.path.lstrip("/")
        if request.method == "POST" and endpoint in FIELDS:
            status, content = answer(endpoint, body, model=self.model)
            return web.Response(status=status, body=content, content_type="application/json")
        return web.Response(status=404, body=b'{"detail":"Not Found"}', content_type="application/json")


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[FakeInfinity]:
    """A fake that listens, and is gone at the end."""
    fake = FakeInfinity(**options)
    await fake.start()
    try:
        yield fake
    finally:
        fake.free.set()
        await fake.die()
