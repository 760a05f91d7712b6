"""What a client may write in a request: read within bounds, checked field by field, refused with what is allowed."""

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from supervisor.core.model import Signal

MAX_BYTES = 64 * 1024  # the largest sensible body here has a few hundred bytes
READ_SECONDS = 10.0  # a client that dribbles its body gets no longer than this
# A pause of more than a week is one without an end; a drill of more than a day is a forgotten one.
MAX_PAUSE = 7 * 86_400.0
MAX_DRILL = 86_400.0
MAX_DECISIONS = 10_000
MAX_LINES = 10_000
MAX_POSITION = 2**40
_SIGNALS = tuple(signal.value for signal in Signal)


class BadRequest(Exception):
    """The request can't be understood; the text says what is wrong with it and what is allowed."""


class BodyTooSlow(Exception):
    """The body did not come in the time allowed."""


async def read_object(request: web.Request, allowed: tuple[str, ...]) -> dict[str, Any]:
    """The JSON object in the body, {} for an empty body. Raises BadRequest, also for keys that are not `allowed`."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            raw = await request.read()
    except TimeoutError as error:
        raise BodyTooSlow(f"the body did not come within {READ_SECONDS:g} s") from error
    if not raw.strip():
        return {}
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequest(f"the body must be a JSON object, not {_kind(value)}")
    for key in value:
        if key not in allowed:
            raise BadRequest(f"unknown key {_quoted(key)}; allowed: {', '.join(allowed) or 'none'}")
    return value


def pause_seconds(body: Mapping[str, Any]) -> float | None:
    """How long to pause: None until resumed."""
    value = body.get("seconds")
    if value is None:
        return None
    seconds = _number(value, "seconds")
    if not 0 < seconds <= MAX_PAUSE:
        raise BadRequest(f"seconds is {seconds:g}; allowed: above 0, at most {MAX_PAUSE:g}, or null for no limit")
    return seconds


def drill(body: Mapping[str, Any]) -> tuple[dict[str, float], float]:
    """What is injected, in percent by signal, and for how many seconds. 0 seconds ends drills and needs no signal."""
    if "seconds" not in body:
        raise BadRequest(f"seconds is missing; allowed: 0 (ends the drill) to {MAX_DRILL:g}")
    seconds = _number(body["seconds"], "seconds")
    if not 0 <= seconds <= MAX_DRILL:
        raise BadRequest(f"seconds is {seconds:g}; allowed: 0 (ends the drill) to {MAX_DRILL:g}")
    signals = body.get("signals", {})
    if not isinstance(signals, dict):
        raise BadRequest(f'signals must be an object like {{"memory": 96}}, not {_kind(signals)}')
    for name, value in signals.items():
        if name not in _SIGNALS:
            raise BadRequest(f"unknown signal {_quoted(name)}; allowed: {', '.join(_SIGNALS)}")
        percent = _number(value, f"signals.{name}")
        if not 0 <= percent <= 100:
            raise BadRequest(f"signals.{name} is {percent:g}; allowed: 0 to 100 (percent)")
    if seconds and not signals:
        raise BadRequest(f"signals is missing or empty; name at least one of {', '.join(_SIGNALS)}")
    return {name: float(value) for name, value in signals.items()}, seconds


def decision_count(query: Mapping[str, str]) -> int:
    """How many decisions are wanted: `n`, 100 unless told."""
    return _whole(query, "n", "100", 1, MAX_DECISIONS)


def lines_wanted(query: Mapping[str, str]) -> tuple[int, int | None]:
    """How many lines of a log are wanted, `n`, 50 unless told; or from which position on, `after`, then all of them."""
    if "after" in query:
        return 0, _whole(query, "after", "0", 0, MAX_POSITION)
    return _whole(query, "n", "50", 0, MAX_LINES), None


def _whole(query: Mapping[str, str], name: str, default: str, least: int, most: int) -> int:
    text = query.get(name, default)
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
        raise BadRequest(f"{name} is {_quoted(text)}; allowed: a whole number from {least} to {most}")
    return int(text)


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{name} must be a number, not {_kind(value)}")
    if not math.isfinite(value):
        raise BadRequest(f"{name} must be a finite number")
    return float(value)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    kinds = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    return kinds.get(type(value), "a number")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
