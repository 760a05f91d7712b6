"""A reload that is waited for, and what is left after an end: the unit's helpers, without a systemd."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from supervisor.sense.cgroup import Hierarchy
from supervisor.service import leftovers, reload
from supervisor.workers import process


def test_a_reload_is_told_by_its_beginning(tmp_path: Path) -> None:
    """An outcome of before it was asked for is none; the next one is, with its faults."""
    environ = {"RUNTIME_DIRECTORY": str(tmp_path)}
    reload.tell(reload.now(), ["of before"], environ)
    received = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda *_: received.set())
    try:

        def answer() -> None:
            received.wait(10)
            reload.tell(reload.now(), ["f:1: x"], environ)

        answering = threading.Thread(target=answer)
        answering.start()
        assert reload.ask(os.getpid(), environ) == ["f:1: x"]
        answering.join()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_supervisor_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    """Its reload has failed."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    (fault,) = reload.ask(process.pid, {"RUNTIME_DIRECTORY": str(tmp_path)})
    assert "it has not read its configuration" in fault


@pytest.mark.parametrize("result", ["success", "exit-code", "timeout", "protocol", "resources", "start-limit-hit"])
def test_only_accidents_leave_models(tmp_path: Path, result: str) -> None:
    """A stop, and a start that came to nothing, are none; neither is a signal that comes in a stop."""
    environ = {"RUNTIME_DIRECTORY": str(tmp_path), "SERVICE_RESULT": result}
    assert not leftovers.crashed(environ)
    for accident in ("signal", "core-dump", "watchdog", "oom-kill"):
        assert leftovers.crashed({**environ, "SERVICE_RESULT": accident})
    (tmp_path / leftovers.STOPPING).touch()
    assert not leftovers.crashed({**environ, "SERVICE_RESULT": "signal"})


@pytest.mark.parametrize("line", ["0::{}", "1:name=systemd:{}\n0::/"])
def test_the_unit_is_known_by_its_group(tmp_path: Path, line: str) -> None:
    """Of either version: processes of the unit and its sub-groups, not of one whose name begins alike, no zombies."""
    places = {"self": "/u.service/.control", "2": "/u.service", "3": "/u.service/workers/m-1", "4": "/u.service2"}
    for name, place in {**places, "5": "/u.service", "6": "/"}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "cgroup").write_text(line.format(place) + "\n")
        (folder / "stat").write_text(f"{name} (x) y) {'Z' if name == '5' else 'S'} 1 1")
    (tmp_path / "7").mkdir()
    assert sorted(leftovers.others(tmp_path)) == [2, 3]


def test_outside_a_unit_nobody_is_ours(tmp_path: Path) -> None:
    """In the root group everybody would be."""
    for name in ("self", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup").write_text("0::/\n")
        (tmp_path / name / "stat").write_text("2 (x) S 1")
    assert leftovers.others(tmp_path) == []


def test_after_a_crash_the_units_group_takes_a_process_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever controllers are on for the groups below are switched off, those of the workers first; else nothing."""
    written: list[tuple[str, str]] = []

    def remember(path: Path, text: str) -> int:
        written.append((str(path.parent.relative_to(tmp_path)), text))
        return len(text)

    for name in (".", "workers", ".control"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cgroup.subtree_control").write_text("cpu memory\n")
    monkeypatch.setattr(Path, "write_text", remember)
    for own, expected in ((".control", [("workers", "-cpu -memory"), (".", "-cpu -memory")]), (".", [])):
        place = Hierarchy(2, tmp_path, tmp_path / own)
        monkeypatch.setattr(leftovers, "own_groups", lambda *_, place=place: {"": place})
        leftovers.make_room()
        assert written == expected
        written.clear()


@pytest.mark.parametrize(("ours", "theirs"), [("-500", "0"), ("0", "-500"), ("300", "-500")])
def test_where_we_are_spared_a_worker_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: str, theirs: str
) -> None:
    """OOMScoreAdjust= below 0 is the supervisor's; what it starts inherits it, and gives it back. Any other is kept."""
    for name, score in (("self", ours), ("4711", "-500")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "oom_score_adj").write_text(score)
    monkeypatch.setattr(process, "_PROC", tmp_path)
    process._unspare(4711)
    assert (tmp_path / "4711/oom_score_adj").read_text() == theirs
