"""A model whose Infinity something else runs: found, lost, found again; ended only by order, and where that can be."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.core.lifecycle import STARTS_GIVEN_UP
from supervisor.core.liveness import Work
from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers import attached as attached_module
from supervisor.workers import worker as worker_module
from supervisor.workers.foreign import ForeignProcess
from tests.support.elsewhere import Elsewhere, elsewhere
from tests.support.fake_lanes import FakeLog, bench, scripted

S = ModelState


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that are seconds apart in life."""
    monkeypatch.setattr(attached_module, "_LOOK", 0.2)
    monkeypatch.setattr(attached_module, "_KNOCK", 0.1)
    monkeypatch.setattr(worker_module, "LOOK_AGAIN", 0.2)
    monkeypatch.setattr("supervisor.workers.readiness._STRANGER_FOR", 0.3)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Elsewhere]:
    """An Infinity that something else runs, at rest."""
    with elsewhere(tmp_path) as it:
        yield it


async def test_it_is_served_and_left_running(tmp_path: Path, server: Elsewhere) -> None:
    """Ready after a canary, with nothing known of its process; at the end it is let go, and runs on."""
    server.start()
    async with bench(tmp_path, server.spec()) as it:
        await it.pool.ensure_ready("m")
        view = it.view()
        assert (view.state, view.pid, view.pgid, view.port) == (S.READY, None, None, server.port)
        assert view.capabilities == {"embed"}
        assert it.lanes.endpoints["m"].base_url == server.url
    assert it.view().state is S.STOPPED
    assert it.lanes.calls() == ["attach", "drain", "detach"]
    assert server.runs


async def test_it_is_waited_for(tmp_path: Path, server: Elsewhere) -> None:
    """While nobody listens it is starting, and says why; it is ready as soon as it is there, on the first try."""
    async with bench(tmp_path, server.spec()) as it:
        waiting = asyncio.create_task(it.pool.ensure_ready("m"))
        await it.until(lambda: "nobody listens at " + server.url in (it.view().reason or ""))
        assert it.view().state is S.STARTING
        server.start()
        await asyncio.wait_for(waiting, 20)
        assert it.way() == ["starting", "ready"]
        assert it.view().reason is None
        assert it.lanes.calls() == ["attach"]


async def test_it_goes_and_comes_back(tmp_path: Path, server: Elsewhere) -> None:
    """Its end is seen without asking it anything; requests wait, and go to the next one at that address."""
    server.start()
    async with bench(tmp_path, server.spec()) as it:
        await it.pool.ensure_ready("m")
        server.end()
        await it.until_state(S.STARTING)
        assert it.lanes.calls() == ["attach", "detach"]
        server.start()
        await it.until_state(S.READY)
        assert it.way() == ["starting", "ready", "stopping", "backoff", "starting", "ready"]
        assert it.lanes.calls() == ["attach", "detach", "attach"]
        assert it.view().restarts == 1


async def test_one_that_stays_away_is_told_and_found_when_it_comes(tmp_path: Path, server: Elsewhere) -> None:
    """After `start_timeout` requests are refused with the reason; it is never given up, and found without an order."""
    async with bench(tmp_path, server.spec(start_timeout=0.5)) as it:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(it.pool.ensure_ready("m"), 3)
        assert it.view().state is S.BACKOFF
        assert "whoever runs it has to start it" in (it.view().reason or "")
        [told] = [call for call in it.lanes.told if call[0] == "unavailable"]
        assert told[1:] == ("m", it.view().reason, None)
        assert it.way() == ["starting", "stopping", "backoff"]  # it is looked for in silence
        server.start()
        await it.until_state(S.READY)
        assert it.lanes.calls()[-2:] == ["available", "attach"]


async def test_one_that_serves_something_else_is_never_given_up(tmp_path: Path, server: Elsewhere) -> None:
    """An Infinity that does not list the model is asked again and again, however often that came to nothing."""
    server.start(lists="another")
    async with bench(tmp_path, server.spec()) as it:
        it.pool.request_ready("m")
        await it.until(lambda: it.way().count("backoff") > STARTS_GIVEN_UP, 40)
        await it.until_state(S.BACKOFF)
        assert "does not list 'm'" in (it.view().reason or "")
        assert server.url in (it.view().reason or "")
        assert server.runs
        server.start()
        await it.pool.ensure_ready("m")


