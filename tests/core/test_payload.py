"""Requests as rows: what is split and what goes whole, in which order rows go, and what requests may share a part."""

import json
import sys
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.body import Body, Naming, read_body
from supervisor.core.fields import MAX_CHARACTERS
from supervisor.core.payload import Inference, Plan, Rows, Whole, merged_body, understand

JSON = "application/json"
IMAGE = "data:image/png;base64,AAAA"
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


def plan_of(endpoint: Inference, request: object, *, model: str = "m", limit: int = 2048) -> Plan:
    """The plan for a request as a client would write it."""
    return understand(endpoint, read_body(orjson.dumps(request), JSON), model, limit)


def test_top_n_never_reaches_a_part() -> None:
    """A part that cut its rows itself could lose the best of them."""
    plan = plan_of(Inference.RERANK, {"query": "q", "documents": ["a", "b", "c"], "top_n": 1, "extra": [1]})
    assert orjson.loads(plan.part(0, 3))["top_n"] == 1
    assert orjson.loads(plan.part(1, 3)) == {"query": "q", "documents": ["b", "c"]}


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
    (Inference.EMBEDDINGS, '{"input": ["data:audio/wav;base64,AAAA"], "modality": "audio"}'),
    (Inference.EMBEDDINGS, '{"input": ["data:image/png;base64,AAAA"], "modality": "image", "dimensions": null}'),
    (Inference.IMAGES, '{"input": ["data:,a"]}'),
    (Inference.IMAGES, '{"input": ["data:image/png;base64,AAAA", "a"]}'),
    (Inference.IMAGES, '{"input": []}'),
    (Inference.IMAGES, '{"input": "data:image/png;base64,AAAA"}'),
    (Inference.IMAGES, '{"input": ["data:image/png;base64,AAAA"], "encoding_format": "hex"}'),
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
    assert plan_of(Inference.AUDIO, {"input": ["data:,a"] * 32}).inputs == 32
    assert plan_of(Inference.AUDIO, {"input": ["data:,a"] * 33}).inputs == 1
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


# -- the order of rows ----------------------------------------------------------------------------------------------


@given(st.lists(TEXT, min_size=1, max_size=30), st.booleans())
def test_rows_go_longest_first_and_equal_ones_as_they_came(rows: list[str], rerank: bool) -> None:
    """Every part is as wide as its first row, and each position knows its index in the request."""
    request = {"query": "what?", "documents": rows} if rerank else {"input": rows}
    plan = plan_of(Inference.RERANK if rerank else Inference.EMBEDDINGS, request)
    assert isinstance(plan, Rows)
    order = plan.order or range(len(rows))
    assert list(order) == sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    query = 5 if rerank else 0
    assert orjson.loads(plan.part(0, plan.inputs)) == request, "all of them go in the client's order"
    for start in range(plan.inputs):
        for stop in range(start + 1, plan.inputs + 1):
            texts = [rows[i] for i in order[start:stop]]
            assert plan.longest(start, stop) == max(map(len, texts)) + query
            assert plan.usage(start, stop) == sum(map(len, texts)) + query * len(texts)
            if len(texts) < plan.inputs:
                assert orjson.loads(plan.part(start, stop))["documents" if rerank else "input"] == texts


def test_what_was_divided_lets_go_of_the_original_body() -> None:
    """A request of many rows is not held twice while its parts run."""
    plan = plan_of(Inference.EMBEDDINGS, {"input": ["a", "bb"]})
    assert isinstance(plan, Rows)
    plan.part(0, 2)
    assert plan.raw
    plan.part(1, 2)
    assert not plan.raw
    with pytest.raises(AssertionError, match="divided"):
        plan.part(0, 2)


def test_a_waiting_request_holds_little_besides_its_text() -> None:
    """10,000 requests of 1 KB wait during a pause: body, text, and less than half a kilobyte for what is known."""
    plan = plan_of(Inference.EMBEDDINGS, {"model": "nick", "input": "y" * 1000})
    assert isinstance(plan, Rows)
    held = [getattr(plan, name) for name in Rows.__slots__]
    assert sum(map(sys.getsizeof, [plan, *held, *plan.take(0, 1)])) < 2 * 1100 + 500
    assert not any(isinstance(value, dict) for value in held), "the parsed fields are let go"


def test_a_body_written_anew_takes_no_more_room_than_its_text() -> None:
    """An encoder that leaves room behind its output must not leave it in what waits."""
    body = read_body(orjson.dumps({"model": "nick", "input": "y" * 1000}), JSON)
    understand(Inference.EMBEDDINGS, body, "m")
    tracemalloc.start()
    try:
        plans = [understand(Inference.EMBEDDINGS, body, "m") for _ in range(20)]
        assert tracemalloc.get_traced_memory()[0] < 20 * 2000
    finally:
        tracemalloc.stop()
    assert all(plan.part(0, 1) for plan in plans)


