"""The whole sample: scopes, containers, signals that fail one by one, and text that nobody foresaw."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.core.model import Known, Missing, Sample
from supervisor.sense.monitor import Monitor
from tests.support.fake_proc import GIB, MIB, FakeHost, psi


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """Two CPUs, 8 GiB with 6 available."""
    return FakeHost(tmp_path)


def monitor(host: FakeHost, scope: str = "auto") -> Monitor:
    return Monitor(scope, proc=host.proc, sys_cgroup=host.sys_cgroup)  # type: ignore[arg-type]


def percent(sample: Sample) -> tuple[float | str, float | str]:
    """CPU and memory, by value or by reason."""
    cpu, memory = (
        round(reading.value, 6) if isinstance(reading, Known) else reading.reason
        for reading in (sample.cpu, sample.memory)
    )
    return cpu, memory


def test_a_bare_host(host: FakeHost) -> None:
    """No cgroups, no pressure, no swap, no GPU: the rest is all there."""
    senses = monitor(host)
    first = senses.sample(10.0)
    assert percent(first) == ("first look", 25.0)
    assert (first.memory_used, first.memory_limit, first.cores) == (2 * GIB, 8 * GIB, 2.0)
    assert (first.swap_percent, dict(first.pressure), first.devices) == (None, {}, ())
    assert isinstance(first.gpu, Missing)
    host.passed(0.1, 0.3)
    assert percent(senses.sample(10.1)) == (30.0, 25.0)
    senses.close()


class TestScope:
    """What percent is a percent of."""

    @pytest.fixture(autouse=True)
    def container(self, host: FakeHost) -> None:
        """A group with one core and 2 GiB on a host with two cores and 8 GiB; both its parents are limited too."""
        host.mounted().member("/pod/app")
        host.v2("/", used=4 * GIB).v2("/pod", limit=4 * GIB, used=GIB, quota=1.5, cpu_seconds=0)
        host.v2("/pod/app", limit=2 * GIB, used=GIB, quota=1, cpu_seconds=0)

    def after(self, host: FakeHost, scope: str, *, host_busy: float, group_used: float) -> Sample:
        """A sample half a second after the first, in which the group used that many CPU seconds."""
        senses = monitor(host, scope)
        senses.sample(10.0)
        host.passed(0.5, host_busy)
        host.v2("/pod", limit=4 * GIB, used=GIB, quota=1.5, cpu_seconds=group_used)
        host.v2("/pod/app", limit=2 * GIB, used=GIB, quota=1, cpu_seconds=group_used)
        return senses.sample(10.5)

    @pytest.mark.parametrize(
        ("scope", "expected", "limit", "cores"),
        [
            ("host", (70.0, 25.0), 8 * GIB, 2.0),
            ("cgroup", (20.0, 50.0), 2 * GIB, 1.0),
            ("auto", (70.0, 50.0), 2 * GIB, 1.0),
        ],
    )
    def test_busy_neighbours(
        self, host: FakeHost, scope: str, expected: tuple[float, float], limit: int, cores: float
    ) -> None:
        """Host 70 % busy, our group at 20 % of its quota and half full: each scope tells its own."""
        sample = self.after(host, scope, host_busy=0.7, group_used=0.1)
        assert percent(sample) == expected
        assert (sample.memory_limit, sample.cores) == (limit, cores)

    def test_a_group_at_its_quota_on_an_idle_host(self, host: FakeHost) -> None:
        """The quota binds although the host idles."""
        assert percent(self.after(host, "auto", host_busy=0.25, group_used=0.5)) == (100.0, 50.0)

    def test_the_tightest_ancestor_wins(self, host: FakeHost) -> None:
        """The pod may be full because of its other containers."""
        senses = monitor(host)
        host.v2("/pod", limit=4 * GIB, used=3 * GIB + 512 * MIB)
        sample = senses.sample(10.0)
        assert percent(sample) == ("first look", 87.5)
        assert (sample.memory_used, sample.memory_limit) == (3 * GIB + 512 * MIB, 4 * GIB)


def test_scope_cgroup_without_limits(host: FakeHost) -> None:
    """No limit to be a percent of: memory is Missing and says so, CPU falls back on the cores of the cpuset."""
    host.mounted().member("/app").v2("/app", used=GIB, cpu_seconds=0)
    senses = monitor(host, "cgroup")
    senses.sample(10.0)
    host.passed(0.1, 0.4)
    assert percent(senses.sample(10.1)) == (40.0, "no cgroup above us limits memory")


def test_kubernetes_version_1(host: FakeHost) -> None:
    """A container with limits on version 1, without a namespace: its group is the root of each mount."""
    pod = "/kubepods/burstable/pod6f1c/4d17"
    for controller in ("memory", "cpu,cpuacct", "cpuset"):
        host.mounted(controller, root=pod).member(pod, controller)
    host.v1("memory", "/", limit=GIB, used=900 * MIB, cache=388 * MIB)
    host.v1("cpu,cpuacct", "/", quota=0.5, cpu_seconds=3).v1("cpuset", "/", cpuset="0-1")
    senses = monitor(host)
    senses.sample(10.0)
    host.v1("cpu,cpuacct", "/", quota=0.5, cpu_seconds=3.2).passed(0.5, 0.2)
    sample = senses.sample(10.5)
    assert percent(sample) == (80.0, 50.0)
    assert sample.cores == 0.5


def test_pressure_of_host_and_group(host: FakeHost) -> None:
    """Averages over 10 s by name; the group's own where it has a group of its own."""
    host.pressure("cpu", 12.5).pressure("memory", 3.0, 1.5)
    host.mounted().member("/app").v2("/app").write("cgroup/app/cpu.pressure", psi(44.0, 2.0))
    expected = {"cpu_some": 12.5, "memory_some": 3.0, "memory_full": 1.5, "cgroup_cpu_some": 44.0}
    assert dict(monitor(host).sample(10.0).pressure) == expected


