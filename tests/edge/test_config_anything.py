"""Whatever stands in a file, the answer is settings or ConfigError, soon, with lines of that file."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.config import Checked, ConfigError, check, effective, load
from supervisor.config.lines import parse
from supervisor.config.load import check_document
from supervisor.config.schema import json_schema
from supervisor.core.model import Rung, Signal

FOLDER = Path("/nowhere")


def keys(node: Any) -> set[str]:
    """Every key of the schema, wherever it belongs."""
    if isinstance(node, list):
        return {key for each in node for key in keys(each)}
    if not isinstance(node, dict):
        return set()
    return set(node.get("properties", ())) | {key for each in node.values() for key in keys(each)}


KEYS = sorted(keys(json_schema()))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-5, 110),
    st.floats(),
    st.floats(0, 100),
    st.text(max_size=20),
    st.dates(),
    st.binary(max_size=5),
    st.sampled_from(["small", "cpu", "torch", "127.0.0.1:7997", "--port", "./x", "~", "host", "observe", "org/a"]),
)
names = st.one_of(st.sampled_from(KEYS), st.text(max_size=8), st.integers(), st.booleans(), st.none())
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6), max_leaves=25
)


def shaped(node: dict[str, Any], schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that mostly have the right shape, so that they get past the types and meet the rules."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in node:
        return st.one_of([shaped(each, schema) for each in node["anyOf"]])
    if "enum" in node:
        return st.sampled_from(node["enum"])
    kind = node["type"]
    if kind == "object" and "properties" in node:
        required = {key: shaped(node["properties"][key], schema) for key in node.get("required", ())}
        optional = {key: shaped(each, schema) for key, each in node["properties"].items() if key not in required}
        return st.fixed_dictionaries(required, optional=optional)
    low, high = node.get("minimum", node.get("exclusiveMinimum", 0)), node.get("maximum", 1_000)
    simple: dict[str, st.SearchStrategy[Any]] = {
        "object": st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
        "number": st.floats(low, high) | st.integers(int(low) + 1, max(int(high), int(low) + 1)),
        "integer": st.integers(low, high),
        "boolean": st.booleans(),
        "null": st.none(),
        "string": st.sampled_from(["127.0.0.1:7997", "[::1]:8", "GPU-1", "org/a", "./x", "a", "A"])
        | st.text(min_size=1, max_size=9),
    }
    return st.lists(shaped(node["items"], schema), max_size=4) if kind == "array" else simple[kind]


def judged(text: str | bytes) -> Checked:
    """The answer to a file, whose faults and notes are checked to be printable lines of it."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    checked = check_document(parse(data, "f.yaml"), FOLDER, {"PATH": "/nowhere"})
    assert (checked.settings is None) == bool(checked.faults)
    for finding in (*checked.faults, *checked.notes):
        assert 0 <= finding.line <= len(data.splitlines()) + 1
        assert str(finding).isprintable(), str(finding)
        assert len(str(finding)) < 2_000
    return checked


bounded = settings(max_examples=300, deadline=5_000, suppress_health_check=list(HealthCheck))


@bounded
@given(anything)
def test_any_document_is_judged(document: Any) -> None:
    """Known keys with any values, unknown keys, any nesting."""
    judged(yaml.safe_dump(document, allow_unicode=True))


@bounded
@given(shaped(json_schema(), json_schema()))
def test_documents_of_the_right_shape_are_judged(document: Any) -> None:
    """Files the schema accepts meet the rules; those that are valid keep every promise the core relies on."""
    checked = judged(yaml.safe_dump(document, allow_unicode=True))
    if checked.settings is None:
        return
    policy = checked.settings.policy()
    for signal in Signal:
        thresholds = policy.thresholds[signal]
        ladder = [at for rung in list(Rung)[1:] if (at := thresholds.enter(rung)) is not None]
        assert ladder == sorted(set(ladder))
        assert all(0 < at <= 100 for at in ladder)
        if thresholds.pause is not None:
            assert thresholds.resume is not None
            assert 0 < thresholds.resume < thresholds.pause
    assert policy.batch.minimum <= policy.batch.initial <= policy.batch.maximum
    assert policy.batch.increase_threshold < policy.batch.decrease_threshold
    if "***" not in str(shown := effective(checked.settings)):
        again = judged(yaml.safe_dump(shown, allow_unicode=True))
        assert again.settings == checked.settings


@bounded
@given(st.text(max_size=200) | st.text(alphabet=" \t\n-:#[]{}&*!|>'\"%@`?,<~a1.", max_size=200))
def test_any_text_is_judged(text: str) -> None:
    """Text that is no YAML, or hardly any."""
    judged(text)


@bounded
@given(st.binary(max_size=200))
def test_any_bytes_are_judged(data: bytes) -> None:
    """Files that are no text at all."""
    judged(data)


@settings(bounded, max_examples=50)
@given(data=st.binary(max_size=50))
def test_load_raises_nothing_but_config_error(data: bytes, tmp_path_factory: Any) -> None:
    """The file's way in keeps the same promise."""
    path = tmp_path_factory.getbasetemp() / "anything.yaml"
    path.write_bytes(data)
    checked = check(path)
    if checked.settings is not None:
        assert load(path) == checked.settings
    else:
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.faults == checked.faults
