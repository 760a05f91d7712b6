"""Answers cut and put together: to the byte what the whole would have got, and lies are told from answers."""

import itertools
import json
import math
import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.answer import Answer, Origin, Shape, cut
from supervisor.core.body import read_body
from supervisor.core.merge import Merge, MergeError
from supervisor.core.payload import Inference, Rows, understand
from tests.support import fake_infinity

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
SPLIT = (Inference.EMBEDDINGS, Inference.RERANK, Inference.CLASSIFY)


def rows_of(endpoint: Inference, request: dict[str, Any]) -> Rows:
    """The plan for a request that can be split."""
    plan = understand(endpoint, read_body(orjson.dumps(request), "application/json"), "m")
    assert isinstance(plan, Rows)
    return plan


def one(shape: Shape, body: bytes, rows: int) -> Answer:
    """The answer to a part that carried one request only."""
    answers = cut(shape, body, [rows], None)
    assert answers is not None, body
    (answer,) = answers
    return answer


@st.composite
def requests(draw: st.DrawFn) -> tuple[Inference, dict[str, Any]]:
    """Any request that Infinity accepts, with options and keys it does not know."""
    endpoint = draw(st.sampled_from(SPLIT))
    request: dict[str, Any] = {"model": "m"}
    rows = draw(st.lists(TEXT, min_size=1, max_size=40))
    optional: dict[str, st.SearchStrategy[Any]]
    if endpoint is Inference.EMBEDDINGS:
        request["input"] = rows[0] if draw(st.booleans()) else rows
        optional = {
            "encoding_format": st.sampled_from(["float", "base64"]),
            "dimensions": st.integers(0, 3),
            "user": st.none() | TEXT,
            "modality": st.just("text"),
        }
    elif endpoint is Inference.RERANK:
        request |= {"query": draw(TEXT), "documents": rows}
        flag = st.booleans()
        optional = {"top_n": st.none() | st.integers(1, 50), "return_documents": flag, "raw_scores": flag}
    else:
        request["input"] = rows
        optional = {"raw_scores": st.booleans()}
    optional["truncate"] = st.booleans() | st.lists(TEXT, max_size=2)
    for key in draw(st.lists(st.sampled_from(sorted(optional)), unique=True)):
        request[key] = draw(optional[key])
    return endpoint, request


@given(requests(), st.data())
@settings(max_examples=200, deadline=None)
def test_parts_of_any_sizes_answered_in_any_order_give_the_answer_to_the_whole(
    asked: tuple[Inference, dict[str, Any]], data: st.DataObject
) -> None:
    """However a request is cut and in whatever order the parts are answered, its client gets the same bytes."""
    endpoint, request = asked
    plan = rows_of(endpoint, request)
    pieces = []
    start = 0
    while start < plan.inputs:
        stop = start + data.draw(st.integers(1, plan.inputs - start))
        pieces.append((start, stop))
        start = stop
    if len(pieces) == 1:
        assert plan.part(*pieces[0]) == orjson.dumps(request)
        return
    merge = plan.merge()
    for start, stop in data.draw(st.permutations(pieces)):
        assert not merge.complete
        status, answer = fake_infinity.answer(endpoint.value, plan.part(start, stop))
        assert status == 200
        merge.add(start, stop, one(plan.shape, answer, stop - start))
    assert merge.complete
    assert merge.result() == fake_infinity.answer(endpoint.value, orjson.dumps(request))[1]


def test_a_large_request_is_cut_and_merged_like_a_small_one() -> None:
    """2,048 rows of distinct lengths in uneven parts, shuffled."""
    chance = random.Random(7)
    rows = ["é" * i for i in range(2048)]
    chance.shuffle(rows)
    plan = rows_of(Inference.EMBEDDINGS, {"model": "m", "input": rows})
    whole = fake_infinity.answer("embeddings", plan.part(0, 2048))[1]
    cuts = sorted({0, 2048, *chance.sample(range(2048), 150)})
    pieces = list(itertools.pairwise(cuts))
    chance.shuffle(pieces)
    merge = plan.merge()
    for start, stop in pieces:
        answer = fake_infinity.answer("embeddings", plan.part(start, stop))[1]
        merge.add(start, stop, one(plan.shape, answer, stop - start))
    assert merge.result() == whole


