"""What a set-up tells the person who waits for it: lines that stay and, on a terminal, one line that moves."""

import shutil
import sys
import time
from typing import TextIO

# On a terminal the moving line is redrawn about this often; elsewhere (a log, CI) it becomes a line now and then.
REDRAW = 0.25
HEARTBEAT = 30.0


class SetupError(Exception):
    """The set-up cannot go on; the text is one line that says why and what to do."""


def duration(seconds: float) -> str:
    """`75.3` as `1:15`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """Writes to `stream`, standard output unless told otherwise."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._moving = False
        self._last = time.monotonic()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._write(("\r\x1b[K" if self._moving else "") + text + "\n")
        self._moving = False

    def move(self, text: str) -> None:
        """The state of things right now: replaces the last such line, or is dropped when one was shown just before."""
        if time.monotonic() - self._last < (REDRAW if self._terminal else HEARTBEAT):
            return
        if self._terminal:
            self._write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
            self._moving = True
        else:
            self._write(text + "\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
        self._last = time.monotonic()
