"""What workers write: a capped file per worker that they append to, and its tail, line by line into our log.

A file, not a pipe: a worker never waits for a reader, goes on when the supervisor dies, and a later supervisor reads
on. Nothing here trusts the text: it is whatever a model's code, or a client's input in a traceback, made it.
"""

import asyncio
import errno
import fcntl
import hashlib
import math
import os
import re
from collections import deque
from pathlib import Path
from urllib.parse import quote

import structlog

from supervisor.core.display import printable
from supervisor.workers.bars import is_bar

log = structlog.get_logger(__name__)

# A file that has grown past this is copied to `.1` and emptied in place. The longest start-up of a real model writes
# some kB, the access log about 100 bytes a part.
FILE_CAP = 8 * 1024 * 1024
# Bytes that have to be free for it. A start writes some kB, and an Infinity that can't write its banner ends (exit
# status 3, three times in a row, was the end of a model).
ROOM = 1024 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Longer lines are cut: a prompt in a traceback must not fill the log.
LINE_CAP = 4096
# Lines kept for status and for the reason of a failure.
LINES_KEPT = 50
# Lines per second of one worker that go into our log; the others are counted.
LINES_PER_SECOND = 200
# Seconds between two states of a progress bar in our log: a download of an hour is 360 lines, not 36,000.
BAR_EVERY = 10.0
# Read at one look; when more than `_BACKLOG` waits, the older part is skipped and counted.
_CHUNK = 256 * 1024
_BACKLOG = 1024 * 1024
# Text without an end of line is shown after this many looks without anything new.
_PATIENCE = 4

# Sequences that move a terminal's cursor or colour its text (ECMA-48 CSI and OSC, and two-character escapes).
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
# Infinity's log pads each line to COLUMNS before it names the source file.
_PADDING = re.compile(r"(?<=\S) {8,}")
# Frames around messages, drawn as wide as COLUMNS.
_RULES = re.compile(r"([^\w\s])\1{15,}")
# Uvicorn's access log: one line for each part that the proxy sends, which our own metrics count better.
_ACCESS = re.compile(r'INFO: +\S+ - "[A-Z]+ \S+ HTTP/[\d.]+" [1-4]\d\d\b')


def file_name(model: str) -> str:
    """The name of a model's log file: any model name gives one valid name, and different ones different ones."""
    name = quote(model, safe="")
    if len(name) > 200:
        name = f"{name[:180]}-{hashlib.sha256(model.encode()).hexdigest()[:16]}"
    return f"{name}.log"


def clean_line(line: bytes, *secrets: str) -> str:
    """One line of output as text that can't start a line of its own or command a terminal, without the secrets."""
    cut = len(line) > LINE_CAP
    text = line[:LINE_CAP].decode("utf-8", "replace")
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _ESCAPES.sub("", text).replace("\t", "    ").rstrip()
    text = printable(_RULES.sub(r"\1\1\1", _PADDING.sub("  ", text)))
    return f"{text}… ({len(line)} bytes)" if cut else text


