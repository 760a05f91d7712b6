"""The peak of a process, measured on real ones: memory that came and went is seen, and only since the last start."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.sense.peak import PeakMemory

MIB = 1 << 20
# Takes as many MiB as each line says, gives them back at once, and says so.
BREATHER = "import sys\nfor line in sys.stdin:\n    b'x' * (int(line) << 20)\n    print('done', flush=True)"

Breathe = Callable[[int], None]


@pytest.fixture
def breather() -> Iterator[tuple[int, Breathe]]:
    """A process, and how to have it take and give back so many MiB."""
    with subprocess.Popen(
        [sys.executable, "-c", BREATHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def breathe(mib: int) -> None:
            process.stdin.write(f"{mib}\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            process.stdout.readline()  # type: ignore[union-attr]

        breathe(1)
        try:
            yield process.pid, breathe
        finally:
            process.kill()


@pytest.fixture
def memory() -> Iterator[PeakMemory]:
    """Peaks by the real /proc."""
    peaks = PeakMemory()
    yield peaks
    peaks.close()


def test_peak_since_the_start(breather: tuple[int, Breathe], memory: PeakMemory) -> None:
    """What was taken and given back in between is seen; after the next start it is forgotten."""
    pid, breathe = breather
    before = memory.start(pid)
    assert before is not None
    breathe(64)
    assert memory.peak(pid) == pytest.approx(before + 64 * MIB, abs=6 * MIB)
    assert memory.level(pid) == pytest.approx(before, abs=6 * MIB)
    memory.start(pid)
    breathe(8)
    assert memory.peak(pid) == pytest.approx(before + 8 * MIB, abs=6 * MIB)


def test_without_the_right_to_set_it_back_only_records_are_seen(breather: tuple[int, Breathe], tmp_path: Path) -> None:
    """Where clear_refs is not to be written, a new record is a peak and anything less shows what is held now."""
    pid, breathe = breather
    (tmp_path / str(pid)).mkdir()
    (tmp_path / str(pid) / "status").symlink_to(f"/proc/{pid}/status")
    memory = PeakMemory(tmp_path)
    before = memory.start(pid)
    assert before is not None
    breathe(64)
    assert memory.peak(pid) == pytest.approx(before + 64 * MIB, abs=6 * MIB)
    memory.start(pid)
    breathe(32)
    assert memory.peak(pid) == pytest.approx(before, abs=6 * MIB)
    memory.close()


def test_process_that_is_gone(memory: PeakMemory) -> None:
    """None, whatever is asked, and no descriptor is left behind."""
    before = len(os.listdir("/proc/self/fd"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert memory.peak(process.pid) is None
        assert memory.start(process.pid) is not None
        process.kill()
        process.wait()
        assert memory.peak(process.pid) is None
        assert memory.start(process.pid) is None
        assert memory.level(process.pid) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_nonsense_is_none(tmp_path: Path) -> None:
    """A status without sizes, as a kernel thread or a zombie has, gives nothing."""
    (tmp_path / "7").mkdir()
    for text in ("", "Name:\tx\n", "VmRSS:\tmany kB\nVmHWM:\t9 kB\n"):
        (tmp_path / "7" / "status").write_text(text)
        memory = PeakMemory(tmp_path)
        assert memory.start(7) is None
        assert memory.level(7) is None
        memory.close()
