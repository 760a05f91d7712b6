"""Requests as rows: what is split and what goes whole, and answers put together to exactly what the whole would get."""

import itertools
import json
import math
import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.merge import MergeError
from supervisor.core.payload import MAX_CHARACTERS, Body, Inference, Naming, Plan, Rows, Whole, read_body, understand
from tests.support import fake_infinity

JSON = "application/json"
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
SPLIT = (Inference.EMBEDDINGS, Inference.RERANK, Inference.CLASSIFY)


def plan_of(endpoint: Inference, request: object, *, model: str = "m", limit: int = 2048) -> Plan:
    """The plan for a request as a client would write it."""
    return understand(endpoint, read_body(orjson.dumps(request), JSON), model, limit)


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
    plan = plan_of(endpoint, request)
    assert isinstance(plan, Rows)
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
        merge.add(start, stop, answer)
    assert merge.complete
    assert merge.result() == fake_infinity.answer(endpoint.value, orjson.dumps(request))[1]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=8))
def test_numbers_come_through_bit_by_bit(numbers: list[float]) -> None:
    """No digit of any double is lost between a worker's answer and the client's."""
    plan = plan_of(Inference.EMBEDDINGS, {"input": ["x"] * len(numbers)})
    assert isinstance(plan, Rows)
    merge = plan.merge()
    for i, number in enumerate(numbers):
        row = {"object": "embedding", "embedding": [number], "index": 0}
        merge.add(i, i + 1, orjson.dumps({"object": "list", "data": [row], "usage": {"total_tokens": 1}}))
    merged = orjson.loads(merge.result())["data"]
    assert [row["embedding"] for row in merged] == [[number] for number in numbers]
    assert [math.copysign(1, row["embedding"][0]) for row in merged] == [math.copysign(1, n) for n in numbers]


def test_base64_is_not_touched() -> None:
    """An encoded vector arrives as the worker wrote it."""
    plan = plan_of(Inference.EMBEDDINGS, {"input": ["a", "b"], "encoding_format": "base64"})
    assert isinstance(plan, Rows)
    merge = plan.merge()
    for i, text in enumerate(("AAAA/+==", "BBBB")):
        row = {"object": "embedding", "embedding": text, "index": 0}
        merge.add(i, i + 1, orjson.dumps({"object": "list", "data": [row], "usage": {}}))
    assert [row["embedding"] for row in orjson.loads(merge.result())["data"]] == ["AAAA/+==", "BBBB"]


def test_id_and_created_are_the_first_parts() -> None:
    """What can't be the same as without splitting is taken from the part with the first row."""
    plan = plan_of(Inference.CLASSIFY, {"input": ["a", "b"]})
    assert isinstance(plan, Rows)
    merge = plan.merge()
    for i in (1, 0):
        answer = {"object": "classify", "data": [[]], "model": "m", "usage": {"total_tokens": 2}, "id": f"i{i}"}
        merge.add(i, i + 1, orjson.dumps(answer))
    assert list(orjson.loads(merge.result()).items()) == [
        ("object", "classify"),
        ("data", [[], []]),
        ("model", "m"),
        ("usage", {"total_tokens": 4}),
        ("id", "i0"),
    ]


def test_rerank_sorts_like_infinity_then_cuts() -> None:
    """Equal scores keep the order of the documents, a score that is no number comes last, `top_n` cuts the whole."""
    plan = plan_of(Inference.RERANK, {"query": "q", "documents": list("abcdef"), "top_n": 5})
    assert isinstance(plan, Rows)
    merge = plan.merge()
    scores = [0.5, None, 0.5, 0.9, 0.5, 0.1]
    for start in (3, 0):
        part = sorted(range(3), key=lambda i: scores[start + i] or -1.0, reverse=True)
        rows = [{"relevance_score": scores[start + i], "index": i, "document": None} for i in part]
        merge.add(start, start + 3, orjson.dumps({"object": "rerank", "results": rows, "usage": {}}))
    assert [row["index"] for row in orjson.loads(merge.result())["results"]] == [3, 0, 2, 4, 5]


