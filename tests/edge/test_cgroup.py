"""Where our groups are: every layout in which a process may find itself."""

from pathlib import Path

import pytest

from supervisor.sense.cgroup import Hierarchy, hierarchy, own_groups
from tests.support.fake_proc import FakeHost


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A host without cgroup mounts so far."""
    return FakeHost(tmp_path)


def levels(host: FakeHost, controller: str) -> list[str]:
    """The groups that govern a controller, ours first, as paths below the tree's root."""
    found = hierarchy(own_groups(host.proc, host.sys_cgroup), controller)
    assert found is not None
    return [f"/{level.relative_to(host.sys_cgroup)}".rstrip(".") for level in found.levels]


def test_version_2_from_leaf_to_root(host: FakeHost) -> None:
    """Our group first, then every ancestor, then the mount."""
    host.mounted().member("/system.slice/infinity-supervisor.service").v2("/system.slice/infinity-supervisor.service")
    assert levels(host, "memory") == ["/system.slice/infinity-supervisor.service", "/system.slice", "/"]


def test_version_1_each_controller_in_its_place(host: FakeHost) -> None:
    """Controllers have mounts and paths of their own."""
    host.mounted("memory").mounted("cpu,cpuacct").mounted("cpuset")
    host.member("/a/b", "memory").member("/c", "cpu,cpuacct").member("/", "cpuset")
    host.v1("memory", "/a/b").v1("cpu,cpuacct", "/c").v1("cpuset", "/")
    assert levels(host, "memory") == ["/memory/a/b", "/memory/a", "/memory"]
    assert levels(host, "cpu") == levels(host, "cpuacct") == ["/cpu,cpuacct/c", "/cpu,cpuacct"]
    assert levels(host, "cpuset") == ["/cpuset"]


def test_hybrid_takes_the_version_that_has_the_controller(host: FakeHost) -> None:
    """systemd's hybrid layout: controllers on version 1, an empty version 2 beside them."""
    host.mounted("memory").mounted(point="/sys/fs/cgroup/unified").mounted("name=systemd")
    host.member("/app", "memory").member("/app", "name=systemd").member("/app").v1("memory", "/app")
    (host.sys_cgroup / "unified" / "app").mkdir(parents=True)
    assert levels(host, "memory") == ["/memory/app", "/memory"]
    assert levels(host, "cpu") == ["/unified/app", "/unified"]


def test_container_with_a_namespace(host: FakeHost) -> None:
    """The container's group is shown as the root."""
    host.mounted().member("/").v2("/")
    assert levels(host, "memory") == ["/"]


def test_container_without_a_namespace_version_1(host: FakeHost) -> None:
    """Kubernetes on version 1: the path is the host's, the mount shows our own group as its root."""
    pod = "/kubepods/burstable/pod6f1c/4d17df0ef40d"
    host.mounted("memory", root=pod).member(pod, "memory").v1("memory", "/")
    assert levels(host, "memory") == ["/memory"]


def test_a_mount_that_shows_an_ancestor(host: FakeHost) -> None:
    """What lies between the mount's root and our group counts."""
    host.mounted(root="/kubepods").member("/kubepods/pod1/app").v2("/pod1/app")
    assert levels(host, "memory") == ["/pod1/app", "/pod1", "/"]


def test_a_mount_whose_name_only_begins_alike(host: FakeHost) -> None:
    """/kubepods2 is not below /kubepods."""
    host.mounted(root="/kubepods").member("/kubepods2/app").v2("/2/app")
    assert levels(host, "memory") == ["/"]


def test_the_mount_that_shows_us_is_taken(host: FakeHost) -> None:
    """Of several mounts of one hierarchy, the one our group is in."""
    host.mounted(root="/other", point="/sys/fs/cgroup/other").mounted().member("/app").v2("/app")
    assert levels(host, "memory") == ["/app", "/"]


@pytest.mark.parametrize("path", ["/../sibling", "/..", "/host/path/that/is/not/shown"])
def test_a_path_outside_of_what_is_mounted(host: FakeHost, path: str) -> None:
    """The nearest group that can be seen stands in."""
    host.mounted().member(path).v2("/")
    assert levels(host, "memory") == ["/"]


def test_a_group_that_was_removed(host: FakeHost) -> None:
    """Its nearest living ancestor counts."""
    host.mounted().member("/slice/gone (deleted)").v2("/slice")
    assert levels(host, "memory") == ["/slice", "/"]


def test_mounts_elsewhere_with_a_space_in_the_path(host: FakeHost, tmp_path: Path) -> None:
    """mountinfo escapes blanks; the place is where it says, usual or not."""
    elsewhere = tmp_path / "my cgroups"
    (elsewhere / "app").mkdir(parents=True)
    host.mounted(escaped=str(elsewhere).replace(" ", "\\040")).member("/app")
    assert own_groups(host.proc, host.sys_cgroup) == {"": Hierarchy(2, elsewhere, elsewhere / "app")}


def test_a_colon_in_the_groups_name(host: FakeHost) -> None:
    """Container engines write `cri-containerd:id`."""
    host.mounted().member("/pod.slice:cri-containerd:4d17").v2("/pod.slice:cri-containerd:4d17")
    assert levels(host, "memory") == ["/pod.slice:cri-containerd:4d17", "/"]


@pytest.mark.parametrize(
    "mountinfo", [b"", b"nonsense\n - \n", b"1 2 3\n", b"\xff\xfe - cgroup2 x y\n", b"- - - cgroup2\n"]
)
def test_nothing_mounted_or_nonsense(host: FakeHost, mountinfo: bytes) -> None:
    """No groups is an answer; so is a file that makes no sense."""
    host.member("/app").write("proc/self/mountinfo", mountinfo)
    assert own_groups(host.proc, host.sys_cgroup) == {}


@pytest.mark.parametrize("cgroup", [b"", b"nonsense\n", b"0:\n", b"::\n:::::\n", b"\xff\n"])
def test_membership_that_makes_no_sense(host: FakeHost, cgroup: bytes) -> None:
    """Lines without a controller we know of are passed over."""
    host.mounted("memory").write("proc/self/cgroup", cgroup)
    assert own_groups(host.proc, host.sys_cgroup) == {}


def test_unreadable(tmp_path: Path) -> None:
    """No /proc, no groups."""
    assert own_groups(tmp_path, tmp_path) == {}
