"""A memory cgroup of a test's own, with a real limit: version 1 or 2, whichever governs memory on this host.

    with memory_cgroup.limited(1 << 30) as group:
        group.add(process.pid)
        group.kills                    # 0, or how many processes the kernel killed for the limit

Who is still in it at the end was started by the test and is killed. Skips, with the reason, where no group can be made.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.sense.cgroup import own_groups
from supervisor.sense.files import number

# Takes memory by steps as it is told on stdin (bytes to hold in all), touches every page, and says so.
TAKER = """
import sys
held = []
for line in sys.stdin:
    more = int(line) - sum(map(len, held))
    held.append(b"x" * more)
    print("held", flush=True)
"""


class MemoryGroup:
    """A group below the visible root, with a limit of `limit` bytes."""

    def __init__(self, folder: Path, version: int, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._version = version

    @property
    def procs(self) -> Path:
        """The file that takes a pid."""
        return self.folder / "cgroup.procs"

    def add(self, pid: int) -> None:
        """Put a process into the group, with what it starts from now on."""
        self.procs.write_text(str(pid))

    def python(self, interpreter: Path, folder: Path) -> Path:
        """A program like `interpreter` whose processes are in the group from their first page on."""
        script = folder / "python-in-group"
        script.write_text(f'#!/bin/sh\necho $$ > {self.procs} && exec {interpreter} "$@"\n')
        script.chmod(0o755)
        return script

    @property
    def used(self) -> int:
        """Bytes that can't be given back, as the supervisor counts them."""
        name = "memory.current" if self._version == 2 else "memory.usage_in_bytes"
        stat = (self.folder / "memory.stat").read_bytes()
        prefix = b"" if self._version == 2 else b"total_"
        kept = number(stat, prefix + b"active_file ") + number(stat, prefix + b"inactive_file ")
        if self._version == 2:
            kept += number(stat, b"slab_reclaimable ")
        return int((self.folder / name).read_text()) - kept

    def set_limit(self, limit: int) -> None:
        """Another limit from now on; OSError if more is in use."""
        (self.folder / ("memory.max" if self._version == 2 else "memory.limit_in_bytes")).write_text(str(limit))
        self.limit = limit

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed here."""
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        return number((self.folder / name).read_bytes(), b"oom_kill ")

    def close(self) -> None:
        """Kill who is left and remove the group."""
        end = time.monotonic() + 20
        while self.folder.exists():
            for pid in self.procs.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            if time.monotonic() > end:
                raise AssertionError(f"{self.folder} can't be removed: {self.procs.read_text().split()} are in it")
            time.sleep(0.05)


@contextlib.contextmanager
def limited(limit: int) -> Iterator[MemoryGroup]:
    """A group with this limit in bytes, gone at the end with all that is in it."""
    groups = own_groups(Path("/proc"), Path("/sys/fs/cgroup"))
    place = groups.get("memory") or groups.get("")
    if place is None:
        pytest.skip("no cgroups are mounted here")
    folder = place.mount / f"pressure-{os.getpid()}-{time.monotonic_ns()}"
    group = MemoryGroup(folder, place.version, limit)
    try:
        try:
            folder.mkdir()
            group.set_limit(limit)
        except OSError as error:
            pytest.skip(f"no memory cgroup can be made here: {error}")
        yield group
    finally:
        group.close()


class Taker:
    """A process in the group that takes memory as it is told."""

    def __init__(self, group: MemoryGroup) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", TAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        group.add(self._process.pid)

    def hold(self, size: int) -> None:
        """Hold this many bytes from now on, if it is more than before; returns when it does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{size}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "held\n", "the process that takes memory was killed"

    def leave(self) -> None:
        """End it; its memory is free."""
        self._process.kill()
        self._process.communicate()
