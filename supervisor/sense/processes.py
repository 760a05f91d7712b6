"""What the workers' processes use, by process group: CPU time and memory of all members, grandchildren too.

Owns the list of who is in which group. A group's members are found by the pgrp in /proc/PID/stat, so a process that
was given to init after its parent's death still counts. One that something else started need not lead a group: it
counts itself, and so do its children. Reading every process each time would cost 20 µs apiece, so each second only
members are read; every few seconds new processes are, and a few of the rest in turn, in case one of them changed its
group.

Memory is what comes back when the worker ends: RssAnon + RssShmem. Mapped files (180 of 570 MB of a torch worker)
are page cache, which neither MemAvailable nor the cgroup figures count as used. PSS would divide pages that forked
children share, but smaps_rollup walks the page tables (11 ms for one worker, measured) under the lock a busy
allocator holds: such children are counted in full, each.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.core.model import WorkerUse
from supervisor.sense.files import number, whole

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# How often all processes are listed to find new members; a listing of 150 processes costs 0.3 ms.
LIST_INTERVAL = 3.0
# How many of those that were in no group of ours are read again with each listing.
RECHECKED = 16


@dataclass(frozen=True, slots=True)
class _Stat:
    """The fields of /proc/PID/stat that matter; `started` tells a process from a later one with the same pid."""

    alive: bool  # not a zombie
    parent: int
    group: int
    cpu_seconds: float
    started: int


@dataclass(slots=True)
class _Group:
    """What was seen of one worker's group so far."""

    pgid: int
    ended_seconds: float = 0.0  # CPU time of members that are gone
    members: dict[tuple[int, int], float] = field(default_factory=dict)  # CPU seconds by (pid, started)


class ProcessGroups:
    """CPU seconds and memory of process groups."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._groups: dict[str, _Group] = {}
        self._group_of: dict[int, int] = {}  # by pid, as last read; of a worker's child the worker's
        self._unreadable: set[int] = set()  # processes whose text could not be read this time
        self._turn = 0
        self._listed_for: frozenset[int] = frozenset()
        self._listed_at = float("-inf")

    @property
    def members(self) -> Mapping[tuple[int, int], float]:
        """CPU seconds of all groups' living members as last seen, by pid and start time."""
        return {member: used for group in self._groups.values() for member, used in group.members.items()}

    def look(self, pgids: Mapping[str, int], gpu_memory: Mapping[int, int], now: float) -> dict[str, WorkerUse]:
        """The use of each named group that has a living member and can be read; `gpu_memory` is in bytes by pid.

        CPU seconds never fall while a group lives; the last second of a member that ended may be missing in them.
        """
        stats = self._read(frozenset(pgids.values()), now)
        uses: dict[str, WorkerUse] = {}
        groups: dict[str, _Group] = {}
        for name, pgid in pgids.items():
            group = self._groups.get(name)
            if group is None or group.pgid != pgid:
                group = _Group(pgid)
            if any(pid in self._unreadable for pid, _ in group.members):
                groups[name] = group  # neither alive nor gone: nothing is told, nothing forgotten
                continue
            members = {pid: stat for pid, stat in stats.items() if self._group_of[pid] == pgid and stat.alive}
            if not members:
                continue
            groups[name] = group
            seen = {(pid, stat.started): stat.cpu_seconds for pid, stat in members.items()}
            group.ended_seconds += sum(used for member, used in group.members.items() if member not in seen)
            group.members = seen
            memory = {pid: self._memory(pid) for pid in members}
            uses[name] = WorkerUse(
                cpu_seconds=group.ended_seconds + sum(seen.values()),
                memory_bytes=sum(memory.values()),
                gpu_memory_bytes=sum(gpu_memory.get(pid, 0) for pid in members),
                main_pid=max(memory, key=memory.__getitem__),
            )
        self._groups = groups
        return uses

    def _read(self, pgids: frozenset[int], now: float) -> dict[int, _Stat]:
        """The processes that were looked at this time, by pid.

        1. Members and leaders, each time. 2. When all processes are listed (every `LIST_INTERVAL` s): those not seen
        before, and the next few of the rest; for a group that is new, all of them: it may be older than our list.
        """
        self._unreadable = set()
        if not pgids:
            self._group_of, self._listed_for = {}, pgids
            return {}
        wanted = {pid for pid, group in self._group_of.items() if group in pgids} | pgids  # 1
        if not pgids <= self._listed_for or now - self._listed_at >= LIST_INTERVAL:
            if not pgids <= self._listed_for:
                self._group_of = {}
            self._listed_for, self._listed_at = pgids, now
            wanted |= self._unfamiliar()  # 2
        stats = {pid: stat for pid in wanted if (stat := self._stat(pid)) is not None}
        for pid in wanted - self._unreadable:
            self._group_of.pop(pid, None)
        for pid, stat in sorted(stats.items(), key=lambda item: (item[1].started, item[0])):  # parents first
            parents = self._group_of.get(stat.parent)
            child_of = parents if parents in pgids else stat.group
            self._group_of[pid] = pid if pid in pgids else stat.group if stat.group in pgids else child_of
        return stats

    def _unfamiliar(self) -> set[int]:
        """Processes not seen before, and a few of those that were in none of our groups when last read."""
        try:
            pids = [int(name) for name in os.listdir(self._proc) if name.isdecimal()]
        except OSError:
            return set()
        known = self._group_of
        self._group_of = {pid: known[pid] for pid in pids if pid in known}
        rest = list(self._group_of)
        start = self._turn % (len(rest) or 1)
        self._turn = start + RECHECKED
        return {pid for pid in pids if pid not in known} | set(rest[start : start + RECHECKED])

    def _stat(self, pid: int) -> _Stat | None:
        """One process; None when it has ended, or (then it is noted) when it cannot be read."""
        try:
            # The name in parentheses may hold anything, so the fields are counted from its end.
            words = _text(self._proc / str(pid) / "stat").rpartition(b")")[2].split()
            ticks = whole(words[11]) + whole(words[12])
            alive, seconds = words[0] not in (b"Z", b"X"), ticks / TICKS_PER_SECOND
            return _Stat(alive, int(words[1]), int(words[2]), seconds, whole(words[19]))
        except (FileNotFoundError, ProcessLookupError):
            return None
        except (OSError, ValueError, IndexError):
            self._unreadable.add(pid)
            return None

    def _memory(self, pid: int) -> int:
        """Bytes that come back when the process ends; 0 when it ended meanwhile."""
        try:
            status = _text(self._proc / str(pid) / "status")
            return 1024 * (number(status, b"RssAnon:") + number(status, b"RssShmem:"))
        except (OSError, ValueError):
            return 0


def _text(path: Path) -> bytes:
    """A small file, whole."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(fd, 8192)
    finally:
        os.close(fd)