def test_top_n_never_reaches_a_part() -> None:
    """A part that cut its rows itself could lose the best of them."""
    plan = plan_of(Inference.RERANK, {"query": "q", "documents": ["a", "b", "c"], "top_n": 1, "extra": [1]})
    part = orjson.loads(plan.part(1, 3))
    assert part == {"query": "q", "documents": ["b", "c"], "extra": [1]}
    assert orjson.loads(plan.part(0, 3))["top_n"] == 1


def test_an_alias_is_replaced_by_the_canonical_name() -> None:
    """Workers know one name of a model; the rest of the body stays."""
    body = b'{"input": "x", "model":"nick", "user" : null}'
    plan = understand(Inference.EMBEDDINGS, read_body(body, JSON), "m")
    assert orjson.loads(plan.part(0, 1)) == {"input": "x", "model": "m", "user": None}
    same = understand(Inference.EMBEDDINGS, read_body(body, JSON), "nick")
    assert same.part(0, 1) == body


WHOLE: list[tuple[Inference, str]] = [
    (Inference.EMBEDDINGS, "{}"),
    (Inference.EMBEDDINGS, '{"input": []}'),
    (Inference.EMBEDDINGS, '{"input": null}'),
    (Inference.EMBEDDINGS, '{"input": ["a", 1]}'),
    (Inference.EMBEDDINGS, '{"input": [["a"]]}'),
    (Inference.EMBEDDINGS, '{"input": {"a": "b"}}'),
    (Inference.EMBEDDINGS, '{"input": "a", "encoding_format": null}'),
    (Inference.EMBEDDINGS, '{"input": "a", "encoding_format": "hex"}'),
    (Inference.EMBEDDINGS, '{"input": "a", "encoding_format": []}'),
    (Inference.EMBEDDINGS, '{"input": "a", "dimensions": null}'),
    (Inference.EMBEDDINGS, '{"input": "a", "dimensions": 1.5}'),
    (Inference.EMBEDDINGS, '{"input": "a", "dimensions": "x"}'),
    (Inference.EMBEDDINGS, '{"input": "a", "user": 3}'),
    (Inference.EMBEDDINGS, '{"input": "a", "modality": null}'),
    (Inference.EMBEDDINGS, '{"input": ["data:,a"], "modality": "image"}'),
    (Inference.EMBEDDINGS, '{"input": "a", "model": null}'),
    (Inference.EMBEDDINGS, '{"input": "a", "model": 7}'),
    (Inference.RERANK, '{"documents": ["a"]}'),
    (Inference.RERANK, '{"query": ["a"], "documents": ["a"]}'),
    (Inference.RERANK, '{"query": "q", "documents": "a"}'),
    (Inference.RERANK, '{"query": "q", "documents": ["a"], "top_n": 0}'),
    (Inference.RERANK, '{"query": "q", "documents": ["a"], "top_n": -1}'),
    (Inference.RERANK, '{"query": "q", "documents": ["a"], "top_n": 1.5}'),
    (Inference.RERANK, '{"query": "q", "documents": ["a"], "return_documents": null}'),
    (Inference.RERANK, '{"query": "q", "documents": ["a"], "raw_scores": 2}'),
    (Inference.CLASSIFY, '{"input": "a"}'),
    (Inference.CLASSIFY, '{"input": ["a"], "raw_scores": "maybe"}'),
    (Inference.IMAGES, '{"input": ["data:,a"]}'),
    (Inference.AUDIO, '{"input": "data:,a"}'),
]


