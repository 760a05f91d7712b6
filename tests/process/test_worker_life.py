"""One worker's life with a scripted process: start, ready, stop, restart, and what happens when orders cross."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
import uvloop

from supervisor.core.model import ModelState
from supervisor.errors import UnknownModel, WorkerError
from supervisor.workers import run as run_module
from supervisor.workers.launch import is_free
from tests.support.fake_lanes import Bench, FakeLog, bench, group, scripted

S = ModelState
LIFE = ["starting", "ready", "draining", "stopping", "stopped"]


async def test_an_ordinary_life(tmp_path: Path) -> None:
    """Started, ready after a canary, drained, ended by SIGTERM; every state is seen and nothing is left."""
    async with bench(tmp_path, scripted()) as it:
        assert it.view().state is S.STOPPED
        await it.pool.ensure_ready("m")
        view = it.view()
        assert view.state is S.READY
        assert view.reason is None
        assert view.pid == view.pgid
        assert view.capabilities == {"embed"}
        assert it.lanes.endpoints["m"].port == view.port
        assert view.load_seconds is not None
        assert group(view.pgid or 0)
        await it.pool.ensure_stopped("m", "operator")
        assert it.way() == LIFE
        assert it.lanes.calls() == ["attach", "drain", "detach"]
        assert not group(view.pgid or 0)
        assert is_free(view.port or 0)
        stopped = it.view()
        assert (stopped.pid, stopped.port, stopped.reason) == (None, None, "stopped (operator)")
        assert (stopped.loads, stopped.unloads, stopped.restarts) == (1, 1, 0)
        assert it.hooks.seen == {("load", "m"): 1, ("unload", "m", "operator"): 1}


def test_an_ordinary_life_under_uvloop(tmp_path: Path) -> None:
    """The daemon's event loop sees a worker's exit as asyncio's own does."""

    async def life() -> None:
        async with bench(tmp_path, scripted()) as it:
            await it.pool.ensure_ready("m")
            os.kill(it.view().pid or 0, signal.SIGKILL)
            await it.until(lambda: it.view().loads == 2)
            await it.pool.ensure_stopped("m", "operator")
            assert it.way() == ["starting", "ready", "stopping", "backoff", *LIFE]

    uvloop.run(life())


async def test_fifty_callers_start_one_process(tmp_path: Path) -> None:
    """Cold requests that come together share one start, and everybody hears of it."""
    spec = scripted(start_seconds=0.3, count_file=str(tmp_path / "starts"))
    async with bench(tmp_path, spec) as it:
        await asyncio.gather(*(it.pool.ensure_ready("m") for _ in range(50)))
        assert len((tmp_path / "starts").read_text().split()) == 1
        assert it.view().loads == 1


async def test_two_models_load_side_by_side(tmp_path: Path) -> None:
    """A load does not wait for another model's load."""
    async with bench(tmp_path, scripted("a", start_seconds=1.0), scripted("b", start_seconds=1.0)) as it:
        it.pool.request_ready("a")
        it.pool.request_ready("b")
        await it.until(lambda: {view.state for view in it.pool.views().values()} == {S.STARTING})
        await asyncio.gather(it.pool.ensure_ready("a"), it.pool.ensure_ready("b"))
        assert it.view("a").port != it.view("b").port


async def test_requests_are_levels(tmp_path: Path) -> None:
    """The same order every tick changes nothing: one load, one unload."""
    async with bench(tmp_path, scripted()) as it:
        for _ in range(20):
            it.pool.request_ready("m")
            await asyncio.sleep(0.02)
        await it.until_state(S.READY)
        for _ in range(20):
            it.pool.request_stop("m", "idle")
            await asyncio.sleep(0.02)
        await it.until_state(S.STOPPED)
        assert it.way() == LIFE
        assert it.hooks.seen == {("load", "m"): 1, ("unload", "m", "idle"): 1}


async def test_two_stops_are_one(tmp_path: Path) -> None:
    """A second unload joins the first: one drain, one SIGTERM, both callers hear of the end."""
    async with bench(tmp_path, scripted(term_seconds=0.3)) as it:
        await it.pool.ensure_ready("m")
        await asyncio.gather(it.pool.ensure_stopped("m", "operator"), it.pool.ensure_stopped("m", "memory"))
        assert it.view().state is S.STOPPED
        assert it.view().unloads == 1
        assert it.lanes.calls() == ["attach", "drain", "detach"]
        await it.pool.ensure_stopped("m", "operator")  # nothing to do: at once
        assert it.view().unloads == 1


