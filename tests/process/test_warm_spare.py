"""The warm spare as a process: waits without its model, becomes the worker, and is never in anybody's way."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.model import ModelState
from supervisor.core.spare import SpareState
from supervisor.workers import spare as spare_module
from supervisor.workers.process import start_ticks
from supervisor.workers.records import Records
from tests.support.fake_lanes import Bench, FakeLog, bench, group
from tests.support.scripted_infinity import SCRIPT, ScriptedInfinity

S = ModelState


@pytest.fixture
def infinity(tmp_path: Path) -> ScriptedInfinity:
    """An installation with nothing to import."""
    return ScriptedInfinity.made(tmp_path)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> FakeLog:
    """What is logged of the spare."""
    fake = FakeLog()
    monkeypatch.setattr(spare_module, "log", fake)
    return fake


async def warm(it: Bench) -> int:
    """Have a spare made and wait until it is warm; its pid."""
    it.pool.request_spare()
    await it.until(lambda: it.pool.spare.state is SpareState.WARM)
    assert it.pool.spare.pid is not None
    return it.pool.spare.pid


def stop(pid: int) -> None:
    """SIGSTOP, and wait until the whole process stands."""
    os.kill(pid, signal.SIGSTOP)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        while (thread / "stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)


def said(folder: Path, name: str = "m") -> dict[str, Any]:
    """What a worker's command line function found, by its log file: argv and gpu."""
    lines = [line for line in (folder / f"{name}.log").read_text().splitlines() if line.startswith("{")]
    document: dict[str, Any] = json.loads(lines[-1])
    return document


