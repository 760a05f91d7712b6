"""What a killed supervisor leaves: found by its records, ended when it is certainly ours, left alone when it is not."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.workers import records as records_module
from supervisor.workers.process import start_ticks
from supervisor.workers.records import Record, Records, boot_id, sweep
from tests.support.fake_lanes import FakeLog, bench, group, scripted

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> FakeLog:
    """What `supervisor.workers.records` logs."""
    fake = FakeLog()
    monkeypatch.setattr(records_module, "log", fake)
    return fake


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
    yield process
    process.kill()
    process.wait()


def record_of(process: subprocess.Popen[bytes], **other: Any) -> Record:
    """What a supervisor would have written about it; `other` makes it wrong."""
    fields: dict[str, Any] = {"model": "m", "pid": process.pid, "pgid": process.pid, "port": 1, "boot_id": boot_id()}
    return Record(**{**fields, "start_ticks": start_ticks(process.pid), **other})


def killed_supervisor(folder: Path, *scripts: dict[str, Any]) -> dict[str, int]:
    """Have another process start these workers, and kill it; returns their names and pids."""
    command = [sys.executable, "-m", "tests.support.pool_driver", str(folder), *map(json.dumps, scripts)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as driver:
        assert driver.stderr is not None
        try:
            pids: dict[str, int] = json.loads(driver.stderr.readline())
        finally:
            driver.kill()
    return pids


async def test_workers_that_the_config_does_not_name_any_more_are_ended(tmp_path: Path, log: FakeLog) -> None:
    """After SIGKILL of a supervisor its workers live on; the next one, whose models are others, ends them all.

    The stubborn and grandchildren too; also one of a name that is configured, with other settings.
    """
    pids = killed_supervisor(tmp_path, {}, {"ignores_sigterm": True}, {"grandchild": True})
    assert len(pids) == 3
    assert all(group(pid) for pid in pids.values())

    path = tmp_path / "workers.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with bench(tmp_path, scripted("w0", stop_timeout=0.5, start_lines=1), records=Records(path)) as it:
        assert not any(group(pid) for pid in pids.values())
        assert json.loads(path.read_text())["workers"] == []
        assert {fields["model"] for fields in log.of("leftover_worker_ended")} == {"w0", "w1", "w2"}
        assert {fields["how"] for fields in log.of("leftover_worker_ended")} == {"SIGTERM", "SIGKILL"}
        await it.pool.ensure_ready("w0")


async def test_records_follow_the_workers(tmp_path: Path) -> None:
    """A worker is in the file while it lives, with what tells it from others and its key; then it is not."""
    path = tmp_path / "workers.json"
    async with bench(tmp_path, scripted("a/b"), scripted("c"), records=Records(path)) as it:
        await it.pool.ensure_ready("a/b")
        await it.pool.ensure_ready("c")
        view = it.view("a/b")
        first, second = json.loads(path.read_text())["workers"]
        assert (first["model"], first["pid"], first["port"]) == ("a/b", view.pid, view.port)
        assert (first["pgid"], first["boot_id"]) == (view.pgid, boot_id())
        assert first["start_ticks"] == start_ticks(view.pid or 0)
        assert first["api_key"] == it.lanes.endpoints["a/b"].api_key
        assert first["ready"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert second["model"] == "c"
        await it.pool.ensure_stopped("a/b", "operator")
        assert [item["model"] for item in json.loads(path.read_text())["workers"]] == ["c"]
    assert json.loads(path.read_text())["workers"] == []


@pytest.mark.parametrize(
    "wrong", [{"start_ticks": 1}, {"boot_id": "another"}], ids=["another process of that number", "another boot"]
)
async def test_what_does_not_match_is_left_alone(
    stranger: subprocess.Popen[bytes], wrong: dict[str, Any], log: FakeLog
) -> None:
    """A process that got the number of a worker later is none of our business."""
    assert await sweep([record_of(stranger, **wrong)], 0.5) == []
    assert stranger.poll() is None
    assert log.of("leftover_worker_gone")


async def test_a_group_that_is_not_the_recorded_one_is_left_alone(stranger: subprocess.Popen[bytes]) -> None:
    """A record can't point our signals at another process group, ours for one."""
    assert await sweep([record_of(stranger, pgid=os.getpgid(0))], 0.5) == []
    assert stranger.poll() is None


