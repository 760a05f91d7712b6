"""Requests and answers as rows: what a body asks for, the parts it may be sent in, the answer put together again.

Owns what is known of Infinity's request shapes (`fastapi_schemas/pymodels.py` of 0.0.78). One rule: a body is taken
apart only when every field in it is one Infinity is sure to accept. Everything else is `Whole`: it goes to a worker
unchanged, byte for byte, and Infinity judges it. So a doubt costs a split, never a wrong or a different answer.

Pure: bytes and values in, bytes and values out.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

from supervisor.core.answer import Answer, Shape
from supervisor.core.body import Body, Naming
from supervisor.core.fields import MAX_IMAGES, are_images, are_texts, is_bool, is_integer, is_text
from supervisor.core.merge import Merge, written

# `INFINITY_MAX_CLIENT_BATCH_SIZE` unless a worker's environment says otherwise.
DEFAULT_MAX_INPUTS: Final = 2_048


class Inference(StrEnum):
    """The endpoints that run a model; the value is the path without its slash."""

    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    CLASSIFY = "classify"
    IMAGES = "embeddings_image"
    AUDIO = "embeddings_audio"

    # Enum's own is Python code, and there are a dozen look-ups in the way of each request.
    __hash__ = str.__hash__

    @property
    def path(self) -> str:
        """The path on a worker; Infinity itself has no `/v1`."""
        return f"/{self.value}"


# Where each endpoint keeps its inputs, and what it answers to those that are taken apart.
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
    Inference.IMAGES: Shape.EMBEDDINGS,
}
# What else Infinity reads, and a part says again; whatever other fields there are, it ignores. `top_n` is for the whole
# answer: a part that cut its rows could lose the best ones.
_OPTIONS: Final = {
    Inference.EMBEDDINGS: ("model", "encoding_format", "user", "dimensions", "modality"),
    Inference.RERANK: ("model", "query", "return_documents", "raw_scores"),
    Inference.CLASSIFY: ("model", "raw_scores"),
    Inference.IMAGES: ("model", "encoding_format", "user"),
}
_KNOWN_FIELDS: Final = {
    endpoint: frozenset((*names, _ROWS_FIELD[endpoint], "top_n")) for endpoint, names in _OPTIONS.items()
}


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

    def text(self, position: int) -> bytes:
        """What tells it from others: all of it."""
        return self.raw


class Sharing(NamedTuple):
    """What requests that share a part have in common: endpoint and options (`user` is none: Infinity ignores it)."""

    endpoint: Inference
    options: tuple[tuple[str, str | int | bool], ...] = ()


# Nearly all requests have these: one object for all of them.
_PLAIN: Final = {endpoint: Sharing(endpoint) for endpoint in (Inference.EMBEDDINGS, Inference.CLASSIFY)}


class Rows:
    """A request for `inputs` rows that may be sent as any sequence of parts that covers them.

    Rows are known by position, longest first, so that a part pads little; `order` tells the index that each position
    has in the request (None: the same). All of them at once leave as the client wrote them, in the client's order.
    `key`: requests with an equal one may share a part (see `merged_body`); None shares with nobody.
    """

    __slots__ = ("_alike", "_asked", "_opening", "_query", "_rows", "_top_n", "inputs", "key", "order", "raw", "shape")
    divisible: Final = True

    def __init__(
        self,
        endpoint: Inference,
        raw: bytes,
        rows: Sequence[str],
        fields: Mapping[str, Any],
        key: Sharing | None,
        images: bool,
    ) -> None:
        self.raw = raw
        self.inputs = len(rows)
        self.key = key
        self.order: Sequence[int] | None = None
        self.shape = _SHAPES[endpoint]
        self._rows = rows
        # The length of an image's text says nothing of the work it makes.
        self._alike = images
        # Characters that every row has besides its own, and what a part says before its rows.
        self._asked: str = fields["query"] if endpoint is Inference.RERANK else ""
        self._query = len(self._asked)
        self._opening = b""
        self._top_n: int | None = None
        if self.inputs > 1:
            self._opening = _opening(endpoint, fields)
            if endpoint is Inference.RERANK and fields.get("top_n") is not None:
                self._top_n = int(fields["top_n"])
            if not self._alike:
                self._sort()

    def _sort(self) -> None:
        lengths = [*map(len, self._rows)]
        order = sorted(range(self.inputs), key=lengths.__getitem__, reverse=True)
        if order != [*range(self.inputs)]:
            self._rows = [self._rows[index] for index in order]
            self.order = order

    def longest(self, start: int, stop: int) -> int:
        """Characters of the longest row from position `start` up to `stop`, a query included; 1 for images."""
        return 1 if self._alike else len(self._rows[start]) + self._query

    def usage(self, start: int, stop: int) -> int:
        """Characters from position `start` up to `stop`: what Infinity counts, for those that may share a part."""
        return sum(map(len, self._rows[start:stop])) + self._query * (stop - start)

    def text(self, position: int) -> bytes:
        """What tells a row from others: its text, after the query where there is one."""
        return f"{self._asked}\0{self._rows[position]}".encode("utf-8", "surrogatepass")

    def take(self, start: int, stop: int) -> Sequence[str]:
        """The rows from position `start` up to `stop`. A request that was divided can't leave in one piece any more."""
        if stop - start == self.inputs:
            return self._rows
        self.raw = b""  # half of what a large request holds
        return self._rows[start:stop]

    def part(self, start: int, stop: int) -> bytes:
        """The body that asks for the rows from position `start` up to `stop`: the client's when that is all of them."""
        if stop - start == self.inputs:
            assert self.raw, "what was divided stays divided"
            return self.raw
        return self._opening + orjson.dumps(self.take(start, stop)) + b"}"

    def beginning(self, endpoint: Inference, position: int, characters: int) -> bytes:
        """The body that asks for the first `characters` characters of one row, of its query first where it has one."""
        fields = orjson.loads(self.raw or self._opening + b"[]}")
        if self._query:
            fields["query"] = fields["query"][:characters]
        row = self._rows[position][: max(1, characters - self._query)]
        return orjson.dumps({**fields, _ROWS_FIELD[endpoint]: [row]})

    def alone(self, answer: Answer) -> bytes | None:
        """The answer to the whole request, if this one is to all its rows and in their order; else `merge` makes it."""
        if len(answer.rows) != self.inputs or self.order is not None or self.shape is Shape.RERANK:
            return None
        return written(self.shape, answer.rows, answer.usage, answer.origin)

    def merge(self) -> Merge:
        """An empty answer that takes the answers to the parts, in any order."""
        return Merge(self.shape, self.inputs, self.order, self._top_n)


