"""Workers' answers taken apart: what is Infinity's is cut exactly, and lies are told from answers."""

import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.answer import Shape, cut

TAIL = {"model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7}, "id": "infinity-1", "created": 9}


def vectors(*rows: Any) -> list[Any]:
    """Rows of embeddings."""
    return [{"object": "embedding", "embedding": vector, "index": i} for i, vector in enumerate(rows)]


LIES: list[Any] = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b'{"object":"list","data":[{"object":"embedding","embedding":',
    {"object": "other"},
    {"object": None},
    {"data": None},
    {"data": {}},
    {"data": []},
    {"model": None},
    {"id": 3},
    {"created": None},
    {"created": True},
    {"created": 1.5},
    {"more": 1},
    {"usage": None},
    {"usage": {}},
    {"usage": {"prompt_tokens": 7}},
    {"usage": {"total_tokens": 7, "prompt_tokens": 7}},
    {"usage": {"prompt_tokens": 7, "total_tokens": 8}},
    {"usage": {"prompt_tokens": 7, "total_tokens": 7, "more": 1}},
    {"usage": {"prompt_tokens": -1, "total_tokens": -1}},
    {"usage": {"prompt_tokens": True, "total_tokens": True}},
    {"usage": {"prompt_tokens": 7.0, "total_tokens": 7.0}},
]
BAD_ROWS: dict[Shape, list[Any]] = {
    Shape.EMBEDDINGS: [
        1,
        None,
        [],
        {},
        {"object": "embedding", "embedding": [1.0]},
        {"object": "embedding", "embedding": [1.0], "index": 0},
        {"object": "embedding", "embedding": [1.0], "index": "1"},
        {"object": "embedding", "embedding": [1.0], "index": True},
        {"object": "embedding", "embedding": [1.0], "index": 1, "more": 1},
        {"object": "embedding", "index": 1, "embedding": [1.0]},
        {"object": "other", "embedding": [1.0], "index": 1},
        {"object": "embedding", "embedding": None, "index": 1},
        {"object": "embedding", "embedding": 1.0, "index": 1},
        {"object": "embedding", "embedding": {}, "index": 1},
        {"object": "embedding", "embedding": ["x"], "index": 1},
        {"object": "embedding", "embedding": [True], "index": 1},
        {"object": "embedding", "embedding": [{"e": 1}], "index": 1},
        {"object": "embedding", "embedding": 'A"},{', "index": 1},
        {"object": "embedding", "embedding": "A A", "index": 1},
    ],
    Shape.CLASSIFY: [
        1,
        {},
        [1],
        [{}],
        [{"score": 0.5}],
        [{"label": "x", "score": 0.5}],
        [{"score": 0.5, "label": None}],
        [{"score": "x", "label": "x"}],
        [{"score": True, "label": "x"}],
        [{"score": 0.5, "label": "x", "more": 1}],
    ],
    Shape.RERANK: [
        1,
        {},
        {"relevance_score": 0.5, "index": 1},
        {"index": 1, "relevance_score": 0.5, "document": None},
        {"relevance_score": 0.5, "index": 0, "document": None},
        {"relevance_score": 0.5, "index": 2, "document": None},
        {"relevance_score": 0.5, "index": -1, "document": None},
        {"relevance_score": 0.5, "index": True, "document": None},
        {"relevance_score": "x", "index": 1, "document": None},
        {"relevance_score": 0.5, "index": 1, "document": 3},
        {"relevance_score": 0.5, "index": 1, "document": None, "more": 1},
    ],
}
GOOD_ROWS: dict[Shape, list[Any]] = {
    Shape.EMBEDDINGS: vectors([1.0], [2.0]),
    Shape.CLASSIFY: [[{"score": 0.5, "label": 'x"}],[{'}], []],
    Shape.RERANK: [{"relevance_score": 2.0 - i, "index": i, "document": None} for i in (0, 1)],
}
KINDS = {Shape.EMBEDDINGS: "list", Shape.CLASSIFY: "classify", Shape.RERANK: "rerank"}


def written(shape: Shape, rows: list[Any], lie: dict[str, Any]) -> bytes:
    """An answer with some of it replaced."""
    field = "results" if shape is Shape.RERANK else "data"
    lie = {field if key == "data" else key: value for key, value in lie.items()}
    return orjson.dumps({"object": KINDS[shape], field: rows, **TAIL} | lie)