async def test_what_matches_is_ended(stranger: subprocess.Popen[bytes]) -> None:
    """The counterpart of the tests above: with the right figures the same process is ended."""
    record = record_of(stranger)
    assert await sweep([record], 5) == [record]
    assert stranger.wait(5) == -signal.SIGTERM


BAD_FILES = {
    "half": b'{"version": 2, "wor',
    "empty": b"",
    "version": b'{"version": 3, "workers": []}',
    "list": b"[]",
    "null": b"null",
    "not a record": b'{"version": 2, "workers": [{"model": "m"}]}',
    "types": b'{"version": 2, "workers": [{"model": "m", "pid": "1", "pgid": 5, "start_ticks": 1, "boot_id": "", '
    b'"port": 1, "api_key": "", "launched_as": "", "ready": true}]}',
    "everybody": b'{"version": 2, "workers": [{"model": "m", "pid": -1, "pgid": -1, "start_ticks": 1, "boot_id": "", '
    b'"port": 1, "api_key": "", "launched_as": "", "ready": true}]}',
    "own group": b'{"version": 2, "workers": [{"model": "m", "pid": 9, "pgid": 0, "start_ticks": 1, "boot_id": "", '
    b'"port": 1, "api_key": "", "launched_as": "", "ready": true}]}',
    "bytes": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_is_not_understood_is_set_aside(tmp_path: Path, content: bytes, log: FakeLog) -> None:
    """A corrupt or foreign file is renamed with a warning, not obeyed, not deleted and not fatal."""
    path = tmp_path / "workers.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert Records(path).read() == []
    assert not path.exists()
    assert (tmp_path / "workers.json.bad").read_bytes() == content
    assert log.lines[-1][:2] == ("warning", "worker_records_set_aside")


def test_a_file_of_the_version_before_is_read(tmp_path: Path) -> None:
    """Without keys nothing of it can be adopted, but what it names is known, and ended."""
    path = tmp_path / "workers.json"
    path.write_text(
        '{"version": 1, "workers": [{"model": "m", "pid": 9, "pgid": 9, "start_ticks": 1, "boot_id": "b", "port": 1}]}'
    )
    path.chmod(0o600)
    assert Records(path).read() == [Record("m", 9, 9, 1, "b", 1)]


def test_a_file_that_others_can_write_is_set_aside(tmp_path: Path, log: FakeLog) -> None:
    """Who can write the file could have us signal processes; such a file is not believed."""
    path = tmp_path / "workers.json"
    path.write_text('{"version": 2, "workers": []}')
    path.chmod(0o666)
    assert Records(path).read() == []
    assert "mode 666" in log.of("worker_records_set_aside")[0]["why"]


def test_a_link_is_not_followed(tmp_path: Path, log: FakeLog) -> None:
    """Neither reading nor writing goes through a symbolic link."""
    target = tmp_path / "elsewhere"
    target.write_text('{"version": 2, "workers": []}')
    path = tmp_path / "workers.json"
    path.symlink_to(target)
    records = Records(path)
    assert records.read() == []
    records.put(Record("m", 10, 10, 1, "", 1))
    assert not path.is_symlink()
    assert "10" not in target.read_text()


def test_no_file_is_no_workers(tmp_path: Path, log: FakeLog) -> None:
    """The first start of all finds nothing and says nothing."""
    assert Records(tmp_path / "workers.json").read() == []
    assert not log.lines


def test_a_full_disk_is_a_warning(tmp_path: Path, log: FakeLog) -> None:
    """When the file can't be written the worker runs all the same."""
    records = Records(tmp_path / "missing" / "workers.json")
    records.put(Record("m", 10, 10, 1, "", 1))
    records.remove(10)
    assert [line[:2] for line in log.lines] == [("warning", "worker_records_not_written")] * 2