async def test_the_key_is_read_anew_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key is named as a possible cause; the right one is found; one that others can read is a warning."""
    log = FakeLog()
    monkeypatch.setattr(attached_module, "log", log)
    key = tmp_path / "key"
    key.touch(mode=0o600)
    with elsewhere(tmp_path, key="right") as server:
        server.start()
        async with bench(tmp_path, server.spec(api_key_file=str(key))) as it:
            it.pool.request_ready("m")
            await it.until(lambda: "has no key" in (it.view().reason or ""))
            key.write_text("wrong\n")
            await it.until(lambda: "is `api_key_file` right?" in (it.view().reason or ""))
            assert not log.lines
            key.write_text("right\n")
            key.chmod(0o644)
            await it.until_state(S.READY)
            assert it.lanes.endpoints["m"].api_key == "right"
            assert log.of("api_key_not_private") == [{"file": str(key), "mode": "644", "remedy": "chmod 600"}]


async def test_unload_with_a_pid_file(tmp_path: Path, server: Elsewhere) -> None:
    """The process is shown, ended by SIGTERM, and its end waited for; a load waits for whoever starts it again."""
    pid = server.start(term_seconds=0.3)
    async with bench(tmp_path, server.spec(pid_file=str(server.pid_file))) as it:
        await it.pool.ensure_ready("m")
        assert (it.view().pid, it.view().pgid) == (pid, pid)
        await it.pool.ensure_stopped("m", "operator")
        assert not server.runs
        assert (it.view().state, it.view().pid, it.view().reason) == (S.STOPPED, None, "stopped (operator)")
        loading = asyncio.create_task(it.pool.ensure_ready("m"))
        await it.until(lambda: f"pid_file {server.pid_file}" in (it.view().reason or ""))
        again = server.start()
        await asyncio.wait_for(loading, 20)
        assert it.view().pid == again


async def test_one_that_ignores_sigterm_is_killed_with_what_it_started(tmp_path: Path, server: Elsewhere) -> None:
    """After `stop_timeout` SIGKILL goes to the process and its children, and to nobody else of its group: not to us."""
    server.start(ignores_sigterm=True, grandchild=True)
    async with bench(tmp_path, server.spec(pid_file=str(server.pid_file), stop_timeout=0.5)) as it:
        await it.pool.ensure_ready("m")
        assert server.process is not None
        assert os.getpgid(server.process.pid) == os.getpgid(0)
        family = ForeignProcess.find(server.process.pid)
        assert len(family.members()) == 2
        await it.pool.ensure_stopped("m", "operator")
        assert not server.runs
        assert family.members() == []
        family.close()


async def test_a_process_that_ends_by_itself_is_seen_at_once(tmp_path: Path, server: Elsewhere) -> None:
    """With a pid file its end is an event; the next process counts when the file names it."""
    first = server.start()
    async with bench(tmp_path, server.spec(pid_file=str(server.pid_file))) as it:
        await it.pool.ensure_ready("m")
        server.end()
        await it.until_state(S.STARTING)
        second = server.start()
        await it.until_state(S.READY)
        assert (it.view().pid, second != first) == (second, True)


async def test_a_restart_is_an_end_and_a_wait(tmp_path: Path, server: Elsewhere) -> None:
    """`restart` ends the process and is done when whoever runs it has started another."""
    server.start()
    async with bench(tmp_path, server.spec(pid_file=str(server.pid_file))) as it:
        await it.pool.ensure_ready("m")
        restarting = asyncio.create_task(it.pool.restart("m", "operator"))
        await it.until(lambda: not server.runs)
        second = server.start()
        await asyncio.wait_for(restarting, 20)
        assert it.view().pid == second


@pytest.mark.parametrize("controlled", [False, True])
async def test_a_dead_one_is_detached_and_ended_where_we_can(
    tmp_path: Path, server: Elsewhere, controlled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has work and answers no canary: dead. With a pid file it is killed; without, it is back when it answers."""
    monkeypatch.setattr("supervisor.workers.watchdog.CANARY_SECONDS", 0.5)
    hand = {"pid_file": str(server.pid_file)} if controlled else {}
    server.start()
    async with bench(tmp_path, server.spec(stall_timeout=0.2, **hand)) as it:
        await it.pool.ensure_ready("m")
        it.lanes.now = Work(sent_at=asyncio.get_running_loop().time())
        server.pause()
        await it.until_state(S.STARTING)
        assert it.lanes.calls()[:2] == ["attach", "detach"]
        assert it.hooks.seen["restart", "m", "stalled"] == 1
        it.lanes.now = Work()
        if controlled:
            assert not server.runs
            server.start()
        else:
            assert server.runs
            server.resume()
        await it.until_state(S.READY)


