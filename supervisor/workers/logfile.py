"""Reads back what workers wrote, from the files they append to: the last lines, and what came since.

Blocking reads of at most a megabyte, for whoever asks; the workers know nothing of it. Readable across restarts of the
supervisor, since the files stay.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from supervisor.workers.output import clean_line, file_name

# Read of a file at most, from its end: 8,000 lines of Infinity's.
_READ = 1024 * 1024
# Lines of one answer at most.
MOST = 10_000
# A key as we make them (`secrets.token_urlsafe(32)`): those of earlier starts are not known any more, but may not show.
_KEY = re.compile(r"(?<![\w-])[\w-]{43}(?![\w-])")


class Lines(NamedTuple):
    """Lines, oldest first, and the position behind them, to ask for what comes later."""

    lines: list[str]
    position: int


def read(folder: Path, model: str, count: int, after: int | None) -> Lines:
    """The last `count` lines of a model's workers, or all they wrote since the position `after`."""
    return last_lines(folder, model, count) if after is None else lines_since(folder, model, after)


def last_lines(folder: Path, model: str, count: int) -> Lines:
    """The last `count` lines of a model's workers, those of earlier ones included; none where nothing was written."""
    path = folder / file_name(model)
    text, position = _read(path, 0)
    lines = _lines(text, count)
    if len(lines) < count:  # the file was emptied not long ago
        earlier, _ = _read(path.with_name(path.name + ".1"), 0)
        lines = _lines(earlier, count - len(lines)) + lines
    return Lines(lines, position)


def lines_since(folder: Path, model: str, position: int) -> Lines:
    """What a model's workers wrote since `position`, whole lines only, the last `MOST` of them.

    If the file was emptied meanwhile: the rest of what was in it, and what is in it now.
    """
    path = folder / file_name(model)
    text, end = _read(path, position)
    if end < position:
        old, reached = _read(path.with_name(path.name + ".1"), position)
        text = (old if reached >= position else b"") + text  # else it is not the one that was followed
    return Lines(_lines(text, MOST), end)


def _read(path: Path, position: int) -> tuple[bytes, int]:
    """The text from a position on, up to the last end of a line, its last megabyte at most; and the position there."""
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            begin = position if position <= size else 0
            skipped = size - begin > _READ
            begin = max(begin, size - _READ)
            text = os.pread(fd, size - begin, begin)
        finally:
            os.close(fd)
        if skipped:  # in the middle of a line
            first = text.find(b"\n") + 1
            begin, text = begin + first, text[first:]
        whole = text.rfind(b"\n") + 1
        return text[:whole], begin + whole
    return b"", 0


def _lines(text: bytes, most: int) -> list[str]:
    """The last lines of a text, at most so many: cleaned one by one, which costs 20 us each, so no others are."""
    raw = [line.rstrip(b"\r").rpartition(b"\r")[2] for line in text.split(b"\n")]  # of a bar its last state
    raw = [line for line in raw if line.strip()]
    return [_KEY.sub("***", clean_line(line)) for line in raw[max(0, len(raw) - most) :]]
