"""What each ready Infinity says of itself at `/models`: how many inputs wait in it. Known or Missing; silence is no 0.

Asks now and then, with a deadline, and keeps the last answers. Infinity's figure misses what it has popped already, up
to 16 batches, and it says nothing of a model whose thread died: it is shown, and nothing is decided by it.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from supervisor.core.endpoint import Endpoint
from supervisor.core.model import Known, Missing, Reading

# Seconds between two rounds: a look costs Infinity's event loop about a millisecond.
INTERVAL = 5.0
# Seconds an Infinity has to answer: one that computes on every core is late, not dead.
DEADLINE = 4.0


class InfinityQueues:
    """The inputs that wait inside each ready worker; `endpoints` says which are ready now."""

    def __init__(self, endpoints: Callable[[], Mapping[str, Endpoint]], interval: float = INTERVAL) -> None:
        self._endpoints = endpoints
        self._interval = interval
        self._readings: dict[str, Reading] = {}

    def readings(self) -> Mapping[str, Reading]:
        """The last reading of each worker that was ready at the last round."""
        return self._readings

    async def run(self) -> None:
        """Ask all of them, round after round, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=DEADLINE)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                await self.look(session)
                await asyncio.sleep(self._interval)

    async def look(self, session: aiohttp.ClientSession) -> None:
        """One round, all workers side by side."""
        endpoints = self._endpoints()
        found = await asyncio.gather(*(_queued(session, endpoint) for endpoint in endpoints.values()))
        self._readings = dict(zip(endpoints, found, strict=True))


async def _queued(session: aiohttp.ClientSession, endpoint: Endpoint) -> Reading:
    """Inputs that wait in one Infinity for its model."""
    now = asyncio.get_running_loop().time
    headers = {"authorization": f"Bearer {endpoint.api_key}"}
    try:
        async with session.get(f"{endpoint.base_url}/models", headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                return Missing(f"/models answers {response.status}", now())
            return _figure(await response.json(content_type=None), endpoint.model, now())
    except TimeoutError:
        return Missing(f"/models does not answer within {DEADLINE:g} s", now())
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Missing(f"/models can't be read: {error}", now())


def _figure(document: Any, model: str, at: float) -> Reading:
    """`queue_absolute` of the model, from whatever the worker made of it."""
    rows = document.get("data") if isinstance(document, dict) else None
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.get("id") == model:
            stats = row.get("stats")
            value = stats.get("queue_absolute") if isinstance(stats, dict) else None
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                return Known(float(value), at)
            return Missing("/models has no queue figure", at)
    return Missing("/models does not list the model", at)