async def test_stop_while_starting(tmp_path: Path) -> None:
    """A worker that is not ready yet is ended at once, without a drain; who waited for it is told; no orphan."""
    async with bench(tmp_path, scripted(start_seconds=60)) as it:
        waiting = asyncio.create_task(it.pool.ensure_ready("m"))
        await it.until(lambda: it.view().pid is not None)
        pgid = it.view().pgid or 0
        await it.pool.ensure_stopped("m", "operator")
        assert it.way() == ["starting", "stopping", "stopped"]
        with pytest.raises(WorkerError, match=r"stopped meanwhile \(operator\)"):
            await waiting
        assert not group(pgid)
        assert it.lanes.calls() == []


async def test_wanted_again_while_it_stops(tmp_path: Path) -> None:
    """A request that comes during drain or stop has the worker started again when it has gone, never beside it."""
    spec = scripted(term_seconds=0.3, count_file=str(tmp_path / "starts"))
    async with bench(tmp_path, spec) as it:
        await it.pool.ensure_ready("m")
        it.lanes.drained.clear()
        stopping = asyncio.create_task(it.pool.ensure_stopped("m", "idle"))
        await it.until_state(S.DRAINING)
        again = asyncio.create_task(it.pool.ensure_ready("m"))
        await asyncio.sleep(0.1)
        assert it.view().state is S.DRAINING
        it.lanes.drained.set()
        await asyncio.gather(stopping, again)
        assert it.way() == [*LIFE, "starting", "ready"]
        pids = (tmp_path / "starts").read_text().split()
        assert len(pids) == 2
        assert not group(int(pids[0]))


async def test_a_stop_that_was_ordered_is_carried_out(tmp_path: Path) -> None:
    """Who waits for the end of a worker gets it, though somebody else wants the worker again in the same moment."""
    async with bench(tmp_path, scripted()) as it:
        await it.pool.ensure_ready("m")
        first = it.view().pid
        stopping = asyncio.create_task(it.pool.ensure_stopped("m", "operator"))
        await asyncio.sleep(0)
        it.pool.request_ready("m")
        await asyncio.wait_for(stopping, 20)
        await it.until_state(S.READY)
        assert it.view().pid != first


async def test_sigterm_is_ignored(tmp_path: Path) -> None:
    """A worker that does not end by SIGTERM is killed after `stop_timeout`, and the state says what is going on."""
    async with bench(tmp_path, scripted(stop_timeout=0.5, ignores_sigterm=True)) as it:
        await it.pool.ensure_ready("m")
        pgid, began = it.view().pgid or 0, asyncio.get_running_loop().time()
        stopping = asyncio.create_task(it.pool.ensure_stopped("m", "operator"))
        await it.until_state(S.STOPPING)
        assert it.view().reason == "stopping (operator)"
        await stopping
        assert 0.5 <= asyncio.get_running_loop().time() - began < 10
        assert not group(pgid)


async def test_grandchildren_are_ended_too(tmp_path: Path) -> None:
    """What a worker started, and what holds its log and its port, goes with it: at a stop and after a crash."""
    async with bench(tmp_path, scripted(grandchild=True)) as it:
        for end in ("crash", "stop"):
            await it.pool.ensure_ready("m")
            pid, pgid, port = it.view().pid or 0, it.view().pgid or 0, it.view().port or 0
            assert len(group(pgid)) == 2
            if end == "crash":
                os.kill(pid, signal.SIGKILL)
                await it.until(lambda old=pid: it.view().pid not in (old, None))  # type: ignore[misc]
            else:
                await it.pool.ensure_stopped("m", "operator")
            assert not group(pgid)
            assert is_free(port)


async def test_a_drain_has_an_end(tmp_path: Path) -> None:
    """What is still in flight after `drain_timeout` does not keep the worker; the data plane hears when it is gone."""
    async with bench(tmp_path, scripted()) as it:
        await it.pool.ensure_ready("m")
        it.lanes.drained.clear()
        await asyncio.wait_for(it.pool.ensure_stopped("m", "memory"), 20)
        assert it.lanes.calls() == ["attach", "drain", "detach"]


