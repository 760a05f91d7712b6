"""An Infinity that systemd runs: started, found, stopped and killed by systemctl; with the real one where there is one.

Beside a real systemd (WITH_SYSTEMD=1, as root, with its private /run) the units are real; elsewhere a small program
stands in for systemctl.
"""

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers.handle import systemctl
from supervisor.workers.readiness import NotReady
from tests.support.elsewhere import Elsewhere, elsewhere
from tests.support.fake_lanes import bench
from tests.support.scripted_worker import script

S = ModelState
UNIT = "infinity-test.service"
REAL = bool(os.environ.get("WITH_SYSTEMD"))

STAND_IN = """\
#!{python} -ESs
import json, os, signal, subprocess, sys, time
folder = {folder!r}
options, (command, *words) = sys.argv[1], sys.argv[2:]
assert options == "--no-ask-password", sys.argv
unit = words[-1]
with open(folder + "/asked", "a") as log:
    print(command, *words, file=log)
try:
    command_line, environment = json.load(open(f"{{folder}}/{{unit}}.json"))
except FileNotFoundError:
    sys.exit(f"Failed to {{command}} {{unit}}: Unit {{unit}} not found.")
state = f"{{folder}}/{{unit}}.pid"

def main_pid():
    try:
        pid = int(open(state).read())
        fields = open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0
    return 0 if fields[0] in "ZX" else pid

if command == "start" and not main_pid():
    nothing = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    started = subprocess.Popen(command_line, env=environment, start_new_session=True, **nothing)
    open(state, "w").write(str(started.pid))
elif command == "show":
    print(main_pid())
elif command == "stop" and os.path.exists(f"{{folder}}/refuses"):
    sys.exit(f"Failed to stop {{unit}}: Operation refused, unit {{unit}} may be requested by dependency only")
elif command in ("stop", "kill") and main_pid():
    os.kill(main_pid(), signal.SIGTERM if command == "stop" else signal.SIGKILL)
    while command == "stop" and main_pid():
        time.sleep(0.02)
"""


class Service:
    """A service with a scripted Infinity; `systemctl` finds it."""

    def __init__(self, folder: Path, server: Elsewhere) -> None:
        self.folder, self.server = folder, server

    def write(self, **settings: object) -> None:
        """Have it run so from its next start on; `settings` are `Script`'s."""
        if REAL:
            [(name, value)] = script(**settings).items()
            text = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
            (Path("/run/systemd/system") / UNIT).write_text(
                f'[Service]\nType=exec\nExecStart={" ".join(self.server.command())}\nEnvironment="{name}={text}"\n'
            )
            subprocess.run(["systemctl", "daemon-reload"], check=True)
        else:
            (self.folder / f"{UNIT}.json").write_text(
                json.dumps([self.server.command(), self.server.environment(**settings)])
            )

    def refuse_stops(self) -> None:
        """Nobody may stop it by hand from now on."""
        if REAL:
            folder = Path("/run/systemd/system") / f"{UNIT}.d"
            folder.mkdir()
            (folder / "refuse.conf").write_text("[Unit]\nRefuseManualStop=yes\n")
            subprocess.run(["systemctl", "daemon-reload"], check=True)
        else:
            (self.folder / "refuses").touch()

    def main_pid(self) -> int:
        """Its process, 0 while there is none, by systemctl's own word."""
        command = ["systemctl", "--no-ask-password", "show", "--property=MainPID", "--value", UNIT]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that is known and at rest; stopped at the end."""
    if not REAL:
        program = tmp_path / "bin" / "systemctl"
        program.parent.mkdir()
        program.write_text(STAND_IN.format(python=sys.executable, folder=str(tmp_path)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with elsewhere(tmp_path) as server:
        it = Service(tmp_path, server)
        it.write()
        try:
            yield it
        finally:
            for command in (["kill", "--signal=SIGKILL"], ["stop"]):
                subprocess.run(["systemctl", "--no-ask-password", *command, UNIT], check=False, capture_output=True)


async def test_a_service_is_started_and_stopped_like_a_worker(tmp_path: Path, service: Service) -> None:
    """Load starts it, unload stops it, restart gives another process; its process is shown."""
    async with bench(tmp_path, service.server.spec(systemd_unit=UNIT)) as it:
        assert service.main_pid() == 0
        await it.pool.ensure_ready("m")
        first = it.view().pid
        assert first == service.main_pid() != 0
        await it.pool.restart("m", "operator")
        second = it.view().pid
        assert second == service.main_pid() != first
        await it.pool.ensure_stopped("m", "operator")
        assert (it.view().state, it.view().pid) == (S.STOPPED, None)
        assert service.main_pid() == 0


async def test_a_service_that_runs_is_found_and_left_running(tmp_path: Path, service: Service) -> None:
    """It may have been started by somebody else; the supervisor's end does not end it."""
    await systemctl("start", UNIT, within=20)
    pid = service.main_pid()
    async with bench(tmp_path, service.server.spec(systemd_unit=UNIT)) as it:
        await it.pool.ensure_ready("m")
        assert it.view().pid == pid
    assert service.main_pid() == pid


