"""What a request's body says, read the way Infinity would read it. Pure: bytes in, values out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import orjson


class Naming(Enum):
    """How a body says which model it wants."""

    NAMED = auto()
    ABSENT = auto()
    ILLEGIBLE = auto()  # null, a number, or a body that is no JSON object: Infinity refuses these itself


@dataclass(frozen=True, slots=True)
class Body:
    """A request body as far as it can be read. Unless `exact`, `fields` is good for counting only: it goes as it is."""

    raw: bytes
    naming: Naming
    model: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = False


def read_body(raw: bytes, content_type: str | None) -> Body:
    """What `raw` says, read the way Infinity would.

    1. A content type other than JSON: Infinity does not even parse it.
    2. JSON that orjson refuses and Python's parser (Infinity's) accepts, such as NaN, lone surrogates, UTF-16: it can't
       be written anew, but the model it names and its inputs count.
    3. No content type at all: Infinity's versions differ, so likewise.
    """
    if content_type is not None and not _is_json(content_type):  # 1
        return Body(raw, Naming.ILLEGIBLE)
    exact = content_type is not None  # 3
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        exact = False  # 2
        try:
            parsed = json.loads(raw)
        except (ValueError, RecursionError):
            return Body(raw, Naming.ILLEGIBLE)
    if not isinstance(parsed, dict):
        return Body(raw, Naming.ILLEGIBLE)
    if "model" not in parsed:
        return Body(raw, Naming.ABSENT, None, parsed, exact)
    name = parsed["model"]
    if not isinstance(name, str):
        return Body(raw, Naming.ILLEGIBLE, None, parsed)
    return Body(raw, Naming.NAMED, name, parsed, exact)


def _is_json(content_type: str) -> bool:
    if content_type == "application/json":
        return True
    main, _, sub = content_type.partition(";")[0].strip().lower().partition("/")
    return main == "application" and (sub == "json" or sub.endswith("+json"))