async def test_a_worker_that_dies_in_its_drain_is_not_a_crash(tmp_path: Path) -> None:
    """The drain ends at once, the parts go back to the queue, and nothing is started again."""
    async with bench(tmp_path, scripted()) as it:
        await it.pool.ensure_ready("m")
        it.lanes.drained.clear()
        stopping = asyncio.create_task(it.pool.ensure_stopped("m", "idle"))
        await it.until_state(S.DRAINING)
        os.kill(it.view().pid or 0, signal.SIGKILL)
        await asyncio.wait_for(stopping, 4)  # drain_timeout is 5
        assert it.way() == LIFE
        assert it.view().restarts == 0


async def test_restart(tmp_path: Path) -> None:
    """An ordered restart drains, ends the old process and waits for the new one; a resting worker is just started."""
    async with bench(tmp_path, scripted()) as it:
        await it.pool.restart("m", "operator")
        first = it.view()
        await it.pool.restart("m", "operator")
        assert it.view().state is S.READY
        assert it.view().pid != first.pid
        assert it.way() == ["starting", "ready", "draining", "stopping", "stopped", "starting", "ready"]
        assert (it.view().loads, it.view().unloads, it.view().restarts) == (2, 0, 1)
        assert it.hooks.seen["restart", "m", "operator"] == 1


async def test_a_caller_that_leaves_harms_nobody(tmp_path: Path) -> None:
    """Cancelling one waiter leaves the load and the other waiters alone."""
    async with bench(tmp_path, scripted(start_seconds=0.3)) as it:
        waiters = [asyncio.create_task(it.pool.ensure_ready("m")) for _ in range(3)]
        await it.until_state(S.STARTING)
        waiters[1].cancel()
        await asyncio.gather(waiters[0], waiters[2])
        assert waiters[1].cancelled()
        assert it.view().state is S.READY


async def test_each_start_has_a_key_of_its_own_that_nobody_sees(tmp_path: Path) -> None:
    """The key is new for each start, works, and is neither on the command line nor in the log file nor in a repr."""
    async with bench(tmp_path, scripted()) as it:
        keys = []
        for _ in range(2):
            await it.pool.restart("m", "operator")
            endpoint = it.lanes.endpoints["m"]
            keys.append(endpoint.api_key)
            assert len(endpoint.api_key) >= 32
            assert endpoint.api_key not in repr(endpoint)
            assert endpoint.api_key not in Path(f"/proc/{it.view().pid}/cmdline").read_text()
        assert keys[0] != keys[1]
        assert not any(key in file.read_text() for key in keys for file in tmp_path.iterdir())


async def test_unknown_names_are_refused(tmp_path: Path) -> None:
    """An order for a model that is not configured raises in words."""
    async with bench(tmp_path, scripted()) as it:
        with pytest.raises(UnknownModel, match="no model named 'x'"):
            it.pool.request_ready("x")


async def test_life_leaves_no_descriptor(tmp_path: Path) -> None:
    """Loading and unloading over and over holds no more descriptors than before."""
    async with bench(tmp_path, scripted()) as it:
        await it.pool.restart("m", "operator")
        await it.pool.ensure_stopped("m", "operator")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await it.pool.ensure_ready("m")
            await it.pool.ensure_stopped("m", "operator")
        assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_cancelled_worker_leaves_no_process(tmp_path: Path) -> None:
    """Even when the event loop goes down without a shutdown, which cancels all tasks, no process is left behind."""
    it = Bench(tmp_path, [scripted(ignores_sigterm=True)])
    await it.pool.start()
    await it.pool.ensure_ready("m")
    pgid = it.view().pgid or 0
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "worker m")
    task.cancel()
    await asyncio.wait([task])
    assert not group(pgid)
    await it.pool.shutdown()


async def test_an_infinity_that_was_not_tested_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version serves all the same; the log says which were tested. The one that was, or none, says nothing."""
    fake = FakeLog()
    monkeypatch.setattr(run_module, "log", fake)
    specs = (scripted("new", version="0.1.0"), scripted("known", version="0.0.78"), scripted("silent"))
    async with bench(tmp_path, *specs) as it:
        for spec in specs:
            await it.pool.ensure_ready(spec.name)
        assert [(row["model"], row["version"]) for row in fake.of("infinity_not_tested")] == [("new", "0.1.0")]
