"""A worker's next process comes up beside the one that serves: who serves when, and what if either fails."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers.launch import is_free
from supervisor.workers.records import Records
from tests.support.fake_lanes import Bench, bench, group, scripted

S = ModelState


async def successor_of(it: Bench, name: str = "m") -> int:
    """The process group that is being brought up beside the one that serves."""
    await it.until(lambda: it.view(name).successor_pgid is not None)
    return it.view(name).successor_pgid or 0


async def test_the_new_process_serves_before_the_old_one_goes(tmp_path: Path) -> None:
    """It never stops being ready; what the old one had is answered first, then nothing of it is left."""
    async with bench(tmp_path, scripted(start_seconds=0.5)) as it:
        await it.pool.ensure_ready("m")
        old = it.view()
        asked = asyncio.create_task(it.pool.restart("m", "operator", beside=True))
        new = await successor_of(it)
        assert it.view().pid == old.pid
        assert it.view().reason == "goes on until its next process is ready (operator)"
        assert group(new)
        await asked
        view = it.view()
        assert view.pgid == new != old.pgid
        assert (view.state, view.reason, view.successor_pgid) == (S.READY, None, None)
        assert (view.loads, view.unloads, view.restarts) == (2, 0, 1)
        assert it.hooks.seen["restart", "m", "operator"] == 1
        assert it.lanes.endpoints["m"].port == view.port
        assert it.lanes.calls() == ["attach", "drain", "detach", "attach"]
        await it.until(lambda: not group(old.pgid or 0))
        assert is_free(old.port or 0)
        assert it.way() == ["starting", "ready"]


async def test_what_the_old_process_cannot_end_in_time_goes_to_the_new_one(tmp_path: Path) -> None:
    """A drain that lasts too long is cut short; the lane puts back what it had."""
    async with bench(tmp_path, scripted()) as it:
        await it.pool.ensure_ready("m")
        it.lanes.drained.clear()
        asked = asyncio.create_task(it.pool.restart("m", "operator", beside=True))
        await it.until(lambda: "drain" in it.lanes.calls())
        await asyncio.sleep(0.2)
        assert not asked.done()
        it.pool.hurry()
        await asked
        assert it.lanes.calls() == ["attach", "drain", "detach", "attach"]


async def test_a_successor_that_fails_changes_nothing(tmp_path: Path) -> None:
    """The old process goes on as if nothing had been, and who asked is told why."""
    counted = str(tmp_path / "starts")
    async with bench(tmp_path, scripted(count_file=counted)) as it:
        await it.pool.ensure_ready("m")
        old = it.view()
        worker = it.pool._worker("m")
        worker.spec = scripted(fail_starts=9, last_words="no luck", count_file=counted)
        with pytest.raises(WorkerError, match=r"did not take over: ended by itself while starting; .*no luck"):
            await it.pool.restart("m", "operator", beside=True)
        view = it.view()
        assert (view.pid, view.state, view.reason, view.successor_pgid) == (old.pid, S.READY, None, None)
        assert it.lanes.calls() == ["attach"]
        assert view.restarts == 0


async def test_the_successor_stands_in_for_one_that_dies(tmp_path: Path) -> None:
    """It has come some way already, so no third process is started; who asked for it gets it."""
    counted = tmp_path / "starts"
    async with bench(tmp_path, scripted(start_seconds=0.7, count_file=str(counted))) as it:
        await it.pool.ensure_ready("m")
        old = it.view().pgid or 0
        asked = asyncio.create_task(it.pool.restart("m", "recycle", beside=True))
        new = await successor_of(it)
        os.kill(old, signal.SIGKILL)
        await asked
        assert (it.view().state, it.view().pgid) == (S.READY, new)
        assert len(counted.read_text().split()) == 2
        assert it.view().restarts == 1


async def test_who_asked_is_told_when_the_one_that_stands_in_fails_too(tmp_path: Path) -> None:
    """Both end by themselves; the third one is not what was asked for, but serves."""
    async with bench(tmp_path, scripted(start_seconds=1.0)) as it:
        await it.pool.ensure_ready("m")
        old = it.view().pgid or 0
        asked = asyncio.create_task(it.pool.restart("m", "operator", beside=True))
        new = await successor_of(it)
        os.kill(old, signal.SIGKILL)
        await it.until(lambda: it.view().pgid == new)
        os.kill(new, signal.SIGKILL)
        with pytest.raises(WorkerError, match="did not take over"):
            await asked
        await it.until_state(S.READY)
        assert it.view().pgid not in (old, new)


async def test_a_successor_that_ends_during_the_drain_changes_nothing(tmp_path: Path) -> None:
    """The old process, which takes no new requests by then, takes them again."""
    async with bench(tmp_path, scripted()) as it:
        await it.pool.ensure_ready("m")
        old = it.view()
        it.lanes.drained.clear()
        asked = asyncio.create_task(it.pool.restart("m", "operator", beside=True))
        new = await successor_of(it)
        await it.until(lambda: "drain" in it.lanes.calls())
        os.kill(new, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"did not take over: ended by itself: killed by"):
            await asked
        assert (it.view().pid, it.view().state, it.view().successor_pgid) == (old.pid, S.READY, None)
        assert it.lanes.calls() == ["attach", "drain", "attach"]
        assert it.lanes.endpoints["m"].port == old.port
        assert not group(new)


@pytest.mark.parametrize("when", [0.0, 0.2, 0.5])
async def test_a_stop_leaves_neither(tmp_path: Path, when: float) -> None:
    """Ordered at any time, it ends both, and who waited for the successor is told."""
    async with bench(tmp_path, scripted(start_seconds=0.4)) as it:
        await it.pool.ensure_ready("m")
        old = it.view()
        asked = asyncio.create_task(it.pool.restart("m", "operator", beside=True))
        new = await successor_of(it)
        await asyncio.sleep(when)
        await it.pool.ensure_stopped("m", "operator")
        await asyncio.wait([asked])
        asked.exception()
        assert it.view().state is S.STOPPED
        assert not group(old.pgid or 0)
        assert not group(new)
        assert it.view().successor_pgid is None


async def test_shutdown_leaves_neither(tmp_path: Path) -> None:
    """The service ends in the middle of it."""
    async with bench(tmp_path, scripted(start_seconds=5.0)) as it:
        it.pool.request_ready("m")
        worker = it.pool._worker("m")
        worker.spec = scripted(start_seconds=0.0)
        await it.until_state(S.READY)
        worker.spec = scripted(start_seconds=30.0)
        it.pool.request_restart("m", "recycle", True)
        new = await successor_of(it)
        old = it.view().pgid or 0
        await it.pool.shutdown()
        assert not group(old)
        assert not group(new)


async def test_the_next_supervisor_finds_both(tmp_path: Path) -> None:
    """A supervisor that is killed meanwhile leaves two records: the one that serves is adopted, the other is ended."""
    records = Records(tmp_path / "workers.json")
    spec = scripted(start_seconds=0.0)
    it = Bench(tmp_path, [spec], records)
    await it.pool.start()
    await it.pool.ensure_ready("m")
    old = it.view().pgid or 0
    it.pool._worker("m").spec = scripted(start_seconds=30.0)
    it.pool.request_restart("m", "recycle", True)
    new = await successor_of(it)
    next_one = Bench(tmp_path, [spec], Records(tmp_path / "workers.json"))
    await next_one.pool.start()
    await next_one.until(lambda: next_one.view().state is S.READY)
    assert next_one.view().pgid == old
    assert not group(new)
    await next_one.pool.shutdown()
    it.pool.hurry()
    it.pool.hurry()
    await it.pool.shutdown()
    assert not group(old)


async def test_lines_are_told_once(tmp_path: Path) -> None:
    """Both write to one file: its lines are in our log once, those of the new process after it has taken over too."""
    from supervisor.workers import output
    from tests.support.fake_lanes import FakeLog

    fake = FakeLog()
    old_log, output.log = output.log, fake
    try:
        async with bench(tmp_path, scripted(start_seconds=0.3, flood_lines=5, flood_text="word")) as it:
            await it.pool.ensure_ready("m")
            await it.pool.restart("m", "operator", beside=True)
            await asyncio.sleep(0.7)
        told = [row["line"] for row in fake.of("worker_output") if row["line"].startswith("word")]
        assert len(told) == 10
    finally:
        output.log = old_log
