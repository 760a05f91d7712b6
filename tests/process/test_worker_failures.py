"""What a worker does by itself: crashes, starts that come to nothing or stand still, answers that are wrong."""

import asyncio
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.endpoint import Endpoint
from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from tests.support.fake_lanes import Bench, bench, group, scripted

S = ModelState


async def crash(it: Bench, name: str = "m") -> None:
    """Kill a ready worker from outside and wait until that was noticed."""
    loads, pid = it.view(name).loads, it.view(name).pid or 0
    os.kill(pid, signal.SIGKILL)
    await it.until(lambda: it.view(name).pid != pid)
    assert it.view(name).loads == loads


async def test_a_crash_is_restarted_at_once(tmp_path: Path) -> None:
    """A ready worker that ends by itself is replaced; the data plane hears first, and how; it counts as a restart."""
    async with bench(tmp_path, scripted()) as it:
        await it.pool.ensure_ready("m")
        await crash(it)
        await it.until_state(S.READY)
        assert it.way() == ["starting", "ready", "stopping", "backoff", "starting", "ready"]
        assert it.lanes.calls() == ["attach", "detach", "attach"]
        assert (it.view().loads, it.view().unloads, it.view().restarts) == (2, 0, 1)
        assert it.hooks.seen["restart", "m", "crash"] == 1
        assert it.view().reason is None
        assert it.lanes.killed
        await it.pool.ensure_stopped("m", "operator")
        assert not it.lanes.killed, "our own stop is no death for want of memory"


async def test_a_crashed_worker_that_is_held_back_starts_when_it_no_longer_is(tmp_path: Path) -> None:
    """While memory pauses a crash costs no new start, and status says so; a stop ends the wait as well."""
    async with bench(tmp_path, scripted(), scripted("other")) as it:
        await asyncio.gather(it.pool.ensure_ready("m"), it.pool.ensure_ready("other"))
        it.pool.hold_back({"m": "no load while memory is at pause"})
        await crash(it)
        await crash(it, "other")
        await it.until_state(S.READY, "other")
        assert it.view().state is S.BACKOFF
        assert re.match(r"no load while memory is at pause; before: ended by itself: killed", it.view().reason or "")
        it.pool.hold_back({})
        await it.until_state(S.READY)
        assert it.view().reason is None
        it.pool.hold_back({"m": "no load while memory is at pause"})
        await crash(it)
        await it.until_state(S.BACKOFF)
        await it.pool.ensure_stopped("m", "operator")
        assert it.view().state is S.STOPPED


async def test_back_off_grows_and_says_why(tmp_path: Path) -> None:
    """The second crash in a row waits a second: the data plane is told, the view says until when and why."""
    async with bench(tmp_path, scripted(dies_after=1, exit_status=7, last_words="no more")) as it:
        # the canary is the first request; the second kills
        await it.pool.ensure_ready("m")
        for wait in (0, 1):
            await it.until_state(S.READY)
            await crash(it)
            if wait:
                view, now = it.view(), asyncio.get_running_loop().time()
                assert view.state is S.BACKOFF
                assert view.backoff_until is not None
                assert 0 < view.backoff_until - now <= wait
                assert (view.pid, view.port) == (None, None)
                assert "ended by itself: killed by the kernel or somebody (SIGKILL)" in (view.reason or "")
                assert it.lanes.told[-1] == ("unavailable", "m", view.reason, 1.0)
        await it.until_state(S.READY)
        # what `unavailable` said is over when it is started again
        assert it.lanes.calls()[-3:] == ["unavailable", "available", "attach"]


async def test_status_and_last_words_are_in_the_reason(tmp_path: Path) -> None:
    """A worker that exits says how and what it wrote last."""
    async with bench(tmp_path, scripted(dies_after=1, exit_status=7, last_words="a\n\nboom: no memory")) as it:
        await it.pool.ensure_ready("m")
        reader, writer = await asyncio.open_connection("127.0.0.1", it.view().port)
        endpoint = it.lanes.endpoints["m"]
        head = f"POST /embeddings HTTP/1.1\r\nauthorization: Bearer {endpoint.api_key}\r\ncontent-length: 2\r\n\r\n{{}}"
        writer.write(head.encode())
        await reader.read()
        writer.close()
        await it.until(lambda: S.STOPPING in [state for _, state in it.states])
        await it.until_state(S.STARTING)
        assert re.search(r"ended by itself: exit status 7; last lines: .*a \| boom: no memory$", it.view().reason or "")
        assert not it.lanes.killed


