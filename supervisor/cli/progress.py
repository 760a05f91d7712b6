"""What is shown while a command waits for a model: its state and the seconds so far, on a terminal only."""

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
        text = f"{model}: {_state(daemon, model)}, {time.monotonic() - started:.0f} s"
        if not done.is_set():
            _show(text)


def _state(daemon: Daemon, model: str) -> str:
    try:
        models = daemon.get("/api/v1/status")["models"]
        return next((str(entry["state"]) for entry in models if entry["name"] == model), "waiting")
    except (CallFailed, KeyError, TypeError):
        return "waiting"


def _show(text: str) -> None:
    sys.stderr.write("\r\x1b[K" + printable(text))
    sys.stderr.flush()
