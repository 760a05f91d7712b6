"""Which cgroups are ours, and what is done in them, on a tree of plain files: every way in which it can be refused."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import structlog

from supervisor.workers import delegation
from supervisor.workers.cgroup import Subtree, WorkerGroup
from supervisor.workers.delegation import Delegated, delegated
from tests.support.fake_proc import FakeHost

Marks = dict[tuple[str, str], bytes]
FILES: Mapping[str, str] = {
    "cgroup.type": "domain\n",
    "cgroup.controllers": "cpu io memory pids\n",
    "cgroup.subtree_control": "",
    "cgroup.procs": f"{os.getpid()}\n",
}


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A host with cgroup v2, and we in the group of a service."""
    host = FakeHost(tmp_path).mounted().member("/sys.slice/our.service")
    make(host, "sys.slice", **{"cgroup.procs": ""})
    make(host, "sys.slice/our.service")
    return host


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> Marks:
    """Extended attributes by file name and name: the file system of the tests may have none."""
    marks: Marks = {}

    def getxattr(path: Path, name: str) -> bytes:
        try:
            return marks[path.name, name]
        except KeyError:
            raise OSError(61, "No data available") from None

    monkeypatch.setattr(delegation.os, "getxattr", getxattr)
    return marks


def make(host: FakeHost, group: str, **files: str) -> Path:
    """A group with its files."""
    for name, text in {**FILES, **files}.items():
        host.write(f"cgroup/{group}/{name}", text)
    return host.sys_cgroup / group


def look(host: FakeHost) -> Delegated | str:
    """What is found."""
    return delegated(host.proc, host.sys_cgroup)


@pytest.mark.parametrize("mark", ["user.delegate", "trusted.delegate"])
def test_a_marked_group_is_ours(host: FakeHost, marks: Marks, mark: str) -> None:
    """systemd's mark, in either of its two places."""
    marks["our.service", mark] = b"1"
    own = host.sys_cgroup / "sys.slice/our.service"
    assert look(host) == Delegated(own, own)


def test_a_leaf_of_a_marked_group_is_ours(host: FakeHost, marks: Marks) -> None:
    """Put into a leaf by systemd, we arrange the group above it."""
    marks["our.service", "user.delegate"] = b"1"
    leaf = make(host, "sys.slice/our.service/main")
    make(host, "sys.slice/our.service", **{"cgroup.procs": ""})
    host.member("/sys.slice/our.service/main")
    assert look(host) == Delegated(leaf.parent, leaf)


def test_writing_is_no_permission(host: FakeHost, marks: Marks) -> None:
    """A group that belongs to our user like all above it was given to nobody; nor is a mark that says 0 one."""
    assert "was not delegated" in str(look(host))
    marks["our.service", "user.delegate"] = b"0"
    assert "was not delegated" in str(look(host))


def test_what_is_above_a_marked_group_is_not_ours(host: FakeHost, marks: Marks) -> None:
    """Two levels below what was given, another manager is between."""
    marks["sys.slice", "user.delegate"] = b"1"
    make(host, "sys.slice/our.service/app")
    host.member("/sys.slice/our.service/app")
    assert "was not delegated" in str(look(host))


def test_the_root_of_our_namespace_is_ours(host: FakeHost, marks: Marks) -> None:
    """A container sees its own group as the root, with a type; a leaf below it is ours when it is one of ours."""
    root = make(host, ".")
    host.member("/")
    assert look(host) == Delegated(root, root)
    leaf = make(host, "supervisor")
    make(host, ".", **{"cgroup.procs": ""})
    host.member("/supervisor")
    assert look(host) == Delegated(root, leaf)
    make(host, "openrc.other")
    host.member("/openrc.other")
    assert "was not delegated" in str(look(host))


def test_the_root_of_the_hierarchy_is_not_ours(host: FakeHost) -> None:
    """It has no type, and holds everybody."""
    host.member("/")
    assert "root of all groups" in str(look(host))


