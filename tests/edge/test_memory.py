"""Memory: how full the host and each limited group are, what counts as used, and what broken text leads to."""

from pathlib import Path

import pytest

from supervisor.core.model import Known, Missing
from supervisor.sense.cgroup import own_groups
from supervisor.sense.memory import HostMemory, MemoryLimit, MemoryShortage, MemoryUse, memory_limits
from supervisor.sense.monitor import Monitor
from tests.support.fake_proc import GIB, MIB, FakeHost


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """8 GiB, 6 of them available."""
    return FakeHost(tmp_path)


def limits(host: FakeHost) -> list[MemoryLimit]:
    return memory_limits(own_groups(host.proc, host.sys_cgroup))


def use(percent: float, used: int, limit: int, at: float = 1.0) -> MemoryUse:
    return MemoryUse(Known(pytest.approx(percent), at), used, limit)  # type: ignore[arg-type]


class TestHostMemory:
    """The host's own figure."""

    def test_what_is_not_available_is_used(self, host: FakeHost) -> None:
        """Page cache that the kernel would give back is not use."""
        assert HostMemory(host.proc).look(1.0) == use(25.0, 2 * GIB, 8 * GIB)

    def test_swap(self, host: FakeHost) -> None:
        """Swap is told in percent, looked at once a second, and absent where there is none."""
        memory = HostMemory(host.proc)
        memory.look(1.0)
        assert memory.swap_percent is None
        host.memory(8 * GIB, 6 * GIB, swap=4 * GIB, swap_free=3 * GIB)
        memory.look(2.0)
        assert memory.swap_percent == 25.0

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"MemTotal: 8 kB\n",
            b"MemTotal: 8 kB\nMemAvailable: 9 kB\n",
            b"MemTotal: 0 kB\nMemAvailable: 0 kB\n",
            b"MemTotal: x kB\nMemAvailable: 1 kB\n",
            b"MemTotal:\nMemAvailable:\n",
            b"MemTotal: 8 kB\nMemAvailable: -1 kB\n",
            b"\xff" * 200,
        ],
    )
    def test_nonsense_is_missing(self, host: FakeHost, text: bytes) -> None:
        """A figure that can't be is Missing with the file's name, and no figure is made up from others."""
        host.write("proc/meminfo", text)
        look = HostMemory(host.proc).look(1.0)
        assert isinstance(look.reading, Missing)
        assert "meminfo: " in look.reading.reason
        assert (look.used, look.limit) == (0, 0)

    def test_unreadable_then_readable(self, host: FakeHost) -> None:
        """The sensor opens the file again after a failure."""
        (host.proc / "meminfo").unlink()
        memory = HostMemory(host.proc)
        assert isinstance(memory.look(1.0).reading, Missing)
        host.memory(8 * GIB, 4 * GIB)
        assert memory.look(2.0) == use(50.0, 4 * GIB, 8 * GIB, 2.0)


