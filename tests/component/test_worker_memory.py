"""What is measured of a worker's memory, and when a measurement tells something."""

from dataclasses import dataclass, field

import pytest

from supervisor.core.part_memory import MIB, PartMemory
from supervisor.proxy.part import Part
from supervisor.proxy.worker_memory import MEASURE_EVERY, WorkerMemory


@dataclass
class Script:
    """The process 7, with what it holds."""

    now: int = 500 * MIB
    highest: int = 900 * MIB
    started: int = 0
    forgotten: list[int] = field(default_factory=list)

    def start(self, pid: int) -> int | None:
        """Counted."""
        self.started += 1
        return self.level(pid)

    def peak(self, pid: int) -> int | None:
        """As set."""
        return self.highest if pid == 7 else None

    def level(self, pid: int) -> int | None:
        """As set."""
        return self.now if pid == 7 else None

    def forget(self, pid: int) -> None:
        """Noted."""
        self.forgotten.append(pid)


def part(inputs: int, longest: int, at: float = 0.0) -> Part:
    """A part as far as measuring it goes."""
    made = Part.__new__(Part)
    made.inputs, made.longest, made.sent_at, made.trial = inputs, longest, at, None
    return made


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def worker(script: Script) -> WorkerMemory:
    """It looks at the process 7, which holds 500 MiB."""
    made = WorkerMemory(script)
    made.follow(7)
    return made


def test_a_part_alone_is_measured_above_the_level_after_loading(script: Script, worker: WorkerMemory) -> None:
    """Its peak, not its process's."""
    memory, one = PartMemory(), part(8, 1000)
    worker.measure(memory, one, 1, 8, 1000)
    assert worker.measured(one, True, memory, 32)
    assert 400 * MIB < (memory.predict(8, 1000) or 0) < 620 * MIB


def test_a_part_that_failed_tells_nothing(script: Script, worker: WorkerMemory) -> None:
    """And the next one is measured."""
    memory, one, two = PartMemory(), part(8, 1000), part(8, 1000)
    worker.measure(memory, one, 1, 8, 1000)
    assert not worker.measured(one, False, memory, 32)
    assert memory.predict(8, 1000) is None
    worker.measure(memory, two, 1, 8, 1000)
    assert worker.measured(two, True, memory, 32)


@pytest.mark.parametrize(
    ("inputs", "longest", "rows", "widest", "tells"),
    [
        (16, 1000, 32, 1000, True),
        (10, 1000, 32, 1000, False),  # three times its rows may be what took it
        (16, 1000, 20, 1200, False),  # padded to another's length
        (1, 1000, 2, 1000, False),  # alone it would have taken no mask
    ],
)
def test_overlapping_parts(
    script: Script, worker: WorkerMemory, inputs: int, longest: int, rows: int, widest: int, tells: bool
) -> None:
    """One that leaves beside others is measured if it is the longest and they at most double its batch."""
    memory, one = PartMemory(), part(inputs, longest)
    worker.measure(memory, one, 2, rows, widest)
    assert worker.measured(one, True, memory, 32) == tells


def test_a_longer_part_takes_over(script: Script, worker: WorkerMemory) -> None:
    """What leaves later may spoil the measurement of what is there; then it is measured itself if that tells more."""
    memory, one, two = PartMemory(), part(16, 1000), part(16, 2000)
    worker.measure(memory, one, 1, 16, 1000)
    worker.measure(memory, two, 2, 32, 2000)
    assert not worker.measured(one, True, memory, 32)
    assert worker.measured(two, True, memory, 32)
    assert script.started == 2


def test_a_pause_between_measurements(worker: WorkerMemory) -> None:
    """Where there is plenty, nobody asks for a tenth of a second after one; while one runs, always."""
    memory, one = PartMemory(), part(8, 1000, at=5.0)
    assert worker.concerned(5.0)
    worker.measure(memory, one, 1, 8, 1000)
    assert worker.concerned(5.01)
    worker.measured(one, True, memory, 32)
    assert not worker.concerned(5.01)
    assert worker.concerned(5.0 + MEASURE_EVERY)


def test_levels_between_samples(script: Script, worker: WorkerMemory) -> None:
    """What has grown of a reservation when a sample falls into a part, and what was kept after it."""
    assert worker.sampled(7, True, 0) == 0
    script.now = 700 * MIB
    assert worker.sampled(7, False, 300 * MIB) == 200 * MIB
    assert worker.sampled(7, False, 150 * MIB) == 150 * MIB, "no more than was reserved"
    assert worker.sampled(7, False, 300 * MIB) == 200 * MIB
    script.now = 560 * MIB
    assert worker.kept() == 60 * MIB
    assert worker.never_back == 60 * MIB
    assert worker.sampled(7, True, 0) == 0
    assert worker.kept() == 0


def test_another_process_is_followed(script: Script, worker: WorkerMemory) -> None:
    """The one of before is forgotten; orders that know no process change nothing."""
    worker.sampled(None, True, 0)
    assert worker.visible
    worker.sampled(8, True, 0)
    assert script.forgotten == [7]
    assert not worker.visible
    assert worker.kept() is None


def test_a_trial_is_measured_however_well_its_shape_is_known(worker: WorkerMemory) -> None:
    """It is sent for nothing else, and would be sent again."""
    memory = PartMemory()
    for _ in range(20):
        memory.note(1, 1000, 100 * MIB)
    for _ in range(10):
        one = part(1, 1000)
        one.trial = 1000
        worker.measure(memory, one, 1, 1, 1000)
        assert worker.measured(one, True, memory, 32)
