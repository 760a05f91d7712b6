"""The admin listener: starts and ends with the daemon, holds the event streams' feed.

The address it is given is already checked; a port that is taken is refused in one line.
"""

import asyncio
from contextlib import suppress

from aiohttp import web

from supervisor.admin.api import Api
from supervisor.admin.control import Control
from supervisor.admin.events import EventStreams
from supervisor.admin.runner import BoundedRunner
from supervisor.admin.unix_socket import UnixSocket
from supervisor.errors import StartError
from supervisor.http_connection import http_log
from supervisor.metrics import Metrics

# How long requests under way get when the daemon ends; those that wait for a model are not going to see it.
CLOSE_SECONDS = 1.0
# How long the rest of a body is still read after a refusal, so that the client gets to read why.
LINGER_SECONDS = 1.0
# Between two requests on a connection, and for the first one's head.
KEEP_ALIVE_SECONDS = 75.0


class AdminServer:
    """`GET /healthz … POST /api/v1/reload` on one address, and on the unix socket at `socket`.

    Callers of the address need the `token`, where there is one; whoever may write to the socket needs none.
    """

    def __init__(
        self,
        control: Control,
        metrics: Metrics,
        host: str,
        port: int,
        *,
        token: str | None = None,
        socket: str | None = None,
    ) -> None:
        self._host = host.strip("[]")
        self._port = port
        self._streams = EventStreams(control)
        self._api = Api(control, metrics, self._streams, self._host, token)
        self._local = Api(control, metrics, self._streams, "localhost")
        self._socket_path = socket
        self._socket: UnixSocket | None = None
        self._runner: web.AppRunner | None = None
        self._local_runner: web.AppRunner | None = None
        self._feed: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is listened on: the one asked for, or the kernel's choice when that was 0."""
        if self._runner is not None and self._runner.addresses:
            return int(self._runner.addresses[0][1])
        return self._port

    @property
    def token(self) -> str | None:
        """The token that is asked for."""
        return self._api.token

    def set_token(self, token: str | None) -> None:
        """The token that is asked for from now on."""
        self._api.token = token

    async def start(self) -> None:
        """Listen. Raises StartError when the address, or the socket, can't be had."""
        self._runner = await _runner(self._api)
        try:
            await web.TCPSite(self._runner, self._host, self._port, reuse_address=True).start()
        except OSError as error:
            await self._runner.cleanup()
            raise StartError(
                f"admin.listen {self._host}:{self._port}: {error.strerror or error}; "
                "stop what listens there, or set another admin.listen"
            ) from error
        if self._socket_path is not None:
            self._socket = UnixSocket(self._socket_path)
            self._local_runner = await _runner(self._local)
            await web.SockSite(self._local_runner, self._socket.listener).start()
        self._feed = asyncio.create_task(self._streams.run(), name="admin: event streams")

    async def close(self) -> None:
        """End the event streams, give requests under way a moment, listen no longer."""
        self._streams.close()
        if self._feed is not None:
            self._feed.cancel()
            with suppress(asyncio.CancelledError):
                await self._feed
        for runner in (self._runner, self._local_runner):
            if runner is not None:
                await runner.cleanup()
        if self._socket is not None:
            self._socket.remove()


async def _runner(api: Api) -> web.AppRunner:
    runner = BoundedRunner(
        api.application(),
        access_log=None,
        logger=http_log,
        handle_signals=False,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        shutdown_timeout=CLOSE_SECONDS,
        lingering_time=LINGER_SECONDS,
    )
    await runner.setup()
    return runner