def test_version_1_only(tmp_path: Path) -> None:
    """Nothing to be had where version 2 is not mounted."""
    host = FakeHost(tmp_path).mounted("cpu").member("/app", "cpu").v1("cpu", "/app")
    assert look(host) == "cgroup v2 is not mounted"


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("cgroup.controllers", "memory pids\n", "does not control the CPU (memory pids)"),
        ("cgroup.controllers", "\n", "does not control the CPU (it has no controllers)"),
        ("cgroup.controllers", "cpuset\n", "does not control the CPU (cpuset)"),
        ("cgroup.type", "threaded\n", "is of type 'threaded'"),
        ("cgroup.type", "domain invalid\n", "is of type 'domain invalid'"),
        pytest.param("cgroup.procs", f"{os.getpid()}\n4711\n", "other processes are in", id="others"),
        ("cgroup.procs", "0\n", "other processes are in"),  # of another pid namespace
    ],
)
def test_a_group_that_is_of_no_use(host: FakeHost, marks: Marks, file: str, text: str, why: str) -> None:
    """Given to us, but it can't be arranged: the reason names what is in the way."""
    marks["our.service", "user.delegate"] = b"1"
    make(host, "sys.slice/our.service", **{file: text})
    assert why in str(look(host))


def test_a_file_that_cannot_be_read(host: FakeHost, marks: Marks) -> None:
    """The reason names it."""
    marks["our.service", "user.delegate"] = b"1"
    missing = host.sys_cgroup / "sys.slice/our.service/cgroup.controllers"
    missing.unlink()
    assert look(host) == f"{missing}: No such file or directory"


