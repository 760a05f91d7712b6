"""HTTP to one worker: parts go out, replies come back.

Owns the connections to a worker and the translation of aiohttp's exceptions: whatever goes wrong on the way is
`WorkerLost`, whatever the worker answers is a `Reply`. There is no time-out on an answer (edge-cases.md 22): a part may
take minutes, and whoever runs the worker ends it when it is dead.
"""

from collections.abc import Mapping
from typing import Final

import aiohttp
from yarl import URL

from supervisor.core.endpoint import Endpoint
from supervisor.core.payload import Inference
from supervisor.proxy.jobs import Reply, WorkerLost

# uvicorn closes a connection that was idle for 5 s: drop it before, so that a part rarely meets its end.
IDLE_SECONDS: Final = 4.0
# Loopback connects at once or never; a full backlog is the only thing that takes time.
CONNECT_SECONDS: Final = 10.0
# A large answer in few reads: 32 vectors of 1,024 numbers are about 0.7 MB of JSON.
READ_BYTES: Final = 1024 * 1024
# Headers of a worker's answer that a client is to see; the others speak about the connection to us.
_KEPT: Final = ("content-type", "vary", "www-authenticate")
_KEPT_PREFIX: Final = "access-control-"


class HttpWorker:
    """A client of one worker. Connections are kept and reused; a reused one that turns out closed costs a retry."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._urls = {kind: URL(endpoint.base_url + kind.path) for kind in Inference}
        self._pooled = _session(endpoint, aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS))
        self._fresh = _session(endpoint, aiohttp.TCPConnector(limit=0, force_close=True))

    async def send(self, endpoint: Inference, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The worker's answer, however long it takes.

        A worker may close a kept connection at the very moment a part is sent on it. That is no failure: the part is
        sent once more, at once, on a new connection. If that fails too, the worker is lost.

        Raises:
            WorkerLost: no answer.
        """
        url = self._urls[endpoint]
        try:
            return await _post(self._pooled, url, body, headers)
        except aiohttp.ClientConnectorError as error:
            raise WorkerLost(str(error), sent=False) from error
        except (aiohttp.ClientError, OSError):
            try:
                return await _post(self._fresh, url, body, headers)
            except (aiohttp.ClientError, OSError) as error:
                raise WorkerLost(str(error) or type(error).__name__, sent=True) from error

    async def close(self) -> None:
        """Drop all connections."""
        await self._pooled.close()
        await self._fresh.close()


def _session(endpoint: Endpoint, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        headers={"Authorization": f"Bearer {endpoint.api_key}"},
        skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=READ_BYTES,
    )


async def _post(session: aiohttp.ClientSession, url: URL, body: bytes, headers: Mapping[str, str]) -> Reply:
    async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
        content = await response.read()
        kept = {
            name: value
            for name, value in ((name.lower(), value) for name, value in response.headers.items())
            if name in _KEPT or name.startswith(_KEPT_PREFIX)
        }
        return Reply(response.status, content, kept)
