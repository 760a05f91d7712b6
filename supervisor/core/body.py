"""What a request's body says, read the way Infinity would read it. Pure: bytes in, values out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

import orjson

# Bodies up to here (bytes) are read whatever they hold: the worst takes 25 MB and 0.1 s.
LARGE: Final = 1 << 20
# A request has 2,048 inputs at most, unless Infinity is told otherwise; so many values take 20 MB and 0.1 s.
MOST_VALUES: Final = 250_000


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
    4. JSON of many small values is not read at all: 64 MB of `[],` take 1.5 GB and 10 s.
    """
    if content_type is not None and not _is_json(content_type):  # 1
        return Body(raw, Naming.ILLEGIBLE)
    if len(raw) > LARGE and too_many_values(raw):  # 4
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


def too_many_values(raw: bytes) -> bool:
    """Whether `raw`, if it is JSON, makes more than MOST_VALUES: counted by what separates them, outside of texts.

    0.2 s for 64 MB of lists; for 64 MB of text 0.1 s, or 0.6 where every second byte of it is an escape.
    """
    if _separators(raw) <= MOST_VALUES:
        return False
    if b"\0" in raw:  # UTF-16 or the like: as it stands
        return True
    raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    return raw.count(b'"') > 2 * MOST_VALUES or _separators(b"".join(raw.split(b'"')[::2])) > MOST_VALUES


def _separators(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _is_json(content_type: str) -> bool:
    if content_type == "application/json":
        return True
    main, _, sub = content_type.partition(";")[0].strip().lower().partition("/")
    return main == "application" and (sub == "json" or sub.endswith("+json"))
