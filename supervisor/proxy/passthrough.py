"""Everything that is no inference goes to a ready worker as it is, streamed both ways: /docs, /openapi.json, /metrics.

Owns what changes on the way: the headers that belong to one connection, and the worker's key in place of the client's.
No gate and no queue: nothing here runs a model. It never wakes one either, and keeps none warm; but until the last
byte it holds the worker, so that none is stopped in the middle of an answer.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from supervisor.core.endpoint import Endpoint
from supervisor.proxy import reading
from supervisor.proxy.callers import Caller
from supervisor.proxy.dispatcher import Dispatcher
from supervisor.proxy.refusals import Reason, Refusal
from supervisor.proxy.upstream import CONNECT_SECONDS
from supervisor.transfer import GRACE_SECONDS, allowed

# RFC 9110, 7.6.1, and what `Connection` names besides.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Who a request is said to come from, by whom nobody knows: workers believe it from us (uvicorn does, from loopback).
_SAID_BY_PROXIES: Final = frozenset({"forwarded", "x-real-ip"})
# Ours to write: the worker's key, our own 100 Continue, and the id under which we log the request.
_OURS: Final = frozenset({"authorization", "expect", "x-request-id"})
_LOOK_AGAIN_SECONDS: Final = 0.5
# Each has a connection of its own to a worker, and no queue to wait in.
AT_ONCE: Final = 256


class Passthrough:
    """Sends requests on to whatever worker is ready; `starting` tells whether one may be ready soon."""

    def __init__(self, dispatcher: Dispatcher, starting: Callable[[], bool], max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self._dispatcher = dispatcher
        self._starting = starting
        self._now = 0  # requests under way
        # A connection for each request: a kept one may turn out closed, and a streamed body can't be sent twice.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Drop all connections."""
        await self._session.close()

    async def __call__(self, request: web.BaseRequest, request_id: str, caller: Caller) -> web.StreamResponse:
        """A worker's answer, streamed.

        Raises:
            Refusal: no worker is ready or about to be, or it was lost before it answered.
        """
        reading.declared_size(request, self.max_body_bytes)
        target = request.rel_url.raw_path_qs
        if not target.startswith("/"):  # `OPTIONS *`, `CONNECT host:port`: it would become part of the worker's address
            raise Refusal(Reason.BAD_REQUEST, "The request target must be a path.")
        if self._now >= AT_ONCE:
            text = f"{AT_ONCE} requests that are no inference are under way. Try again later."
            raise Refusal(Reason.QUEUE_FULL, text)
        self._now += 1
        try:
            worker = await self._worker()
            with self._dispatcher.visit(worker):
                return await self._through(worker, target, request, request_id, caller)
        finally:
            self._now -= 1

    async def _through(
        self, worker: Endpoint, target: str, request: web.BaseRequest, request_id: str, caller: Caller
    ) -> web.StreamResponse:
        headers = _passed_on(request.headers)
        if not caller.trusted:
            for name in [name for name in headers if _from_proxies(name.lower())]:
                del headers[name]
        if worker.api_key:
            headers["Authorization"] = f"Bearer {worker.api_key}"
        elif caller.credential is not None:
            headers["Authorization"] = caller.credential
        headers["x-request-id"] = request_id
        try:
            upstream = await self._session.request(
                request.method,
                URL(worker.base_url + target, encoded=True),
                headers=headers,
                data=self._body(request) if request.body_exists else None,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error.__cause__, Refusal):  # from `_body`
                raise error.__cause__ from None
            text = f"A worker was lost before it answered: {error or type(error).__name__}. Try again."
            raise Refusal(Reason.WORKER_UNAVAILABLE, text) from error
        async with upstream:
            headers = _passed_on(upstream.headers)
            headers["x-request-id"] = request_id
            response = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
            await response.prepare(request)
            try:
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
            except aiohttp.ClientError:
                # The head is out: all that can still be told is that the body is not complete.
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("the worker was lost in the middle of its answer") from None
            await response.write_eof()
            return response

    async def _worker(self) -> Endpoint:
        """A ready worker; one that is starting is waited for as long as it may start."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._dispatcher.limits.start_timeout
        while (worker := self._dispatcher.ready_worker()) is None:
            if not self._starting() or loop.time() >= until:
                text = "No worker is ready. A request for a model starts one."
                raise Refusal(Reason.WORKER_UNAVAILABLE, text)
            await self._dispatcher.wait_for_worker(_LOOK_AGAIN_SECONDS)
        return worker

    async def _body(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        await reading.say_continue(request)
        loop = asyncio.get_running_loop()
        began, size = loop.time(), 0
        try:
            while not request.content.at_eof():
                until = min(loop.time() + GRACE_SECONDS, began + allowed(size, GRACE_SECONDS))
                async with asyncio.timeout_at(until):
                    chunk = await request.content.readany()
                size += len(chunk)
                if size > self.max_body_bytes:
                    raise reading.too_large(self.max_body_bytes)
                yield chunk
        except TimeoutError:
            raise reading.too_slow() from None
        except web.RequestPayloadError as error:
            raise reading.unreadable(error) from error


def _passed_on(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers that are about the message, not about the connection it came on."""
    named = {name.strip().lower() for line in headers.getall("Connection", ()) for name in line.split(",")}
    left_out = _HOP_BY_HOP | _OURS | named
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in left_out)


def _from_proxies(name: str) -> bool:
    return name in _SAID_BY_PROXIES or name.startswith("x-forwarded-")
