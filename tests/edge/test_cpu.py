"""CPU: what counts as busy, whose cores count, and what broken counters lead to."""

from pathlib import Path

import pytest

from supervisor.core.model import Known, Missing
from supervisor.sense.cgroup import own_groups
from supervisor.sense.cpu import CpuQuota, HostCpu, cpu_quotas, cpu_times
from tests.support.fake_proc import FakeHost


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """Two idle CPUs."""
    return FakeHost(tmp_path)


def host_cpu(host: FakeHost) -> HostCpu:
    return HostCpu(host.proc, own_groups(host.proc, host.sys_cgroup))


def quotas(host: FakeHost) -> list[CpuQuota]:
    return cpu_quotas(own_groups(host.proc, host.sys_cgroup))


class TestHostCpu:
    """The cores we may use."""

    def test_first_look_knows_nothing(self, host: FakeHost) -> None:
        """A share needs two looks; the first one is Missing, not 0."""
        cpu = host_cpu(host)
        assert cpu.look(10.0) == Missing("first look", 10.0)
        host.passed(0.1, 0.5)
        assert cpu.look(10.1) == Known(50.0, 10.1)

    def test_each_look_covers_the_time_since_the_last(self, host: FakeHost) -> None:
        """A step from 50 to 100 % is in the very next reading."""
        cpu = host_cpu(host)
        cpu.look(10.0)
        host.passed(1, 0.5)
        assert cpu.look(11.0) == Known(50.0, 11.0)
        host.passed(0.1, 1.0)
        assert cpu.look(11.1) == Known(100.0, 11.1)

    @pytest.mark.parametrize(
        ("field", "percent"), [(0, 40), (1, 40), (2, 40), (4, 0), (5, 40), (6, 40), (7, 40), (8, 40)]
    )
    def test_what_counts_as_busy(self, host: FakeHost, field: int, percent: float) -> None:
        """Waiting for a disk is idle, stolen time is busy, guest time is counted once."""
        cpu = host_cpu(host)
        cpu.look(10.0)
        host.passed(1, 0.4, field)
        assert cpu.look(11.0) == Known(percent, 11.0)

    def test_only_the_cores_of_our_affinity_count(self, host: FakeHost) -> None:
        """Load on cores we may not use is not ours to avoid."""
        host.cpus(8, allowed="2-3,7")
        cpu = host_cpu(host)
        cpu.look(10.0)
        host.passed(1, {0: 1.0, 1: 1.0, 2: 0.6, 7: 0.3})
        assert cpu.look(11.0) == Known(pytest.approx(30.0), 11.0)
        assert cpu.cores == 3

    def test_cpuset_of_version_2_narrows_the_affinity(self, host: FakeHost) -> None:
        """The effective cpuset of the nearest group that has one counts."""
        host.cpus(8).mounted().member("/pod/app").v2("/pod", cpuset="4-5").v2("/pod/app")
        cpu = host_cpu(host)
        cpu.look(10.0)
        host.passed(1, {4: 1.0, 0: 1.0})
        assert cpu.look(11.0) == Known(50.0, 11.0)
        assert cpu.cores == 2

    def test_cpuset_of_version_1_with_an_empty_leaf(self, host: FakeHost) -> None:
        """An empty cpuset sets nothing; the group above it does."""
        host.cpus(4).mounted("cpuset").member("/a/b", "cpuset")
        host.v1("cpuset", "/a", cpuset="1").v1("cpuset", "/a/b", cpuset="")
        cpu = host_cpu(host)
        cpu.look(10.0)
        host.passed(1, {1: 0.7, 0: 1.0})
        assert cpu.look(11.0) == Known(pytest.approx(70.0), 11.0)

    def test_renumbered_cores_of_lxcfs_all_count(self, host: FakeHost) -> None:
        """A container that sees its cores as 0 and 1 while its affinity says 6-7 still has two cores."""
        host.cpus(2, allowed="6-7")
        cpu = host_cpu(host)
        cpu.look(10.0)
        host.passed(1, 0.5)
        assert cpu.look(11.0) == Known(50.0, 11.0)
        assert cpu.cores == 2

    def test_hot_plug(self, host: FakeHost) -> None:
        """A core that comes counts from its second look, one that goes no longer."""
        cpu = host_cpu(host)
        cpu.look(10.0)
        gone = host.ticks.pop(1)
        host.passed(1, 1.0)
        assert cpu.look(11.0) == Known(100.0, 11.0)
        host.ticks[1] = gone
        host.passed(1, {1: 1.0})
        assert cpu.look(12.0) == Known(0.0, 12.0)
        host.passed(1, {1: 1.0})
        assert cpu.look(13.0) == Known(50.0, 13.0)

    def test_counters_that_go_backwards_are_missing(self, host: FakeHost) -> None:
        """A reset of the counters is no reading; the next look is one again."""
        cpu = host_cpu(host)
        host.passed(1000, 0.5)
        cpu.look(10.0)
        host.cpus(2)
        reading = cpu.look(11.0)
        assert isinstance(reading, Missing)
        assert "backwards or jumped" in reading.reason
        host.passed(1, 0.5)
        assert cpu.look(12.0) == Known(50.0, 12.0)

    def test_one_core_that_jumps_is_left_out(self, host: FakeHost) -> None:
        """A steal counter that wraps (seen after migrations) says nothing of the other cores."""
        cpu = host_cpu(host)
        cpu.look(10.0)
        host.ticks[0][7] += 10**15
        host.passed(1, 0.25)
        assert cpu.look(11.0) == Known(25.0, 11.0)

    def test_idle_time_that_steps_back_a_little_is_none(self, host: FakeHost) -> None:
        """Idle and iowait are not monotone on a tickless kernel."""
        cpu = host_cpu(host)
        cpu.look(10.0)
        for ticks in host.ticks.values():
            ticks[3] -= 3
        host.passed(0.1, 1.0)
        assert cpu.look(10.1) == Known(100.0, 10.1)

    def test_looks_too_close_keep_the_last_reading(self, host: FakeHost) -> None:
        """Nothing is divided by no time, also when the caller's clock does not move or moves back."""
        cpu = host_cpu(host)
        cpu.look(10.0)
        assert cpu.look(10.0) == Missing("first look", 10.0)
        host.passed(1, 0.5)
        assert cpu.look(11.0) == Known(50.0, 11.0)
        host.passed(0.01, 1.0)
        assert cpu.look(11.01) == Known(50.0, 11.0)
        assert cpu.look(9.0) == Known(50.0, 11.0)

    def test_counters_that_stand_still_become_missing(self, host: FakeHost) -> None:
        """A frozen sensor keeps its last reading, with its age, for a second and is then Missing."""
        cpu = host_cpu(host)
        cpu.look(10.0)
        host.passed(1, 0.5)
        cpu.look(11.0)
        assert cpu.look(11.5) == Known(50.0, 11.0)
        assert cpu.look(12.0) == Known(50.0, 11.0)
        frozen = cpu.look(12.1)
        assert isinstance(frozen, Missing)
        assert "stand still" in frozen.reason
        host.passed(2, 0.25)
        assert cpu.look(13.0) == Known(25.0, 13.0)

    def test_an_unreadable_look_is_not_bridged(self, host: FakeHost) -> None:
        """After a failed look the share starts anew: an average over the gap would hide a step."""
        cpu = host_cpu(host)
        cpu.look(10.0)
        text = (host.proc / "stat").read_bytes()
        host.write("proc/stat", b"")
        assert isinstance(cpu.look(11.0), Missing)
        host.write("proc/stat", text).passed(10, 1.0)
        assert cpu.look(21.0) == Missing("first look", 21.0)
        host.passed(1, 0.5)
        assert cpu.look(22.0) == Known(50.0, 22.0)

    def test_no_such_file(self, tmp_path: Path) -> None:
        """No /proc at all is Missing with the path and the reason."""
        reading = HostCpu(tmp_path / "none", {}).look(1.0)
        assert isinstance(reading, Missing)
        assert reading.reason.endswith("none/stat: No such file or directory")

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"\n\n",
            b"cpu",
            b"cpu 1 2 3\ncpu0 1 2\n",
            b"cpu0 a b c d\nintr 0",
            b"cpuX 1 2 3 4\nintr 0",
            b"cpu  1 2 3 4 5\n",
            b"\0" * 99,
        ],
    )
    def test_nonsense_is_refused(self, text: bytes) -> None:
        """Text without CPU counters is an error of value, nothing else."""
        with pytest.raises(ValueError):
            cpu_times(text)

    def test_half_a_line_at_the_end_is_not_read(self) -> None:
        """What a full buffer cut off does not count as a small number."""
        assert cpu_times(b"cpu  9 9 9 9\ncpu0 1 0 1 7 1 0 0 0 0 0\ncpu1 1 0 1 70") == {0: (2, 8)}