def test_pressure_of_the_real_root_is_told_once(host: FakeHost) -> None:
    """The root group's pressure files are the host's."""
    host.pressure("cpu", 12.5).mounted().member("/").write("cgroup/cpu.pressure", psi(12.5, 0.0))
    assert dict(monitor(host).sample(10.0).pressure) == {"cpu_some": 12.5}


class TestFailures:
    """One signal fails, the others go on."""

    def test_no_proc_at_all(self, tmp_path: Path) -> None:
        """Everything is Missing with a reason, nothing raises."""
        sample = Monitor("auto", proc=tmp_path / "x", sys_cgroup=tmp_path / "y").sample(1.0)
        for reading in (sample.cpu, sample.memory, sample.gpu, sample.gpu_memory):
            assert isinstance(reading, Missing)
            assert reading.reason

    def test_cpu_fails_and_comes_back(self, host: FakeHost) -> None:
        """Memory is read all the while."""
        senses = monitor(host)
        senses.sample(10.0)
        text = (host.proc / "stat").read_bytes()
        host.write("proc/stat", b"cpu  garb")
        sample = senses.sample(10.1)
        assert isinstance(sample.cpu, Missing)
        assert sample.memory == Known(25.0, 10.1)
        host.write("proc/stat", text).passed(0.1)
        assert percent(senses.sample(10.2))[0] == "first look"
        host.passed(0.1, 1.0)
        assert percent(senses.sample(10.3))[0] == 100.0

    @pytest.mark.parametrize("scope", ["auto", "cgroup"])
    def test_a_group_that_goes_is_missing_until_we_are_found_again(self, host: FakeHost, scope: str) -> None:
        """The rest is only a lower bound, so it is not told as the whole; one look later the new place is known."""
        host.mounted().member("/old").v2("/old", limit=GIB, used=950 * MIB).v2("/new", limit=GIB, used=512 * MIB)
        senses = monitor(host, scope)
        senses.sample(10.0)
        host.write("cgroup/old/memory.current", "").member("/new")
        assert isinstance(senses.sample(10.1).memory, Missing)
        assert isinstance(senses.sample(10.2).memory, Missing)
        assert senses.sample(11.0).memory == Known(50.0, 11.0)

    def test_a_move_to_another_group_is_noticed(self, host: FakeHost) -> None:
        """Within five seconds, without any failure."""
        host.mounted().member("/old").v2("/old", limit=GIB, used=256 * MIB).v2("/new", limit=GIB, used=512 * MIB)
        senses = monitor(host)
        assert senses.sample(10.0).memory == Known(25.0, 10.0)
        host.member("/new")
        assert senses.sample(15.0).memory == Known(50.0, 15.0)

    def test_a_limit_whose_use_never_could_be_read_is_left_out(self, host: FakeHost) -> None:
        """A container may be shown a limit and no more: the host is watched all the same, CPU without a gap."""
        host.mounted().member("/app").v2("/app", limit=GIB, used=GIB).write("cgroup/app/memory.current", "")
        senses = monitor(host)
        senses.sample(10.0)
        for look in range(1, 40):
            host.passed(0.1, 0.5)
            assert percent(senses.sample(10 + look / 10)) == (50.0, 25.0)

    def test_clock_that_stands_or_goes_back(self, host: FakeHost) -> None:
        """No reading is made of no time; the last one stands."""
        senses = monitor(host)
        senses.sample(10.0)
        host.passed(1, 0.5)
        assert percent(senses.sample(11.0)) == (50.0, 25.0)
        assert percent(senses.sample(11.0)) == (50.0, 25.0)
        assert percent(senses.sample(3.0)) == (50.0, 25.0)

    def test_close_gives_every_descriptor_back(self, host: FakeHost) -> None:
        """Also after the groups were looked for anew."""
        host.mounted().member("/a/b").v2("/a", limit=GIB, used=1, quota=1, cpu_seconds=0).v2("/a/b", cpu_seconds=0)
        before = len(list(Path("/proc/self/fd").iterdir()))
        senses = monitor(host)
        senses.sample(10.0)
        host.member("/a")
        senses.sample(16.0)
        assert len(list(Path("/proc/self/fd").iterdir())) > before
        senses.close()
        assert len(list(Path("/proc/self/fd").iterdir())) == before


