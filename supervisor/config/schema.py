"""The JSON Schema of the YAML, for editors and for telling users what a key allows."""

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

from supervisor.config.faults import Path
from supervisor.config.settings import Settings

_NULL = {"type": "null"}


@cache
def _schema() -> dict[str, Any]:
    schema = Settings.model_json_schema()
    definitions = schema.pop("$defs")
    for part in (schema, *definitions.values()):
        part.pop("title")
        part["properties"] = {key: _tidied(value) for key, value in part["properties"].items()}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Infinity Supervisor"}
    return {**head, **schema, "$defs": definitions}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a config file: types and bounds, not how keys relate to each other."""
    return copy.deepcopy(_schema())


def allowed(path: Path) -> str:
    """What may be written at `path`, in words."""
    node = _node(path)
    return ", or ".join(_in_words(node)) if node else "nothing"


def choices(path: Path) -> tuple[str, ...]:
    """The words between which a key chooses; none where it does not."""
    return tuple(str(choice) for option in _options(_node(path) or {}) for choice in option.get("enum", ()))


def keys_of(path: Path) -> tuple[str, ...]:
    """The keys that the mapping at `path` may have; none where it may have any."""
    node = _node(path) or {}
    return tuple(key for option in _options(node) for key in option.get("properties", ()))


def paths_of(key: str) -> tuple[Path, ...]:
    """Every section that has a key of that name (list items have the index 0)."""
    return tuple(path for path in _key_paths(_schema(), ()) if path[-1] == key)


def _tidied(node: dict[str, Any]) -> dict[str, Any]:
    """A property without the titles pydantic makes up and the defaults of whole sections (each key has its own).

    Null is allowed where a key with nothing after it is an empty section or list.
    """
    node = {key: value for key, value in node.items() if key != "title"}
    described = {"description": " ".join(node.pop("description", "").split())}
    if "$ref" in node or node.get("type") in ("object", "array"):
        node.pop("default", None)
        node = {"anyOf": [node, _NULL]}
    return {**described, **node}


def _options(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a node, references followed, null left out."""
    if "$ref" in node:
        node = _schema()["$defs"][node["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in node:
        return [option for each in node["anyOf"] for option in _options(each) if option != _NULL]
    return [node]


def _node(path: Path) -> dict[str, Any] | None:
    node: dict[str, Any] | None = _schema()
    for part in path:
        children = (_child(option, part) for option in _options(node or {}))
        node = next((child for child in children if child is not None), None)
    return node


def _child(node: dict[str, Any], part: str | int) -> dict[str, Any] | None:
    if isinstance(part, int):
        child = node.get("items")
    else:
        extra = node.get("additionalProperties")
        child = node.get("properties", {}).get(part) or (extra if isinstance(extra, dict) else None)
    return child if isinstance(child, dict) else None


def _key_paths(node: dict[str, Any], path: Path) -> Iterator[Path]:
    for option in _options(node):
        for key, child in option.get("properties", {}).items():
            yield (*path, key)
            yield from _key_paths(child, (*path, key))
        if isinstance(option.get("items"), dict):
            yield from _key_paths(option["items"], (*path, 0))


def _in_words(node: dict[str, Any]) -> Iterator[str]:
    for option in _options(node):
        yield _words_of(option, node.get("examples") or option.get("examples"))
    section = any(option["type"] in ("object", "array") for option in _options(node))
    if _NULL in node.get("anyOf", ()) and not section:  # an empty section may be null: true, but no help
        yield "null"


def _words_of(node: dict[str, Any], examples: list[Any] | None) -> str:
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    words = {
        "number": "a number",
        "integer": "a whole number",
        "string": "text",
        "boolean": "true or false",
        "array": "a list",
        "object": "settings as `key: value` lines",
    }[node["type"]]
    upper = "up to" if "exclusiveMinimum" in node else "to"
    named = (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", upper), ("exclusiveMaximum", "below"))
    span = ", " if "exclusiveMinimum" in node else " "
    bounds = [span.join(f"{word} {node[key]:.10g}" for key, word in named if key in node)]
    if "maxLength" in node:
        bounds.append(f"of {node['minLength']} to {node['maxLength']} characters")
    elif "minLength" in node:
        bounds.append(f"of {node['minLength']} or more characters")
    elif "minItems" in node:
        bounds.append(f"of {node['minItems']} or more items")
    if examples:
        bounds.append(f"such as {examples[0]}")
    return " ".join([words, *filter(None, bounds)])