@pytest.mark.parametrize("shape", Shape)
def test_a_lie_is_no_answer(shape: Shape) -> None:
    """What a worker of Infinity's would never answer can't be used, whatever is wrong with it."""
    good = written(shape, GOOD_ROWS[shape], {})
    assert cut(shape, good, [2], None) is not None
    assert cut(shape, good, [2], [7]) is not None
    assert cut(shape, good, [1, 1], [3, 4]) is not None
    lies = [lie if isinstance(lie, bytes) else written(shape, GOOD_ROWS[shape], lie) for lie in LIES]
    lies += [written(shape, [GOOD_ROWS[shape][0], row], {}) for row in BAD_ROWS[shape]]
    lies += [good[:end] for end in range(len(good))]
    lies += [good + b"x", good + good, b"[" + good + b"]", good[:-1] + b"]"]
    lies.append(orjson.dumps(dict(reversed(orjson.loads(good).items()))))
    for lie in lies:
        assert cut(shape, lie, [2], None) is None, lie
        assert cut(shape, lie, [1, 1], [3, 4]) is None, lie
    for other in set(Shape) - {shape}:
        assert cut(other, good, [2], None) is None
    for counts, usage in [([1], None), ([3], None), ([1, 1], None), ([1, 1], [4, 4]), ([2], [6]), ([1, 2], [3, 4])]:
        assert cut(shape, good, counts, usage) is None, (counts, usage)


START, NEXT = b'{"object":"list","data":[{"object":"embedding","embedding":', b'},{"object":"embedding","embedding":'
END = b'}],"model":"m","usage":{"prompt_tokens":7,"total_tokens":7},"id":"i","created":9}'


@pytest.mark.parametrize(
    "rows",
    [
        [b'[1.0],"index":0', b'[2.0],"index":2'],
        [b'[1.0],"index":0', b'[2.0],"index":01'],
        [b'[1.0],"index":0', b'[2.0]],"index":1'],
        [b'[1.0],"index":0', b'2.0[],"index":1'],
        [b'[1.0],"index":0', b'[]2.0,"index":1'],
        [b'[1.0],"index":0', b',"index":1'],
        [b'[1.0],"index":0},,{"object":"embedding","embedding":[2.0],"index":1'],
        [b'"AA","index":0', b'[2.0],"index":1,'],
        [b'"AA","index":0', b'"A\\"A","index":1'],
        [b'"AA","index":0', b'"\xff","index":1'],
        [b'"AA","index":0', b'A"","index":1'],
        [b'"AA","index":0', b'"","index":1,"a":""'],
    ],
)
def test_rows_are_cut_only_between_rows(rows: list[bytes]) -> None:
    """Text that looks like rows, and is not what Infinity writes, never becomes somebody's vector."""
    assert cut(Shape.EMBEDDINGS, START + b'[1.0],"index":0' + NEXT + b'[2.0],"index":1' + END, [1, 1], [3, 4])
    assert cut(Shape.EMBEDDINGS, START + NEXT.join(rows) + END, [1, 1], [3, 4]) is None


PIECES = [
    START,
    NEXT,
    END,
    b"[1.0]",
    b"[-2e-7,3]",
    b'"AA=="',
    b',"index":0',
    b',"index":1',
    b"]",
    b"[",
    b'"',
    b"9",
    b",",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8))
@settings(max_examples=1000, deadline=None)
def test_what_is_cut_without_decoding_is_what_decoding_finds(middle: list[bytes]) -> None:
    """Of any text made of an answer's own pieces, what becomes rows is what a JSON parser sees there."""
    body = START + b"".join(middle) + END
    for rows in (1, 2, 3):
        answers = cut(Shape.EMBEDDINGS, body, [1] * rows, [7 if i == 0 else 0 for i in range(rows)])
        if answers is not None:
            parsed = orjson.loads(body)["data"]
            assert [orjson.loads(answer.rows[0]) for answer in answers] == [row["embedding"] for row in parsed]


@pytest.mark.parametrize("shape", [Shape.EMBEDDINGS, Shape.CLASSIFY])
def test_rows_that_were_decoded_take_no_more_room_than_their_text(shape: Shape) -> None:
    """An encoder that leaves room behind its output must not leave it in an answer that waits for its other parts."""
    row: Any = [[1.5] * 300] if shape is Shape.EMBEDDINGS else [{"score": 0.5, "label": "y" * 1000}]
    body = written(shape, vectors(*[row] * 20) if shape is Shape.EMBEDDINGS else [row] * 20, {})
    assert cut(shape, body, [20], None) is not None
    tracemalloc.start()
    try:
        answers = cut(shape, body, [20], None)
        assert tracemalloc.get_traced_memory()[0] < 20 * 2500
    finally:
        tracemalloc.stop()
    assert answers is not None


def test_ids_are_told_from_neither_neighbours_nor_other_parts() -> None:
    """Every seat of every shared part has an id of its own, the same each time, and the worker's is nowhere."""
    names = []
    for worker in ("infinity-34a35f4b", "infinity-34a35f4c"):
        body = written(Shape.EMBEDDINGS, GOOD_ROWS[Shape.EMBEDDINGS], {"id": worker})
        for _ in range(2):
            answers = cut(Shape.EMBEDDINGS, body, [1, 1], [3, 4])
            assert answers is not None
            names += [answer.origin.name for answer in answers]
    assert names[:2] == names[2:4]
    assert names[4:6] == names[6:]
    assert len(set(names)) == 4
    assert not any(b"34a35f4" in name for name in names)
