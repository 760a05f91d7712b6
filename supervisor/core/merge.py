"""The answers to a request's parts, put together to the answer Infinity would have given to the whole.

Owns Infinity's answer shapes. Each part is decoded, renumbered and encoded again when it arrives, so that the work is
spread over the request's life and the loop is never held for all of a large answer; what is left for the end is a join.
Numbers survive: orjson reads and writes the shortest text that gives the same double, and Infinity writes with it too.

Pure.
"""

from enum import Enum, auto
from typing import Any

import orjson


class Shape(Enum):
    """The three kinds of answer that can be put together."""

    EMBEDDINGS = auto()
    RERANK = auto()
    CLASSIFY = auto()


class MergeError(ValueError):
    """A part's answer is not what Infinity answers: it cannot be used."""


class Merge:
    """Takes the answers to parts, in any order, until all rows are there."""

    __slots__ = ("_first", "_fragments", "_missing", "_ranked", "_shape", "_top_n", "_usage")

    def __init__(self, shape: Shape, rows: int, top_n: int | None = None) -> None:
        self._shape = shape
        self._missing = rows
        self._top_n = top_n
        self._first: dict[str, Any] = {}
        self._fragments: dict[int, bytes] = {}
        self._ranked: list[dict[str, Any]] = []
        self._usage: dict[str, int] = {}

    @property
    def complete(self) -> bool:
        """Whether every row has its answer."""
        return self._missing == 0

    def add(self, start: int, stop: int, answer: bytes) -> None:
        """Takes the answer to the rows from `start` up to `stop`; each row may come once.

        Raises:
            MergeError: it is not an answer for that many rows.
        """
        try:
            parsed = orjson.loads(answer)
            rows = parsed.pop(self._rows_field)
            if len(rows) != stop - start:
                raise MergeError(f"{len(rows)} rows in the answer to a part of {stop - start}")
            for key, tokens in parsed["usage"].items():
                self._usage[key] = self._usage.get(key, 0) + tokens
            self._take(start, rows)
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise MergeError(f"not an answer of Infinity's: {error!r}") from error
        if start == 0:
            self._first = parsed
        self._missing -= len(rows)

    def result(self) -> bytes:
        """The answer to the whole request; `id`, `created` and the order of the keys are the first part's."""
        rows = self._best() if self._shape is Shape.RERANK else self._joined()
        # Infinity's order of the keys: the rows come second, after `object`.
        head = dict(self._first)
        merged = {"object": head.pop("object", None), self._rows_field: orjson.Fragment(rows), **head}
        merged["usage"] = self._usage
        return orjson.dumps(merged)

    @property
    def _rows_field(self) -> str:
        return "results" if self._shape is Shape.RERANK else "data"

    def _take(self, start: int, rows: list[Any]) -> None:
        if self._shape is not Shape.CLASSIFY:
            for row in rows:
                row["index"] += start
        if self._shape is Shape.RERANK:
            self._ranked.extend(rows)
        else:
            self._fragments[start] = orjson.dumps(rows)[1:-1]

    def _joined(self) -> bytes:
        return b"[" + b",".join(self._fragments[start] for start in sorted(self._fragments)) + b"]"

    def _best(self) -> bytes:
        """Sorted as Infinity sorts: by score, highest first, equal scores in the order the documents came."""
        self._ranked.sort(key=lambda row: int(row["index"]))
        # A score that is not a number comes as null; it can only be last.
        self._ranked.sort(key=_score, reverse=True)
        return orjson.dumps(self._ranked[: self._top_n])


def _score(row: dict[str, Any]) -> float:
    score = row["relevance_score"]
    return float("-inf") if score is None else float(score)
