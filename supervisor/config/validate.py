"""A parsed document → settings and everything that is wrong with them. Pure: reads no file, no host.

One pass tells all: values that pydantic refuses are told, replaced by harmless ones, and the rules then judge the rest,
so that a wrong type in one place does not hide a broken relation in another.
"""

import copy
import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from supervisor.config import rules, schema
from supervisor.config.derive import derived
from supervisor.config.faults import Path, Problem, dotted, shortened
from supervisor.config.lines import Document
from supervisor.config.settings import Settings

_PLACEHOLDER = "?"  # stands where a text was required and none usable was written
_REPAIRS = 4  # a wrong value leaves a missing one, that a placeholder: two would do
_BOUND_TYPES = {
    "greater_than", "greater_than_equal", "less_than", "less_than_equal",
    "string_too_short", "string_too_long", "too_short", "too_long", "finite_number",
}  # fmt: skip
_SILENT = {"env"}  # values under these keys may be secrets: faults do not repeat them


class Validated(NamedTuple):
    """`settings`, complete, with harmless values in place of refused ones; None when nothing could be made of them."""

    settings: Settings | None
    problems: tuple[Problem, ...]
    spoilt: frozenset[Path]

    def counts(self, problem: Problem) -> bool:
        """Whether a problem found in `settings` is the file's and no echo of a value that was refused."""
        paths = (problem.path, *problem.involves)
        return not any(path[:length] in self.spoilt for path in paths for length in range(1, len(path) + 1))


def validate(document: Document) -> Validated:
    """Judge a document that has values."""
    values = copy.deepcopy(document.values) or {}
    problems = list(document.problems)
    spoilt = set(document.spoilt)
    for attempt in range(_REPAIRS):
        try:
            written = Settings.model_validate(values)
        except ValidationError as error:
            for path, detail in _by_path(error, values).items():
                if attempt == 0 and path not in document.spoilt:
                    problems.append(Problem(path, _explained(path, detail, document)))
                spoilt.add(path)
                _repair(values, path, detail["type"])
        else:
            return _related(written, problems, frozenset(spoilt))
    return Validated(None, tuple(problems), frozenset(spoilt))


def _related(written: Settings, problems: Sequence[Problem], spoilt: frozenset[Path]) -> Validated:
    """The outcome for values that are sound by themselves, with the rules' problems after `problems`."""
    settings = derived(written)
    found = Validated(settings, tuple(problems), spoilt)
    broken = tuple(problem for problem in rules.problems(written, settings) if found.counts(problem))
    return found._replace(problems=found.problems + broken)


def _by_path(error: ValidationError, values: dict[str, Any]) -> dict[Path, ErrorDetails]:
    """One error a path. The branches of a union share theirs (pydantic adds the branch's name to the location), and the
    branch that was at least of the right type has the better reason.
    """
    found: dict[Path, ErrorDetails] = {}
    for detail in error.errors(include_url=False, include_context=False):
        path: Path = ()
        node: Any = values
        for part in detail["loc"]:
            inside = part in (node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ())
            if not inside and detail["type"] != "missing":
                break
            path = (*path, part)
            node = node[part] if inside else None
        if path not in found or found[path]["type"].endswith("_type"):
            found[path] = detail
    return found


def _repair(values: dict[str, Any], path: Path, kind: str) -> None:
    """Put something harmless in the place of a refused value: its default, or a placeholder for what is required."""
    parent: Any = values
    for part in path[:-1]:
        parent = parent[part]
    last = path[-1]
    if isinstance(last, int):
        is_model = len(path) == 2
        parent[last] = {"name": _PLACEHOLDER, "model_id": _PLACEHOLDER} if is_model else _PLACEHOLDER
    elif kind == "missing":
        parent[last] = _PLACEHOLDER
    else:
        del parent[last]


def _explained(path: Path, detail: ErrorDetails, document: Document) -> str:
    """What is wrong and what is allowed, for a user."""
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path)
    allowed = f"allowed: {schema.allowed(path)}"
    if kind == "missing":
        return f"missing; {allowed}"
    value = detail["input"]
    if value is None:
        return f"{'null is not allowed' if document.text_of(path) else 'nothing is written'} here; {allowed}"
    shown = _shown(path, value, document)
    if kind.endswith("_type"):
        return f"{shown} {_is(value)}; {allowed}{_hint(path, value)}"
    if kind == "literal_error":
        close = _closest(str(value), schema.choices(path))
        return f"{shown} is not known{_did_you_mean(close)}; {allowed}"
    return f"{shown} is {'out of bounds' if kind in _BOUND_TYPES else 'not allowed'}; {allowed}{_hint(path, value)}"


def _unknown_key(path: Path) -> str:
    section, key = path[:-1], str(path[-1])
    keys = schema.keys_of(section)
    close = _closest(key, keys)
    if close is None:
        elsewhere = [other for other in schema.paths_of(key) if other[:-1] != section]
        close = " or ".join(dotted(tuple(part for part in other if part != 0)) for other in elsewhere) or None
    return f"unknown key{_did_you_mean(close)}" if close else f"unknown key; allowed here: {', '.join(keys)}"


def _closest(word: str, words: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word[:100], words, n=1, cutoff=0.7)), None)


def _did_you_mean(word: str | None) -> str:
    return f", did you mean {word}?" if word else ""


def _shown(path: Path, value: Any, document: Document) -> str:
    """The value as it stands in the file; of a mapping, list or possible secret only what it is."""
    text = document.text_of(path)
    if any(part in _SILENT for part in path[:-1]):
        return "the value"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return shortened(repr(value) if isinstance(value, str) else text or str(value))


def _is(value: Any) -> str:
    """What kind of thing a value is, as a predicate."""
    match value:
        case bool():
            return "is true or false to YAML"
        case int():
            return "is a whole number"
        case float():
            return "is a number with a fraction"
        case str():
            return "is text"
        case _:
            return "does not belong here"


def _hint(path: Path, value: Any) -> str:
    allowed = schema.allowed(path)
    if isinstance(value, bool | int | float) and allowed.startswith("text"):
        return " (write it in quotes)"
    if isinstance(value, str) and "number" in allowed:
        try:
            float(value)
        except ValueError:
            return ""
        return " (without quotes, and in plain digits)"
    if isinstance(value, str) and allowed.startswith("a list"):
        return " (as in [a, b])"
    return ""
