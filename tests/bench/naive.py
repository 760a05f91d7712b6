"""The naive contestant: a reverse proxy that holds whole requests while the host's CPU is too busy.

The rule of thumb most people write first, and the pseudo-code this project started from: look at the CPU each second,
pause above 90 %, go on below 75 %; a request that finds the pause looks again each half second. What is sent is not
split, merged, ordered or counted.

Run as `python -m tests.bench.naive PORT UPSTREAM-URL [--never-pause]`.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp
import psutil
import uvloop
from aiohttp import web

PAUSE, RESUME = 90.0, 75.0
LOOK, RETRY = 1.0, 0.5
# What belongs to one connection only, and what aiohttp sets itself.
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length"})


class Naive:
    """The proxy and its one bit of state."""

    def __init__(self, upstream: str, pausing: bool) -> None:
        self.upstream = upstream
        self.pausing = pausing
        self.paused = False
        self.session: aiohttp.ClientSession | None = None

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        """Open the connections' pool and watch the CPU for as long as the server runs."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        self.session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        watching = asyncio.create_task(self._watch())
        yield
        watching.cancel()
        await self.session.close()

    async def _watch(self) -> None:
        psutil.cpu_percent()
        while self.pausing:
            await asyncio.sleep(LOOK)
            percent = psutil.cpu_percent()
            if percent >= PAUSE:
                self.paused = True
            elif percent < RESUME:
                self.paused = False

    async def handle(self, request: web.Request) -> web.Response:
        """Hold, forward, answer."""
        assert self.session is not None
        body = await request.read()
        while self.paused:  # noqa: ASYNC110 - polling is part of what is compared
            await asyncio.sleep(RETRY)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = self.upstream + request.path_qs
        async with self.session.request(request.method, url, data=body, headers=headers) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)


def main() -> None:
    """Serve until SIGTERM."""
    port, upstream, *options = sys.argv[1:]
    naive = Naive(upstream, "--never-pause" not in options)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", naive.handle)
    app.cleanup_ctx.append(naive.running)
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    main()
