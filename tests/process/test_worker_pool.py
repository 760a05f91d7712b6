"""All workers together: reloads keep, restart, add and remove; a shutdown leaves nothing, and can be hurried."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers.launch import WorkerSpec
from tests.support.fake_lanes import Bench, bench, group, scripted

S = ModelState


async def test_a_reload_keeps_what_did_not_change(tmp_path: Path) -> None:
    """Other time-outs and another batch size leave a running worker alone; the new values are used all the same."""
    spec = scripted(ignores_sigterm=True, stop_timeout=60)
    async with bench(tmp_path, spec) as it:
        await it.pool.ensure_ready("m")
        pid = it.view().pid
        await it.pool.apply([replace(spec, stop_timeout=0.2, drain_timeout=1, start_timeout=9, batch_size=64)])
        assert it.view().pid == pid
        assert it.way() == ["starting", "ready"]
        await asyncio.wait_for(it.pool.ensure_stopped("m", "operator"), 30)


async def test_a_reload_restarts_what_changed(tmp_path: Path) -> None:
    """A worker with other launch settings is drained and started anew, if it ran; one at rest stays at rest."""
    a, b = scripted("a"), scripted("b")
    async with bench(tmp_path, a, b) as it:
        await it.pool.ensure_ready("a")
        pid = it.view("a").pid
        await it.pool.apply([replace(a, args=("--no-model-warmup",)), replace(b, model_id="/other")])
        assert not group(pid or 0)
        await it.until_state(S.READY, "a")
        assert it.way("a") == ["starting", "ready", "draining", "stopping", "stopped", "starting", "ready"]
        assert "--no-model-warmup" in Path(f"/proc/{it.view('a').pid}/cmdline").read_text()
        assert it.hooks.seen["restart", "a", "config"] == 1
        assert it.view("b").state is S.STOPPED


async def test_a_reload_during_a_load(tmp_path: Path) -> None:
    """A worker that was starting with the old settings is started anew; who waits for it gets the new one."""
    spec = scripted(start_seconds=60)
    async with bench(tmp_path, spec) as it:
        waiting = asyncio.create_task(it.pool.ensure_ready("m"))
        await it.until(lambda: it.view().pid is not None)
        await it.pool.apply([scripted()])
        await asyncio.wait_for(waiting, 20)
        assert it.way() == ["starting", "stopping", "stopped", "starting", "ready"]


async def test_a_reload_adds_and_removes(tmp_path: Path) -> None:
    """A removed model is drained and gone when the call returns; a new one is there, at rest; order is the config's."""
    async with bench(tmp_path, scripted("a"), scripted("b")) as it:
        await it.pool.ensure_ready("a")
        pid = it.view("a").pid
        await it.pool.apply([scripted("c"), scripted("b")])
        assert list(it.pool.views()) == ["c", "b"]
        assert not group(pid or 0)
        assert it.lanes.calls("a") == ["attach", "drain", "detach"]
        assert it.hooks.seen["unload", "a", "removed"] == 1
        await it.pool.ensure_ready("c")
        await it.pool.apply([scripted("a")])  # back again, as new
        await it.pool.ensure_ready("a")


async def test_a_removed_model_cannot_come_back_while_it_ends(tmp_path: Path) -> None:
    """A request in the moment of removal gets an error, not a worker that nobody looks after."""
    async with bench(tmp_path, scripted("a", start_seconds=60)) as it:
        waiting = asyncio.create_task(it.pool.ensure_ready("a"))
        await it.until(lambda: it.view("a").pid is not None)
        await it.pool.apply([])
        with pytest.raises(WorkerError, match="removed"):
            await waiting
        assert not it.pool.views()


async def test_a_reload_gives_failed_models_another_chance(tmp_path: Path) -> None:
    """Failed lasts until the config is read again, whether it changed or not."""
    spec = scripted(fail_starts=3, count_file=str(tmp_path / "starts"))
    async with bench(tmp_path, spec) as it:
        with pytest.raises(WorkerError):
            await it.pool.ensure_ready("m")
        await it.pool.apply([spec])
        assert it.view().state is S.STOPPED
        it.pool.request_ready("m")
        await it.until_state(S.READY)