Plan = Whole | Rows


def merged_body(pieces: Iterable[tuple[Rows, int, int]], model: str) -> bytes:
    """The body that asks `model`, its canonical name, for slices of several requests with the same key, in this order.

    Says nothing but the model, the rows, and the options that are not Infinity's defaults.
    """
    rows: list[str] = []
    key = None
    for plan, start, stop in pieces:
        assert plan.key is not None, "this request shares with nobody"
        assert key is None or plan.key == key, "requests that differ share no part"
        key = plan.key
        rows += plan.take(start, stop)
    assert key is not None, "a part has rows"
    return orjson.dumps({"model": model, **dict(key.options), _ROWS_FIELD[key.endpoint]: rows})


def understand(endpoint: Inference, body: Body, model: str, limit: int = DEFAULT_MAX_INPUTS) -> Plan:
    """How `body` may be sent to `model`, its canonical name, whose worker accepts `limit` inputs in a request."""
    fields = body.fields
    images = _of_images(endpoint, fields)
    if not body.exact or not _acceptable(endpoint, fields, limit, images):
        return Whole(body.raw, _weight(endpoint, fields, limit))
    raw = body.raw
    try:
        if body.naming is Naming.NAMED and body.model != model:
            fields = {**fields, "model": model}
            # Copied, because it is held: orjson leaves up to 8 KB of room behind 1 KB of text.
            raw = bytes(memoryview(orjson.dumps(fields)))
        elif not fields.keys() <= _KNOWN_FIELDS[endpoint]:
            # One that nests deeper than Python's parser goes is Infinity's to refuse.
            orjson.dumps(fields)
    except TypeError:  # deeper than orjson writes (254 levels, it reads 1,024)
        return Whole(body.raw, _weight(endpoint, fields, limit))
    given = fields[_ROWS_FIELD[endpoint]]
    rows = (given,) if isinstance(given, str) else given
    return Rows(endpoint, raw, rows, fields, _sharing(endpoint, fields, rows, images), images)


