"""The state folder of one daemon: locked while it runs; what must survive a restart lies in it.

One sub-folder per proxy address, so that two daemons with different ports never meet.
"""

import fcntl
import json
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from supervisor.errors import StartError

VERSION = 1


def default_root(environ: "os._Environ[str] | dict[str, str]") -> Path:
    """Where state goes when the config names no folder: systemd's, else the user's (XDG base directories)."""
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    home = environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path(environ.get("HOME", "/var/lib")) / ".local" / "state") / "infinity-supervisor"


class StateDir:
    """A private (0700), locked folder. `open()` raises StartError, one line, when it is in use or unusable."""

    def __init__(self, root: Path, address: str) -> None:
        self.path = root / quote(address, safe=".-")
        self._lock: int | None = None

    @property
    def logs(self) -> Path:
        """Where the workers' output goes."""
        return self.path / "logs"

    def open(self) -> None:
        """Make the folder and take its lock, which the kernel releases with this process, however it ends."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(
                f"state folder {self.path}: {error.strerror}; set state_dir to a folder that this user can write"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
            self.close()
            who = f"pid {holder}" if holder.isdigit() else "another process"
            raise StartError(f"another infinity-supervisor ({who}) runs on {self.path}; stop it first") from error
        with suppress(OSError):  # a full disk must not keep the daemon from starting: the pid is only a hint
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Release the lock; the folder stays."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class OperatorPause:
    """An operator's pause, kept on disk so that a restart of the daemon does not end it.

    The deadline is kept as a date: a restart has no monotonic clock in common with the one before. With a clock that
    was set back meanwhile the pause lasts no longer than it was asked for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fault: str | None = None

    def load(self, now: datetime | None = None) -> tuple[bool, float | None]:
        """(paused, seconds left or None for no limit). A file that can't be understood counts as not paused."""
        now = now or datetime.now(UTC)
        try:
            data = json.loads(self._path.read_bytes())
            if data["version"] != VERSION:
                raise ValueError(f"version {data['version']}")
            until = data["until"]
            if until is None:
                return True, None
            left = min((datetime.fromisoformat(until) - now).total_seconds(), float(data["seconds"]))
        except FileNotFoundError:
            return False, None
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.fault = f"{self._path}: {error}"
            with suppress(OSError):
                self._path.rename(self._path.with_suffix(".bad"))
            return False, None
        return (True, left) if left > 0 else (False, None)

    def save(self, seconds: float | None, now: datetime | None = None) -> None:
        """Remember a pause that lasts `seconds` from now, or until resumed. Raises OSError when it can't be kept."""
        now = now or datetime.now(UTC)
        until = None if seconds is None else (now + timedelta(seconds=seconds)).isoformat()
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"version": VERSION, "until": until, "seconds": seconds}))
        new.replace(self._path)

    def clear(self) -> None:
        """Forget the pause."""
        with suppress(FileNotFoundError):
            self._path.unlink()