async def test_a_service_that_crashes_is_started_again(tmp_path: Path, service: Service) -> None:
    """Its end is seen at once, and it is asked for anew: systemd itself would not."""
    async with bench(tmp_path, service.server.spec(systemd_unit=UNIT)) as it:
        await it.pool.ensure_ready("m")
        pid = service.main_pid()
        os.kill(pid, 9)
        await it.until(lambda: it.view().state is S.READY and it.view().pid not in (pid, None))
        assert it.view().restarts == 1


async def test_a_service_that_ignores_sigterm_is_killed(tmp_path: Path, service: Service) -> None:
    """After `stop_timeout` all of it gets SIGKILL, long before systemd's own patience ends."""
    service.write(ignores_sigterm=True)
    async with bench(tmp_path, service.server.spec(systemd_unit=UNIT, stop_timeout=0.5)) as it:
        await it.pool.ensure_ready("m")
        await asyncio.wait_for(it.pool.ensure_stopped("m", "operator"), 20)
        assert service.main_pid() == 0


async def test_a_service_that_may_not_be_stopped_is_let_go_and_the_operator_told(
    tmp_path: Path, service: Service
) -> None:
    """Who asked for its end hears in systemctl's words that it goes on; it is taken up again when it is asked for."""
    service.refuse_stops()
    async with bench(tmp_path, service.server.spec(systemd_unit=UNIT)) as it:
        await it.pool.ensure_ready("m")
        pid = it.view().pid
        with pytest.raises(WorkerError, match=r"could not be stopped: `systemctl stop .*refused"):
            await it.pool.ensure_stopped("m", "operator")
        assert (it.view().state, service.main_pid()) == (S.STOPPED, pid)
        await it.pool.ensure_ready("m")
        assert it.view().pid == pid


async def test_what_systemctl_says_is_the_reason(tmp_path: Path, service: Service) -> None:
    """A unit that does not exist is told in systemctl's words, and asked for again."""
    async with bench(tmp_path, service.server.spec(systemd_unit="no-such-unit.service")) as it:
        it.pool.request_ready("m")
        await it.until_state(S.BACKOFF)
        assert "`systemctl start no-such-unit.service`: " in (it.view().reason or "")
        assert "not found" in (it.view().reason or "")


async def test_no_systemctl_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without systemd is told so."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotReady, match="systemctl can't be run: No such file"):
        await systemctl("show", "x.service", within=5)


async def test_a_systemctl_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the time it is given, and nothing of it is left."""
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(NotReady, match=r"`systemctl stop x\.service` is not done after 1 s"):
        await systemctl("stop", "x.service", within=1)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
