"""A supervisor that died and the next one: its workers go on, are found again, and nothing is started twice."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.model import ModelState
from supervisor.workers import instance as instance_module
from supervisor.workers.process import AdoptedProcess, start_ticks
from supervisor.workers.records import Records
from tests.process.test_worker_records import killed_supervisor
from tests.support.fake_lanes import bench, group, scripted

S = ModelState


async def test_the_next_supervisor_adopts_what_the_last_one_left(tmp_path: Path) -> None:
    """Ready within 2 s with the same process, port and key; no load is counted; a stop leaves nothing behind."""
    pids = killed_supervisor(tmp_path, {}, {"grandchild": True})
    began = time.monotonic()
    async with bench(tmp_path, scripted("w0"), scripted("w1", grandchild=True), records=records(tmp_path)) as it:
        await it.until_state(S.READY, "w0")
        await it.until_state(S.READY, "w1")
        assert time.monotonic() - began < 2.0
        for name, pid in pids.items():
            assert it.view(name).pid == pid
            assert it.way(name)[-2:] == ["starting", "ready"]
            assert it.view(name).loads == 0
            assert it.lanes.endpoints[name].api_key
        assert it.hooks.seen.total() == 0
        await it.pool.ensure_stopped("w1", "operator")
        assert not group(pids["w1"])
    assert not group(pids["w0"])
    assert json.loads((tmp_path / "workers.json").read_text())["workers"] == []


async def test_an_adopted_worker_that_crashes_is_restarted(tmp_path: Path) -> None:
    """Its end is seen although it is no child of ours; the next one is."""
    pids = killed_supervisor(tmp_path, {})
    async with bench(tmp_path, scripted("w0"), records=records(tmp_path)) as it:
        await it.until_state(S.READY, "w0")
        os.kill(pids["w0"], signal.SIGKILL)
        await it.until(lambda: it.view("w0").pid not in (pids["w0"], None))
        await it.until_state(S.READY, "w0")
        assert it.view("w0").restarts == 1
        assert it.view("w0").loads == 1


async def test_one_with_other_settings_is_ended_and_started_anew(tmp_path: Path) -> None:
    """What a worker was started with is what it has; a config that says something else is not served by it."""
    pids = killed_supervisor(tmp_path, {})
    async with bench(tmp_path, scripted("w0", start_lines=2), records=records(tmp_path)) as it:
        assert not group(pids["w0"])
        assert it.view("w0").state is S.STOPPED
        await it.pool.ensure_ready("w0")
        assert it.view("w0").pid != pids["w0"]


async def test_one_that_does_not_answer_any_more_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process matches, its canary does not come back: a zombie that was adopted is none for long."""
    monkeypatch.setattr(instance_module, "_ADOPTED_WITHIN", 0.5)
    pids = killed_supervisor(tmp_path, {})
    os.killpg(pids["w0"], signal.SIGSTOP)
    async with bench(tmp_path, scripted("w0"), records=records(tmp_path)) as it:
        await it.until(lambda: it.view("w0").pid not in (pids["w0"], None))
        await it.until_state(S.READY, "w0")
        assert not group(pids["w0"])


async def test_one_with_another_key_is_killed_and_a_number_of_another_process_is_left_alone(tmp_path: Path) -> None:
    """Pid, start time and boot match but the key fails: killed. The start time does not match: not touched."""
    pids = killed_supervisor(tmp_path, {}, {})
    path = tmp_path / "workers.json"
    document: dict[str, Any] = json.loads(path.read_text())
    document["workers"][0]["api_key"] = "another"
    document["workers"][1]["start_ticks"] += 1
    path.write_text(json.dumps(document))
    try:
        async with bench(tmp_path, scripted("w0"), scripted("w1"), records=Records(path)) as it:
            await it.until(lambda: it.view("w0").pid not in (pids["w0"], None), 30)
            await it.until_state(S.READY, "w0")
            assert not group(pids["w0"])
            assert group(pids["w1"])
            assert it.view("w1").state is S.STOPPED
    finally:
        os.killpg(pids["w1"], signal.SIGKILL)


async def test_one_that_was_still_starting_is_adopted_too(tmp_path: Path) -> None:
    """A load that a supervisor began when it was killed is finished under the next one, and counts as its load."""
    pids = killed_supervisor(tmp_path, {})
    path = tmp_path / "workers.json"
    document: dict[str, Any] = json.loads(path.read_text())
    document["workers"][0]["ready"] = False
    path.write_text(json.dumps(document))
    async with bench(tmp_path, scripted("w0"), records=Records(path)) as it:
        await it.until_state(S.READY, "w0")
        assert it.view("w0").pid == pids["w0"]
        assert it.view("w0").loads == 1


async def test_the_group_of_an_adopted_leader_that_ended(tmp_path: Path) -> None:
    """Once its leader is gone nothing keeps the group's number: only who was there before counts as its member."""
    pids = killed_supervisor(tmp_path, {"grandchild": True})
    leader = pids["w0"]
    process = AdoptedProcess.find(leader, start_ticks(leader) or 0)
    grandchildren = [pid for pid in process.members() if pid != leader]
    assert grandchildren
    os.kill(leader, signal.SIGKILL)
    await asyncio.wait_for(process.exited.wait(), 5)
    assert process.members() == grandchildren
    process._ended_at = 1.0  # as if those had been started later
    assert process.members() == []
    process.signal_group(signal.SIGKILL)
    assert group(leader)
    process._ended_at = float("inf")
    assert await process.kill_group(5)
    process.close()
    with pytest.raises(OSError):
        AdoptedProcess.find(leader, 1)


def records(folder: Path) -> Records:
    """What the killed supervisor wrote."""
    return Records(folder / "workers.json")
