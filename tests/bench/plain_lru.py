"""The plain-LRU contestant: as many Infinities as there is room for; on a miss the least recently used goes at once.

The rule that most caches of models begin with. It drains nothing, gives nobody a turn, and waits for nothing but the
exit of the one that it evicts, then starts the other. Who waits for one that is evicted before it was up is refused.

Run as `python -m tests.bench.plain_lru PORT ROOM COMMAND…`: the command gets the model's name and a port.
"""

import asyncio
import contextlib
import json
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

from tests.bench.naive import HOP_BY_HOP
from tests.support.daemon import free_port

KNOCK = 0.1
"""Seconds between two looks whether an Infinity is up."""
EXIT_LIMIT = 10.0
"""Seconds that an Infinity gets to end by SIGTERM."""


class Gone(Exception):
    """This model's Infinity was evicted, or has ended, before it was up."""


class Loaded:
    """One Infinity, from its start to its end."""

    def __init__(self, command: list[str], model: str, after: "Loaded | None", session: aiohttp.ClientSession) -> None:
        self._port = free_port()
        self._command = [*command, "--served-model-name", model, "--port", str(self._port)]
        self._session = session
        self._process: asyncio.subprocess.Process | None = None
        self._evicted = False
        self._ended: asyncio.Task[None] | None = None
        self.up = asyncio.create_task(self._start(after))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    async def _start(self, after: "Loaded | None") -> None:
        if after is not None:
            await after.evict()
        if self._evicted:
            raise Gone
        self._process = await asyncio.create_subprocess_exec(*self._command)
        while True:
            if self._evicted or self._process.returncode is not None:
                raise Gone
            with contextlib.suppress(OSError, aiohttp.ClientError):
                async with self._session.get(self.url + "/health") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(KNOCK)

    async def evict(self) -> None:
        """End it; returns when it has ended."""
        if self._ended is None:
            self._evicted = True
            self._ended = asyncio.create_task(self._end())
        await self._ended

    async def _end(self) -> None:
        await asyncio.wait([self.up])
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(EXIT_LIMIT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


class PlainLru:
    """The proxy and its cache."""

    def __init__(self, room: int, command: list[str]) -> None:
        self._room = room
        self._command = command
        self._cache: OrderedDict[str, Loaded] = OrderedDict()
        self._all: list[Loaded] = []
        self._session: aiohttp.ClientSession | None = None

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        """Open the connections' pool; in the end, end every Infinity."""
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)
        yield
        await asyncio.gather(*(loaded.evict() for loaded in self._all))
        await self._session.close()

    async def count(self, _: web.Request) -> web.Response:
        """How often a model was loaded so far."""
        return web.Response(text=str(len(self._all)))

    async def handle(self, request: web.Request) -> web.Response:
        """Load, forward, answer; 502 when that broke off."""
        assert self._session is not None
        body = await request.read()
        loaded = self._hit(json.loads(body)["model"])
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        try:
            await asyncio.shield(loaded.up)
            async with self._session.post(loaded.url + request.path_qs, data=body, headers=headers) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type="application/json")
        except (Gone, OSError, aiohttp.ClientError) as error:
            return web.Response(status=502, text=f"{type(error).__name__}: {error}")

    def _hit(self, model: str) -> Loaded:
        """This model's Infinity, now the one that was used last; started if need be, in the place of another."""
        if model not in self._cache:
            assert self._session is not None
            victim = self._cache.popitem(last=False)[1] if len(self._cache) >= self._room else None
            self._cache[model] = Loaded(self._command, model, victim, self._session)
            self._all.append(self._cache[model])
        self._cache.move_to_end(model)
        return self._cache[model]


def main() -> None:
    """Serve until SIGTERM."""
    port, room, *command = sys.argv[1:]
    cache = PlainLru(int(room), command)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_get("/loads", cache.count)
    app.router.add_post("/{path:.*}", cache.handle)
    app.cleanup_ctx.append(cache.running)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