async def test_a_reload_lets_go(tmp_path: Path, server: Elsewhere) -> None:
    """A model that is removed, or attached elsewhere, leaves its Infinity running, pid file or not."""
    server.start()
    with elsewhere(tmp_path / "..") as other:
        other.pid_file = tmp_path / "other.pid"
        other.start()
        async with bench(tmp_path, server.spec(pid_file=str(server.pid_file))) as it:
            await it.pool.ensure_ready("m")
            await it.pool.apply([other.spec()])
            await it.pool.ensure_ready("m")
            assert it.view().port == other.port
            assert server.runs
            await it.pool.apply([])
            assert other.runs


async def test_one_of_ours_becomes_somebody_elses_and_back(tmp_path: Path, server: Elsewhere) -> None:
    """A reload from `model_id` to `url` ends our process and attaches; the other way it lets go and starts one."""
    server.start()
    async with bench(tmp_path, scripted()) as it:
        await it.pool.ensure_ready("m")
        ours = it.view().pid or 0
        await it.pool.apply([server.spec()])
        await it.pool.ensure_ready("m")
        assert not Path(f"/proc/{ours}").exists()
        assert it.view().port == server.port
        await it.pool.apply([scripted()])
        await it.pool.ensure_ready("m")
        assert it.view().pid is not None
        assert server.runs


async def test_stopped_while_it_is_looked_for(tmp_path: Path, server: Elsewhere) -> None:
    """An unload ends the search; who waited is told, in every state it can be in."""
    async with bench(tmp_path, server.spec(start_timeout=0.5)) as it:
        waiting = asyncio.create_task(it.pool.ensure_ready("m"))
        await it.until_state(S.STARTING)
        await it.pool.ensure_stopped("m", "operator")
        with pytest.raises(WorkerError, match="stopped meanwhile"):
            await waiting
        it.pool.request_ready("m")
        await it.until_state(S.BACKOFF)
        await it.pool.ensure_stopped("m", "operator")
        assert it.view().state is S.STOPPED


class TestPidFiles:
    """What a pid file must say for a process to be believed ours to stop."""

    @pytest.mark.parametrize("text", ["", "abc", "-1", "12 13", "1.5", "99999999999", "²"])
    async def test_no_number(self, tmp_path: Path, text: str) -> None:
        """Anything but one number of a sane size."""
        (tmp_path / "pid").write_text(text)
        with pytest.raises(ValueError, match="no process number"):
            ForeignProcess.named(tmp_path / "pid")

    @pytest.mark.parametrize("pid", [0, 1, pytest.param(os.getpid(), id="own")])
    async def test_nobodys_business(self, tmp_path: Path, pid: int) -> None:
        """Neither the whole group, nor init, nor the supervisor."""
        (tmp_path / "pid").write_text(str(pid))
        with pytest.raises(ValueError, match="none that could be stopped"):
            ForeignProcess.named(tmp_path / "pid")

    async def test_a_process_that_has_ended(self, tmp_path: Path, server: Elsewhere) -> None:
        """A number that nobody has, and a zombie that nobody reaped."""
        server.start()
        assert server.process is not None
        os.kill(server.process.pid, 9)
        await asyncio.to_thread(os.waitid, os.P_PID, server.process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError):
            ForeignProcess.named(server.pid_file)
        server.process.wait()
        with pytest.raises(ProcessLookupError):
            ForeignProcess.named(server.pid_file)
        with pytest.raises(FileNotFoundError):
            ForeignProcess.named(tmp_path / "none")

    async def test_a_number_that_was_given_to_another(self, server: Elsewhere) -> None:
        """A process that began after the file was written is not the one that was meant."""
        server.start()
        hour_ago = time.clock_gettime(time.CLOCK_REALTIME) - 3600
        os.utime(server.pid_file, (hour_ago, hour_ago))
        with pytest.raises(ValueError, match="only has the number by chance"):
            ForeignProcess.named(server.pid_file)

    async def test_a_number_is_never_signalled_for_another(self, server: Elsewhere) -> None:
        """Each signal goes to the process that was found: of another start time it is not the same."""
        pid = server.start()
        process = ForeignProcess.find(pid)
        process._family = {pid: process.start_ticks - 1}
        process.signal_group(9)
        assert process.members() == []
        assert server.runs
        process.close()
