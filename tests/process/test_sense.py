"""The senses on the real kernel: against psutil, with real load, and in real limited cgroups."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from supervisor.core.model import Known, WorkerUse
from supervisor.sense.cgroup import own_groups
from supervisor.sense.files import KernelFile
from supervisor.sense.monitor import Monitor

ROOT = Path(__file__).resolve().parent.parent.parent
MIB = 1024**2
BURN = "while True: pass"

# Samples in the scope it is given, as JSON lines, until it is killed; allocates and caches what it is told first.
PROBE = """
import json, os, sys, time
from pathlib import Path
from supervisor.core.model import Known
from supervisor.sense.monitor import Monitor

scope, held, cached, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
held = bytearray(os.urandom(1024)) * (held // 1024)
with open(folder / "cached", "wb") as file:
    for _ in range(cached // 65536):
        file.write(bytes(65536))
    file.flush()
    os.fsync(file.fileno())
monitor = Monitor(scope)
while True:
    sample = monitor.sample(time.monotonic())
    row = {name: reading.value if isinstance(reading, Known) else reading.reason
           for name, reading in (("cpu", sample.cpu), ("memory", sample.memory))}
    print(json.dumps(row | {"limit": sample.memory_limit, "cores": sample.cores}), flush=True)
    time.sleep(0.1)
"""


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    """The senses of this very host."""
    senses = Monitor("host")
    yield senses
    senses.close()


@contextlib.contextmanager
def started(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, which is killed as a whole afterwards."""
    with subprocess.Popen(command, process_group=0, text=True, **options) as running:
        try:
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, 9)


def eventually(look: Callable[[], bool], within: float = 20.0) -> None:
    """Wait until `look` says yes."""
    end = time.monotonic() + within
    while not look():
        assert time.monotonic() < end, f"not seen within {within} s"
        time.sleep(0.1)


class TestHost:
    """This host, whatever else runs on it."""

    def test_cpu_agrees_with_psutil(self, monitor: Monitor) -> None:
        """Over the same two seconds, with one core of ours burning."""
        with started(sys.executable, "-c", BURN):
            monitor.sample(time.monotonic())
            before = psutil.cpu_times()
            time.sleep(2)
            cpu = monitor.sample(time.monotonic()).cpu
            after = psutil.cpu_times()
        idle = after.idle + after.iowait - before.idle - before.iowait
        spent = sum(after[:8]) - sum(before[:8])  # guest times are in user already
        assert isinstance(cpu, Known)
        if os.sched_getaffinity(0) == set(range(os.cpu_count() or 1)):
            assert cpu.value == pytest.approx(100 * (1 - idle / spent), abs=10)
        assert cpu.value > 60 / len(os.sched_getaffinity(0))

    def test_a_burning_core_is_seen(self) -> None:
        """A process bound to one core, beside another that burns it, reads it as busy within two seconds of samples."""
        core = min(os.sched_getaffinity(0))
        with started(sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\n{BURN}"):
            probe = f"import os, sys; os.sched_setaffinity(0, {{{core}}})\n{PROBE}"
            with started_probe(probe, "host", 0, 0) as rows:
                eventually(lambda: (row := next(rows))["cores"] == 1.0 and at_least(row["cpu"], 90))

    def test_memory_agrees_with_psutil(self, monitor: Monitor) -> None:
        """The same two figures of the kernel, within what others allocate meanwhile."""
        sample = monitor.sample(time.monotonic())
        theirs = psutil.virtual_memory()
        assert sample.memory_limit == theirs.total
        assert sample.memory_used == pytest.approx(theirs.total - theirs.available, abs=512 * MIB)
        assert (sample.swap_percent is None) == (psutil.swap_memory().total == 0)

    def test_a_sample_is_cheap(self, monitor: Monitor) -> None:
        """Ten a second must fit an idle daemon: far below a millisecond of CPU time each (0.04 measured, 0.2 cold)."""
        monitor.sample(time.monotonic())
        began = time.thread_time()
        for look in range(200):
            monitor.sample(time.monotonic() + look)  # a second apart, so that nothing is left out
        assert (time.thread_time() - began) / 200 < 0.001


def test_a_kernel_file_that_goes_away() -> None:
    """A kept descriptor of what is gone raises each time and is given back, so none is left behind."""
    before = len(os.listdir("/proc/self/fd"))
    with started("sleep", "60") as sleeping:
        file = KernelFile(Path(f"/proc/{sleeping.pid}/stat"))
        assert file.read() == file.read()
        sleeping.kill()
        sleeping.wait()
        for _ in range(3):
            with pytest.raises((ProcessLookupError, FileNotFoundError)):
                file.read()
    assert len(os.listdir("/proc/self/fd")) == before


class TestGroups:
    """Process groups of real processes."""

    # The leader starts a child that starts a grandchild and ends; the grandchild burns and holds 64 MiB.
    FAMILY = (
        "import subprocess, sys, time\n"
        "grandchild = 'held = bytearray(64 << 20)\\nwhile True: pass'\n"
        "child = f'import subprocess, sys; subprocess.Popen([sys.executable, \"-c\", {grandchild!r}])'\n"
        "subprocess.run([sys.executable, '-c', child])\n"
        "time.sleep(600)"
    )

    def test_grandchildren_count_and_a_dead_group_is_gone(self, monitor: Monitor) -> None:
        """CPU and memory of a process that was given to init; nothing once the group was killed."""

        def use() -> Mapping[str, WorkerUse]:
            return monitor.worker_use({"a": family.pid}, time.monotonic())

        with started(sys.executable, "-c", self.FAMILY) as family:
            eventually(lambda: bool(found := use()) and found["a"].memory_bytes > 64 * MIB)
            before = use()["a"].cpu_seconds
            eventually(lambda: use()["a"].cpu_seconds > before + 0.5)
            assert psutil.Process(family.pid).cpu_times().user < use()["a"].cpu_seconds
            os.killpg(family.pid, 9)
            family.wait()
            eventually(lambda: use() == {})

    def test_use_agrees_with_psutil(self, monitor: Monitor) -> None:
        """One process: the same CPU seconds, and its private memory (all of it but mapped files)."""
        with started(sys.executable, "-c", f"held = bytearray(32 << 20)\n{BURN}") as burning:
            time.sleep(1)
            use = monitor.worker_use({"a": burning.pid}, time.monotonic())["a"]
            theirs = psutil.Process(burning.pid)
            assert use.cpu_seconds == pytest.approx(sum(theirs.cpu_times()[:2]), abs=0.5)
            memory = theirs.memory_info()
            assert use.memory_bytes == pytest.approx(memory.rss - memory.shared, abs=4 * MIB)


class TestCgroups:
    """Real groups with real limits; skipped, with the reason, where this process may not make any."""

    def test_memory_limit(self) -> None:
        """96 MiB held and 64 MiB of files cached in a group of 256 MiB: only what is held counts, against the limit."""
        with limited({"memory": 256 * MIB}) as group, started_probe(PROBE, "cgroup", 96, 64, group) as rows:
            row = next(rows)
            assert row["limit"] == 256 * MIB
            assert 100 * 96 / 256 <= row["memory"] <= 100 * (96 + 40) / 256

    def test_cpu_quota(self) -> None:
        """Two burning processes in a group that may use a fifth of a core: it reads full, however idle the host is."""
        with limited({"cpu": 0.2}) as group, started_probe(PROBE, "cgroup", 0, 0, group) as rows:
            assert next(rows)["cores"] == pytest.approx(0.2)
            with started(sys.executable, "-c", BURN) as one, started(sys.executable, "-c", BURN) as other:
                for burning in (one, other):
                    join(group, burning.pid)
                eventually(lambda: at_least(next(rows)["cpu"], 85))

    def test_moved_out_of_a_group_that_is_removed(self) -> None:
        """The kernel answers ENODEV on the files of the old group; the new place is found within seconds."""
        with limited({"memory": 256 * MIB}) as group, started_probe(PROBE, "cgroup", 0, 0, group) as rows:
            assert next(rows)["limit"] == 256 * MIB
            leave(group)
            # Whatever limits the root: nothing on most hosts.
            eventually(lambda: (row := next(rows))["limit"] != 256 * MIB and "sense-" not in str(row["memory"]))


def at_least(value: float | str, wanted: float) -> bool:
    """The reading is known and that high."""
    return not isinstance(value, str) and value >= wanted


@contextlib.contextmanager
def started_probe(
    program: str, scope: str, held_mib: int, cached_mib: int, group: "Folders | None" = None
) -> Iterator[Iterator[dict[str, Any]]]:
    """The rows of a sampling process, which is put into `group` before it begins."""
    # The shell joins the groups and then becomes the program, so that not even its start is outside.
    joins = "".join(f"echo $$ > {folder}/cgroup.procs && " for folder in (group or {}).values())
    script = f'{joins}exec "$0" -c "$@"'
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_scratch())
        arguments = [program, scope, str(held_mib * MIB), str(cached_mib * MIB), str(folder)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        probe = stack.enter_context(
            started("sh", "-c", script, sys.executable, *arguments, stdout=subprocess.PIPE, env=environment)
        )
        assert probe.stdout is not None
        yield map(json.loads, probe.stdout)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder on a disk: files in a memory file system are no page cache."""
    folder = Path(f"/var/tmp/sense-{os.getpid()}-{time.monotonic_ns()}")
    folder.mkdir()
    try:
        yield folder
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


Folders = dict[str, Path]  # by controller


@contextlib.contextmanager
def limited(limits: Mapping[str, float]) -> Iterator[Folders]:
    """Groups of our own with these limits (memory in bytes, cpu in cores), beside ours, by controller."""
    groups = own_groups(Path("/proc"), Path("/sys/fs/cgroup"))
    made: Folders = {}
    name = f"sense-{os.getpid()}-{time.monotonic_ns()}"
    wanted = [*limits, "cpuacct"] if "cpu" in limits else list(limits)
    try:
        try:
            for controller in wanted:
                place = groups.get(controller) or groups.get("")
                if place is None or (place.version == 2 and controller == "cpuacct"):
                    continue
                made[controller] = folder = place.mount / name
                folder.mkdir(exist_ok=True)
                if place.version == 2 and controller not in (folder / "cgroup.controllers").read_text().split():
                    pytest.skip(f"{controller} is not handed down to the groups below {place.mount}")
            _set_limits(made, limits)
        except OSError as error:
            pytest.skip(f"no cgroup can be made here: {error}")
        if not made:
            pytest.skip("no cgroups are mounted here")
        yield made
    finally:
        for folder in made.values():
            leave({"": folder})


def _set_limits(folders: Folders, limits: Mapping[str, float]) -> None:
    for controller, limit in limits.items():
        folder = folders[controller]
        match controller, (folder / "cgroup.type").exists():
            case "memory", True:
                (folder / "memory.max").write_text(f"{limit:.0f}")
            case "memory", False:
                (folder / "memory.limit_in_bytes").write_text(f"{limit:.0f}")
            case _, True:
                (folder / "cpu.max").write_text(f"{limit * 100000:.0f} 100000")
            case _:
                (folder / "cpu.cfs_quota_us").write_text(f"{limit * 100000:.0f}")


def join(group: Folders, pid: int) -> None:
    """Put a process into the groups."""
    for folder in group.values():
        (folder / "cgroup.procs").write_text(str(pid))


def leave(group: Folders) -> None:
    """Move everybody out of the groups, to the root, and remove them."""
    for folder in group.values():
        if not folder.exists():
            continue

        def gone(folder: Path = folder) -> bool:
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (folder.parent / "cgroup.procs").write_text(pid)
            try:
                folder.rmdir()
            except OSError:
                return False
            return True

        eventually(gone)
