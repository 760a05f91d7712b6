"""Requests and answers as rows: what a body asks for, the parts it may be sent in, the answer put together again.

Owns what is known of Infinity's request shapes (`fastapi_schemas/pymodels.py` of 0.0.78). One rule: a body is taken
apart only when every field in it is one Infinity is sure to accept. Everything else is `Whole`: it goes to a worker
unchanged, byte for byte, and Infinity judges it. So a doubt costs a split, never a wrong or a different answer.

Pure: bytes and values in, bytes and values out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any, Final

import orjson

from supervisor.core.merge import Merge, Shape

# `INPUT_STRING` of Infinity: 8192 * 15 characters, counted after stripping white space (we count before: stricter).
MAX_CHARACTERS: Final = 122_880
# `INFINITY_MAX_CLIENT_BATCH_SIZE` unless a worker's environment says otherwise.
DEFAULT_MAX_INPUTS: Final = 2_048

# What pydantic's lax mode reads as a bool, besides bool itself, 0 and 1.
_BOOL_WORDS: Final = frozenset({"0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes"})


class Inference(StrEnum):
    """The endpoints that run a model; the value is the path without its slash."""

    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    CLASSIFY = "classify"
    IMAGES = "embeddings_image"
    AUDIO = "embeddings_audio"

    @property
    def path(self) -> str:
        """The path on a worker; Infinity itself has no `/v1`."""
        return f"/{self.value}"


# Where each endpoint keeps its inputs.
_ROWS_FIELD: Final = {
    Inference.EMBEDDINGS: "input",
    Inference.RERANK: "documents",
    Inference.CLASSIFY: "input",
    Inference.IMAGES: "input",
    Inference.AUDIO: "input",
}
_SHAPES: Final = {
    Inference.EMBEDDINGS: Shape.EMBEDDINGS,
    Inference.RERANK: Shape.RERANK,
    Inference.CLASSIFY: Shape.CLASSIFY,
}
_KNOWN_FIELDS: Final = {
    Inference.EMBEDDINGS: {"model", "input", "encoding_format", "user", "dimensions", "modality"},
    Inference.RERANK: {"model", "query", "documents", "return_documents", "raw_scores", "top_n"},
    Inference.CLASSIFY: {"model", "input", "raw_scores"},
}


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


class Whole:
    """A request that goes in one piece, unchanged. `inputs` is what it counts for at the worker."""

    __slots__ = ("inputs", "raw")
    divisible: Final = False

    def __init__(self, raw: bytes, inputs: int) -> None:
        self.raw = raw
        self.inputs = inputs

    def part(self, start: int, stop: int) -> bytes:
        """The body to send; the bounds can only be all of it."""
        return self.raw


class Rows:
    """A request for `inputs` rows that may be sent as any sequence of parts that covers them."""

    __slots__ = ("_fields", "_prefix", "_shape", "_top_n", "_where", "inputs", "raw", "rows")
    divisible: Final = True

    def __init__(self, raw: bytes, fields: Mapping[str, Any], where: str, shape: Shape, top_n: int | None) -> None:
        value = fields[where]
        self.raw = raw
        self.rows: list[str] = [value] if isinstance(value, str) else value
        self.inputs = len(self.rows)
        self._fields = fields
        self._where = where
        self._shape = shape
        self._top_n = top_n
        self._prefix: bytes | None = None

    def part(self, start: int, stop: int) -> bytes:
        """The body that asks for the rows from `start` up to `stop`: the original one when that is all of them."""
        if stop - start == self.inputs:
            return self.raw
        if self._prefix is None:
            # `top_n` is for the merged answer: a part that cut its rows could lose the best ones.
            options = {key: value for key, value in self._fields.items() if key not in (self._where, "top_n")}
            opening = orjson.dumps(options)[:-1]
            separator = b"," if options else b""
            self._prefix = opening + separator + orjson.dumps(self._where) + b":"
        return self._prefix + orjson.dumps(self.rows[start:stop]) + b"}"

    def merge(self) -> Merge:
        """An empty answer that takes the answers to the parts, in any order."""
        return Merge(self._shape, self.inputs, self._top_n)


Plan = Whole | Rows


def understand(endpoint: Inference, body: Body, model: str, limit: int = DEFAULT_MAX_INPUTS) -> Plan:
    """How `body` may be sent to `model`, its canonical name, whose worker accepts `limit` inputs in a request."""
    fields = body.fields
    where = _ROWS_FIELD[endpoint]
    shape = _SHAPES.get(endpoint)
    if shape is None or not body.exact or not _acceptable(endpoint, fields, limit):
        return Whole(body.raw, _weight(fields.get(where), limit))
    raw = body.raw
    try:
        if body.naming is Naming.NAMED and body.model != model:
            fields = {**fields, "model": model}
            raw = orjson.dumps(fields)
        elif fields.keys() - _KNOWN_FIELDS[endpoint]:
            orjson.dumps(fields)
    except TypeError:  # an unknown key nested deeper than orjson writes (254 levels, it reads 1,024)
        return Whole(body.raw, _weight(fields[where], limit))
    top_n = fields.get("top_n") if endpoint is Inference.RERANK else None
    return Rows(raw, fields, where, shape, None if top_n is None else int(top_n))


def _weight(rows: object, limit: int) -> int:
    """What a request that goes whole counts for: its inputs, or one where Infinity is sure to refuse it unread."""
    if not isinstance(rows, list) or len(rows) > limit:
        return 1
    return max(1, len(rows))


def _acceptable(endpoint: Inference, fields: Mapping[str, Any], limit: int) -> bool:
    """Whether Infinity is sure to accept every field (its model aside)."""
    get = fields.get
    if endpoint is Inference.EMBEDDINGS:
        rows = get("input")
        return (
            (_is_text(rows) or _are_texts(rows, limit))
            and get("modality", "text") == "text"
            and get("encoding_format", "float") in ("float", "base64")
            and (get("user") is None or type(get("user")) is str)
            and _is_integer(get("dimensions", 0))
        )
    if endpoint is Inference.CLASSIFY:
        return _are_texts(get("input"), limit) and _is_bool(get("raw_scores", False))
    top_n = get("top_n")
    return (
        _is_text(get("query"))
        and _are_texts(get("documents"), limit)
        and _is_bool(get("return_documents", False))
        and _is_bool(get("raw_scores", False))
        and (top_n is None or (_is_integer(top_n) and int(top_n) > 0))
    )


def _is_text(value: object) -> bool:
    return type(value) is str and len(value) <= MAX_CHARACTERS


def _are_texts(value: object, limit: int) -> bool:
    return (
        type(value) is list
        and 0 < len(value) <= limit
        and all(type(row) is str for row in value)
        and max(map(len, value)) <= MAX_CHARACTERS
    )


def _is_integer(value: object) -> bool:
    """Whether pydantic's lax mode reads an integer here, for the spellings that are beyond doubt."""
    if isinstance(value, int):
        return True
    if isinstance(value, float):
        return value.is_integer() and abs(value) < 2**53
    return type(value) is str and value.isascii() and value.isdigit() and len(value) < 16


def _is_bool(value: object) -> bool:
    """Whether pydantic's lax mode reads a bool here."""
    if isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        return value in (0, 1)
    return type(value) is str and value.lower() in _BOOL_WORDS