async def test_a_load_begins_with_the_spare(tmp_path: Path, infinity: ScriptedInfinity, log: FakeLog) -> None:
    """Same process from spare to worker, one import, Infinity's own arguments, its key, its log; no warm-up."""
    async with bench(
        tmp_path, infinity.spec("a"), infinity.spec("b"), records=Records(tmp_path / "workers.json")
    ) as it:
        pid = await warm(it)
        assert it.pool.spare.fits == {"a", "b"}
        assert it.pool.spare.pgid == pid
        await it.pool.ensure_ready("a")
        view = it.view("a")
        assert (view.pid, view.pgid, view.loads, view.restarts) == (pid, pid, 1, 0)
        assert it.pool.spare.state is SpareState.ABSENT
        assert [line[:2] for line in infinity.imports()] == [[pid, it.lanes.endpoints["a"].api_key]]
        argv = said(tmp_path, "a")["argv"]
        assert argv[:2] == [str(infinity.program), "v2"]
        assert argv[argv.index("--served-model-name") + 1] == "a"
        assert argv[-1] == "--no-model-warmup"
        (record,) = json.loads((tmp_path / "workers.json").read_text())["workers"]
        assert (record["pid"], record["start_ticks"]) == (pid, start_ticks(pid))
        files = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
        assert files == ["/dev/null", *[str(tmp_path / "a.log")] * 2]
        assert "memfd" not in " ".join(os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
        await it.pool.ensure_ready("b")  # there is no other: a plain start
        assert it.view("b").pid != pid
        assert "--no-model-warmup" not in said(tmp_path, "b")["argv"]
        await it.pool.ensure_stopped("a", "operator")
        assert not group(pid)
    assert [fields["model"] for fields in log.of("spare_taken")] == ["a"]
    assert not log.of("spare_failed")


async def test_one_that_still_imports_is_taken_as_well(tmp_path: Path, infinity: ScriptedInfinity) -> None:
    """What it has imported is a start's head start; two that import side by side would take longer."""
    infinity.imports_with(seconds=1.5)
    async with bench(tmp_path, infinity.spec()) as it:
        it.pool.request_spare()
        await it.until(lambda: bool(infinity.imports()))
        pid = it.pool.spare.pid
        assert it.pool.spare.state is SpareState.WARMING
        await it.pool.ensure_ready("m")
        assert it.view().pid == pid
        assert len(infinity.imports()) == 1


async def test_options_of_the_warm_up_are_the_operators(tmp_path: Path, infinity: ScriptedInfinity) -> None:
    """Who asks for it, or against it, is not talked over."""
    for option in ("--model-warmup", "--no-model-warmup"):
        async with bench(tmp_path, replace(infinity.spec(), args=(option,))) as it:
            pid = await warm(it)
            await it.pool.ensure_ready("m")
            assert it.view().pid == pid
            assert [word for word in said(tmp_path)["argv"] if "warmup" in word] == [option]


async def test_which_gpu_is_told_when_it_is_known(tmp_path: Path, infinity: ScriptedInfinity) -> None:
    """Models on different GPUs share a spare: nothing asks for CUDA before the order."""
    first = replace(infinity.spec("first"), device="cuda", device_id="GPU-1")
    second, any_gpu = replace(first, name="second", device_id=1), replace(first, name="any", device_id=None)
    async with bench(tmp_path, first, second, any_gpu) as it:
        for name, gpu in (("second", "1"), ("any", None), ("first", "GPU-1")):
            pid = await warm(it)
            await it.pool.ensure_ready(name)
            assert it.view(name).pid == pid
            assert said(tmp_path, name)["gpu"] == gpu


async def test_another_environment_is_another_start(tmp_path: Path, infinity: ScriptedInfinity) -> None:
    """What libraries read while they are imported can't be changed later: that model is started plainly."""
    plain = infinity.spec("other")
    other = replace(plain, env={**plain.env, "MARK": "x"})
    async with bench(tmp_path, infinity.spec("m"), other) as it:
        pid = await warm(it)
        assert it.pool.spare.fits == {"m"}
        await it.pool.ensure_ready("other")
        assert it.view("other").pid != pid
        assert infinity.imports()[-1][2] == "x"
        assert it.pool.spare.pid == pid
        await it.pool.ensure_ready("m")
        assert it.view("m").pid == pid
        it.pool.request_spare()
        await it.pool.ensure_stopped("other", "idle")
        it.pool.drop_spare("to see what the next one is for")
        await warm(it)
        assert it.pool.spare.fits == {"other"}  # at rest, though configured later


async def test_a_spare_that_died_or_sleeps_costs_no_load(
    tmp_path: Path, infinity: ScriptedInfinity, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, or stopped for ever: the load is a plain one and no crash, and there is no spare for a while."""
    monkeypatch.setattr(spare_module, "_ANSWERS_WITHIN", 0.5)
    async with bench(tmp_path, infinity.spec("a"), infinity.spec("b")) as it:
        pid = await warm(it)
        os.kill(pid, signal.SIGKILL)
        await it.until(lambda: it.pool.spare.state is SpareState.BACKOFF)
        assert "SIGKILL" in (it.pool.spare.reason or "")
        assert not group(pid)
        it.pool.request_spare()
        assert it.pool.spare.state is SpareState.BACKOFF
        await it.pool.ensure_ready("a")
        await it.pool.apply([infinity.spec("a"), infinity.spec("b")])  # a reload: another chance
        pid = await warm(it)
        stop(pid)
        await it.pool.ensure_ready("b")
        assert it.view("b").pid != pid
        assert it.view("b").restarts == 0
        await it.until(lambda: not group(pid))
        assert it.pool.spare.state is SpareState.BACKOFF
        waits = [fields["next_in_s"] for fields in log.of("spare_failed")]
        assert waits == [60.0, 60.0]


async def test_imports_that_fail_or_hang(
    tmp_path: Path, infinity: ScriptedInfinity, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is the interpreter's last words, or the time that was up; each failure doubles the wait."""
    monkeypatch.setattr(spare_module, "_BACK_OFF_FIRST", 0.2)
    infinity.imports_with(fails=True)
    async with bench(tmp_path, infinity.spec(start_timeout=2.0)) as it:
        it.pool.request_spare()
        await it.until(lambda: it.pool.spare.state is SpareState.BACKOFF)
        reason = it.pool.spare.reason or ""
        assert "exit status 1; " in reason
        assert "RuntimeError: no such library today" in reason
        await it.until(lambda: it.pool.spare.state is SpareState.ABSENT)
        infinity.imports_with(hangs=True)
        it.pool.request_spare()
        pid = it.pool.spare.pid or 0
        await it.until(lambda: it.pool.spare.state is SpareState.BACKOFF)
        assert "not warm after 2 s" in (it.pool.spare.reason or "")
        await it.until(lambda: not group(pid))
        assert [fields["next_in_s"] for fields in log.of("spare_failed")] == [0.2, 0.4]
        infinity.imports_with()
        await it.pool.ensure_ready("m")


async def test_one_that_dies_with_its_order_is_a_failed_start(tmp_path: Path, infinity: ScriptedInfinity) -> None:
    """Between its answer and its end there is no way to know: the worker's restart is plain, and who waits waits on."""
    async with bench(tmp_path, infinity.spec()) as it:
        await warm(it)
        spare = it.pool._spare._spare
        assert spare is not None
        become = spare.become

        def die_first(*order: Any) -> None:
            os.kill(spare.process.pid, signal.SIGKILL)
            become(*order)

        spare.become = die_first  # type: ignore[method-assign]
        await it.pool.ensure_ready("m")
        assert it.view().restarts == 1
        assert not group(spare.process.pid)


WRAPPERS = {
    "a wrapper": SCRIPT.replace("import re\n", "import os\nimport re\nos.environ['A'] = 'b'\n"),
    "is no Python script": '#!/bin/sh\nexec infinity_emb "$@"\n',
}


@pytest.mark.parametrize("why", WRAPPERS)
async def test_a_wrapper_is_started_plainly(tmp_path: Path, infinity: ScriptedInfinity, log: FakeLog, why: str) -> None:
    """One warning says why; nothing is tried."""
    infinity.install(WRAPPERS[why])
    async with bench(tmp_path, infinity.spec("a"), infinity.spec("b")) as it:
        assert it.pool.spare.state is SpareState.OFF
        assert why in (it.pool.spare.reason or "")
        it.pool.request_spare()
        assert it.pool.spare.pid is None
        await it.pool.apply([infinity.spec("a"), infinity.spec("b")])
        assert len(log.of("spare_impossible")) == 1
        infinity.install()
        await it.pool.apply([infinity.spec("a")])
        assert it.pool.spare.state is SpareState.ABSENT


async def test_a_reload_replaces_what_is_not_wanted_any_more(tmp_path: Path, infinity: ScriptedInfinity) -> None:
    """Another environment, another installation, or no spare at all: the old one is gone; time-outs leave it."""
    spec = infinity.spec()
    async with bench(tmp_path, spec) as it:
        pid = await warm(it)
        await it.pool.apply([replace(spec, stop_timeout=9.0, args=("--x",))])
        assert it.pool.spare.pid == pid
        infinity.install(SCRIPT + "# newer\n")  # under a spare that has imported the older one
        await it.pool.ensure_ready("m")
        assert it.view().pid != pid
        assert it.pool.spare.state is SpareState.ABSENT
        await it.until(lambda: not group(pid))
        pid = await warm(it)
        await it.pool.apply([replace(spec, warm_spare=False)])
        assert it.pool.spare.state is SpareState.OFF
        assert it.pool.spare.reason is None
        await it.until(lambda: not group(pid))


async def test_settings_that_change_while_it_is_asked(tmp_path: Path, infinity: ScriptedInfinity) -> None:
    """A reload between question and answer: the worker has the new settings, from the start."""
    spec = infinity.spec()
    async with bench(tmp_path, spec) as it:
        pid = await warm(it)
        stop(pid)
        waiting = asyncio.create_task(it.pool.ensure_ready("m"))
        await it.until_state(S.STARTING)
        assert it.view().pid is None
        applied = asyncio.create_task(it.pool.apply([replace(spec, env={**spec.env, "MARK": "new"})]))
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGCONT)
        await asyncio.wait_for(waiting, 20)
        it.pool.request_stop("m", "operator")
        await asyncio.wait_for(applied, 20)
        assert infinity.imports()[-1][2] == "new"


async def test_a_stop_while_it_is_asked(tmp_path: Path, infinity: ScriptedInfinity) -> None:
    """Nobody wants the model any more: when the stop's caller is told, nothing of it is alive."""
    async with bench(tmp_path, infinity.spec()) as it:
        pid = await warm(it)
        stop(pid)
        it.pool.request_ready("m")
        await it.until_state(S.STARTING)
        stopping = asyncio.create_task(it.pool.ensure_stopped("m", "operator"))
        await asyncio.sleep(0.1)
        assert not stopping.done()
        os.kill(pid, signal.SIGCONT)
        await asyncio.wait_for(stopping, 20)
        assert it.view().state is S.STOPPED
        assert not group(pid)


async def test_a_shutdown_leaves_none(tmp_path: Path, infinity: ScriptedInfinity) -> None:
    """Warm, importing, or just given up: gone when it returns, and none comes after."""
    for import_seconds in (0.0, 30.0):
        infinity.imports_with(seconds=import_seconds)
        async with bench(tmp_path, infinity.spec()) as it:
            it.pool.request_spare()
            pid = it.pool.spare.pid or 0
            if not import_seconds:
                await it.until(lambda: it.pool.spare.state is SpareState.WARM)
                it.pool.drop_spare("memory")
            await it.pool.shutdown()
            assert not group(pid)
            it.pool.request_spare()
            assert it.pool.spare.pid is None


async def test_a_start_without_descriptors_ends_the_spare(
    tmp_path: Path, infinity: ScriptedInfinity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be made a worker is not kept beside it."""
    async with bench(tmp_path, infinity.spec()) as it:
        pid = await warm(it)
        with monkeypatch.context() as broken:
            broken.setattr("supervisor.workers.instance.OutputFile", _no_descriptor)
            it.pool.request_ready("m")
            await it.until(lambda: "Too many open files" in (it.view().reason or ""))
        assert not group(pid)
        await it.pool.ensure_ready("m")


def _no_descriptor(*_: object) -> None:
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_it_does_not_outlive_a_supervisor(tmp_path: Path, infinity: ScriptedInfinity, seconds: float) -> None:
    """SIGKILL of the supervisor: the spare ends by itself, warm or in the middle of its imports; workers go on."""
    infinity.imports_with(seconds=seconds)
    words = [sys.executable, "-m", "tests.support.spare_driver", str(tmp_path), str(infinity.folder), str(not seconds)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0) as driver:
        try:
            assert driver.stderr is not None
            pids = json.loads(driver.stderr.readline())
            assert group(pids["spare"])
        finally:
            driver.kill()
    until = time.monotonic() + 20
    while group(pids["spare"]):
        assert time.monotonic() < until
        time.sleep(0.05)
    if worker := pids.get("worker"):
        assert group(worker)
        os.killpg(worker, signal.SIGKILL)
