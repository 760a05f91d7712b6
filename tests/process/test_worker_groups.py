"""Several models in one process: it lives and dies as a whole, each model has a lane of its own."""

import asyncio
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from supervisor.core.endpoint import Endpoint
from supervisor.core.liveness import Work
from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers.lane import Lane
from supervisor.workers.records import Records
from tests.support.fake_lanes import Bench, FakeLanes, bench, group, grouped, scripted

S = ModelState


def started(path: Path) -> list[int]:
    """The pids of all processes that wrote to this file."""
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def states(it: Bench, *names: str) -> list[ModelState]:
    return [it.view(name).state for name in names]


async def ask(it: Bench, model: str, text: str, timeout: float = 10) -> int:
    """A request as the data plane would send it; the status."""
    endpoint = it.lanes.endpoints[model]
    async with aiohttp.ClientSession() as session:
        answer = await session.post(
            endpoint.base_url + "/embeddings",
            json={"model": model, "input": [text]},
            headers={"authorization": f"Bearer {endpoint.api_key}"},
            timeout=aiohttp.ClientTimeout(timeout),
        )
        return answer.status


async def test_one_process_serves_them_all(tmp_path: Path) -> None:
    """Asking for one starts the one process, every model is ready in it; stopping one stops it, and all of them."""
    async with bench(tmp_path, grouped("g", "a", "b", count_file=str(tmp_path / "starts")), scripted("x")) as it:
        await it.pool.ensure_ready("b")
        assert states(it, "a", "b", "x") == [S.READY, S.READY, S.STOPPED]
        assert (it.view("a").pid, it.view("a").port) == (it.view("b").pid, it.view("b").port)
        assert [it.view(name).group for name in "abx"] == ["g", "g", None]
        assert it.view("b").capabilities == {"embed"}
        words = Path(f"/proc/{it.view('a').pid}/cmdline").read_text().split("\0")
        assert [words[i + 1] for i, word in enumerate(words) if word == "--served-model-name"] == ["a", "b"]
        assert [await ask(it, name, "x") for name in "ab"] == [200, 200]
        pgid = it.view("a").pgid or 0
        await it.pool.ensure_stopped("a", "operator")
        assert not group(pgid)
        assert states(it, "a", "b") == [S.STOPPED, S.STOPPED]
        for name in "ab":
            assert it.lanes.calls(name) == ["attach", "drain", "detach"]
            assert it.hooks.seen["load", name] == it.hooks.seen["unload", name, "operator"] == 1
        await asyncio.gather(it.pool.ensure_ready("a"), it.pool.ensure_ready("b"))
        assert len(started(tmp_path / "starts")) == 2


async def test_a_bad_model_fails_its_group(tmp_path: Path) -> None:
    """One process that can't start is no model's alone: all are given up, with the reason, and forgiven together."""
    async with bench(tmp_path, grouped("g", "a", "b", fail_starts=3, count_file=str(tmp_path / "starts"))) as it:
        with pytest.raises(WorkerError, match="given up"):
            await it.pool.ensure_ready("a")
        assert states(it, "a", "b") == [S.FAILED, S.FAILED]
        assert it.lanes.calls("a")[-1] == it.lanes.calls("b")[-1] == "unavailable"
        await it.pool.ensure_ready("b")
        assert states(it, "a", "b") == [S.READY, S.READY]


async def test_a_dead_model_takes_its_group_through_a_restart(tmp_path: Path) -> None:
    """One that answers nothing any more is found by a canary of its own, while the other, which answers, stands aside.

    What the other had is taken back as from a drained worker; then the process is killed and started anew.
    """
    spec = replace(grouped("g", "a", "b", ignores_sigterm=True), stall_timeout=0.5)
    async with bench(tmp_path, spec) as it:
        await it.pool.ensure_ready("a")
        pid = it.view("a").pid
        with pytest.raises(TimeoutError):
            await ask(it, "a", "ZOMBIE", timeout=0.5)
        assert await ask(it, "b", "x") == 200
        it.lanes.told.clear()
        it.lanes.works["a"] = Work(sent_at=asyncio.get_running_loop().time())
        await it.until(lambda: it.view("b").pid not in (pid, None), 30)
        it.lanes.works.clear()
        await it.until_state(S.READY, "b")
        assert it.lanes.calls("a") == ["detach", "attach"]
        assert it.lanes.calls("b") == ["drain", "drain", "detach", "attach"]
        assert [it.hooks.seen["restart", name, "stalled"] for name in "ab"] == [1, 1]
        assert not group(pid or 0)


