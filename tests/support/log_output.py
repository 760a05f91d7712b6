"""A pipe that log lines go to, and logging as it was before once the test is over."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import structlog

from supervisor import log as logs


class Output:
    """A pipe that log lines go to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def text(self) -> str:
        """Everything written since the last look."""
        chunks = []
        while True:
            try:
                chunk = os.read(self.reader, 65536)
            except (BlockingIOError, OSError):
                break
            if not chunk:
                break
            chunks.append(chunk)
        return b"".join(chunks).decode()

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines written since the last look."""
        return [json.loads(line) for line in self.text().splitlines()]


@contextmanager
def log_output() -> Iterator[Output]:
    """A pipe for the time of the block."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    out = Output()
    yield out
    logging.captureWarnings(False)
    logging.raiseExceptions = True
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logs.reset()
    for descriptor in (out.reader, out.writer):
        with suppress(OSError):  # a test may have closed it
            os.close(descriptor)