def _of_images(endpoint: Inference, fields: Mapping[str, Any]) -> bool:
    return endpoint is Inference.IMAGES or (endpoint is Inference.EMBEDDINGS and fields.get("modality") == "image")


def _opening(endpoint: Inference, fields: Mapping[str, Any]) -> bytes:
    """The body of a part, up to its rows."""
    options = {name: fields[name] for name in _OPTIONS[endpoint] if name in fields}
    return orjson.dumps(options)[:-1] + (b"," if options else b"") + orjson.dumps(_ROWS_FIELD[endpoint]) + b":"


def _sharing(endpoint: Inference, fields: Mapping[str, Any], rows: Sequence[str], images: bool) -> Sharing | None:
    """The key of a request, or None where it should not share a part:

    1. Each ranking has a query of its own. One bad image fails its whole part, and images are large.
    2. An option is spelled in another way than its plain one: nothing is won by reading more into it.
    3. The `usage` of its rows is in doubt. Infinity strips what Unicode calls white space, Python a little more.
    """
    if images or endpoint is Inference.RERANK:  # 1
        return None
    if "" in rows or [*map(str.strip, rows)] != [*rows]:  # 3
        return None
    if endpoint is Inference.CLASSIFY:
        raw_scores = fields.get("raw_scores", False)
        if type(raw_scores) is not bool:  # 2
            return None
        return Sharing(endpoint, (("raw_scores", True),)) if raw_scores else _PLAIN[endpoint]
    dimensions, encoding = fields.get("dimensions", 0), fields.get("encoding_format", "float")
    if type(dimensions) is not int:  # 2
        return None
    if dimensions == 0 and encoding == "float":
        return _PLAIN[endpoint]
    return Sharing(endpoint, (("encoding_format", encoding), ("dimensions", dimensions)))


def _weight(endpoint: Inference, fields: Mapping[str, Any], limit: int) -> int:
    """What a request that goes whole counts for: its inputs, or one where Infinity is sure to refuse it unread."""
    rows = fields.get(_ROWS_FIELD[endpoint])
    if endpoint in (Inference.IMAGES, Inference.AUDIO):
        limit = min(limit, MAX_IMAGES)
    if not isinstance(rows, list) or len(rows) > limit:
        return 1
    return max(1, len(rows))


def _acceptable(endpoint: Inference, fields: Mapping[str, Any], limit: int, images: bool) -> bool:
    """Whether Infinity is sure to accept every field (its model aside), and the answer can be put together."""
    get = fields.get
    if endpoint in (Inference.EMBEDDINGS, Inference.IMAGES):
        rows = get("input")
        if images:
            sure = are_images(rows, limit)
        else:
            sure = (is_text(rows) or are_texts(rows, limit)) and get("modality", "text") == "text"
        return (
            sure
            and get("encoding_format", "float") in ("float", "base64")
            and (get("user") is None or type(get("user")) is str)
            and (endpoint is Inference.IMAGES or is_integer(get("dimensions", 0)))
        )
    if endpoint is Inference.CLASSIFY:
        return are_texts(get("input"), limit) and is_bool(get("raw_scores", False))
    if endpoint is not Inference.RERANK:
        return False
    top_n = get("top_n")
    return (
        is_text(get("query"))
        and are_texts(get("documents"), limit)
        and is_bool(get("return_documents", False))
        and is_bool(get("raw_scores", False))
        and (top_n is None or (is_integer(top_n) and int(top_n) > 0))
    )