# -- what may share a part ------------------------------------------------------------------------------------------


def key_of(endpoint: Inference, **request: Any) -> object:
    """The merge key of a request."""
    plan = plan_of(endpoint, request)
    assert isinstance(plan, Rows)
    return plan.key


def test_requests_that_mean_the_same_share_parts() -> None:
    """What is absent equals its default; names, `user` and what Infinity does not know make no difference."""
    plain = key_of(Inference.EMBEDDINGS, input="a")
    assert plain is not None
    full = {"encoding_format": "float", "dimensions": 0, "modality": "text", "user": "me", "model": "m", "x": [1]}
    assert key_of(Inference.EMBEDDINGS, input=["b", "c"], **full) == plain
    assert hash(key_of(Inference.EMBEDDINGS, input=["b", "c"], **full)) == hash(plain)
    assert key_of(Inference.EMBEDDINGS, input="a", user=None) == plain
    assert key_of(Inference.CLASSIFY, input=["a"]) == key_of(Inference.CLASSIFY, input=["b"], raw_scores=False)


def test_requests_that_differ_share_no_part() -> None:
    """Each of these wants another answer than all the others."""
    keys = [
        key_of(Inference.EMBEDDINGS, input="a"),
        key_of(Inference.EMBEDDINGS, input="a", dimensions=1),
        key_of(Inference.EMBEDDINGS, input="a", dimensions=2),
        key_of(Inference.EMBEDDINGS, input="a", encoding_format="base64"),
        key_of(Inference.EMBEDDINGS, input="a", encoding_format="base64", dimensions=1),
        key_of(Inference.CLASSIFY, input=["a"]),
        key_of(Inference.CLASSIFY, input=["a"], raw_scores=True),
    ]
    assert None not in keys
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("endpoint", "request_"),
    [
        (Inference.RERANK, {"query": "q", "documents": ["a"]}),
        (Inference.IMAGES, {"input": [IMAGE]}),
        (Inference.EMBEDDINGS, {"input": [IMAGE], "modality": "image"}),
        (Inference.EMBEDDINGS, {"input": "a", "dimensions": True}),
        (Inference.EMBEDDINGS, {"input": "a", "dimensions": "1"}),
        (Inference.EMBEDDINGS, {"input": "a", "dimensions": 1.0}),
        (Inference.CLASSIFY, {"input": ["a"], "raw_scores": 1}),
        (Inference.CLASSIFY, {"input": ["a"], "raw_scores": "yes"}),
        (Inference.EMBEDDINGS, {"input": ""}),
        (Inference.EMBEDDINGS, {"input": ["a", ""]}),
        (Inference.EMBEDDINGS, {"input": " a"}),
        (Inference.EMBEDDINGS, {"input": ["a", "b\n"]}),
        (Inference.EMBEDDINGS, {"input": "a\u2003"}),
        (Inference.EMBEDDINGS, {"input": "\x1ca"}),
        (Inference.EMBEDDINGS, {"input": "a\x85"}),
    ],
)
def test_what_shares_with_nobody(endpoint: Inference, request_: dict[str, Any]) -> None:
    """A query of its own, images, options in doubt, and rows that Infinity may count otherwise than we do."""
    assert key_of(endpoint, **request_) is None


def test_a_merged_body_says_only_what_infinity_reads() -> None:
    """The canonical name, the rows in the order of the pieces, options that are not the default, and nothing else."""
    one = plan_of(Inference.EMBEDDINGS, {"input": "x", "user": "secret", "dimensions": 2, "note": "secret"})
    two = plan_of(Inference.EMBEDDINGS, {"model": "nick", "input": ["a", "ccc", "bb"], "dimensions": 2})
    assert isinstance(one, Rows)
    assert isinstance(two, Rows)
    assert orjson.loads(merged_body([(two, 0, 2), (one, 0, 1)], "m")) == {
        "model": "m",
        "encoding_format": "float",
        "dimensions": 2,
        "input": ["ccc", "bb", "x"],
    }
    assert not two.raw
    assert one.raw
    plain = plan_of(Inference.CLASSIFY, {"input": ["x"]})
    assert isinstance(plain, Rows)
    assert merged_body([(plain, 0, 1)], "m") == b'{"model":"m","input":["x"]}'
    with pytest.raises(AssertionError, match="differ"):
        merged_body([(one, 0, 1), (plain, 0, 1)], "m")
