"""The data plane's HTTP server: which path goes where, and when it listens.

A connection begins as a `ClientConnection`, which serves requests that come whole and plain, and goes on with aiohttp's
low-level server when something else comes.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from aiohttp import web

from supervisor.connections import Connections
from supervisor.core.model import ModelState
from supervisor.core.payload import Inference
from supervisor.descriptors import MOST_CLIENTS
from supervisor.errors import StartError
from supervisor.http_connection import http_log
from supervisor.proxy import catalog, reading
from supervisor.proxy.answers import JSON, SERVER, Answer
from supervisor.proxy.callers import Callers
from supervisor.proxy.catalog import ModelEntry
from supervisor.proxy.client_connection import PlainConnections
from supervisor.proxy.dispatcher import SHUTTING_DOWN, Dispatcher
from supervisor.proxy.inference import CLIENT_GONE, InferenceHandler
from supervisor.proxy.observer import NullObserver, ProxyObserver
from supervisor.proxy.passthrough import Passthrough
from supervisor.proxy.plain_head import paths
from supervisor.proxy.refusals import Reason, Refusal

__all__ = ["ModelEntry", "ProxyServer"]

log = structlog.get_logger(__name__)

# Seconds between two requests on a connection, and for the first one's head: a slow head holds a socket, nothing more.
KEEP_ALIVE_SECONDS: Final = 75.0
# How long the rest of a refused body is read and thrown away, so that the client sees the refusal and not a reset.
LINGER_SECONDS: Final = 2.0
BACKLOG: Final = 2048
# How long a connection may be idle before it is closed for the next supervisor to take over.
IDLE_SECONDS: Final = 2.0

_INFERENCE: Final = {path: kind for kind in Inference for path in paths(kind)}
_MODELS: Final = frozenset({"/models", "/v1/models"})
_HEALTH: Final = "/health"


class ProxyServer:
    """Serves `listen` ("host:port"; port 0 picks one, see `port`) on at most so many `connections` at once.

    `models_view` lists the configured models.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        listen: str,
        max_body_bytes: int,
        models_view: Callable[[], Sequence[ModelEntry]],
        observer: ProxyObserver | None = None,
        *,
        connections: int = MOST_CLIENTS,
    ) -> None:
        self._dispatcher = dispatcher
        self._listen = listen
        self._models_view = models_view
        self._observer = observer or NullObserver()
        self._loop = asyncio.get_running_loop()
        self.callers = Callers()
        self._infer = InferenceHandler(dispatcher, self._observer, max_body_bytes, self.callers)
        self._pass = Passthrough(dispatcher, self._starting, max_body_bytes)
        self._http = web.Server(
            self._handle,
            handler_cancellation=True,  # a client that leaves takes its queued work with it
            auto_decompress=False,  # Infinity does not either: a compressed body is its 400
            access_log=None,
            logger=http_log,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
        )
        # Answers that wait for their readers may hold as much as requests that wait for their turn.
        self._connections = Connections(connections, lambda: dispatcher.limits.max_bytes)
        self._plain = PlainConnections(self._infer, self._http, KEEP_ALIVE_SECONDS, self._connections)
        self._listeners: list[asyncio.Server] = []

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._listeners, "it does not listen"
        port: int = self._listeners[0].sockets[0].getsockname()[1]
        return port

    @property
    def connected(self) -> int:
        """How many connections clients have."""
        return len(self._connections)

    def set_max_body_bytes(self, size: int) -> None:
        """Bodies beyond this are refused from now on."""
        self._infer.max_body_bytes = self._pass.max_body_bytes = size

    async def start(self, inherited: Sequence[socket.socket] = ()) -> None:
        """Listen, on the sockets that were `inherited` if there are any.

        Raises:
            StartError: the address can't be had.
        """
        host, _, port = self._listen.rpartition(":")
        try:
            if inherited:
                self._listeners = [
                    await self._loop.create_server(self._plain, sock=sock, backlog=BACKLOG) for sock in inherited
                ]
            else:
                host = host.strip("[]")
                self._listeners = [await self._loop.create_server(self._plain, host, int(port), backlog=BACKLOG)]
        except OSError as error:
            text = f"proxy.listen {self._listen}: {error.strerror or error}"
            raise StartError(f"{text}; stop what listens there, or set another proxy.listen") from error

    async def stop_accepting(self) -> None:
        """Close the listening socket; connections that are open go on."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()

    async def hand_over(self, timeout: float) -> list[int]:
        """Leave the listening sockets to the next supervisor: their descriptors, once what was accepted is answered.

        1. Who connects from now on waits in the kernel for the next one.
        2. Every answer closes its connection. Whoever keeps one open has some time to ask on it: closed under a request
           that is on its way it would be an error. (Closed at once: 100 errors at 50 clients.)
        3. What is not answered after `timeout` seconds, because requests are held, is refused.
        """
        descriptors = [os.dup(sock.fileno()) for listener in self._listeners for sock in listener.sockets]  # 1
        await self.stop_accepting()
        self._dispatcher.leaving = True  # 2
        await self._plain.drain(IDLE_SECONDS)
        if self._http.connections:
            await asyncio.sleep(IDLE_SECONDS)
        await self._dispatcher.finish(timeout)  # 3
        self._http.pre_shutdown()
        await asyncio.gather(self._plain.close(timeout), self._http.shutdown(timeout))
        return descriptors

    async def close(self, timeout: float = 5.0) -> None:
        """Close all connections; requests that are being answered get `timeout` seconds."""
        await self.stop_accepting()
        self._http.pre_shutdown()
        await asyncio.gather(self._plain.close(timeout), self._http.shutdown(timeout))
        await self._pass.close()

    # -- one request ------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        request_id = reading.request_id(request.headers)
        try:
            endpoint = _INFERENCE.get(path)
            if endpoint is not None and request.method == "POST":
                return await self._infer(request, endpoint, request_id)
            if path == _HEALTH or path in _MODELS:
                return self._own(request, path, request_id)
            return await self._passed(request, request_id)
        except Refusal as refusal:
            return self._refused(request, refusal, request_id)
        except ConnectionError:
            raise
        except Exception:  # whatever it is, it is one request's: the client gets an answer, the log the details
            log.exception("request_failed", path=path, request_id=request_id)
            return self._refused(request, Refusal(Reason.INTERNAL, reading.OUR_FAULT), request_id)

    async def _passed(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        arrived = self._loop.time()
        code = CLIENT_GONE
        try:
            try:
                if self._dispatcher.draining:
                    raise Refusal(Reason.DRAINING, SHUTTING_DOWN)
                response = await self._pass(request, request_id, self.callers.of(request))
            except Refusal as refusal:
                response = self._refused(request, refusal, request_id)
            code = response.status
            return response
        finally:
            self._observer.request_done("other", None, code, self._loop.time() - arrived)

    def _refused(self, request: web.BaseRequest, refusal: Refusal, request_id: str) -> Answer:
        return self._infer.refusal(refusal, request_id, unread=not request.content.is_eof())

    def _own(self, request: web.BaseRequest, path: str, request_id: str) -> Answer:
        """`/health` and `/models`; another method than GET is refused in Infinity's words."""
        headers = {"Content-Type": JSON, "Server": SERVER, "x-request-id": request_id}
        if request.method != "GET":
            headers["Allow"] = "GET"
            return Answer(405, b'{"detail":"Method Not Allowed"}', headers)
        if path == _HEALTH:
            self._dispatcher.check_accepting()
            return Answer(200, catalog.health(), headers)
        self.callers.of(request)  # only for a key, where one is needed: `/health` is as open as Infinity's
        limit = self._dispatcher.limits.max_requests
        body = catalog.models(self._models_view(), self._dispatcher.demand(), limit)
        return Answer(200, body, headers)

    def _starting(self) -> bool:
        return any(entry.state is ModelState.STARTING for entry in self._models_view())