class TestVersion2:
    """memory.max and memory.high."""

    def test_page_cache_and_slab_are_not_use(self, host: FakeHost) -> None:
        """Current less active_file, inactive_file and slab_reclaimable, over the limit."""
        host.mounted().member("/app").v2("/app", limit=GIB, used=900 * MIB, cache=388 * MIB)
        assert limits(host)[0].look(1.0, 8 * GIB) == use(50.0, 512 * MIB, GIB)

    def test_memory_high_is_a_limit(self, host: FakeHost) -> None:
        """Above memory.high the kernel stalls the group, so it is what percent is a percent of."""
        host.mounted().member("/app").v2("/app", limit=2 * GIB, high=GIB, used=512 * MIB)
        assert limits(host)[0].look(1.0, 8 * GIB) == use(50.0, 512 * MIB, GIB)

    def test_max_is_no_limit(self, host: FakeHost) -> None:
        """An unlimited group bounds nothing, and its use is not even read."""
        host.mounted().member("/app").v2("/app", used=900 * MIB)
        (host.sys_cgroup / "app" / "memory.current").unlink()
        assert [level.look(1.0, 8 * GIB) for level in limits(host)] == [None, None]

    def test_a_limit_above_the_hosts_total_is_none(self, host: FakeHost) -> None:
        """64 GiB allowed on an 8 GiB host says nothing; exactly the total still does (a container's own /proc)."""
        host.mounted().member("/app").v2("/app", limit=64 * GIB, used=GIB)
        assert limits(host)[0].look(1.0, 8 * GIB) is None
        host.v2("/app", limit=8 * GIB, used=GIB)
        assert limits(host)[0].look(1.0, 8 * GIB) == use(12.5, GIB, 8 * GIB)

    def test_a_limit_counts_where_the_hosts_total_is_unknown(self, host: FakeHost) -> None:
        """An unreadable /proc/meminfo does not take the group's limit away."""
        host.mounted().member("/app").v2("/app", limit=64 * GIB, used=16 * GIB)
        assert limits(host)[0].look(1.0, None) == use(25.0, 16 * GIB, 64 * GIB)

    def test_a_limit_changed_while_we_run(self, host: FakeHost) -> None:
        """It counts within a second."""
        host.mounted().member("/app").v2("/app", limit=GIB, used=512 * MIB)
        level = limits(host)[0]
        level.look(1.0, 8 * GIB)
        host.v2("/app", limit=2 * GIB, used=512 * MIB)
        assert level.look(1.5, 8 * GIB) == use(50.0, 512 * MIB, GIB, 1.5)
        assert level.look(2.0, 8 * GIB) == use(25.0, 512 * MIB, 2 * GIB, 2.0)

    def test_more_cache_than_use_is_0(self, host: FakeHost) -> None:
        """The two files are not read at the same instant."""
        host.mounted().member("/app").v2("/app", limit=GIB, used=MIB, cache=2 * MIB)
        assert limits(host)[0].look(1.0, 8 * GIB) == use(0.0, 0, GIB)

    def test_a_limit_of_0_is_full(self, host: FakeHost) -> None:
        """Nothing is divided by nothing."""
        host.mounted().member("/app").v2("/app", limit=0, used=MIB)
        look = limits(host)[0].look(1.0, 8 * GIB)
        assert look is not None
        assert look.reading == Known(100.0, 1.0)

    @pytest.mark.parametrize("file", ["memory.current", "memory.stat"])
    @pytest.mark.parametrize("text", ["", "many\n", "active_file 1\ninactive_file\n"])
    def test_a_limited_group_whose_use_is_nonsense_is_missing(self, host: FakeHost, file: str, text: str) -> None:
        """It is told with the group's name."""
        host.mounted().member("/app").v2("/app", limit=GIB, used=MIB).write(f"cgroup/app/{file}", text)
        level = limits(host)[0]
        look = level.look(1.0, 8 * GIB)
        assert look is not None
        assert isinstance(look.reading, Missing)
        assert "/app: " in look.reading.reason
        assert level.failed

    def test_a_limit_that_turns_to_nonsense_stays_as_it_was(self, host: FakeHost) -> None:
        """What can't be read now is no reason to believe that there is no limit any more."""
        host.mounted().member("/app").v2("/app", limit=GIB, used=512 * MIB)
        level = limits(host)[0]
        level.look(1.0, 8 * GIB)
        host.write("cgroup/app/memory.max", "")
        assert level.look(3.0, 8 * GIB) == use(50.0, 512 * MIB, GIB, 3.0)


class TestVersion1:
    """memory.limit_in_bytes."""

    def test_the_total_lines_count(self, host: FakeHost) -> None:
        """The group with all below it, as usage_in_bytes is; the lines of the group alone are not read."""
        host.mounted("memory").member("/app", "memory")
        host.v1("memory", "/app", limit=GIB, used=768 * MIB, cache=256 * MIB)
        assert limits(host)[0].look(1.0, 8 * GIB) == use(50.0, 512 * MIB, GIB)

    def test_unlimited_is_a_huge_number(self, host: FakeHost) -> None:
        """2**63 less a page, also where the host's total is unknown."""
        host.mounted("memory").member("/app", "memory").v1("memory", "/app", used=768 * MIB)
        assert limits(host)[0].look(1.0, 8 * GIB) is None
        assert limits(host)[0].look(1.0, None) is None

    def test_a_limit_above_that_cannot_be_seen(self, host: FakeHost) -> None:
        """A container sees its own group only; the kernel tells it the lowest limit of those above."""
        host.mounted("memory", root="/pod/app").member("/pod/app", "memory")
        host.v1("memory", "/", above=GIB, used=512 * MIB)
        assert limits(host)[0].look(1.0, 8 * GIB) == use(50.0, 512 * MIB, GIB)


FULL = Known(80.0, 0.0)


def shortage(host: FakeHost, scope_host: bool = True, limited: bool = True) -> MemoryShortage:
    return MemoryShortage(host.proc, own_groups(host.proc, host.sys_cgroup), host=scope_host, limited=limited)


def stalled(microseconds: int) -> str:
    rest = f"avg10=0.00 avg60=0.00 avg300=0.00 total={microseconds}\n"
    return f"some {rest}full {rest}"


class TestShortage:
    """The kernel's own word that memory is short."""

    def test_stalls_since_the_previous_look(self, host: FakeHost) -> None:
        """20 ms of waiting count, less is everyday; the first look only remembers."""
        host.write("proc/pressure/memory", stalled(5_000_000))
        short = shortage(host)
        assert not short.look(FULL, 1.0)
        host.write("proc/pressure/memory", stalled(5_019_999))
        assert not short.look(FULL, 1.1)
        host.write("proc/pressure/memory", stalled(5_040_000))
        assert short.look(FULL, 1.2)
        assert not short.look(FULL, 1.3)

    @pytest.mark.parametrize("event", ["high", "max", "oom"])
    def test_version_2_events(self, host: FakeHost, event: str) -> None:
        """A limit that was run into, at any level above us; memory.low is no limit."""
        host.mounted().member("/a/b").v2("/a/b").v2("/a")
        names = ("low", "high", "max", "oom", "oom_kill")
        for group in ("a/b", "a"):
            host.write(f"cgroup/{group}/memory.events", "".join(f"{name} 7\n" for name in names))
        short = shortage(host)
        short.look(FULL, 1.0)
        assert not short.look(FULL, 1.1)
        host.write("cgroup/a/memory.events", "".join(f"{name} {8 if name == event else 7}\n" for name in names))
        assert short.look(FULL, 1.2)
        host.write("cgroup/a/memory.events", "".join(f"{name} {9 if name == 'low' else 8}\n" for name in names))
        short.look(FULL, 1.3)
        host.write("cgroup/a/memory.events", "".join(f"{name} {10 if name == 'low' else 8}\n" for name in names))
        assert not short.look(FULL, 1.4)

    def test_version_1_failed_charges(self, host: FakeHost) -> None:
        """memory.failcnt rises with each charge that ran into the limit."""
        host.mounted("memory").member("/app", "memory").v1("memory", "/app", limit=GIB, used=MIB)
        host.write("cgroup/memory/app/memory.failcnt", "3\n")
        short = shortage(host)
        assert not short.look(FULL, 1.0)
        host.write("cgroup/memory/app/memory.failcnt", "4\n")
        assert short.look(FULL, 1.1)

    def test_group_of_our_own_has_stalls_of_its_own(self, host: FakeHost) -> None:
        """In scope cgroup the host's stalls are others' business, the group's are ours."""
        host.mounted().member("/app").v2("/app").write("cgroup/app/memory.pressure", stalled(0))
        host.write("proc/pressure/memory", stalled(0))
        short = shortage(host, scope_host=False)
        short.look(FULL, 1.0)
        host.write("proc/pressure/memory", stalled(900_000))
        assert not short.look(FULL, 1.1)
        host.write("cgroup/app/memory.pressure", stalled(900_000))
        assert short.look(FULL, 1.2)

    def test_scope_host_leaves_groups_alone(self, host: FakeHost) -> None:
        """A limit that does not count for percent confirms nothing."""
        host.mounted("memory").member("/app", "memory").v1("memory", "/app", limit=GIB, used=MIB)
        host.write("cgroup/memory/app/memory.failcnt", "3\n")
        short = shortage(host, limited=False)
        short.look(FULL, 1.0)
        host.write("cgroup/memory/app/memory.failcnt", "9\n")
        assert not short.look(FULL, 1.1)

    def test_counters_of_long_ago_tell_nothing(self, host: FakeHost) -> None:
        """Memory that was below 70 % for a while is not short because of what happened meanwhile."""
        host.write("proc/pressure/memory", stalled(0))
        short = shortage(host)
        short.look(FULL, 1.0)
        host.write("proc/pressure/memory", stalled(9_000_000))
        assert not short.look(Known(70.0, 2.0), 2.0)
        assert not short.look(Missing("gone", 2.5), 2.5)
        assert not short.look(FULL, 3.0)

    @pytest.mark.parametrize(
        "text", [b"", b"some\n", b"some avg10=0.00 total=x\n", b"full avg10=0.00 total=9\n", b"\xff"]
    )
    def test_nonsense_is_no_word(self, host: FakeHost, text: bytes) -> None:
        """Neither is a file that can't be read, and what comes after it begins anew."""
        host.write("proc/pressure/memory", stalled(0))
        short = shortage(host)
        short.look(FULL, 1.0)
        host.write("proc/pressure/memory", text)
        assert not short.look(FULL, 1.1)
        host.write("proc/pressure/memory", stalled(900_000))
        assert not short.look(FULL, 1.2)
        host.write("proc/pressure/memory", stalled(1_900_000))
        assert short.look(FULL, 1.3)

    def test_sample_carries_it(self, host: FakeHost) -> None:
        """From the files to the sample; a host with room is never asked."""
        host.memory(8 * GIB, GIB).write("proc/pressure/memory", stalled(0))
        monitor = Monitor("auto", proc=host.proc, sys_cgroup=host.sys_cgroup)
        assert not monitor.sample(1.0).memory_short
        host.write("proc/pressure/memory", stalled(900_000))
        assert monitor.sample(1.1).memory_short
        host.memory(8 * GIB, 6 * GIB).write("proc/pressure/memory", stalled(1_900_000))
        assert not monitor.sample(1.2).memory_short
        monitor.close()
