"""YAML text → plain values, each with the line it was written in.

Owns every fault of the text itself: encoding, syntax, duplicate keys, tags, size. Knows no setting. Reads like
`yaml.safe_load`, but that dates stay text. Bounded: neither nesting, nor aliases, nor length can make it slow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from supervisor.config.faults import Path, Problem, shortened

MAX_BYTES = 256 * 1024  # over 1,000 models; PyYAML reads this much in 1 to 2 s
MAX_DEPTH = 16  # the deepest setting is at 5
MAX_VALUES = 20_000  # after aliases are followed, so "a billion laughs" end here
_BOUNDS = f"too large or too deep; allowed: {MAX_DEPTH} levels and {MAX_VALUES} values"
_TOO_LARGE = 2**63

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = {_TAG + "str", _TAG + "timestamp", _TAG + "value"}
_MERGE = _TAG + "merge"
_SCALAR_TAGS = {_TAG + name for name in ("null", "bool", "int", "float")}


class Place(NamedTuple):
    """Where a value was written: line from 1, and its text as it stands there (None for mappings and lists)."""

    line: int
    text: str | None


@dataclass(frozen=True)
class Document:
    """A parsed file. `values` is None where nothing could be made of the text: `problems` says why."""

    file: str
    values: dict[str, Any] | None
    places: Mapping[Path, Place] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    spoilt: frozenset[Path] = frozenset()
    """Where `values` has None because what is written there was refused (one of `problems` says why)."""
    fatal: tuple[int, str] | None = None
    """The line (0: the whole file) and reason why there are no values."""

    def line_of(self, path: Path) -> int:
        """The line of a value, or of the nearest thing around it that is in the file."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places[path].line if path in self.places else 1

    def text_of(self, path: Path) -> str | None:
        """A scalar as it is written in the file, None where `path` is none."""
        place = self.places.get(path)
        return place.text if place else None