class OutputFile:
    """A private (0600) file that workers append to. The descriptor in `fd` is theirs to inherit.

    Where the disk has no room it lies in memory, and is gone with the worker.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self.path = folder / file_name(model)
        self._in_memory = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.fd = self._opened()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._in_memory = True
            self.fd = os.memfd_create(self.path.name)
            fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)
            log.warning("worker_output_not_kept", model=model, file=str(self.path), error=error.strerror)

    def _opened(self) -> int:
        space = os.statvfs(self.path.parent)
        if space.f_bavail * space.f_frsize < ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.path, flags, 0o600)
        os.fchmod(fd, 0o600)
        return fd

    def size(self) -> int:
        """Bytes written so far, since it was last emptied."""
        return os.fstat(self.fd).st_size

    def roll(self) -> None:
        """Copy all to `.1` and empty the file in place: a worker that has it open goes on at its new end.

        What is written between the last byte copied and the emptying, some microseconds, is lost.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            if self._in_memory:
                return
            old = os.open(self.path.with_name(self.path.name + ".1"), flags, 0o600)
            try:
                done = max(0, self.size() - FILE_CAP)  # a flood between two looks may have gone far beyond the cap
                while copied := os.sendfile(old, self.fd, done, FILE_CAP):
                    done += copied
            finally:
                os.close(old)
        finally:
            os.ftruncate(self.fd, 0)  # on a full disk above all

    def close(self) -> None:
        """Give the descriptor back; the file stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Tail:
    """Reads what one worker appends from now on; `look` takes the new lines into our log.

    `written` counts every byte seen, `last` holds the newest lines, `interval` is how often `follow` looks (seconds).
    `silent`: somebody else's tail of the same file tells our log. `secrets` are never told.
    `bar` is the newest state of a progress bar as long as no line came after it, else "".
    """

    def __init__(self, model: str, file: OutputFile, secret: str | None = None, interval: float = 0.5) -> None:
        self.interval = interval
        self.last: deque[str] = deque(maxlen=LINES_KEPT)
        self.written = 0
        self.silent = False
        self.bar = ""
        self._model = model
        self._file = file
        self.secrets = set() if secret is None else {secret}
        self._offset = file.size()
        self._rest = b""
        self._still = 0
        self._allowance = float(LINES_PER_SECOND)
        self._allowed_at: float | None = None
        self._bar_due = -math.inf  # when a bar may be told again
        self._dropped_lines = 0
        self._dropped_bytes = 0

    def look(self, now: float, *, final: bool = False) -> None:
        """Take in what was written since the last look; costs one fstat when that is nothing.

        `final` also takes a last line without an end and tells at once what was dropped. Never raises.
        """
        self._refill(now)
        try:
            self._read(final)
        except OSError as error:
            log.warning("worker_output_unreadable", model=self._model, error=str(error))
        if (self._dropped_lines or self._dropped_bytes) and (final or self._allowance >= 1):
            log.warning(
                "worker_output_dropped",
                model=self._model,
                lines=self._dropped_lines,
                skipped_bytes=self._dropped_bytes,
                file=str(self._file.path),
            )
            self._dropped_lines = self._dropped_bytes = 0

    def _read(self, final: bool) -> None:
        size = self._file.size()
        if size < self._offset:  # somebody emptied it
            self._offset = 0
        self.written += size - self._offset
        if size - self._offset > _BACKLOG:
            self._dropped_bytes += size - _CHUNK - self._offset
            self._offset, self._rest = size - _CHUNK, b""
        news = False
        while self._offset < size:
            data = os.pread(self._file.fd, min(_CHUNK, size - self._offset), self._offset)
            if not data:
                break
            self._offset += len(data)
            self._take(data)
            news = True
        self._still = 0 if news else self._still + 1
        if self._rest and (final or self._still >= _PATIENCE):
            self._take(b"\n")
        if self._offset > FILE_CAP:
            self._file.roll()
            self._offset = 0

    def _take(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._tell(self._last_text(line))
        self._rest = self._last_text(rest) + (b"\r" if rest.endswith(b"\r") else b"")  # which may become \r\n
        if len(self._rest) > 2 * LINE_CAP:  # a line without end: shown in its beginning, its middle is skipped
            self._tell(self._rest)
            self._rest = b""

    def _last_text(self, line: bytes) -> bytes:
        """What a terminal would show of a line: the last of the texts that were written over one another."""
        *overwritten, text = line.rstrip(b"\r").split(b"\r")
        if overwritten and overwritten[-1]:
            self._tell_bar(clean_line(overwritten[-1], *self.secrets))
        return text

    def _tell_bar(self, line: str) -> None:
        """Not a line to be kept: ten of them a second would push a worker's last words out of `last`."""
        self.bar = line
        now = self._allowed_at or 0.0
        if now >= self._bar_due and not self.silent:
            self._bar_due = now + BAR_EVERY
            log.info("worker_output", model=self._model, line=line)

    def _tell(self, text: bytes) -> None:
        if not text.strip():
            return
        line = clean_line(text, *self.secrets)
        if is_bar(line):
            self._tell_bar(line)
            return
        self.bar = ""
        if _ACCESS.match(line):  # would push a worker's last words out of `last`, and everything else out of the log
            if not self.silent:
                log.debug("worker_output", model=self._model, line=line)
            return
        self.last.append(line)
        if self.silent:
            return
        if self._allowance < 1:
            self._dropped_lines += 1
            return
        self._allowance -= 1
        log.info("worker_output", model=self._model, line=line)

    def _refill(self, now: float) -> None:
        if self._allowed_at is not None:
            self._allowance = min(LINES_PER_SECOND, self._allowance + (now - self._allowed_at) * LINES_PER_SECOND)
        self._allowed_at = now

    async def follow(self) -> None:
        """Look every `interval` seconds until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.interval)
            self.look(loop.time())
