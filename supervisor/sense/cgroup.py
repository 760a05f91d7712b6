"""Where our own cgroups are: version 1, version 2 or both, in a container or not, wherever they are mounted.

Reads /proc/self/cgroup and /proc/self/mountinfo, nothing inside the groups. A container may show its own group as the
root of the mount, with or without a cgroup namespace; what lies above the visible root cannot be seen.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Where the cgroup file systems are mounted on every common distribution; tests put another tree in its place.
USUAL_MOUNT = PurePosixPath("/sys/fs/cgroup")
UNIFIED = ""  # the key of the version 2 hierarchy, as /proc/self/cgroup writes it
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted cgroup hierarchy and our own place in it."""

    version: int
    mount: Path
    own: Path

    @property
    def levels(self) -> tuple[Path, ...]:
        """Our own group first, then every ancestor up to the visible root."""
        above = [self.own, *self.own.parents]
        return tuple(above[: above.index(self.mount) + 1])


Groups = Mapping[str, Hierarchy]  # by controller; `UNIFIED` is the version 2 hierarchy


def hierarchy(groups: Groups, controller: str) -> Hierarchy | None:
    """The hierarchy that governs `controller`: its version 1 mount if there is one, else version 2."""
    return groups.get(controller) or groups.get(UNIFIED)


def own_groups(proc: Path, sys_cgroup: Path) -> Groups:
    """Our hierarchies by controller; empty where cgroups are not mounted or cannot be read."""
    try:
        memberships = (proc / "self" / "cgroup").read_text(errors="surrogateescape")
        mountinfo = (proc / "self" / "mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return {}
    mounts = _mounts(mountinfo, sys_cgroup)
    found: dict[str, Hierarchy] = {}
    for line in memberships.splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon:
            continue
        for controller in controllers.split(","):
            candidates = [mount for mount in mounts if controller in mount.controllers]
            if candidates:
                found[controller] = _place(candidates, path)
    return found


@dataclass(frozen=True, slots=True)
class _Mount:
    version: int
    controllers: frozenset[str]
    root: str
    point: Path

    def relative(self, path: str) -> str | None:
        """`path` as seen from this mount; None when the mount shows another part of the hierarchy."""
        if ".." in path.split("/"):  # outside our cgroup namespace
            return None
        root = self.root.rstrip("/")
        if path == root or path.startswith(root + "/"):
            return path[len(root) :].strip("/")
        return None


def _mounts(mountinfo: str, sys_cgroup: Path) -> list[_Mount]:
    """The cgroup mounts, in the order of the file."""
    mounts = []
    for line in mountinfo.splitlines():
        fields, dash, tail = line.partition(" - ")
        words, kind = fields.split(" "), tail.split(" ")
        if not dash or len(words) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        root, point = (_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), word) for word in words[3:5])
        version = 2 if kind[0] == "cgroup2" else 1
        controllers = frozenset({UNIFIED} if version == 2 else kind[2].split(","))
        mounts.append(_Mount(version, controllers, root, _moved(PurePosixPath(point), sys_cgroup)))
    return mounts


def _moved(point: PurePosixPath, sys_cgroup: Path) -> Path:
    """The mount point, in the tree that stands for the usual one."""
    return sys_cgroup / point.relative_to(USUAL_MOUNT) if point.is_relative_to(USUAL_MOUNT) else Path(point)


def _place(mounts: list[_Mount], path: str) -> Hierarchy:
    """Our place in the first mount that shows it.

    1. The mount whose root is our group or an ancestor of it: the group below its mount point.
    2. None does (a container that was given only its own group, without a namespace): the mount point is the group.
    3. The group cannot be seen there (a namespace of another container): the nearest ancestor that can.
    """
    for mount in mounts:
        relative = mount.relative(path)
        if relative is not None:
            own = mount.point / relative  # 1
            while own != mount.point and not own.is_dir():
                own = own.parent  # 3
            return Hierarchy(mount.version, mount.point, own)
    return Hierarchy(mounts[0].version, mounts[0].point, mounts[0].point)  # 2
