"""Reading a request off the wire: how large it may be, how long it may take, what its headers ask for.

Owns the limits on one request's head and body. Nothing here looks into the body.
"""

import asyncio
import math
import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from aiohttp import web

from supervisor.proxy.admission import Place
from supervisor.proxy.callers import Caller, Headers
from supervisor.proxy.jobs import Asker
from supervisor.proxy.refusals import Reason, Refusal
from supervisor.transfer import GRACE_SECONDS

# A day: longer than any client waits, and far from where floats lose milliseconds.
LONGEST_TIMEOUT_MS: Final = 86_400_000
_LONGEST_ID: Final = 128
OUR_FAULT: Final = "A fault in the supervisor; its log has the details."
# Request ids are to be unique, not secret: uuid4 asks the kernel each time, which was 4 % of a request.
_ids: Final = random.Random()
_JSON: Final = "application/json"
_JSON_ONLY: Final[Mapping[str, str]] = MappingProxyType({"Content-Type": _JSON})
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def request_id(headers: Headers) -> str:
    """The client's `x-request-id`, or one of ours where there is none fit for a header and a log line."""
    given = headers.get("x-request-id")
    if (
        given is not None
        and 0 < len(given) <= _LONGEST_ID
        and given.isascii()
        and given.isprintable()
        and " " not in given
    ):
        return given
    return f"{_ids.getrandbits(128):032x}"


def asker(headers: Headers, caller: Caller, arrived: float) -> Asker:
    """Who asks: what the head says that matters for the request's turn, and what of it a worker is to see.

    A worker sees the content type, and the origin for its CORS (INFINITY_PERMISSIVE_CORS), which makes the answer one
    of its own.

    Raises:
        Refusal: `x-request-timeout-ms` is no number of milliseconds.
    """
    content_type, origin = headers.get("content-type"), headers.get("origin")
    plain = content_type == _JSON and origin is None
    given = {"Content-Type": content_type, "Origin": origin}
    return Asker(
        client=caller.client,
        priority=headers.get("x-priority"),
        deadline=deadline(headers, arrived),
        headers=_JSON_ONLY if plain else {name: value for name, value in given.items() if value is not None},
        mergeable=plain,
        credential=caller.credential,
    )


def deadline(headers: Headers, arrived: float) -> float | None:
    """When `x-request-timeout-ms` is over, on the clock of `arrived`; None without that header.

    Raises:
        Refusal: it is no number of milliseconds.
    """
    given = headers.get("x-request-timeout-ms")
    if given is None:
        return None
    try:
        milliseconds = float(given)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds <= LONGEST_TIMEOUT_MS:
        raise Refusal(
            Reason.BAD_REQUEST,
            f"x-request-timeout-ms must be a number of milliseconds above 0 and at most {LONGEST_TIMEOUT_MS}.",
            param="x-request-timeout-ms",
        )
    return arrived + milliseconds / 1000


def declared_size(request: web.BaseRequest, limit: int) -> int:
    """The Content-Length, 0 for a body that comes in chunks; raises Refusal `too_large` beyond `limit`."""
    size = request.content_length or 0
    if size > limit:
        raise too_large(limit)
    return size


async def body(request: web.BaseRequest, place: Place, limit: int, until: float | None) -> bytes:
    """The whole body, as it came. What was not declared is reserved in `place` as it comes.

    Raises:
        Refusal: it is too large, too slow, not what HTTP allows, or the deadline `until` passed.
    """
    content = request.content
    if content.is_eof():  # small ones come with their head
        whole = content.read_nowait()
        _take(place, len(whole), limit)
        return whole
    await say_continue(request)
    read = bytearray()  # a list of chunks of a byte each would hold 40 times what was reserved
    loop = asyncio.get_running_loop()
    try:
        async with place.arrivals.expected(place, until) as arrival:
            while not content.at_eof():
                chunk = await content.readany()
                read += chunk
                arrival.came(len(chunk), loop.time())
                _take(place, len(read), limit)
    except TimeoutError:
        if arrival.overslept:
            text = "The time that x-request-timeout-ms allows was over before the body had come."
            raise Refusal(Reason.DEADLINE_EXCEEDED, text) from None
        raise too_slow() from None
    except web.RequestPayloadError as error:
        raise unreadable(error) from error
    if not place.held:  # given up at the very moment when its end came
        raise too_slow()
    return bytes(read)


async def say_continue(request: web.BaseRequest) -> None:
    """Let a client that asks first (curl does, beyond 1 MB) send its body: not before it has a place in the queue."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(_CONTINUE)
        request.writer.output_size = 0  # aiohttp would take it for the beginning of an answer


def _take(place: Place, size: int, limit: int) -> None:
    """Reserve what came beyond what was declared."""
    if size > limit:
        raise too_large(limit)
    if size > place.bytes:
        place.grow(size - place.bytes)


def too_large(limit: int) -> Refusal:
    """The refusal of a body beyond `limit` bytes."""
    return Refusal(
        Reason.TOO_LARGE, f"The body is larger than {limit} bytes (proxy.max_body_bytes). Send fewer inputs."
    )


def too_slow() -> Refusal:
    """The refusal of a body that does not come, or so slowly that it keeps others out."""
    allowed = f"{GRACE_SECONDS:.0f} s are allowed without any of it, less while the queue is full"
    return Refusal(Reason.SLOW_BODY, f"The body did not come: {allowed}.")


def unreadable(error: Exception) -> Refusal:
    """The refusal of a body that breaks the rules of HTTP."""
    return Refusal(Reason.BAD_REQUEST, f"The body can't be read: {error}")
