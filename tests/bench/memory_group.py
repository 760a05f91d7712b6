"""A memory cgroup with a limit, v1 or v2, for what must be able to run out of memory without harming the host."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


class Unavailable(Exception):
    """No memory cgroup can be made here; the message says why."""


@dataclass(frozen=True)
class MemoryGroup:
    """One group; whoever is started with `command` lives in it."""

    path: Path

    def command(self, command: Sequence[str]) -> list[str]:
        """The same program, which enters the group before it begins."""
        return ["sh", "-c", ENTER, str(self.path), *command]

    def oom_kills(self) -> int:
        """How often the kernel killed something in the group."""
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(FileNotFoundError):
                rows = dict(line.split() for line in (self.path / name).read_text().splitlines())
                if "oom_kill" in rows:
                    return int(rows["oom_kill"])
        return 0


@contextlib.contextmanager
def memory_group(name: str, limit_bytes: int) -> Iterator[MemoryGroup]:
    """A group below our own, gone afterwards with all who live in it ended first by who started them.

    Raises `Unavailable` without root or without the memory controller.
    """
    v1 = ROOT / "memory"
    path, limit = (v1, "memory.limit_in_bytes") if v1.is_dir() else (ROOT, "memory.max")
    path = path / _own_group(v1.is_dir()).lstrip("/") / name
    try:
        path.mkdir()
    except OSError as error:
        raise Unavailable(f"{path} cannot be made: {error.strerror}; run this as root") from error
    try:
        if not (path / limit).exists():
            raise Unavailable(f"{path} has no {limit}: the memory controller is not delegated here")
        (path / limit).write_text(str(limit_bytes))
        yield MemoryGroup(path)
    finally:
        _remove(path)


def _own_group(v1: bool) -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if ("memory" in controllers.split(",")) if v1 else controllers == "":
            return path
    return "/"


def _remove(path: Path) -> None:
    until = time.monotonic() + 5
    while True:  # the kernel takes a moment to count the last process out
        try:
            path.rmdir()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