def embeddings(vectors: list[Any], **tail: object) -> dict[str, Any]:
    """An answer of Infinity's, parsed."""
    rows = [{"object": "embedding", "embedding": vector, "index": i} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return {"object": "list", "data": rows, "model": "m", "usage": usage, "id": "infinity-1", "created": 9, **tail}


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
BASE64 = st.from_regex(r"\A[A-Za-z0-9+/]{0,30}={0,2}\Z")
VECTOR = st.lists(NUMBERS, max_size=4)


@given(
    st.lists(VECTOR, min_size=1, max_size=70)
    | st.lists(BASE64, min_size=1, max_size=70)
    | st.lists(VECTOR | BASE64 | st.lists(VECTOR, max_size=3) | st.just([None, 0.5]), min_size=1, max_size=9),
    st.booleans(),
    TEXT,
)
@settings(deadline=None)
def test_vectors_come_through_bit_by_bit(vectors: list[Any], spaces: bool, model: str) -> None:
    """Numbers, base64, vectors of vectors, NaN as null: written as Infinity writes, or with spaces in between."""
    whole = orjson.dumps(embeddings(vectors, model=model))
    body = json.dumps(orjson.loads(whole)).encode() if spaces else whole
    merge = Merge(Shape.EMBEDDINGS, len(vectors))
    merge.add(0, len(vectors), one(Shape.EMBEDDINGS, body, len(vectors)))
    assert merge.result() == whole
    for row, vector in zip(orjson.loads(merge.result())["data"], vectors, strict=True):
        if isinstance(vector, list) and vector and isinstance(vector[0], float):
            assert [math.copysign(1, n) for n in row["embedding"]] == [math.copysign(1, n) for n in vector]


def test_id_and_created_came_with_the_first_row() -> None:
    """What can't be the same as without splitting is taken from the part with the row of position 0."""
    merge = Merge(Shape.CLASSIFY, 2)
    for i in (1, 0):
        merge.add(i, i + 1, Answer([b"[]"], 2, Origin(b'"m"', b'"i%d"' % i, 10 + i)))
    assert list(orjson.loads(merge.result()).items()) == [
        ("object", "classify"),
        ("data", [[], []]),
        ("model", "m"),
        ("usage", {"prompt_tokens": 4, "total_tokens": 4}),
        ("id", "i0"),
        ("created", 10),
    ]


def ranking(scores: list[Any], documents: list[Any] | None = None) -> dict[str, Any]:
    """A ranking as Infinity answers it, parsed."""
    shown = documents or [None] * len(scores)
    rows = [{"relevance_score": s, "index": i, "document": shown[i]} for i, s in enumerate(scores)]
    rows.sort(key=lambda row: -1.0 if row["relevance_score"] is None else row["relevance_score"], reverse=True)
    return {**embeddings([]), "object": "rerank", "data": 0} | {"results": rows}


def rank_body(parsed: dict[str, Any]) -> bytes:
    """The keys in Infinity's order."""
    order = ["object", "results", "model", "usage", "id", "created"]
    return orjson.dumps({key: parsed[key] for key in order})


def test_rerank_sorts_like_infinity_then_cuts() -> None:
    """Equal scores keep the order of the documents, a score that is no number comes last, `top_n` cuts the whole."""
    scores = [0.5, None, 0.5, 0.9, 0.5, 0.1]
    documents = ["a", 'b"', "c]", "d}", "é", None]
    merge = Merge(Shape.RERANK, 6, [5, 4, 3, 2, 1, 0], 5)
    for start in (3, 0):
        part = [5 - i for i in range(start, start + 3)]
        body = rank_body(ranking([scores[i] for i in part], [documents[i] for i in part]))
        merge.add(start, start + 3, one(Shape.RERANK, body, 3))
    results = orjson.loads(merge.result())["results"]
    assert [row["index"] for row in results] == [3, 0, 2, 4, 5]
    assert all(row["document"] == documents[row["index"]] for row in results)
    assert all(row["relevance_score"] == scores[row["index"]] for row in results)


def test_an_answer_to_other_rows_is_not_taken() -> None:
    """Too many, too few, outside, twice, or of another kind: an error, and what was there stays."""
    origin = Origin(b'"m"', b'"i"', 1)
    two = Answer([b"[1.0]", b"[2.0]"], 2, origin)
    merge = Merge(Shape.EMBEDDINGS, 4, [3, 2, 1, 0])
    merge.add(0, 2, two)
    for start, stop in [(2, 3), (1, 4), (3, 5), (-1, 1), (2, 2), (4, 6)]:
        with pytest.raises(MergeError, match="rows in the answer"):
            merge.add(start, stop, two)
    for start in (0, 1):
        with pytest.raises(MergeError, match="second answer"):
            merge.add(start, start + 2, two)
    with pytest.raises(MergeError, match="another kind"):
        merge.add(2, 4, Answer([b"null", b"null"], 2, origin, [1.0, 2.0]))
    assert not merge.complete
    merge.add(2, 4, Answer([b"[3.0]", b"[4.0]"], 3, origin))
    assert merge.complete
    answer = orjson.loads(merge.result())
    assert [row["embedding"] for row in answer["data"]] == [[4.0], [3.0], [2.0], [1.0]]
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
