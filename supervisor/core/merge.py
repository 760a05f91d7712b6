"""The answers to a request's rows, put together to the answer Infinity would have given to the whole.

Owns how Infinity's answers are written: its keys and their order, rows in the order of the request, `usage` summed,
a ranking sorted, then cut. The rows come as text (see `answer`), so what is left for the end is a join.

Pure.
"""

from collections.abc import Sequence
from typing import Final

import orjson

from supervisor.core.answer import BETWEEN, INDEX, OPENING, Answer, Origin, Shape


class MergeError(ValueError):
    """An answer is not to the rows it is given for: it cannot be used."""


_TAIL: Final = b'],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d},"id":%b,"created":%d}'


class Merge:
    """Takes the answers to slices of a request, in any order, until all rows are there.

    Rows are known by their position. `order` tells the index that each position has in the request; without it they are
    the same. `id` and `created` are those that came with the row of position 0.
    """

    __slots__ = ("_missing", "_order", "_origin", "_rows", "_scores", "_shape", "_top_n", "_usage")

    def __init__(self, shape: Shape, rows: int, order: Sequence[int] | None = None, top_n: int | None = None) -> None:
        self._shape = shape
        self._order = order
        self._top_n = top_n
        self._missing = rows
        self._rows: list[bytes | None] = [None] * rows
        self._scores: list[float | None] = [None] * rows if shape is Shape.RERANK else []
        self._usage = 0
        self._origin: Origin | None = None

    @property
    def complete(self) -> bool:
        """Whether every row has its answer."""
        return self._missing == 0

    def add(self, start: int, stop: int, answer: Answer) -> None:
        """Takes the answer to the rows of the positions `start` up to `stop`; each may come once.

        Raises:
            MergeError: it is not an answer for these rows; nothing was taken.
        """
        if not 0 <= start < stop <= len(self._rows) or len(answer.rows) != stop - start:
            raise MergeError(f"{len(answer.rows)} rows in the answer to rows {start} to {stop} of {len(self._rows)}")
        if (answer.scores is not None) is not (self._shape is Shape.RERANK):
            raise MergeError("an answer of another kind")
        indices = range(start, stop) if self._order is None else self._order[start:stop]
        rows = self._rows
        for index in indices:
            if rows[index] is not None:
                raise MergeError(f"a second answer to row {index}")
        for index, row in zip(indices, answer.rows, strict=True):
            rows[index] = row
        if answer.scores is not None:
            for index, score in zip(indices, answer.scores, strict=True):
                self._scores[index] = score
        self._missing -= stop - start
        self._usage += answer.usage
        if start == 0:
            self._origin = answer.origin

    def result(self) -> bytes:
        """The answer to the whole request; all rows must be there."""
        rows = [row for row in self._rows if row is not None]
        assert self._origin is not None, "the first row is there"
        assert len(rows) == len(self._rows), "all rows are there"
        if self._shape is Shape.RERANK:
            return b"".join((b'{"object":"rerank","results":[', self._best(rows), _tail(self._usage, self._origin)))
        return written(self._shape, rows, self._usage, self._origin)

    def _best(self, documents: Sequence[bytes]) -> bytes:
        """Sorted as Infinity sorts: by score, highest first, equal scores in the order the documents came."""
        scores = self._scores
        # A score that is not a number comes as null; it can only be last.
        ranks = [float("-inf") if score is None else score for score in scores]
        ranking = sorted(range(len(ranks)), key=ranks.__getitem__, reverse=True)[: self._top_n]
        return b",".join(
            b'{"relevance_score":%b,"index":%d,"document":%b}' % (orjson.dumps(scores[i]), i, documents[i])
            for i in ranking
        )


def written(shape: Shape, rows: Sequence[bytes], usage: int, origin: Origin) -> bytes:
    """The answer with these rows, in the order of the request; a ranking is put in order first (see `Merge`)."""
    tail = _tail(usage, origin)
    if shape is Shape.CLASSIFY:
        return b"".join((b'{"object":"classify","data":[', b",".join(rows), tail))
    pieces = [OPENING]
    for index, row in enumerate(rows):
        pieces += (row, INDEX % index, BETWEEN)
    pieces[-1] = b"}"
    pieces.append(tail)
    return b"".join(pieces)


def _tail(usage: int, origin: Origin) -> bytes:
    model, name, created = origin
    return _TAIL % (model, usage, usage, name, created)
