"""The state folder: its place, its lock, and the operator's pause that survives a restart."""

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from supervisor.errors import StartError
from supervisor.state import OperatorPause, StateDir, default_root

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "HOME": "/h"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/infinity-supervisor"),
        ({"HOME": "/h"}, "/h/.local/state/infinity-supervisor"),
        ({"HOME": "/h", "STATE_DIRECTORY": "", "XDG_STATE_HOME": ""}, "/h/.local/state/infinity-supervisor"),
    ],
)
def test_default_place(environ: dict[str, str], root: str) -> None:
    """systemd's state folder, else the user's."""
    assert default_root(environ) == Path(root)


def test_one_daemon_a_folder(tmp_path: Path) -> None:
    """A second one on the same address is refused by name; another address, or a later one, is not."""
    first, second = StateDir(tmp_path, "127.0.0.1:7997"), StateDir(tmp_path, "127.0.0.1:7997")
    first.open()
    with pytest.raises(StartError, match=f"pid {os.getpid()}") as refused:
        second.open()
    assert "\n" not in str(refused.value)
    other = StateDir(tmp_path, "[::1]:7997")
    other.open()
    other.close()
    first.close()
    second.open()
    second.close()


def test_private(tmp_path: Path) -> None:
    """Only the daemon's user can look into its folders."""
    state = StateDir(tmp_path / "new" / "root", "127.0.0.1:1")
    state.open()
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(state.logs.stat().st_mode) == 0o700
    state.close()


def test_unusable_folder_is_refused_with_a_remedy(tmp_path: Path) -> None:
    """A folder that can't be made is a one-line refusal that names the key to change."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="state_dir"):
        StateDir(tmp_path / "file", "a:1").open()


def test_pause_without_limit(tmp_path: Path) -> None:
    """Kept until cleared."""
    pause = OperatorPause(tmp_path / "pause.json")
    assert pause.load() == (False, None)
    pause.save(None)
    assert pause.load(NOW + timedelta(days=400)) == (True, None)
    pause.clear()
    pause.clear()
    assert pause.load() == (False, None)


def test_pause_with_limit(tmp_path: Path) -> None:
    """What is left of it is what is left by the calendar; then it is over."""
    pause = OperatorPause(tmp_path / "pause.json")
    pause.save(60, NOW)
    assert pause.load(NOW + timedelta(seconds=15)) == (True, 45)
    assert pause.load(NOW + timedelta(seconds=61)) == (False, None)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 9, "until": null}', '{"version": 1}', '{"version": 1, "until": 7}']
)
def test_a_pause_file_that_is_not_ours_is_set_aside(tmp_path: Path, text: str) -> None:
    """It counts as no pause, is kept for whoever wants to look, and what is wrong with it is told."""
    path = tmp_path / "pause.json"
    path.write_text(text)
    pause = OperatorPause(path)
    assert pause.load() == (False, None)
    assert pause.fault is not None
    assert path.with_suffix(".bad").read_text() == text
    assert not path.exists()


def test_a_half_written_pause_is_not_seen(tmp_path: Path) -> None:
    """Saving replaces the file as a whole."""
    pause = OperatorPause(tmp_path / "pause.json")
    pause.save(None)
    pause.save(5, NOW)
    assert json.loads((tmp_path / "pause.json").read_text())["until"] == "2026-01-02T03:04:10+00:00"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pause.json"]
