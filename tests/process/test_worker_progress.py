"""Whether a starting worker gets on: what counts as a move and what does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.workers.process import Activity, group_activity
from supervisor.workers.progress import Progress


def still_after(*looks: tuple[float, float, int, int]) -> float:
    """Seconds without progress after these looks (at, CPU seconds, I/O bytes, output bytes)."""
    progress = Progress(Activity(0, 0), 0, 0)
    for at, cpu, io_bytes, written in looks:
        progress.look(Activity(cpu, io_bytes), written, at)
    return progress.still_for(looks[-1][0])


@pytest.mark.parametrize(
    ("look", "moves"),
    [
        ((2, 0.0, 0, 0), False),
        ((2, 0.01, 0, 0), False),  # half a per cent of a core: it looks at its timers
        ((2, 0.02, 0, 0), True),
        ((2, 0.0, 1000, 0), False),  # wake-up pipes
        ((2, 0.0, 2000, 0), True),
        ((2, 0.0, 0, 1), True),
    ],
    ids=["nothing", "a little CPU", "CPU", "a little I/O", "I/O", "output"],
)
def test_what_counts_as_a_move(look: tuple[float, float, int, int], moves: bool) -> None:
    """Output of any length, a hundredth of a core, a kilobyte."""
    assert still_after(look) == (0 if moves else 2)


def test_standing_still_is_counted_from_the_last_move() -> None:
    """One move begins the count anew; small change does not add up to a move."""
    assert still_after((2, 1, 0, 0), (4, 1.01, 0, 0), (6, 1.02, 500, 0), (8, 1.03, 1000, 0)) == 6
    assert still_after((2, 1, 0, 0), (4, 1, 0, 0), (6, 1, 9000, 0)) == 0


def test_a_lost_member_is_a_move() -> None:
    """A sum that falls is another process's end, not a rest."""
    assert still_after((2, 5, 100_000, 0), (4, 1, 0, 0)) == 0


def test_what_it_does_in_words() -> None:
    """Its own words while it moves, else its CPU and I/O; and when nothing has moved for a while, that."""
    progress = Progress(Activity(0, 0), 0, 0)
    progress.look(Activity(1.8, 4 * 1024 * 1024), 0, 2)
    assert progress.in_words(2) == "0.9 cores, 2.00 MiB/s read and written"
    assert progress.in_words(2, "downloading x 3 %") == "downloading x 3 %"
    progress.look(Activity(1.8, 4 * 1024 * 1024), 0, 14)
    assert progress.in_words(14) == "nothing has moved for 12 s"
    assert progress.in_words(14, "downloading x 3 %") == "downloading x 3 %, nothing has moved for 12 s"


def test_two_looks_at_once_change_nothing() -> None:
    """No division by a time that did not pass."""
    assert still_after((2, 0, 0, 0), (2, 0, 0, 0)) == 2


MAPPED = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
os.read(fd, 64 << 20)  # more by calls than from the disk, as by imports
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
print("begin", flush=True)
sys.stdin.readline()
pages = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
sum(pages[n] for n in range(0, len(pages), 4096))
print("end", flush=True)
sys.stdin.readline()
"""


def from_disk(pid: int) -> int:
    """Bytes that the kernel read from a disk for a process."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def test_weights_that_are_mapped_are_progress(tmp_path: Path) -> None:
    """A file that is read through memory, as weights are, without any call, counts like one that is read by calls."""
    file = tmp_path / "weights"
    with file.open("wb") as output:
        output.write(os.urandom(16 << 20))
        os.fsync(output.fileno())
    with subprocess.Popen(
        [sys.executable, "-ESc", MAPPED, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        before, disk_before = group_activity(process.pid).io_bytes, from_disk(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        moved, read = group_activity(process.pid).io_bytes - before, from_disk(process.pid) - disk_before
        process.stdin.close()
    if not read:
        pytest.skip("this folder is on no disk, or its pages stay in the cache: nothing is read")
    assert moved >= read
