"""Process groups: who counts, for how much, and what happens when processes come, go and can't be read."""

import os
from pathlib import Path

import pytest

from supervisor.core.model import WorkerUse
from supervisor.sense.processes import LIST_INTERVAL, RECHECKED, ProcessGroups
from tests.support.fake_proc import MIB, FakeHost


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A host with a few processes of others."""
    host = FakeHost(tmp_path)
    for pid in (1, 50, 51):
        host.process(pid, pid, cpu_seconds=1000, anon=100 * MIB)
    return host


def test_members_are_summed(host: FakeHost) -> None:
    """All of the group and nobody else; mapped files are page cache, not use. The main one holds most."""
    host.process(100, 100, cpu_seconds=2, anon=300 * MIB, mapped=200 * MIB).process(101, 100, cpu_seconds=3, anon=MIB)
    host.process(200, 200, cpu_seconds=1, anon=7 * MIB)
    uses = ProcessGroups(host.proc).look({"a": 100, "b": 200}, {101: 5, 200: 6, 50: 7}, 0.0)
    assert uses == {"a": WorkerUse(5.0, 301 * MIB, 5, 100), "b": WorkerUse(1.0, 7 * MIB, 6, 200)}


def test_a_leader_that_ended_leaves_its_group(host: FakeHost) -> None:
    """A grandchild that was given to init still counts, and so does the CPU time of the one that ended."""
    groups = ProcessGroups(host.proc)
    host.process(100, 100, cpu_seconds=2).process(101, 100, cpu_seconds=3, anon=MIB)
    groups.look({"a": 100}, {}, 0.0)
    host.ended(100)
    assert groups.look({"a": 100}, {}, 1.0) == {"a": WorkerUse(5.0, MIB, main_pid=101)}


def test_cpu_seconds_never_fall(host: FakeHost) -> None:
    """Members come, work and go; the sum only grows."""
    groups = ProcessGroups(host.proc)
    host.process(100, 100, cpu_seconds=1)
    seen = []
    for turn in range(20):
        host.process(101 + turn, 100, cpu_seconds=turn / 10)
        seen.append(groups.look({"a": 100}, {}, turn * LIST_INTERVAL)["a"].cpu_seconds)
        host.ended(101 + turn)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1 + sum(turn / 10 for turn in range(20)))


def test_a_group_that_is_gone_is_absent(host: FakeHost) -> None:
    """No member, no entry; a zombie that nobody reaped is no member."""
    groups = ProcessGroups(host.proc)
    host.process(100, 100, cpu_seconds=2, anon=MIB)
    assert "a" in groups.look({"a": 100}, {}, 0.0)
    host.process(100, 100, cpu_seconds=2, state="Z")
    assert groups.look({"a": 100}, {}, 1.0) == {}
    host.ended(100)
    assert groups.look({"a": 100}, {}, 2.0) == {}


def test_a_new_worker_starts_from_its_own_figures(host: FakeHost) -> None:
    """The same model under another group is another worker: the CPU time of the old one is not carried over."""
    groups = ProcessGroups(host.proc)
    host.process(100, 100, cpu_seconds=50)
    groups.look({"a": 100}, {}, 0.0)
    host.ended(100).process(300, 300, cpu_seconds=1)
    assert groups.look({"a": 300}, {}, 1.0) == {"a": WorkerUse(1.0, 0, main_pid=300)}


def test_a_pid_used_again_is_another_process(host: FakeHost) -> None:
    """A member that ended and another with its pid are told apart by when they started."""
    groups = ProcessGroups(host.proc)
    host.process(100, 100, cpu_seconds=1).process(101, 100, cpu_seconds=5, started=100)
    groups.look({"a": 100}, {}, 0.0)
    host.process(101, 100, cpu_seconds=2, started=900)
    assert groups.look({"a": 100}, {}, 1.0)["a"].cpu_seconds == 8.0


def test_new_members_are_found_within_the_listing_interval(host: FakeHost) -> None:
    """A child started later counts after a few seconds; a new worker at once."""
    groups = ProcessGroups(host.proc)
    host.process(100, 100, cpu_seconds=1)
    groups.look({"a": 100}, {}, 0.0)
    host.process(101, 100, cpu_seconds=1).process(200, 200, cpu_seconds=9)
    assert groups.look({"a": 100}, {}, 1.0)["a"].cpu_seconds == 1.0
    assert groups.look({"a": 100}, {}, LIST_INTERVAL)["a"].cpu_seconds == 2.0
    host.process(201, 200, cpu_seconds=1)
    assert groups.look({"a": 100, "b": 200}, {}, LIST_INTERVAL + 1)["b"].cpu_seconds == 10.0


def test_a_process_that_joins_the_group_later(host: FakeHost) -> None:
    """Every process is read again in turn, so one that changed its group is found after some listings."""
    for pid in range(1000, 1000 + 3 * RECHECKED):
        host.process(pid, pid)
    groups = ProcessGroups(host.proc)
    host.process(100, 100, cpu_seconds=1)
    groups.look({"a": 100}, {}, 0.0)
    host.process(1000, 100, cpu_seconds=4)
    found = [groups.look({"a": 100}, {}, turn * LIST_INTERVAL)["a"].cpu_seconds for turn in range(1, 8)]
    assert found[-1] == 5.0


def test_a_member_that_cannot_be_read_for_a_moment(host: FakeHost) -> None:
    """It is neither gone nor 0: the worker is absent from that look, and its CPU time goes on where it was."""
    groups = ProcessGroups(host.proc)
    host.process(100, 100, cpu_seconds=2).process(101, 100, cpu_seconds=3)
    groups.look({"a": 100}, {}, 0.0)
    host.write("proc/101/stat", b"101 (half a li")
    assert groups.look({"a": 100}, {}, 1.0) == {}
    host.process(101, 100, cpu_seconds=4)
    assert groups.look({"a": 100}, {}, 2.0)["a"].cpu_seconds == 6.0


def test_one_that_leads_no_group_counts_itself_and_its_children(host: FakeHost) -> None:
    """A worker that something else started may share its group with strangers, and be older than what we look for."""
    groups = ProcessGroups(host.proc)
    host.process(100, 100, cpu_seconds=1)
    host.process(60, 50, cpu_seconds=2, anon=MIB, parent=50, started=200)
    host.process(59, 59, cpu_seconds=4, anon=MIB, parent=60, started=300).process(
        58, 50, anon=MIB, parent=59, started=301
    )
    groups.look({"a": 100}, {}, 0.0)
    uses = groups.look({"a": 100, "b": 60}, {}, 1.0)
    assert uses == {"a": WorkerUse(1.0, 0, main_pid=100), "b": WorkerUse(6.0, 3 * MIB, main_pid=uses["b"].main_pid)}
    host.process(61, 61, cpu_seconds=1, parent=60, started=400)
    assert groups.look({"a": 100, "b": 60}, {}, 1.0 + LIST_INTERVAL)["b"].cpu_seconds == 7.0


def test_names_that_look_like_fields(host: FakeHost) -> None:
    """A process may call itself anything, brackets, blanks and numbers included."""
    host.process(100, 100, cpu_seconds=2, name="evil) R 1 7 7 (x 1 2 3")
    assert ProcessGroups(host.proc).look({"a": 100}, {}, 0.0)["a"].cpu_seconds == 2.0


def test_a_kernel_without_rss_by_kind(host: FakeHost) -> None:
    """Where only the sum is told, memory is 0 rather than a figure of another meaning."""
    host.process(100, 100, cpu_seconds=2).write("proc/100/status", "Name:\tx\nVmRSS:\t1000 kB\n")
    assert ProcessGroups(host.proc).look({"a": 100}, {}, 0.0) == {"a": WorkerUse(2.0, 0, main_pid=100)}


def test_no_workers_costs_nothing(host: FakeHost, tmp_path: Path) -> None:
    """Without groups to look for, /proc is not even listed."""
    assert ProcessGroups(tmp_path / "none").look({}, {}, 0.0) == {}


def test_no_proc(tmp_path: Path) -> None:
    """An unreadable /proc is no use of nobody, and no error."""
    assert ProcessGroups(tmp_path / "none").look({"a": os.getpid()}, {}, 0.0) == {}