async def test_shutdown_stops_everything_side_by_side(tmp_path: Path) -> None:
    """Ready, starting, stubborn, in back-off, failed or at rest: nothing is left, in one stop's time for all."""
    specs = [
        scripted("ready", stop_timeout=1.0, term_seconds=0.5),
        scripted("stubborn", stop_timeout=1.0, ignores_sigterm=True, grandchild=True),
        scripted("starting", stop_timeout=1.0, start_seconds=60),
        scripted("failing", stop_timeout=1.0, fail_starts=99, count_file=str(tmp_path / "starts")),
        scripted("resting"),
    ]
    async with bench(tmp_path, *specs) as it:
        await asyncio.gather(it.pool.ensure_ready("ready"), it.pool.ensure_ready("stubborn"))
        it.pool.request_ready("starting")
        it.pool.request_ready("failing")
        await it.until_state(S.STARTING, "starting")
        pgids = [view.pgid for view in it.pool.views().values() if view.pgid]
        began = asyncio.get_running_loop().time()
        await it.pool.shutdown()
        assert asyncio.get_running_loop().time() - began < 15
        assert not any(group(pgid) for pgid in pgids)
        states = {view.name: view.state for view in it.pool.views().values()}
        assert states.pop("failing") in (S.STOPPED, S.FAILED)
        assert set(states.values()) == {S.STOPPED}
        it.pool.request_ready("resting")  # too late: nothing starts any more
        with pytest.raises(WorkerError):
            await it.pool.ensure_ready("ready")
        assert it.view("resting").state is S.STOPPED


async def test_a_second_shutdown_hurries(tmp_path: Path) -> None:
    """The first call waits for the drain, a second one does not, a third not even for SIGTERM."""
    spec = replace(scripted(stop_timeout=60, ignores_sigterm=True), drain_timeout=60.0)
    async with bench(tmp_path, spec) as it:
        await it.pool.ensure_ready("m")
        it.lanes.drained.clear()
        calls = [asyncio.create_task(it.pool.shutdown())]
        await it.until_state(S.DRAINING)
        calls.append(asyncio.create_task(it.pool.shutdown()))
        await it.until_state(S.STOPPING)
        calls.append(asyncio.create_task(it.pool.shutdown()))
        await asyncio.wait_for(asyncio.gather(*calls), 20)
        assert it.view().state is S.STOPPED


async def test_crossing_orders_never_make_two_processes(tmp_path: Path) -> None:
    """Random orders for a while: never two processes of one model, every caller gets an answer, nothing is left."""
    chance = random.Random(4)
    specs = [scripted(name, term_seconds=0.02, count_file=str(tmp_path / name)) for name in ("a", "b")]
    async with bench(tmp_path, *specs) as it:
        answers = []
        for _ in range(60):
            name = chance.choice("ab")
            order = chance.choice(["ready", "stopped", "restart", "request", "drop", "forgive", "reload", "kill"])
            answers.append(asyncio.create_task(give(it, name, order, specs)))
            await asyncio.sleep(chance.choice([0, 0, 0.01, 0.1]))
            for view in it.pool.views().values():
                started = [int(pid) for pid in _lines(tmp_path / view.name)]
                assert sum(bool(group(pid)) for pid in started) <= 1
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*answers, return_exceptions=True)
        assert all(outcome is None or isinstance(outcome, WorkerError) for outcome in outcomes)
        await it.pool.shutdown()
        assert not any(group(int(pid)) for name in "ab" for pid in _lines(tmp_path / name))


async def give(it: Bench, name: str, order: str, specs: list[WorkerSpec]) -> None:
    """One order of a caller."""
    match order:
        case "ready":
            await it.pool.ensure_ready(name)
        case "stopped":
            await it.pool.ensure_stopped(name, "operator")
        case "restart":
            await it.pool.restart(name, "operator")
        case "request":
            it.pool.request_ready(name)
        case "drop":
            it.pool.request_stop(name, "idle")
        case "forgive":
            it.pool.forgive(name)
        case "reload":
            await it.pool.apply(specs)
        case "kill":
            if instance := it.pool._workers[name]._run.instance:
                instance.process.signal_group(9)


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []
