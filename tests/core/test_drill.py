"""Drills replace the readings of named signals, everywhere those are, for a time, and nothing else."""

from supervisor.core.drill import Drills
from supervisor.core.model import Known, Missing, Sample, Signal
from tests.support.timeline import gpu

NONE = Missing("no NVML", 5.0)
SAMPLE = Sample(at=5.0, cpu=Known(20.0, 5.0), memory=Known(40.0, 5.0), gpu=NONE, gpu_memory=NONE, memory_limit=100)


def test_no_drill_leaves_the_sample_as_it_is() -> None:
    """Without a drill the very same sample goes on."""
    assert Drills().apply(SAMPLE, 5.0) == (SAMPLE, frozenset())


def test_drill_replaces_the_named_readings_and_nothing_else() -> None:
    """Only the drilled signal's reading changes, and it is as old as the sample."""
    drills = Drills()
    drills.set({Signal.MEMORY: 96.0}, until=10.0)
    sample, drilled = drills.apply(SAMPLE, 5.0)
    assert drilled == {Signal.MEMORY}
    assert sample.memory == Known(96.0, 5.0)
    assert (sample.cpu, sample.gpu, sample.gpu_memory) == (SAMPLE.cpu, SAMPLE.gpu, SAMPLE.gpu_memory)
    assert sample.memory_limit == 100


def test_drill_works_on_a_signal_that_cannot_be_read() -> None:
    """Thresholds for a GPU can be rehearsed where none is."""
    drills = Drills()
    drills.set({Signal.GPU_MEMORY: 92.0}, until=10.0)
    sample, _ = drills.apply(SAMPLE, 5.0)
    assert sample.gpu_memory == Known(92.0, 5.0)
    assert sample.gpu == NONE


def test_drilled_gpu_memory_is_that_of_every_gpu() -> None:
    """All listed GPUs show the drilled figure, and keep their real utilisation."""
    drills = Drills()
    drills.set({Signal.GPU_MEMORY: 92.0}, until=10.0)
    two = (gpu("a", Known(1.0, 5.0), Known(10.0, 5.0)), gpu("b", Known(2.0, 5.0), Missing("lost", 5.0)))
    sample, _ = drills.apply(Sample(5.0, SAMPLE.cpu, SAMPLE.memory, Known(2.0, 5.0), Known(10.0, 5.0), two), 5.0)
    assert [device.memory for device in sample.devices] == [Known(92.0, 5.0)] * 2
    assert [device.utilisation for device in sample.devices] == [Known(1.0, 5.0), Known(2.0, 5.0)]


def test_each_drill_ends_at_its_own_time() -> None:
    """A second drill leaves the first as it is; each signal is real again from its end on."""
    drills = Drills()
    drills.set({Signal.CPU: 87.0}, until=10.0)
    drills.set({Signal.MEMORY: 96.0}, until=20.0)
    assert drills.active(9.9) == {Signal.CPU: 87.0, Signal.MEMORY: 96.0}
    assert drills.active(10.0) == {Signal.MEMORY: 96.0}
    assert drills.apply(SAMPLE, 20.0) == (SAMPLE, frozenset())


def test_drill_again_replaces_the_value_and_the_end() -> None:
    """The last word about a signal counts."""
    drills = Drills()
    drills.set({Signal.CPU: 92.0}, until=60.0)
    drills.set({Signal.CPU: 82.0}, until=10.0)
    assert drills.active(5.0) == {Signal.CPU: 82.0}
    assert drills.active(11.0) == {}


def test_clear_ends_every_drill() -> None:
    """After `clear` all is real."""
    drills = Drills()
    drills.set({Signal.CPU: 92.0, Signal.MEMORY: 92.0}, until=60.0)
    drills.clear()
    assert drills.apply(SAMPLE, 5.0) == (SAMPLE, frozenset())