async def test_a_deterministic_failure_is_given_up(tmp_path: Path) -> None:
    """Three starts that came to nothing are enough: failed, with the last lines, until an operator acts."""
    starts = tmp_path / "starts"
    spec = scripted(fail_starts=3, exit_status=3, last_words="OSError: no such model", count_file=str(starts))
    async with bench(tmp_path, spec, scripted("other")) as it:
        await it.pool.ensure_ready("other")
        with pytest.raises(WorkerError, match=r"given up after 3 starts: .*exit status 3.*OSError: no such model"):
            await it.pool.ensure_ready("m")
        assert it.view().state is S.FAILED
        assert "OSError: no such model" in it.view().log_tail
        assert len(starts.read_text().split()) == 3
        assert it.lanes.told[-1] == ("unavailable", "m", it.view().reason, None)
        # the controller's requests do not bring it back, nor does it go on by itself
        for _ in range(5):
            it.pool.request_ready("m")
            await asyncio.sleep(0.05)
        assert it.view().state is S.FAILED
        await it.pool.ensure_stopped("m", "operator")  # nothing is running: done
        assert it.view().state is S.FAILED
        # others go on untouched
        assert it.way("other") == ["starting", "ready"]
        # an operator's load does, with a clean slate; this time it works
        await it.pool.ensure_ready("m")
        assert it.view().state is S.READY
        assert it.lanes.calls()[-2:] == ["available", "attach"]


async def test_forgiving_ends_a_back_off_at_once(tmp_path: Path) -> None:
    """Forgiven, a worker in back-off starts now, and a failed one is at rest, when the call returns."""
    starts = tmp_path / "starts"
    async with bench(tmp_path, scripted(fail_starts=5, count_file=str(starts))) as it:
        it.pool.request_ready("m")
        await it.until(lambda: it.view().state is S.BACKOFF and (it.view().backoff_until or 0) > 0)
        it.pool.forgive("m")
        assert it.view().state is S.STOPPED
        await it.until_state(S.FAILED)
        it.pool.forgive("m")
        assert it.view().state is S.STOPPED
        assert it.lanes.calls()[-1] == "available"
        await it.pool.ensure_ready("m")


async def test_stop_ends_a_back_off(tmp_path: Path) -> None:
    """A worker that is not wanted any more does not come back when its back-off ends."""
    async with bench(tmp_path, scripted()) as it:
        it.pool.request_ready("m")
        for _ in range(2):
            await it.until_state(S.READY)
            await crash(it)
        await it.until_state(S.BACKOFF)
        await it.pool.ensure_stopped("m", "operator")
        assert it.view().state is S.STOPPED
        await asyncio.sleep(1.2)
        assert it.view().state is S.STOPPED


async def test_our_own_stops_are_no_crashes(tmp_path: Path) -> None:
    """However often we stop a worker, by SIGTERM or SIGKILL, its first real crash is restarted at once."""
    async with bench(tmp_path, scripted(stop_timeout=0.2, ignores_sigterm=True)) as it:
        for _ in range(4):
            it.pool.request_ready("m")
            await it.until_state(S.READY)
            await it.pool.ensure_stopped("m", "idle")
        assert "backoff" not in it.way()
        assert it.view().restarts == 0
        it.pool.request_ready("m")
        await it.until_state(S.READY)
        await crash(it)
        await it.until_state(S.READY)
        assert "unavailable" not in it.lanes.calls()


