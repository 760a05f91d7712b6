"""What can be said about a config file: faults, which refuse it, and notes, which do not.

Owns how a place in the file is named: `FILE:LINE: dotted.path: what is wrong, what is allowed`, always one line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from supervisor.errors import SupervisorError

Path = tuple[str | int, ...]
"""Where a value is in the document: keys and list indices from 0."""

_PLAIN_KEY = re.compile(r"[\w-]+")


def dotted(path: Path) -> str:
    """A path as users read it (`models.0.name`); keys that are no plain words are quoted."""
    return ".".join(
        str(part) if isinstance(part, int) or _PLAIN_KEY.fullmatch(part) else shortened(repr(part)) for part in path
    )


def shortened(text: str, length: int = 80) -> str:
    """The text, cut to a length that fits in a line beside others."""
    return text if len(text) <= length else text[: length - 1] + "…"


class Problem(NamedTuple):
    """A fault or note as it is found.

    `involves` names the other values it depends on: when one of those is faulty itself, this one may be its echo and
    is not reported. `line` is given where it is not simply that of `path`.
    """

    path: Path
    message: str
    involves: tuple[Path, ...] = ()
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to tell about a config file; `line` counts from 1, 0 stands for the file as a whole."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class Fault(Finding):
    """Refuses the file."""


class Note(Finding):
    """Worth knowing, refuses nothing."""


class ConfigError(SupervisorError):
    """The config was refused; `faults` has every reason, in the order of the file. Give up, or keep the old config."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


def shown(path: str) -> str:
    """A file's path as a message has it: of one line, and not endless."""
    return shortened(path if path.isprintable() else repr(path), 250)