async def test_a_model_in_doubt_that_lives_lets_the_others_go_on(tmp_path: Path) -> None:
    """Its canary comes back: the other model, which stood aside meanwhile, is attached again; nothing is restarted."""
    async with bench(tmp_path, replace(grouped("g", "a", "b"), stall_timeout=0.5)) as it:
        await it.pool.ensure_ready("a")
        it.lanes.told.clear()
        it.lanes.works["a"] = Work(sent_at=asyncio.get_running_loop().time())
        await it.until(lambda: it.lanes.calls("b")[:2] == ["drain", "attach"])
        assert it.lanes.calls("a") == []
        assert it.view("a").restarts == 0


async def test_a_doubt_that_is_cut_short_leaves_nobody_aside() -> None:
    """Something else comes first, and the worker may go on: the other model does, too. Two in doubt take turns."""
    lanes, turns = FakeLanes(), asyncio.Lock()
    lane = Lane(lanes, ("a", "b"))
    lane.attach((Endpoint("a", "127.0.0.1", 1, "k"), Endpoint("b", "127.0.0.1", 1, "k")))

    async def doubt(model: str) -> None:
        async with lane.apart(model, turns):
            await asyncio.sleep(3600)

    first, second = asyncio.create_task(doubt("a")), asyncio.create_task(doubt("b"))
    await asyncio.sleep(0.01)
    assert (lanes.calls("a"), lanes.calls("b")) == (["attach"], ["attach", "drain"])
    first.cancel()
    await asyncio.sleep(0.01)
    assert (lanes.calls("a"), lanes.calls("b")) == (["attach", "drain"], ["attach", "drain", "attach"])
    second.cancel()
    await asyncio.wait([first, second])
    assert lanes.calls("a")[-1] == "attach"
    assert not turns.locked()


async def test_a_group_goes_on_in_its_next_process(tmp_path: Path) -> None:
    """A restart beside brings both models up in the new process before the old one goes; nobody is without a worker."""
    async with bench(tmp_path, grouped("g", "a", "b")) as it:
        await it.pool.ensure_ready("a")
        old = it.view("a").pid or 0
        await it.pool.restart("b", "operator", beside=True)
        assert it.view("a").pid == it.view("b").pid != old
        assert [it.lanes.endpoints[name].port for name in "ab"] == [it.view("a").port] * 2
        assert [it.hooks.seen["restart", name, "operator"] for name in "ab"] == [1, 1]
        await it.until(lambda: not group(old))
        assert ("a", S.DRAINING) not in it.states


async def test_a_reload_that_makes_a_group_ends_the_old_processes_first(tmp_path: Path) -> None:
    """A model is never in two processes: those that were alone end before their group starts, which it does if one ran.

    The way back is the same; a model that joins nobody runs on all the while.
    """
    files = {name: str(tmp_path / name) for name in "abgx"}
    a, b, x = (scripted(name, term_seconds=0.3, count_file=files[name]) for name in "abx")
    both = grouped("g", "a", "b", term_seconds=0.3, count_file=files["g"])
    async with bench(tmp_path, a, b, x) as it:
        await asyncio.gather(it.pool.ensure_ready("a"), it.pool.ensure_ready("x"))
        old, untouched = it.view("a").pid or 0, it.view("x").pid
        applying = asyncio.create_task(it.pool.apply([both, x]))
        await asyncio.sleep(0)
        assert list(it.pool.views()) == ["a", "b", "x"]
        while not applying.done():
            assert not (group(old) and started(tmp_path / "g"))
            await asyncio.sleep(0.01)
        await it.until_state(S.READY, "b")
        assert it.view("a").pid == it.view("b").pid != old
        assert it.view("x").pid == untouched
        pid = it.view("a").pid or 0
        await it.pool.apply([b, x, a])
        assert not group(pid)
        await it.until_state(S.READY, "a")
        await it.until_state(S.READY, "b")
        assert it.view("a").pid != it.view("b").pid
        assert it.view("x").pid == untouched


async def test_a_group_written_in_another_order_runs_on(tmp_path: Path) -> None:
    """The order of its models says nothing; another model in it is another group."""
    async with bench(tmp_path, grouped("g", "a", "b")) as it:
        await it.pool.ensure_ready("a")
        pid = it.view("a").pid
        await it.pool.apply([grouped("g", "b", "a")])
        assert it.view("b").pid == pid
        await it.pool.apply([grouped("g", "a", "b", "c")])
        await it.until_state(S.READY, "c")
        assert it.view("a").pid == it.view("c").pid != pid


async def test_a_group_is_recorded_as_one(tmp_path: Path) -> None:
    """The next supervisor needs to know one process; a model without a group is recorded as it always was."""
    alone = scripted("a")
    assert alone.launch_key()[:3] == ("a", "/any", "debugengine")
    async with bench(tmp_path, grouped("g", "a", "b"), records=Records(tmp_path / "workers.json")) as it:
        await it.pool.ensure_ready("a")
        (record,) = Records(tmp_path / "workers.json").read()
        assert (record.model, record.pid, record.ready) == ("g", it.view("b").pid, True)