@pytest.mark.parametrize(("endpoint", "text"), WHOLE)
def test_what_infinity_may_refuse_goes_whole_and_unchanged(endpoint: Inference, text: str) -> None:
    """A body with a field in doubt is not touched: Infinity's own answer, to the index in its text, is the answer."""
    body = text.encode()
    plan = understand(endpoint, read_body(body, JSON), "m")
    assert isinstance(plan, Whole)
    assert plan.part(0, plan.inputs) == body


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [
        (Inference.EMBEDDINGS, {"dimensions": True}),
        (Inference.EMBEDDINGS, {"dimensions": 4.0}),
        (Inference.EMBEDDINGS, {"dimensions": "4"}),
        (Inference.EMBEDDINGS, {"dimensions": -4}),
        (Inference.RERANK, {"top_n": "2", "raw_scores": "no", "return_documents": 1}),
        (Inference.RERANK, {"top_n": 2.0, "raw_scores": 0.0, "return_documents": "TRUE"}),
        (Inference.CLASSIFY, {"raw_scores": "On"}),
    ],
)
def test_other_spellings_that_infinity_reads_are_split_too(endpoint: Inference, options: dict[str, Any]) -> None:
    """A client that writes "4" for 4 must not get a part of 2,048 inputs past the window by it."""
    request = {"query": "q", "input": ["a", "b"], "documents": ["a", "b"]} | options
    assert isinstance(plan_of(endpoint, request), Rows)


def test_limits_on_inputs_and_lengths_are_infinitys() -> None:
    """One input more than the worker accepts, or one character, and the request is Infinity's to refuse."""
    long = "x" * MAX_CHARACTERS
    assert isinstance(plan_of(Inference.EMBEDDINGS, {"input": ["a"] * 2048}), Rows)
    assert isinstance(plan_of(Inference.EMBEDDINGS, {"input": ["a"] * 2049}), Whole)
    assert isinstance(plan_of(Inference.EMBEDDINGS, {"input": ["a"] * 4000}, limit=4000), Rows)
    assert isinstance(plan_of(Inference.EMBEDDINGS, {"input": ["a"] * 3}, limit=2), Whole)
    assert isinstance(plan_of(Inference.EMBEDDINGS, {"input": ["a", long]}), Rows)
    assert isinstance(plan_of(Inference.EMBEDDINGS, {"input": ["a", long + "x"]}), Whole)
    assert isinstance(plan_of(Inference.EMBEDDINGS, {"input": long + "x"}), Whole)
    assert isinstance(plan_of(Inference.RERANK, {"query": long + "x", "documents": ["a"]}), Whole)


def test_what_a_whole_request_counts_for() -> None:
    """Images count one by one; what Infinity is sure to refuse counts one."""
    assert plan_of(Inference.IMAGES, {"input": ["data:,a"] * 20}).inputs == 20
    assert plan_of(Inference.IMAGES, {"input": "data:,a"}).inputs == 1
    assert plan_of(Inference.EMBEDDINGS, {"input": ["a", 1]}).inputs == 2
    assert plan_of(Inference.EMBEDDINGS, {"input": [1] * 2049}).inputs == 1
    assert plan_of(Inference.EMBEDDINGS, {"input": []}).inputs == 1
    loose = read_body(b'{"model": "m", "input": ["a", "b", "c"], "x": NaN}', JSON)
    assert understand(Inference.EMBEDDINGS, loose, "m").inputs == 3
    assert understand(Inference.EMBEDDINGS, read_body(b"hello", JSON), "m").inputs == 1


def test_an_unknown_key_too_deep_to_write_goes_whole() -> None:
    """orjson reads deeper than it writes: what it could not write again is not taken apart."""
    body = b'{"input": ["a", "b"], "x": ' + b"[" * 500 + b"]" * 500 + b"}"
    assert isinstance(understand(Inference.EMBEDDINGS, read_body(body, JSON), "m"), Whole)


