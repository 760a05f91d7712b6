"""What is read of a body, and what is not even tried: JSON whose values would take more memory than its text."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import body
from supervisor.core.body import Naming, read_body, too_many_values

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('a",[{\\ü\n')),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(st.sampled_from('k"\\[,')), inner, max_size=5),
    max_leaves=30,
)


def counts(value: Any) -> tuple[int, int]:
    """How many lists, objects and commas there are outside of texts, and how many texts."""
    if isinstance(value, str):
        return 0, 1
    if not isinstance(value, list | dict):
        return 0, 0
    inner = [counts(one) for one in (value.values() if isinstance(value, dict) else value)]
    texts = sum(texts for _, texts in inner) + (len(value) if isinstance(value, dict) else 0)
    return max(1, len(value)) + sum(separators for separators, _ in inner), texts


@given(JSON)
def test_values_are_counted_outside_of_texts(value: Any) -> None:
    """Whatever the texts hold, escaped or not; where there are too many texts it does not matter what else there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body, "MOST_VALUES", 3)
        separators, texts = counts(value)
        found = too_many_values(json.dumps(value).encode())
        assert found or separators <= 3
        assert not found or separators > 3 or texts > 3


def asked(rows: bytes, more: bytes = b"") -> bytes:
    """A request for the model m."""
    return b'{"model": "m", ' + more + b'"input": [' + rows + b"]}"


COUNT = 400_000
BOMBS = {
    "lists": asked(b"[]," * COUNT + b"[]"),
    "objects": asked(b"{}," * COUNT + b"{}"),
    "numbers": asked(b"1234, " * COUNT + b"1"),
    "texts": asked(b'"a",' * COUNT + b'"a"'),
    "keys": asked(b"{" + b",".join(b'"%d":0' % n for n in range(COUNT)) + b"}"),
    "for Python's parser": asked(b"[]," * COUNT + b"[]", b'"a": NaN, '),
    "behind quotes": asked(b'"\\"", "\\\\", ' + b"[]," * COUNT + b"[]"),
    "UTF-16": asked(b"[]," * COUNT + b"[]").decode().encode("utf-16"),
    "UTF-16 behind a quote": asked(b'"\\"",' + b"[]," * COUNT + b"[]").decode().encode("utf-16-be"),
    "depth": b"[" * (2 << 20),
}


@pytest.mark.parametrize("raw", BOMBS.values(), ids=BOMBS)
def test_bombs_are_not_read(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are Infinity's to judge: no parser sees them here."""
    assert len(raw) > body.LARGE

    def never(raw: bytes) -> Any:
        raise AssertionError("a bomb was read")

    monkeypatch.setattr(body.orjson, "loads", never)
    monkeypatch.setattr(body.json, "loads", never)
    read = read_body(raw, "application/json")
    assert (read.naming, read.raw) == (Naming.ILLEGIBLE, raw)


@pytest.mark.parametrize(
    "text", ["a, b [c] {d} ", 'say \\"x\\", ', "\\\\,\\\\"], ids=["prose", "quotes", "backslashes"]
)
def test_large_texts_are_read(text: str) -> None:
    """Megabytes of text with commas, brackets and quotes are a few values."""
    raw = asked(f'"{text * 300_000}", "b"'.encode())
    read = read_body(raw, "application/json")
    assert (read.naming, read.model, read.exact) == (Naming.NAMED, "m", True)


def test_as_many_inputs_as_infinity_can_be_told_to_take_are_read() -> None:
    """A hundred thousand short ones are no bomb."""
    raw = asked(b",".join([b'"some text"'] * 100_000))
    assert len(raw) > body.LARGE
    assert len(read_body(raw, "application/json").fields["input"]) == 100_000