async def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    """A command that can't be started fails in words, without a process and without harm to the pool."""
    spec = replace(scripted(), command=("/nowhere/infinity_emb", "v2"))
    async with bench(tmp_path, spec) as it:
        with pytest.raises(WorkerError, match=r"cannot be started: /nowhere/infinity_emb: no such program"):
            await it.pool.ensure_ready("m")
        assert it.view().state is S.FAILED
        assert it.view().pid is None


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Without a place for its output no worker is started, and the reason names the place."""
    (tmp_path / "file").write_text("")
    async with bench(tmp_path / "file" / "logs", scripted()) as it:
        with pytest.raises(WorkerError, match=r"cannot be started: .*/file/logs: Not a directory"):
            await it.pool.ensure_ready("m")


async def test_a_mistake_of_ours_is_not_the_end_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the data plane's code ends that run, without a process left, and the worker is tried again."""
    async with bench(tmp_path, scripted()) as it:
        attach, wrong = it.lanes.attach, [True]

        def faulty(endpoint: Endpoint) -> None:
            if wrong:
                wrong.pop()
                raise RuntimeError("a bug")
            attach(endpoint)

        monkeypatch.setattr(it.lanes, "attach", faulty)
        it.pool.request_ready("m")
        await it.until(lambda: it.view().pid is not None)
        pgid = it.view().pgid or 0
        await it.until_state(S.READY)
        assert it.way() == ["starting", "stopping", "backoff", "starting", "ready"]
        assert not group(pgid)


async def test_a_start_that_stands_still(tmp_path: Path) -> None:
    """No output, no CPU, no I/O for `start_timeout`: the start is ended, whatever it ignores."""
    spec = scripted(start_timeout=0.6, never_listens=True, ignores_sigterm=True)
    async with bench(tmp_path, spec) as it:
        it.pool.request_ready("m")
        await it.until(lambda: it.view().pid is not None)
        pgid = it.view().pgid or 0
        await it.until(lambda: "stopping" in it.way())
        assert "no progress for" in (it.view().reason or "")
        await it.until(lambda: not group(pgid))


@pytest.mark.parametrize("sign", [{"start_busy": True}, {"start_lines": 30}], ids=["cpu", "output"])
async def test_a_slow_start_that_moves(tmp_path: Path, sign: dict[str, Any]) -> None:
    """A start may take longer than `start_timeout` as long as something happens."""
    async with bench(tmp_path, scripted(start_timeout=2.0, start_seconds=5.0, **sign)) as it:
        await it.pool.ensure_ready("m")
        assert it.way() == ["starting", "ready"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"numbers": "null"}, "13 of 13 numbers missing or not finite"),
        ({"numbers": "short"}, r"2 embeddings of lengths \[13, 7\]"),
        ({"numbers": "none"}, "/embeddings answers 500: .*no numbers today"),
        ({"numbers": "shapeless"}, "an answer of another shape"),
        ({"numbers": "null", "capabilities": ["rerank"]}, "scores with 2 of 2 numbers missing"),
        ({"numbers": "null", "capabilities": ["classify"]}, "another shape|scores with"),
    ],
    ids=["nan", "lengths", "error", "shape", "rerank", "classify"],
)
async def test_a_wrong_canary_is_no_worker(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    """A server that answers, but not with sound numbers, never becomes ready."""
    async with bench(tmp_path, scripted(**settings)) as it:
        with pytest.raises(WorkerError, match=words):
            await it.pool.ensure_ready("m")
        assert "attach" not in it.lanes.calls()
        assert "ready" not in it.way()


@pytest.mark.parametrize("capability", ["rerank", "classify", "something_new"])
async def test_the_canary_asks_what_the_model_can_do(tmp_path: Path, capability: str) -> None:
    """Rerankers and classifiers are asked in their own way; what can do nothing we know is ready when it is listed."""
    async with bench(tmp_path, scripted(capabilities=[capability])) as it:
        await it.pool.ensure_ready("m")
        assert it.view().capabilities == {capability}
        assert it.lanes.endpoints["m"].capabilities == {capability}


async def test_a_stranger_on_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not list the model is not ours; after a while that is a failed start, in words."""
    monkeypatch.setattr("supervisor.workers.readiness._STRANGER_FOR", 0.3)
    async with bench(tmp_path, scripted(lists="another")) as it:
        with pytest.raises(WorkerError, match=r"/models answers 200 and does not list 'm'"):
            await it.pool.ensure_ready("m")
        assert "attach" not in it.lanes.calls()