FILES = [
    "proc/stat", "proc/meminfo", "proc/self/status", "proc/self/cgroup", "proc/self/mountinfo", "proc/pressure/cpu",
    "proc/100/stat", "proc/100/status", "cgroup/app/memory.max", "cgroup/app/memory.high", "cgroup/app/memory.current",
    "cgroup/app/memory.stat", "cgroup/app/cpu.max", "cgroup/app/cpu.stat", "cgroup/app/cpuset.cpus.effective",
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_text_in_any_file_is_survived(data: st.DataObject) -> None:
    """Whatever the files hold, at any moment: no exception, percentages within 0 to 100, finite cores."""
    with TemporaryDirectory() as folder:
        host = FakeHost(Path(folder)).mounted().member("/app").pressure("cpu", 1.0)
        host.v2("/app", limit=GIB, used=MIB, quota=1, cpu_seconds=1, cpuset="0-1").process(100, 100, cpu_seconds=1)
        senses = monitor(host)
        for look in range(4):
            file = data.draw(st.sampled_from(FILES))
            whole = (Path(folder) / file).read_bytes()
            cut = data.draw(st.integers(0, len(whole)))
            damage = data.draw(st.binary(max_size=30) | st.from_regex(rb"[-0-9 ]{1,40}", fullmatch=True))
            host.passed(0.1, 0.5)
            host.write(
                file,
                data.draw(
                    st.sampled_from([damage, whole[:cut], whole[:cut] + damage, whole[:cut] + damage + whole[cut:]])
                ),
            )
            sample = senses.sample(10 + look)
            senses.worker_use({"a": 100}, 10.0 + look)
            for reading in (sample.cpu, sample.memory):
                assert not isinstance(reading, Known) or 0 <= reading.value <= 100
            assert all(0 <= value <= 100 for value in sample.pressure.values())
            assert 0 < sample.cores < float("inf")
        senses.close()