def test_a_file_that_cannot_be_written(host: FakeHost, marks: Marks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark alone does not help an ordinary user whose unit runs with `User=` and an old systemd."""
    marks["our.service", "user.delegate"] = b"1"
    monkeypatch.setattr(delegation.os, "access", lambda path, mode: path.name != "cgroup.subtree_control")
    assert str(look(host)).endswith("cgroup.subtree_control is not writable")


# -- what is done in it -----------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A delegated group, with what the kernel would make in our two groups."""
    base = tmp_path / "our.service"
    for group in (base, base / "supervisor", base / "workers"):
        group.mkdir()
        for name, text in (FILES | {"cpu.max": "50000 100000"}).items():
            (group / name).write_text(text)
    return base


def opened(base: Path) -> tuple[Subtree, list[tuple[str, str]]]:
    """A subtree taken into use, and what was logged: level and event."""
    subtree = Subtree(Delegated(base, base))
    with structlog.testing.capture_logs() as lines:
        subtree.open()
    return subtree, [(line["log_level"], line["event"]) for line in lines]


def test_without_delegation_nothing_happens_and_one_line_says_why() -> None:
    """Every call does nothing."""
    subtree = Subtree("cgroup v2 is not mounted")
    with structlog.testing.capture_logs() as lines:
        subtree.open()
        subtree.set_limit(1.0)
        group = subtree.worker_group("m")
        subtree.ended(group)
    assert group.path is None
    assert group.oom_kills() == 0
    assert subtree.cpu_seconds() is None
    assert [(line["log_level"], line["event"], line["reason"]) for line in lines] == [
        ("info", "cpu_backstop_off", "cgroup v2 is not mounted")
    ]


def test_it_goes_into_its_leaf_and_begins_without_a_limit(base: Path) -> None:
    """We are in the leaf, the controllers are on, what a predecessor limited is not."""
    _, logged = opened(base)
    assert logged == [("info", "cpu_backstop_on")]
    assert (base / "supervisor/cgroup.procs").read_text() == str(os.getpid())
    assert (base / "workers/cpu.max").read_text() == "max 100000"
    assert (base / "workers/cgroup.subtree_control").read_text() == "+memory"


@pytest.mark.parametrize(
    ("cores", "text"),
    [
        (0.1, "10000 100000"),
        (1.755, "175500 100000"),
        (None, "max 100000"),
        (0.001, "1000 100000"),
        (64, "6400000 100000"),
    ],
)
def test_limits_as_the_kernel_takes_them(base: Path, cores: float | None, text: str) -> None:
    """Microseconds of each tenth of a second; never less than the kernel's own least, 1 ms."""
    subtree, _ = opened(base)
    subtree.set_limit(cores)
    assert (base / "workers/cpu.max").read_text() == text


def test_what_the_workers_used(base: Path) -> None:
    """All of them together, from the group's own counter; unknown when it can't be read."""
    subtree, _ = opened(base)
    assert subtree.cpu_seconds() is None
    (base / "workers/cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n")
    assert subtree.cpu_seconds() == 2.5


@pytest.mark.parametrize("missing", ["supervisor/cgroup.procs", "cgroup.subtree_control", "workers/cpu.max"])
def test_a_step_that_fails_costs_one_warning(base: Path, missing: str) -> None:
    """Whatever the kernel refuses: one warning that names the file, and no worker gets a group."""
    (base / missing).unlink()
    subtree, logged = opened(base)
    assert logged == [("warning", "cpu_backstop_failed")]
    with structlog.testing.capture_logs() as lines:
        assert subtree.worker_group("m").path is None
        subtree.set_limit(1.0)
    assert lines == []
    assert (base / "cgroup.procs").read_text() == str(os.getpid())  # we are back


def test_without_memory_the_limit_is_there_all_the_same(base: Path) -> None:
    """Its controller only tells more."""
    (base / "workers/cgroup.subtree_control").unlink()
    _, logged = opened(base)
    assert logged == [("info", "cpu_backstop_on")]


def test_a_limit_that_is_refused_is_told_once_and_taken_off(base: Path) -> None:
    """A limit that can't be changed any more must not stay: its controller is switched off."""
    subtree, _ = opened(base)
    (base / "workers/cpu.max").unlink()
    with structlog.testing.capture_logs() as lines:
        subtree.set_limit(1.0)
        subtree.set_limit(0.5)
    assert [line["event"] for line in lines] == ["cpu_backstop_failed"]
    assert lines[0]["file"] == str(base / "workers/cpu.max")
    assert (base / "cgroup.subtree_control").read_text() == "-cpu"


@pytest.mark.parametrize("name", ["org/model", "..", "a b\nc", "Größe", "x" * 300, ""])
def test_any_model_name_makes_a_group(base: Path, name: str) -> None:
    """Names become folders directly below ours, each of its own."""
    subtree, _ = opened(base)
    groups = [subtree.worker_group(name) for _ in range(3)]
    folders = {path for path in (base / "workers").iterdir() if path.is_dir()}
    assert {group.path for group in groups} == folders
    assert len(folders) == 3
    for group in groups:
        subtree.ended(group)
    assert not any(path.is_dir() for path in (base / "workers").iterdir())


def test_a_group_that_cannot_be_made_costs_a_warning(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cgroup.max.descendants`, or no memory for it: the worker runs without one."""
    subtree, _ = opened(base)

    def refuse(path: Path) -> None:
        raise OSError(11, "Resource temporarily unavailable", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with structlog.testing.capture_logs() as lines:
        assert subtree.worker_group("m").path is None
    assert [line["event"] for line in lines] == ["worker_cgroup_not_made"]


def test_a_group_that_is_not_empty_is_killed_and_removed_later(base: Path) -> None:
    """Somebody is left in it: killed; it goes at the next occasion."""
    subtree, _ = opened(base)
    group = subtree.worker_group("m")
    assert group.path is not None
    path, kill = group.path, group.path / "cgroup.kill"
    kill.write_text("")
    subtree.ended(group)
    assert kill.read_text() == "1"
    kill.unlink()
    subtree.set_limit(1.0)
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        ("low 0\nhigh 3\nmax 9\noom 2\noom_kill 2\noom_group_kill 7\n", 2),
        ("oom_kill 0\n", 0),
        ("", 0),
        ("oom_kill x\n", 0),
    ],
)
def test_oom_kills_are_counted(tmp_path: Path, text: str, kills: int) -> None:
    """By the line that counts killed processes."""
    (tmp_path / "memory.events").write_text(text)
    assert WorkerGroup(tmp_path).oom_kills() == kills


def test_oom_kills_are_known_when_the_group_has_gone(tmp_path: Path) -> None:
    """They are read before it goes: how a worker ended is told after that."""
    path = tmp_path / "m"
    path.mkdir()
    (path / "memory.events").write_text("oom_kill 2\n")
    group = WorkerGroup(path)
    assert not group.remove()  # plain files are in the way, as a process would be
    (path / "memory.events").unlink()
    assert group.remove()
    assert group.oom_kills() == 2