def parse(data: bytes, file: str) -> Document:
    """The document in `data`. Never raises: what is wrong is in the document's `problems` or `fatal`."""
    if len(data) > MAX_BYTES:
        return Document(file, None, fatal=(0, f"the file is too large; allowed: at most {MAX_BYTES // 1024} KiB"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Document(file, None, fatal=(line, f"byte 0x{data[error.start]:02x} is not UTF-8; allowed: UTF-8"))
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return Document(file, None, fatal=(line, f"character U+{error.character:04X} is not allowed in YAML"))
    try:
        root = loader.get_single_node()
        if root is None:
            return Document(file, {})
        values = _Values(loader)
        return values.document(root, file)
    except yaml.MarkedYAMLError as error:
        return Document(file, None, fatal=_explained(error, text.splitlines()))
    except _TooMuch as error:
        return Document(file, None, fatal=(error.line, str(error)))
    finally:
        loader.dispose()


class _TooMuch(Exception):
    """The text exceeds a bound of this module."""

    def __init__(self, mark: yaml.Mark, what: str) -> None:
        super().__init__(what)
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):
    """Composes lazily, so that a text that is too deep or too long is given up where it becomes so."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._nodes += 1
        try:
            if self._depth > MAX_DEPTH or self._nodes > 2 * MAX_VALUES:  # a key is a node, too
                raise _TooMuch(self.get_mark(), _BOUNDS)
            node: yaml.Node | None = super().compose_node(parent, index)
            return node
        finally:
            self._depth -= 1


class _Values:
    """Walks a node graph once; collects values, places and problems."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._places: dict[Path, Place] = {}
        self._problems: list[Problem] = []
        self._spoilt: set[Path] = set()
        self._open: set[int] = set()  # the mappings and lists that are being walked, innermost included
        self._count = 0

    def document(self, root: yaml.Node, file: str) -> Document:
        """The document under `root`, which has to be a mapping (or nothing at all)."""
        line = root.start_mark.line + 1
        if root.tag == _TAG + "null":
            return Document(file, {})
        if not isinstance(root, yaml.MappingNode):
            kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
            return Document(file, None, fatal=(line, f"the file holds {kind}; allowed: settings as `key: value` lines"))
        self._places[()] = Place(line, None)
        values = self._value(root, ())
        return Document(file, values or {}, self._places, tuple(self._problems), frozenset(self._spoilt))

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._count += 1
        if self._count > MAX_VALUES or len(self._open) > MAX_DEPTH:
            raise _TooMuch(node.start_mark, f"{_BOUNDS}, those that aliases repeat included")
        self._places.setdefault(path, Place(node.start_mark.line + 1, None))
        if isinstance(node, yaml.ScalarNode):
            self._places[path] = Place(self._places[path].line, node.value)
            return self._scalar(node, path)
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            return self._refused(path, f"the tag {node.tag!r} is not allowed; allowed: plain YAML values")
        if id(node) in self._open:
            return self._refused(path, "the alias names what it stands in; allowed: aliases of what ends before them")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        """Own keys win over merged ones (`<<`), earlier merged mappings over later ones."""
        values: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for source in reversed(sources):
                    if isinstance(source, yaml.MappingNode) and id(source) not in self._open:
                        values |= self._value(source, path) or {}
                    else:
                        message = "`<<` takes a mapping that ends before it, or a list of such"
                        self._told(path, message, key.start_mark.line + 1)
        first_lines: dict[str, int] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            key = None if key_node.tag == _MERGE else self._key(key_node, path)
            if key is None:
                continue
            if key in first_lines:
                again = f"written a second time (first in line {first_lines[key]}); allowed: each key once"
                self._told((*path, key), again, line)
                continue
            first_lines[key] = line
            self._places[(*path, key)] = Place(line, None)
            values[key] = self._value(value, (*path, key))
        return values

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag in _TEXT_TAGS and _usable(node.value):
            text: str = node.value
            return text
        shown = shortened(repr(node.value)) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        self._told(path, f"the key {shown} is not text; allowed: text (in quotes)", node.start_mark.line + 1)
        return None

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        if node.tag in _TEXT_TAGS:
            if _usable(node.value):
                return node.value
            return self._refused(path, "holds a NUL or half a surrogate pair; allowed: text of whole characters")
        if node.tag not in _SCALAR_TAGS:
            return self._refused(path, f"the tag {node.tag!r} is not allowed; allowed: plain YAML values")
        try:
            value = self._loader.construct_object(node)
        except (ValueError, OverflowError, LookupError, yaml.YAMLError):
            return self._refused(path, f"the value can't be read as {node.tag.removeprefix(_TAG)}")
        if isinstance(value, int) and abs(value) >= _TOO_LARGE:
            return self._refused(path, "the number is too large; allowed: less than 2^63")
        return value

    def _refused(self, path: Path, message: str) -> None:
        self._spoilt.add(path)
        self._problems.append(Problem(path, message))

    def _told(self, path: Path, message: str, line: int) -> None:
        self._problems.append(Problem(path, message, line=line))


def _usable(text: str) -> bool:
    """No process argument, file name or JSON text can hold a NUL or half a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _explained(error: yaml.MarkedYAMLError, lines: list[str]) -> tuple[int, str]:
    """The line and, in a user's words, the reason of a syntax error."""
    mark = error.problem_mark or error.context_mark
    line = min(mark.line, len(lines) - 1) + 1 if mark else 0
    problem = " ".join((error.problem or "unreadable").split())
    if problem == "but found another document":
        return line, "a second document begins here (`---`); allowed: one document"
    hint = ""
    written = lines[line - 1] if line else ""
    if "\t" in written[: len(written) - len(written.lstrip())]:
        hint = "; a tab indents this line: YAML allows spaces only"
    elif error.context_mark and error.context_mark.line + 1 < line:
        hint = f" ({error.context}, which begins in line {error.context_mark.line + 1})"
    return line, f"not valid YAML: {problem}{hint}"
