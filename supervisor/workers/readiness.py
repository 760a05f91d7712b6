"""Whether a worker that was started really serves its model: it lists it, and answers a canary with sound numbers.

Owns the questions and the judgement of the answers; the HTTP session is the caller's. Infinity opens its port only
after the model is loaded and warmed up, so a refused connection means "not yet" and nothing else.
"""

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import aiohttp
import orjson

from supervisor.core.endpoint import Endpoint
from supervisor.core.lifecycle import Outlook

# Seconds between two knocks at a port that is not open yet. 1 % of a 20 s load, and cheap.
POLL = 0.2
# A question that a loaded server answers in milliseconds; a saturated host in seconds (edge-cases.md 3).
_QUESTION_TIMEOUT = 10.0
# What else answers on the port says so for this long before it counts as the wrong one: the worker may be on its way.
_STRANGER_FOR = 10.0
# Texts of different lengths: padding is part of what has to work.
_TEXTS = ("a canary", "a canary sings a little longer than the other")


class NotReady(Exception):
    """The worker can't be started, or what it answers shows that it will not serve; the text says what."""

    def __init__(self, text: str, outlook: Outlook = Outlook.OPEN) -> None:
        super().__init__(text)
        self.outlook = outlook


class NotEnded(Exception):
    """It was to be stopped, and goes on; the text says why."""


class NotYet(Exception):
    """Ask again; the text says what was seen."""


async def until_ready(session: aiohttp.ClientSession, endpoint: Endpoint, *, clients_keys: bool = False) -> Endpoint:
    """Wait until the worker serves its model; returns the endpoint with what the model is capable of.

    Has no time limit of its own: how long a start may take without progress is the caller's to watch. Raises NotReady.
    `clients_keys`: one that asks for a key is ready; who has one is for it to say, and nothing can be asked of it.
    """
    loop = asyncio.get_running_loop()
    stranger_since: float | None = None
    while True:
        try:
            ready = replace(endpoint, capabilities=await _capabilities(session, endpoint, clients_keys))
            await canary(session, ready)
            ready = replace(ready, version=await _version(session, ready))
        except (OSError, aiohttp.ClientError, TimeoutError):  # not open yet, or too busy to answer
            stranger_since = None
        except NotYet as error:
            stranger_since = loop.time() if stranger_since is None else stranger_since
            if loop.time() - stranger_since > _STRANGER_FOR:
                raise NotReady(str(error)) from error
        else:
            return ready
        await asyncio.sleep(POLL)


async def canary(session: aiohttp.ClientSession, endpoint: Endpoint) -> None:
    """Have the worker compute something small and look at the numbers; NotReady when they are unsound.

    Which question depends on what the model can do. A model that can do nothing we know passes: it is listed.
    """
    try:
        await _sing(session, endpoint)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise NotReady(f"canary: an answer of another shape ({type(error).__name__}: {error})") from error


async def _sing(session: aiohttp.ClientSession, endpoint: Endpoint) -> None:
    can, texts = endpoint.capabilities, list(_TEXTS)
    if "embed" in can:
        answer = await _compute(session, endpoint, "/embeddings", {"input": texts})
        _check_embeddings([item["embedding"] for item in answer["data"]], len(texts))
    elif "rerank" in can:
        answer = await _compute(session, endpoint, "/rerank", {"query": texts[0], "documents": texts})
        _check_numbers([item["relevance_score"] for item in answer["results"]], len(texts), "scores")
    elif "classify" in can:
        answer = await _compute(session, endpoint, "/classify", {"input": texts})
        _check_numbers([max(label["score"] for label in item) for item in answer["data"]], len(texts), "scores")


async def _capabilities(session: aiohttp.ClientSession, endpoint: Endpoint, clients_keys: bool) -> frozenset[str]:
    """What the worker says about its model; NotYet when it does not list it."""
    status, _ = await _ask(session, endpoint, "GET", "/health")
    if status != 200:
        raise NotYet(f"/health answers {status}")
    status, answer = await _ask(session, endpoint, "GET", "/models")
    if status == 401 and clients_keys:
        return frozenset()
    try:
        listed = {item["id"]: item for item in answer["data"]} if status == 200 else {}
        if endpoint.model in listed:
            return frozenset(map(str, listed[endpoint.model].get("capabilities") or ()))
    except (KeyError, TypeError, AttributeError):
        pass
    raise NotYet(f"/models answers {status} and does not list {endpoint.model!r}")


async def _version(session: aiohttp.ClientSession, endpoint: Endpoint) -> str | None:
    """Infinity's version, by its API's own description; None when it does not say."""
    status, answer = await _ask(session, endpoint, "GET", "/openapi.json")
    try:
        return str(answer["info"]["version"]) if status == 200 else None
    except (KeyError, TypeError):
        return None


async def _compute(
    session: aiohttp.ClientSession, endpoint: Endpoint, path: str, body: Mapping[str, object]
) -> dict[str, Any]:
    # No time limit: the first batch of a large model compiles kernels for minutes; the caller watches progress.
    status, answer = await _ask(session, endpoint, "POST", path, {"model": endpoint.model, **body}, timeout=None)
    if status == 429:
        raise NotYet(f"{path} answers 429")
    if status != 200 or not isinstance(answer, dict):
        raise NotReady(f"canary: {path} answers {status}: {str(answer)[:300]}")
    return answer


async def _ask(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    method: str,
    path: str,
    body: object = None,
    timeout: float | None = _QUESTION_TIMEOUT,
) -> tuple[int, Any]:
    """Status and body, decoded where it is JSON."""
    key = {"authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    async with session.request(
        method,
        endpoint.base_url + path,
        data=None if body is None else orjson.dumps(body),
        headers={**key, "content-type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=_QUESTION_TIMEOUT),
        allow_redirects=False,
    ) as response:
        raw = await response.read()
    try:
        return response.status, orjson.loads(raw)
    except ValueError:
        return response.status, raw.decode(errors="replace")


def _check_embeddings(vectors: list[Any], expected: int) -> None:
    """One row of finite numbers each, or (late interaction) one row a token, all of one length that is not 0."""
    rows = [row for vector in vectors for row in (vector if vector and isinstance(vector[0], list) else [vector])]
    if len(vectors) != expected or not rows or not rows[0] or {len(row) for row in rows} != {len(rows[0])}:
        raise NotReady(f"canary: {len(vectors)} embeddings of lengths {[len(row) for row in rows][:4]}")
    for row in rows:
        _check_numbers(row, len(row), "an embedding")


def _check_numbers(numbers: Iterable[object], expected: int, what: str) -> None:
    """That many finite numbers. Infinity writes NaN as null."""
    numbers = list(numbers)
    sound = sum(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    if sound != expected:
        raise NotReady(f"canary: {what} with {expected - sound} of {expected} numbers missing or not finite")
