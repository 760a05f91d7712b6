"""What is shown while a command waits for a model: its state, what it does, the seconds so far; on a terminal only."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from supervisor.cli.client import CallFailed, Daemon
from supervisor.core.display import printable

EVERY = 0.5  # s between looks; faster shows nothing more


@contextmanager
def progress_of(daemon: Daemon, model: str) -> Iterator[None]:
    """While the block runs, keep one line on stderr up to date; nothing when stderr is not a terminal.

    The line is kept by a thread of its own: the block stays in the main one, where Ctrl-C ends it at once.
    """
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_keep_telling, args=(daemon, model, done), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(EVERY)
        _show("")


def _keep_telling(daemon: Daemon, model: str, done: threading.Event) -> None:
    started = time.monotonic()
    while not done.wait(EVERY):
        text = f"{model}: {time.monotonic() - started:.0f} s, {_state(daemon, model)}"
        if not done.is_set():
            _show(text)


def _state(daemon: Daemon, model: str) -> str:
    try:
        models = daemon.get("/api/v1/status")["models"]
        entry = next((entry for entry in models if entry["name"] == model), {"state": "waiting", "reason": None})
        return f"{entry['state']}: {entry['reason']}" if entry["reason"] else str(entry["state"])
    except (CallFailed, KeyError, TypeError):
        return "waiting"


def _show(text: str) -> None:
    width = shutil.get_terminal_size().columns - 1  # one that wraps cannot be written over
    sys.stderr.write("\r\x1b[K" + printable(text)[:width])
    sys.stderr.flush()
