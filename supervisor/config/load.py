"""A config file on disk → settings, or every reason why not."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import NamedTuple, TypeVar

from supervisor.config import files, lines, rules
from supervisor.config.faults import ConfigError, Fault, Finding, Note, Problem, dotted
from supervisor.config.settings import Settings
from supervisor.config.validate import validate

MOST_TOLD = 200  # a file of another program has thousands; they must not flood the log and the reload's answer
FindingT = TypeVar("FindingT", bound=Finding)


class Checked(NamedTuple):
    """`settings` is None exactly when there are faults."""

    settings: Settings | None
    faults: tuple[Fault, ...]
    notes: tuple[Note, ...]


def load(path: str | FilePath) -> Settings:
    """The settings in a file: derived values filled in, paths absolute. Raises ConfigError with all faults at once."""
    checked = check(path)
    if checked.settings is None:
        raise ConfigError(checked.faults)
    return checked.settings


def load_to_run(path: str | FilePath) -> Settings:
    """The same, for a daemon: without models there is nothing to run."""
    settings = load(path)
    if not settings.models:
        message = "no models are configured; add at least one with `name` and `model_id`"
        raise ConfigError((Fault(os.fspath(path), 0, "models", message),))
    return settings


def check(path: str | FilePath, environ: Mapping[str, str] = os.environ) -> Checked:
    """The same without raising, and with notes on what is allowed but hardly meant. Opens the path anew each time."""
    file = os.fspath(path)
    try:
        with open(file, "rb") as stream:
            data = stream.read(lines.MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return Checked(None, (Fault(file, 0, "", f"can't be read: {reason}; allowed: a readable YAML file"),), ())
    return check_document(lines.parse(data, file), FilePath(file).absolute().parent, environ)


def check_document(document: lines.Document, folder: FilePath, environ: Mapping[str, str]) -> Checked:
    """Judge a parsed document as if it were a file in `folder`."""
    if document.fatal is not None:
        line, message = document.fatal
        return Checked(None, (Fault(document.file, line, "", message),), ())
    valid = validate(document)
    if valid.settings is None:
        return Checked(None, _findings(Fault, valid.problems, document), ())
    settings = files.resolved(valid.settings, folder)
    problems = [*valid.problems, *(problem for problem in files.problems(settings) if valid.counts(problem))]
    remarks = [*rules.remarks(settings), *files.remarks(settings, folder, environ)]
    return Checked(
        None if problems else settings,
        _findings(Fault, problems, document),
        _findings(Note, (remark for remark in remarks if valid.counts(remark)), document),
    )


def _findings(kind: type[FindingT], problems: Iterable[Problem], document: lines.Document) -> tuple[FindingT, ...]:
    """In the order of the file, each once, and no more than anyone reads."""
    found = dict.fromkeys(
        kind(document.file, problem.line or document.line_of(problem.path), dotted(problem.path), problem.message)
        for problem in problems
    )
    ordered = sorted(found, key=lambda finding: finding.line)
    more = len(ordered) - MOST_TOLD
    if more > 0:
        ordered[MOST_TOLD:] = [kind(document.file, ordered[MOST_TOLD].line, "", f"{more} more from this line on")]
    return tuple(ordered)