class TestCpuQuota:
    """The CPU time our cgroups may use."""

    def test_version_2_share_of_the_quota(self, host: FakeHost) -> None:
        """Half a core used of a quota of two cores is 25 %."""
        host.mounted().member("/app").v2("/app", quota=2, cpu_seconds=100.0)
        quota = quotas(host)[0]
        assert quota.look(10.0) == Missing("first look", 10.0)
        host.v2("/app", quota=2, cpu_seconds=100.25)
        assert quota.look(10.5) == Known(pytest.approx(25.0), 10.5)
        assert quota.cores == 2

    def test_version_1_with_accounts_mounted_apart(self, host: FakeHost) -> None:
        """Quota in `cpu`, use in `cpuacct`, the same path in both."""
        host.mounted("cpu").mounted("cpuacct").member("/app", "cpu").member("/app", "cpuacct")
        host.v1("cpu", "/app", quota=0.5).v1("cpuacct", "/app", cpu_seconds=7.0)
        quota, root = quotas(host)
        assert root.look(10.0) is None
        quota.look(10.0)
        host.v1("cpuacct", "/app", cpu_seconds=7.1)
        assert quota.look(10.4) == Known(pytest.approx(50.0), 10.4)

    def test_version_1_with_both_in_one_mount(self, host: FakeHost) -> None:
        """The usual `cpu,cpuacct` mount."""
        host.mounted("cpu,cpuacct").member("/app", "cpu,cpuacct")
        host.v1("cpu,cpuacct", "/app", quota=1, cpu_seconds=7.0)
        quota = quotas(host)[0]
        quota.look(10.0)
        host.v1("cpu,cpuacct", "/app", quota=1, cpu_seconds=7.25)
        assert quota.look(10.5) == Known(pytest.approx(50.0), 10.5)

    def test_bursts_within_a_period_are_evened_out(self, host: FakeHost) -> None:
        """A group that is throttled in every period reads full, although looks fall on and between its bursts."""
        host.mounted().member("/app").v2("/app", quota=1, cpu_seconds=0)
        quota = quotas(host)[0]
        quota.look(0.0)
        readings = []
        for look in range(1, 40):
            # 0.2 s of CPU time in every second look, none in the others: one core on average
            host.v2("/app", quota=1, cpu_seconds=0.2 * (look // 2))
            readings.append(quota.look(look / 10))
        values = [reading.value for reading in readings[6:] if isinstance(reading, Known)]
        assert len(values) == 33
        assert min(values) >= 66
        assert sum(values) / len(values) >= 80

    def test_a_step_is_read_within_the_window(self, host: FakeHost) -> None:
        """From 50 to 100 % within 0.6 s."""
        host.mounted().member("/app").v2("/app", quota=1, cpu_seconds=0)
        quota = quotas(host)[0]
        used, reading = 0.0, None
        for look in range(40):
            used += 0.05 if look < 30 else 0.1
            host.v2("/app", quota=1, cpu_seconds=used)
            reading = quota.look(look / 10)
            if look == 29:
                assert reading == Known(pytest.approx(50.0), 2.9)
            if look == 35:
                break
        assert reading == Known(pytest.approx(100.0), 3.5)

    def test_use_above_the_quota_is_100(self, host: FakeHost) -> None:
        """The kernel lets a group run a slice over; percentages stay within 0 to 100."""
        host.mounted().member("/app").v2("/app", quota=1, cpu_seconds=0)
        quota = quotas(host)[0]
        quota.look(0.0)
        host.v2("/app", quota=1, cpu_seconds=5)
        assert quota.look(0.5) == Known(100.0, 0.5)

    def test_a_quota_that_is_set_and_lifted_while_we_run(self, host: FakeHost) -> None:
        """`systemctl set-property CPUQuota=` counts within a second, and so does its end."""
        host.mounted().member("/app").v2("/app", cpu_seconds=0)
        quota = quotas(host)[0]
        assert quota.look(0.0) is None
        host.v2("/app", quota=1.5, cpu_seconds=0)
        assert quota.look(1.0) == Missing("first look", 1.0)
        assert quota.cores == 1.5
        host.v2("/app", cpu_seconds=9)
        assert quota.look(2.0) is None
        assert quota.cores is None

    def test_use_that_goes_backwards_starts_anew(self, host: FakeHost) -> None:
        """A group made again under the same name has no reading until its second look."""
        host.mounted().member("/app").v2("/app", quota=1, cpu_seconds=50)
        quota = quotas(host)[0]
        quota.look(0.0)
        host.v2("/app", quota=1, cpu_seconds=1)
        assert quota.look(0.5) == Missing("first look", 0.5)
        host.v2("/app", quota=1, cpu_seconds=1.25)
        assert quota.look(1.0) == Known(pytest.approx(50.0), 1.0)

    def test_use_that_cannot_be_read_is_missing(self, host: FakeHost) -> None:
        """A quota without its use is a failure that is told, not 0 %."""
        host.mounted().member("/app").v2("/app", quota=1, cpu_seconds=50)
        quota = quotas(host)[0]
        quota.look(0.0)
        host.write("cgroup/app/cpu.stat", "usage_usec many\n")
        assert isinstance(quota.look(0.5), Missing)
        assert quota.failed

    @pytest.mark.parametrize(
        "text", ["", "max\n", "max 100000\n", "0 100000\n", "5 0\n", "-1 100000\n", "9" * 400 + " 1\n", "1 2 3\n"]
    )
    def test_what_is_no_quota(self, host: FakeHost, text: str) -> None:
        """No quota, or nonsense where one should be, limits nothing."""
        host.mounted().member("/app").v2("/app", cpu_seconds=0).write("cgroup/app/cpu.max", text)
        assert quotas(host)[0].look(0.0) is None
