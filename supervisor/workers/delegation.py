"""Whether a cgroup v2 subtree is ours to arrange, and which.

Only looks. Being able to write is no permission: root can write everywhere, and systemd owns what it did not give away.
A group was given to us by whoever marked it (systemd's `Delegate=`), by whoever gave it to our user while what is above
it is somebody else's (the kernel's own way), or by whoever made it the root of our cgroup namespace (a container).
"""

import os
from dataclasses import dataclass
from pathlib import Path

from supervisor.sense.cgroup import UNIFIED, own_groups

# The leaf we move ourselves into: processes may not live in a group whose children have controllers.
LEAF = "supervisor"
# systemd sets one of these to 1 on a delegated group; the second is for root's eyes only, and all there is before 251.
_MARKS = ("user.delegate", "trusted.delegate")


@dataclass(frozen=True, slots=True)
class Delegated:
    """A subtree that is ours: its topmost group, and the one we are in (the topmost, or a leaf of it)."""

    base: Path
    own: Path


def delegated(proc: Path, sys_cgroup: Path) -> Delegated | str:
    """The subtree given to us, or why there is none.

    1. Where we are.
    2. We may have been put into a leaf of what is ours (`DelegateSubgroup=`, or by an earlier supervisor).
    3. It has to be whole, writable, without anybody else in it, and the CPU has to be among what it controls.
    """
    place = own_groups(proc, sys_cgroup).get(UNIFIED)  # 1
    if place is None:
        return "cgroup v2 is not mounted"
    own, mount = place.own, place.mount
    if not _is_group(own):
        return f"{own} is the root of all groups, or cannot be read"
    if _given(own, mount):
        base = own
    elif own != mount and _is_group(own.parent) and _given(own.parent, mount) and _is_leaf(own, mount):  # 2
        base = own.parent
    else:
        return f"{own} was not delegated (a systemd unit needs Delegate=yes)"
    return _unfit(base) or Delegated(base, own)  # 3


def _is_group(path: Path) -> bool:
    """Whether this is a group with a parent: only the root of the hierarchy has no type."""
    return (path / "cgroup.type").exists()


def _is_leaf(own: Path, mount: Path) -> bool:
    """Whether the group below a delegated one is a leaf made for us; a container's root may have other children."""
    return own.name == LEAF or own.parent != mount


def _given(group: Path, mount: Path) -> bool:
    if group == mount:  # the root of our namespace: made for us
        return True
    for mark in _MARKS:
        try:
            if os.getxattr(group, mark).strip() == b"1":
                return True
        except OSError:
            continue
    try:
        owner, above = group.stat().st_uid, group.parent.stat().st_uid
    except OSError:
        return False
    return owner == os.geteuid() != above


def _unfit(base: Path) -> str | None:
    """Why this group can't be arranged, None when it can."""
    try:
        kind = (base / "cgroup.type").read_text().strip()
        controllers = (base / "cgroup.controllers").read_text().split()
        others = set((base / "cgroup.procs").read_text().split()) - {str(os.getpid())}
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    if kind != "domain":
        return f"{base} is of type {kind!r}"
    if "cpu" not in controllers:
        return f"{base} does not control the CPU ({' '.join(controllers) or 'it has no controllers'})"
    for path in (base, base / "cgroup.procs", base / "cgroup.subtree_control"):
        if not os.access(path, os.W_OK):
            return f"{path} is not writable"
    if others:
        return f"other processes are in {base} ({', '.join(sorted(others)[:3])})"
    return None
