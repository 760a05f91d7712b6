"""Starts that come to nothing, each kind in its own way; and starts that take long, but get on."""

import asyncio
import os
import re
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers.launch import Member
from tests.support.fake_lanes import Bench, bench, scripted

S = ModelState


def failing(folder: Path, last_words: str, exit_status: int = 1, fail_starts: int = 9, **settings: Any) -> Any:
    """The spec of a worker whose first starts fail with these words, and the file that has a line for each start."""
    count = folder / "starts"
    return count, scripted(
        fail_starts=fail_starts, exit_status=exit_status, last_words=last_words, count_file=str(count), **settings
    )


async def given_up(it: Bench, words: str) -> str:
    """Have it run and wait until it is given up; the reason, which has these words."""
    with pytest.raises(WorkerError, match=words):
        await it.pool.ensure_ready("m")
    assert it.view().state is S.FAILED
    assert it.lanes.told[-1] == ("unavailable", "m", it.view().reason, None)
    return it.view().reason or ""


async def test_a_hopeless_start_is_made_once(tmp_path: Path) -> None:
    """A path that does not exist is given up after one start, with what to do and the last lines; an operator's load
    tries again."""
    words = "huggingface_hub.errors.HFValidationError: Repo id must be in the form\nApplication startup failed."
    count, spec = failing(tmp_path, words, exit_status=3, fail_starts=1)
    async with bench(tmp_path, spec) as it:
        reason = await given_up(it, "given up after 1 start: /any: no such folder or hub id; check models")
        assert reason.endswith("startup failed.")
        assert "exit status 3; last lines: " in reason
        assert len(count.read_text().split()) == 1
        assert it.way() == ["starting", "stopping", "failed"]
        await it.pool.ensure_ready("m")


async def test_of_several_models_the_bad_one_is_named(tmp_path: Path) -> None:
    """Models that share a process fail together; the reason names the one that its last lines are about."""
    group = (Member("a", "/models/good", "torch"), Member("b", "/no/such/model", "torch"))
    _, spec = failing(tmp_path, "HFValidationError: Repo id must be in the form: '/no/such/model'", exit_status=3)
    async with bench(tmp_path, replace(spec, group=group)) as it:
        with pytest.raises(WorkerError, match="given up after 1 start: /no/such/model: no such folder"):
            await it.pool.ensure_ready("m")


async def test_what_may_pass_is_tried_again(tmp_path: Path) -> None:
    """A start that lacked memory backs off and is made again, more often than one nobody understands, and says why."""
    count, spec = failing(
        tmp_path, "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", fail_starts=4
    )
    async with bench(tmp_path, spec) as it:
        it.pool.request_ready("m")
        await it.until(lambda: ("m", S.BACKOFF) in it.states and it.view().state is S.BACKOFF)
        assert (it.view().reason or "").startswith("out of memory while loading; ")
        await it.until_state(S.READY, seconds=40)
        assert len(count.read_text().split()) == 5
        retries = [call[3] for call in it.lanes.told if call[0] == "unavailable"]
        assert retries == [1.0, 2.0, 4.0]
        assert it.view().reason is None


async def test_a_start_that_was_killed_is_made_again(tmp_path: Path) -> None:
    """SIGKILL from outside says nothing about the model: it is started again, however often that happens."""
    async with bench(tmp_path, scripted(never_listens=True)) as it:
        it.pool.request_ready("m")
        for _ in range(4):
            await it.until(lambda: it.view().pid is not None)
            pid = it.view().pid or 0
            os.kill(pid, signal.SIGKILL)
            await it.until(lambda pid=pid: it.view().pid != pid)  # type: ignore[misc]
        await it.until_state(S.BACKOFF)
        assert (it.view().reason or "").startswith("killed from outside; ")
        assert it.way().count("backoff") == 4


async def test_a_taken_port_is_another_one_next_time(tmp_path: Path) -> None:
    """Somebody listens on the port before the worker does: the next start, at once, has another port and is ready."""
    async with bench(tmp_path, scripted(start_seconds=0.7)) as it:
        it.pool.request_ready("m")
        await it.until(lambda: it.view().port is not None)
        port = it.view().port
        with socket.create_server(("127.0.0.1", port)):
            await it.until(lambda: it.view().state is S.STARTING and it.view().port not in (None, port))
            assert "somebody took its port meanwhile" in (it.view().reason or "")
            await it.until_state(S.READY)
        assert it.way() == ["starting", "stopping", "backoff", "starting", "ready"]
        assert "unavailable" not in it.lanes.calls()


NOWHERE = "no such program, or no such interpreter in its first line; check infinity.command"


@pytest.mark.parametrize(
    ("name", "text", "mode", "words"),
    [
        ("missing", None, 0, NOWHERE),
        ("moved", "#!/nowhere/python\n", 0o755, NOWHERE),
        ("plain", "print('no first line')\n", 0o755, "cannot be executed; check infinity.command"),
        ("forbidden", "#!/bin/sh\n", 0o644, "cannot be executed; check infinity.command"),
    ],
)
async def test_a_program_that_cannot_be_executed(
    tmp_path: Path, name: str, text: str | None, mode: int, words: str
) -> None:
    """No such program, a venv that moved, no first line, no permission: told at the first start, which is the last."""
    program = tmp_path / name
    if text is not None:
        program.write_text(text)
        program.chmod(mode)
    spec = replace(scripted(), command=(str(program), "v2"))
    async with bench(tmp_path / "logs", spec) as it:
        await given_up(it, f"^given up after 1 start: cannot be started: {program}: {words}$")


async def test_a_wrapper_that_does_not_find_the_program(tmp_path: Path) -> None:
    """A shell that runs Infinity says by its status that it can't: that is as hopeless."""
    spec = replace(scripted(), command=("/bin/sh", "-c", "exec infinity_emb_that_is_nowhere"))
    async with bench(tmp_path, spec) as it:
        await given_up(it, "given up after 1 start: /bin/sh: no such program.*exit status 127; last lines: .*not found")


@pytest.mark.parametrize(
    ("sign", "doing"),
    [
        ({"start_bars": 10}, r"downloading model\.safetensors \d0 %"),
        ({"start_bytes": 65536}, r"0\.\d cores, [\d.]+ KiB/s read and written"),
    ],
    ids=["bars", "bytes"],
)
async def test_a_download_is_progress(tmp_path: Path, sign: dict[str, Any], doing: str) -> None:
    """One that only draws its bar, or only writes its file, may take longer than `start_timeout`; status shows it."""
    async with bench(tmp_path, scripted(start_timeout=2.0, start_seconds=6.0, **sign)) as it:
        it.pool.request_ready("m")
        seen = set()
        while it.view().state is not S.READY:
            assert it.view().state in (S.STARTING, S.STOPPED), it.view().reason
            seen.add(it.view().reason or "")
            await asyncio.sleep(0.05)
        assert it.way() == ["starting", "ready"]
        assert it.view().reason is None
        assert any(re.fullmatch(doing, reason) for reason in seen), seen


async def test_a_start_that_stands_still_says_since_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before it is given up, status tells that nothing moves."""
    monkeypatch.setattr("supervisor.workers.progress._TOLD_STILL", 0.5)
    async with bench(tmp_path, scripted(never_listens=True)) as it:
        it.pool.request_ready("m")
        await it.until(lambda: "nothing has moved for" in (it.view().reason or ""))
        assert it.view().state is S.STARTING
