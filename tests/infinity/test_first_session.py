"""The first session of README.md as a reader has it: every block is copied into a shell, in order."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.setup_checkout import alive

ROOT = Path(__file__).resolve().parent.parent.parent
ADMIN = "http://127.0.0.1:7998"

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def blocks() -> list[tuple[str, str]]:
    """The language and text of each block of the session."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    session = readme.partition("\n## A first session\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(\w*)\n(.*?)^```", session, re.MULTILINE | re.DOTALL)


class Quickstart:
    """deploy/quickstart at work; what it says is collected by a thread, as a full pipe would stop it."""

    def __init__(self) -> None:
        self.said = ""
        self.process = subprocess.Popen(
            [ROOT / "deploy/quickstart"],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line

    def wait_for(self, text: str) -> None:
        """Return once it has said `text`."""
        while text not in self.said:
            assert self.process.poll() is None, self.said
            time.sleep(0.1)

    def interrupt(self) -> int:
        """Ctrl-C: the exit status."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(60)
        self._reader.join(60)  # until the last process that could write to it has ended
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.returncode


@pytest.fixture
def quickstart() -> Iterator[Quickstart]:
    """It runs, and ends with the test."""
    running = Quickstart()
    yield running
    running.interrupt()


def status() -> dict[str, Any]:
    """The daemon's own words."""
    with urllib.request.urlopen(f"{ADMIN}/api/v1/status", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def states() -> dict[str, str]:
    """Each model's state."""
    return {model["name"]: model["state"] for model in status()["models"]}


def typed(text: str) -> str:
    """What a shell prints for a block, all of it; every line has to succeed."""
    text = text.replace(" | cut -c1-100", "; echo")
    done = subprocess.run(["sh", "-ec", text], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, (text, done.stdout, done.stderr)
    return done.stdout


def vector(answer: str) -> list[float]:
    """The embedding in the first line of what curl printed."""
    found: list[float] = json.loads(answer.splitlines()[0])["data"][0]["embedding"]
    return found


def test_the_first_session_goes_as_it_is_told(quickstart: Quickstart) -> None:
    """Start, embed, load by asking, drill, see a model go and come back, explain, stop: no error, nothing left."""
    start, sample, embed, snippet, second, drill, again, explain = blocks()
    assert start == ("", "deploy/quickstart\n")
    quickstart.wait_for("  try ")
    shape = re.sub(r"after \d+ s", "after N s", sample[1])
    assert shape in re.sub(r"after \d+ s", "after N s", quickstart.said)
    assert states() == {"minilm": "ready", "minilm-2": "stopped"}

    first = vector(typed(embed[1]))
    assert len(first) == 384
    assert snippet[0] == "python"
    done = subprocess.run([sys.executable, "-c", snippet[1]], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "2 384\n", done.stderr

    assert vector(typed(second[1])) == pytest.approx(first, abs=1e-5)
    assert states() == {"minilm": "ready", "minilm-2": "ready"}

    said = typed(drill[1])
    assert "drill" in said
    end = time.monotonic() + 15
    while "stopped" not in states().values():
        assert time.monotonic() < end, status()
        time.sleep(0.1)
    gone = {state: name for name, state in states().items()}["stopped"]
    assert "ready" in states().values()

    assert vector(typed(again[1].replace('"minilm"', f'"{gone}"'))) == pytest.approx(first, abs=1e-5)
    assert set(states().values()) == {"ready"}

    told = typed(explain[1])
    assert "drill: memory 96 % for 20 s" in told
    assert f"unload {gone}" in told

    pids = [model["pid"] for model in status()["models"]]
    assert quickstart.interrupt() == 0
    assert not any(alive(pid) for pid in [*pids, quickstart.process.pid])
