"""The fork template stands for the real thing: what tests start through it behaves like a process of Infinity's own."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import infinity


def _group(pgid: int) -> list[int]:
    """The living processes of a group."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == pgid and fields[0] not in "ZX":
            members.append(int(stat.parent.name))
    return sorted(members)


def _gone(pgid: int, within: float = 10.0) -> bool:
    until = time.monotonic() + within
    while _group(pgid):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_forked_server_is_the_real_one() -> None:
    """A forked Infinity answers, has its settings from its own environment and ends by SIGTERM as a plain one does."""
    key = {"INFINITY_API_KEY": "k", "INFINITY_MAX_CLIENT_BATCH_SIZE": "3"}
    with infinity.serve([*infinity.debug_args("a/b"), "--no-model-warmup"], env=key) as server:
        assert server.get("/health")[0] == 200
        assert server.get("/models")[0] == 401
        server.headers["authorization"] = "Bearer k"
        assert server.get("/models")[1]["data"][0]["id"] == "a/b"
        assert server.post("/embeddings", {"input": ["a", "b", "c"]})[0] == 200
        assert server.post("/embeddings", {"input": ["a", "b", "c", "d"]})[0] == 422
        assert len(_group(server.process.pid)) == 2
        os.killpg(server.process.pid, signal.SIGTERM)
        assert server.process.wait(10) == -signal.SIGTERM
        assert _gone(server.process.pid)
        assert "Finished server process" in server.log.read_text()


def test_exit_status_of_a_failed_start_comes_through() -> None:
    """A start that fails in Infinity ends the stand-in with Infinity's own exit status and output."""
    with (
        pytest.raises(RuntimeError, match=r"(?s)ended with 3.*Application startup failed"),
        infinity.serve(["--model-id", "/nowhere", "--engine", "torch"]),
    ):
        pass


def test_killing_the_stand_in_kills_the_server() -> None:
    """SIGKILL of the process a supervisor knows leaves no server behind."""
    with infinity.serve([*infinity.debug_args("m"), "--no-model-warmup"]) as server:
        os.kill(server.process.pid, signal.SIGKILL)
        assert server.process.wait(10) == -signal.SIGKILL
        assert _gone(server.process.pid)


def test_a_stopped_template_takes_its_servers_along() -> None:
    """When the tests end, or are killed, the template and all it forked end too, and their stand-ins with them."""
    template = infinity.Template()
    with infinity.serve([*infinity.debug_args("m"), "--no-model-warmup"], command=template.command()) as server:
        template.stop()
        assert server.process.wait(10) == -signal.SIGKILL
        assert _gone(server.process.pid)


def test_other_session_is_refused_in_words() -> None:
    """A stand-in in another session, whose group the server could not join, says so instead of running unguarded."""
    command = [*infinity.template().command(), *infinity.debug_args("m")]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 70
    assert "cannot join process group" in done.stderr
