"""An admin listener in a thread of its own, for programs and commands that call it from outside."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from supervisor.admin.api import Api
from supervisor.admin.events import EventStreams
from supervisor.metrics import Metrics
from tests.support.fake_control import FakeControl


class ServedAdmin:
    """The fake control and where it can be reached."""

    def __init__(self, token: str | None = None) -> None:
        self.control = FakeControl()
        self._token = token
        self.url = ""
        self._loop = asyncio.new_event_loop()

    def hold(self) -> None:
        """Let acts on models wait until `release()`."""
        self.control.hold = asyncio.Event()

    def release(self) -> None:
        """Let the acts that wait be done."""
        assert self.control.hold is not None
        self._loop.call_soon_threadsafe(self.control.hold.set)

    def run(self, started: threading.Event, stop: threading.Event, socket: Path | None) -> None:
        """The thread: listen on a free port, or on a unix socket, until `stop`."""
        self._loop.run_until_complete(self._serve(started, stop, socket))
        self._loop.close()

    async def _serve(self, started: threading.Event, stop: threading.Event, socket: Path | None) -> None:
        app = Api(self.control, Metrics(), EventStreams(self.control), "127.0.0.1", self._token).application()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0) if socket is None else web.UnixSite(runner, str(socket))
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}" if socket is None else f"unix:{socket}"
        started.set()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()


@contextmanager
def served_admin(socket: Path | None = None, token: str | None = None) -> Iterator[ServedAdmin]:
    """A listener for the time of the block."""
    served, started, stop = ServedAdmin(token), threading.Event(), threading.Event()
    thread = threading.Thread(target=served.run, args=(started, stop, socket))
    thread.start()
    try:
        assert started.wait(60)
        yield served
    finally:
        stop.set()
        thread.join()