@pytest.mark.parametrize(
    ("raw", "naming", "model"),
    [
        (b'{"model": "a", "input": "x"}', Naming.NAMED, "a"),
        (b'{"input": "x"}', Naming.ABSENT, None),
        (b'{"model": null}', Naming.ILLEGIBLE, None),
        (b'{"model": ["a"]}', Naming.ILLEGIBLE, None),
        (b'["model"]', Naming.ILLEGIBLE, None),
        (b"", Naming.ILLEGIBLE, None),
        (b"\x1f\x8b\x08gzip", Naming.ILLEGIBLE, None),
        (b'{"model": "a"', Naming.ILLEGIBLE, None),
        (b"[" * 100_000, Naming.ILLEGIBLE, None),
        (b'{"model": "a", "x": NaN}', Naming.NAMED, "a"),
        (b'{"model": "a", "x": -Infinity}', Naming.NAMED, "a"),
        (b'{"model": "a", "x": 1e999}', Naming.NAMED, "a"),
        (b'{"model": "a", "input": "\\ud800"}', Naming.NAMED, "a"),
        (b'{"x": NaN}', Naming.ABSENT, None),
        ('{"model": "a"}'.encode("utf-16"), Naming.NAMED, "a"),
        ('{"model": "a"}'.encode("utf-8-sig"), Naming.NAMED, "a"),
        (b'{"model": "a", "model": "b"}', Naming.NAMED, "b"),
    ],
)
def test_the_model_is_found_wherever_infinity_finds_it(raw: bytes, naming: Naming, model: str | None) -> None:
    """Also in JSON that our parser refuses and Infinity's accepts; such a body then goes whole."""
    body = read_body(raw, JSON)
    assert (body.naming, body.model) == (naming, model)
    if not body.exact:
        assert understand(Inference.EMBEDDINGS, body, "a").part(0, 1) == raw


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"])
def test_content_types_that_are_json(content_type: str) -> None:
    """The spellings under which Infinity parses a body."""
    assert read_body(b'{"input": "a"}', content_type).fields == {"input": "a"}


def test_other_content_types_are_not_parsed() -> None:
    """Infinity does not parse them either; without any, its versions differ, so only the name counts."""
    assert read_body(b'{"model": "a"}', "text/plain") == Body(b'{"model": "a"}', Naming.ILLEGIBLE)
    unsure = read_body(b'{"model": "a"}', None)
    assert (unsure.naming, unsure.model, unsure.exact) == (Naming.NAMED, "a", False)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
KEYS = ["model", "input", "documents", "query", "top_n", "raw_scores", "dimensions", "user", "modality", "x"]


@given(st.sampled_from(Inference), st.dictionaries(st.sampled_from(KEYS), ANY_JSON) | ANY_JSON)
@settings(max_examples=300, deadline=None)
def test_anything_at_all_gets_a_plan(endpoint: Inference, value: object) -> None:
    """No JSON whatever makes it fail, and what goes whole goes unchanged."""
    raw = json.dumps(value).encode()
    body = read_body(raw, JSON)
    plan = understand(endpoint, body, body.model or "m")
    assert plan.inputs >= 1
    assert plan.part(0, plan.inputs) == raw


@given(st.binary(max_size=60))
def test_any_bytes_get_a_plan(raw: bytes) -> None:
    """Nor do any bytes."""
    assert understand(Inference.EMBEDDINGS, read_body(raw, JSON), "m").part(0, 1) == raw


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"data": [], "usage": {}}',
        b'{"data": [{"index": 0}], "usage": null}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [1], "usage": {}}',
        b'{"data": [{"index": "x"}], "usage": {}}',
    ],
)
def test_an_answer_that_is_none_is_said_to_be(answer: bytes) -> None:
    """What a worker would never answer is an error, not a wrong vector."""
    plan = plan_of(Inference.EMBEDDINGS, {"input": ["a", "b"]})
    assert isinstance(plan, Rows)
    with pytest.raises(MergeError):
        plan.merge().add(0, 1, answer)


def test_a_large_request_is_cut_and_merged_like_a_small_one() -> None:
    """2,048 rows of distinct lengths in uneven parts, shuffled."""
    chance = random.Random(7)
    rows = ["é" * i for i in range(2048)]
    plan = plan_of(Inference.EMBEDDINGS, {"model": "m", "input": rows})
    assert isinstance(plan, Rows)
    cuts = sorted({0, 2048, *chance.sample(range(2048), 150)})
    pieces = list(itertools.pairwise(cuts))
    chance.shuffle(pieces)
    merge = plan.merge()
    for start, stop in pieces:
        merge.add(start, stop, fake_infinity.answer("embeddings", plan.part(start, stop))[1])
    assert merge.result() == fake_infinity.answer("embeddings", plan.raw)[1]
