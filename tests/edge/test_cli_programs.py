"""The commands that talk to a daemon, as programs: imports, signals, pipes, terminals."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.served_admin import ServedAdmin, served_admin

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "supervisor"]


@pytest.fixture
def served() -> Iterator[ServedAdmin]:
    """A daemon's admin listener with a fake control behind it."""
    with served_admin() as served:
        yield served


def environment(served: ServedAdmin) -> dict[str, str]:
    """The environment for a command as a program."""
    return {**os.environ, "INFINITY_SUPERVISOR_ADMIN": served.url}


def test_control_commands_load_no_framework(served: ServedAdmin) -> None:
    """A look must be quick: neither a web framework nor the config models are imported for it."""
    code = (
        "import sys; from supervisor.cli import main\n"
        "try: main(['status'])\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'aiohttp', 'pydantic', 'structlog', 'prometheus_client', 'asyncio', 'yaml', 'psutil', 'uvloop'}\n"
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(served), capture_output=True, text=True, check=True
    )
    assert done.stderr == "0 []\n"


def test_a_reader_that_leaves_is_no_traceback(served: ServedAdmin) -> None:
    """`explain | head -0`: nothing on stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [*PROGRAM, "explain"]
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(served), stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr == ""


def started(served: ServedAdmin, **streams: Any) -> "subprocess.Popen[bytes]":
    """`load minilm` as a program, once the daemon has got the request, which it then holds."""
    served.hold()
    process = subprocess.Popen([*PROGRAM, "load", "minilm"], cwd=ROOT, env=environment(served), **streams)
    deadline = time.monotonic() + 60
    while not served.control.acts and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def test_ctrl_c_is_clean(served: ServedAdmin) -> None:
    """Interrupted while it waits, a command says so in one line, exits 1, and the daemon goes on."""
    process = started(served, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    served.release()
    assert (process.returncode, out) == (1, b"")
    assert re.fullmatch(rb"infinity-supervisor: interrupted; [^\n]*\n", err)


def test_progress_is_shown_on_a_terminal_only(served: ServedAdmin) -> None:
    """While a load takes its time, a terminal shows the model's state and the seconds; the line is gone at the end."""
    master, terminal = pty.openpty()
    process = started(served, stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + 60
    while b"minilm: 1 s, ready" not in shown and time.monotonic() < deadline:
        if select.select([master], [], [], 1)[0]:
            shown += os.read(master, 4096)
    served.release()
    out, _ = process.communicate(timeout=60)
    while select.select([master], [], [], 0)[0]:
        try:
            shown += os.read(master, 4096)
        except OSError:
            break
    os.close(master)
    assert b"minilm: 1 s, ready" in shown
    assert shown.endswith(b"\r\x1b[K")
    assert (process.returncode, out) == (0, b"minilm is ready\n")
