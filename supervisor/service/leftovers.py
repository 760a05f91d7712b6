"""What is left in the unit when the supervisor has ended: models, after a crash. What ExecStopPost= of the unit runs.

`python -Im supervisor.service.leftovers` kills them, unless systemd is about to start the supervisor again, which then
takes them over; if it doesn't after all (somebody stopped it meanwhile, or it crashed too often), they are killed a
little later. systemd can't do this itself: KillMode=process leaves them alone always, every other mode never.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from supervisor.sense.cgroup import UNIFIED, own_groups

# $SERVICE_RESULT of ends that nobody intended. Any other is a stop, after which nothing is to be left, or a start that
# came to nothing: the next one may as well, and nobody would look after them.
_CRASHES = frozenset({"signal", "core-dump", "watchdog", "oom-kill"})
# ExecStop= makes this file in the runtime folder: a stop was asked for, whatever comes of it.
STOPPING = "stopping"
# Where systemd has what it runs beside the main process, in a unit that has groups of its own.
_CONTROL = ".control"
# Longer than this (s) stays only what hangs in the kernel, where no signal reaches it.
_WITHIN, _POLL = 20.0, 0.02
# A new start comes 0.5 s after a crash (RestartSec=). One that comes later than this (s) loads its models anew.
_SUCCESSOR_WITHIN = 5.0


def crashed(environ: Mapping[str, str]) -> bool:
    """Whether the supervisor has ended by accident, so that it is started again."""
    asked = Path(environ.get("RUNTIME_DIRECTORY", "/nonexistent").split(":")[0]) / STOPPING
    return environ.get("SERVICE_RESULT") in _CRASHES and not asked.exists()


def others(proc: Path = Path("/proc")) -> list[int]:
    """The processes of our unit but this one. By what each says of itself, so that any version of cgroups will do."""
    ours = _memberships(proc / "self")
    unit = {key: path.removesuffix(f"/{_CONTROL}") for key, path in ours.items()}
    # Of version 2, or systemd's own of version 1: those have a group for each unit for certain.
    key = next((key for key in ("", "name=systemd") if unit.get(key, "/") != "/"), None)
    if key is None:
        return []  # not in a unit: nobody here is known to be ours
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError):  # it has ended meanwhile
            place = _memberships(folder).get(key, "")
            state = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            if f"{place}/".startswith(f"{unit[key]}/") and state not in "ZX":
                found.append(int(folder.name))
    return found


def kill(within: float = _WITHIN) -> int:
    """Kill all of them, and what they start meanwhile; how many are left."""
    until = time.monotonic() + within
    while (found := others()) and time.monotonic() < until:
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL)
    return len(found)


def make_room() -> None:
    """Let systemd put the next supervisor where the last one began.

    With controllers on for its children, as a killed supervisor leaves it, a group takes no process in: systemd fails
    with 219/CGROUP at every start (seen with 252).
    """
    place = own_groups(Path("/proc"), Path("/sys/fs/cgroup")).get(UNIFIED)
    if place is None or place.own.name != _CONTROL:
        return
    for group in (place.own.parent / "workers", place.own.parent):
        switch = group / "cgroup.subtree_control"
        with suppress(OSError):
            switch.write_text(" ".join(f"-{controller}" for controller in switch.read_text().split()))


def successor(folder: Path, within: float = _SUCCESSOR_WITHIN) -> bool:
    """Whether systemd starts the unit again: each start has a runtime folder of its own, made anew."""
    before, until = _identity(folder), time.monotonic() + within
    while _identity(folder) in (before, None):
        if time.monotonic() > until:
            return False
        time.sleep(_POLL)
    return True


def main() -> int:
    """The exit status: 1 when something could not be killed."""
    if crashed(os.environ):
        make_room()
        if os.fork():
            return 0  # systemd waits for us, and not for our child
        os.setsid()
        if successor(Path(os.environ["RUNTIME_DIRECTORY"].split(":")[0])):
            return 0
    left = kill()
    if left:
        sys.stderr.write(f"{left} processes could not be killed: they hang in the kernel\n")
    return 1 if left else 0


def _identity(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _memberships(folder: Path) -> dict[str, str]:
    """The cgroups of a process, by hierarchy."""
    lines = (folder / "cgroup").read_text(errors="surrogateescape").splitlines()
    fields = (line.split(":", 2) for line in lines)
    return {controllers: path for _, controllers, path in fields}


if __name__ == "__main__":
    sys.exit(main())
