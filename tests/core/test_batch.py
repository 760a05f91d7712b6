"""The batch size: the seed's steps and cooldown, what lowers it, what lets it grow, what has no say."""

import itertools

import pytest

from supervisor.core.assessment import Assessment, SignalState
from supervisor.core.batch import Adjustment, BatchSizeController
from supervisor.core.model import Rung, Signal
from supervisor.core.policy import BatchPolicy, Thresholds
from tests.support.timeline import DEFAULTS, Timeline


def state(
    signal: Signal, percent: float | None, rung: Rung | None = Rung.NORMAL, shrink: float | None = 85
) -> SignalState:
    """A signal as an assessment has it."""
    return SignalState(signal, percent, rung, 0.0, None, False, None, None, shrink)


def assessed(*states: SignalState) -> Assessment:
    """An assessment of these signals."""
    rung = max((s.rung for s in states if s.rung is not None), default=Rung.NORMAL)
    return Assessment(0.0, rung, rung, None, {s.signal: s for s in states}, {}, ())


def host(
    cpu: float = 75.0, memory: float = 75.0, cpu_rung: Rung = Rung.NORMAL, memory_rung: Rung = Rung.NORMAL
) -> Assessment:
    """An assessment of CPU and memory."""
    return assessed(state(Signal.CPU, cpu, cpu_rung), state(Signal.MEMORY, memory, memory_rung))


ROOMY, BETWEEN = host(50, 50), host(75, 75)
SHRUNK = host(cpu=87, cpu_rung=Rung.SHRINK)


def sizes(controller: BatchSizeController, assessment: Assessment, seconds: int, start: float = 0.0) -> list[int]:
    """The sizes that a second-by-second run steps through."""
    found = [controller.size]
    for second in range(seconds):
        controller.adjust(assessment, False, start + second)
        if controller.size != found[-1]:
            found.append(controller.size)
    return found


def test_drill_of_cpu_87_steps_by_two_every_five_seconds() -> None:
    """16, 14, 12 …: the first step with the entry of shrink, the others a cooldown apart (the seed's figures)."""
    story = Timeline().cpu(75).at(10.05).drill(60, cpu=87).at(27)
    assert [step.size_after for _, step in story.steps] == [14, 12, 10, 8]
    assert [at for at, _ in story.steps] == pytest.approx([11.1, 16.1, 21.1, 26.1])
    step = story.steps[0][1]
    assert step == Adjustment(16, 14, Signal.CPU, pytest.approx(87), 85)


def test_size_stays_within_its_limits() -> None:
    """Never below the minimum, never above the maximum, not by a part of a step either."""
    assert sizes(BatchSizeController(BatchPolicy(minimum=3, initial=8)), SHRUNK, 60) == [8, 6, 4, 3]
    assert sizes(BatchSizeController(BatchPolicy(maximum=19, initial=14)), ROOMY, 60) == [14, 16, 18, 19]


def test_never_two_steps_within_the_cooldown() -> None:
    """Neither down after up nor up after down comes sooner than the cooldown."""
    controller = BatchSizeController(BatchPolicy(cooldown=7.0))
    moments = [t / 2 for t in range(200) if controller.adjust(SHRUNK if t % 9 < 4 else ROOMY, False, t / 2)]
    assert len(moments) > 3
    assert all(b - a >= 7 for a, b in itertools.pairwise(moments))


def test_cpu_lowers_only_on_its_rung() -> None:
    """A single CPU reading above 85 is noise: the rung, which has its entry time, is what counts (edge case 35)."""
    controller = BatchSizeController(BatchPolicy())
    assert controller.adjust(host(cpu=99), False, 100.0) is None
    assert controller.adjust(host(cpu=86, cpu_rung=Rung.WARN), False, 100.0) is None
    assert controller.adjust(SHRUNK, False, 100.0) is not None


@pytest.mark.parametrize("signal", [Signal.MEMORY, Signal.GPU_MEMORY])
def test_memory_lowers_by_its_level(signal: Signal) -> None:
    """Memory above `decrease_threshold` lowers the batch, whatever its rung; at it, not."""
    controller = BatchSizeController(BatchPolicy(decrease_threshold=0.80))
    assert controller.adjust(assessed(state(signal, 80, Rung.WARN)), False, 0.0) is None
    step = controller.adjust(assessed(state(signal, 80.1, Rung.WARN)), False, 0.0)
    assert step == Adjustment(16, 14, signal, 80.1, 80)


def test_memory_lowers_by_its_rung_too() -> None:
    """Shrink for exhaustion at 75 %, or with a shrink threshold below `decrease_threshold`, steps down as well."""
    controller = BatchSizeController(BatchPolicy(decrease_threshold=0.95))
    assert controller.adjust(host(memory=86, memory_rung=Rung.SHRINK), False, 0.0) is not None
    controller = BatchSizeController(BatchPolicy())
    assert controller.adjust(host(memory=75, memory_rung=Rung.SHRINK), False, 0.0) is not None


def test_memory_that_stands_between_leaving_and_entering_holds() -> None:
    """At 82 % on shrink, which is left below 80, the size stays: it would step to 1 for others' steady memory."""
    controller = BatchSizeController(BatchPolicy())
    for at in range(0, 100, 5):
        assert controller.adjust(host(memory=82, memory_rung=Rung.SHRINK), False, float(at)) is None
    assert controller.adjust(host(memory=85.5, memory_rung=Rung.SHRINK), False, 100.0) is not None


def test_signal_on_its_way_back_lowers_no_more() -> None:
    """A rung that is still held while the reading is far below does not step on."""
    controller = BatchSizeController(BatchPolicy())
    assert controller.adjust(host(cpu=30, cpu_rung=Rung.SHRINK), False, 0.0) is None
    assert controller.adjust(host(cpu=70, cpu_rung=Rung.SHRINK), False, 0.0) is not None


def test_blind_signal_lowers() -> None:
    """A blind signal on shrink lowers the batch: what is not known is not taken for room."""
    controller = BatchSizeController(BatchPolicy())
    step = controller.adjust(assessed(state(Signal.MEMORY, None, Rung.SHRINK), state(Signal.CPU, 20)), False, 0.0)
    assert step == Adjustment(16, 14, Signal.MEMORY, None, 85)


def test_signal_missing_for_a_moment_blocks_growth_only() -> None:
    """A reading that fails is neither room nor pressure."""
    controller = BatchSizeController(BatchPolicy())
    missing = assessed(state(Signal.MEMORY, None, Rung.NORMAL), state(Signal.CPU, 20))
    assert controller.adjust(missing, False, 0.0) is None
    assert controller.adjust(ROOMY, False, 0.0) is not None


def test_grows_while_all_are_below_the_increase_threshold() -> None:
    """All below 70 %: up by a step; one at 70: not."""
    controller = BatchSizeController(BatchPolicy())
    assert controller.adjust(host(cpu=69.9, memory=70), False, 0.0) is None
    assert controller.adjust(host(cpu=69.9, memory=60), False, 0.0) == Adjustment(16, 18, Signal.CPU, 69.9, 70)


def test_grows_after_thirty_calm_seconds_between_the_thresholds() -> None:
    """CPU held at 83 is never below 70: after 30 s with every rung below shrink the batch grows all the same."""
    controller = BatchSizeController(BatchPolicy())
    held = host(cpu=83, memory=60, cpu_rung=Rung.WARN)
    assert sizes(controller, SHRUNK, 12) == [16, 14, 12, 10]
    assert sizes(controller, held, 30, start=12) == [10]
    assert sizes(controller, held, 20, start=42) == [10, 12, 14, 16, 18]


def test_calm_begins_anew_after_each_shrink() -> None:
    """One moment of shrink in 30 s is enough to keep the batch from growing that way."""
    controller = BatchSizeController(BatchPolicy(minimum=16))
    for second in range(200):
        shrunk = second % 25 == 24
        assert controller.adjust(SHRUNK if shrunk else BETWEEN, False, float(second)) is None


def test_no_step_while_the_gate_is_closed() -> None:
    """A closed gate freezes the size: what is measured then says nothing about batches."""
    controller = BatchSizeController(BatchPolicy())
    for second in range(60):
        assert controller.adjust(host(cpu=99, cpu_rung=Rung.PAUSE), True, float(second)) is None
        assert controller.adjust(ROOMY, True, float(second)) is None
    assert controller.size == 16


def test_pause_by_the_ladder_leaves_the_size_alone() -> None:
    """Through a pause the size is what it was before."""
    story = Timeline().cpu(75).memory(75).at(10.05).memory(92).at(40)
    assert not story.steps


def test_signals_without_a_shrink_threshold_have_no_say() -> None:
    """A GPU at 100 % that only warns neither lowers the batch nor keeps it from growing."""
    controller = BatchSizeController(BatchPolicy())
    gpu = state(Signal.GPU, 100, Rung.WARN, shrink=None)
    assert controller.adjust(assessed(gpu, state(Signal.CPU, 20)), False, 0.0) == Adjustment(16, 18, Signal.CPU, 20, 70)
    blind = state(Signal.GPU, None, Rung.WARN, shrink=None)
    assert controller.adjust(assessed(blind, state(Signal.CPU, 20)), False, 5.0) is not None
    thresholds = {**DEFAULTS, Signal.MEMORY: Thresholds(shrink=None)}
    story = Timeline(thresholds).memory(88).at(30)
    assert story.batch.size > 16


def test_signal_that_was_never_known_has_no_say() -> None:
    """Without a GPU the batch grows; with nothing known at all it stays."""
    controller = BatchSizeController(BatchPolicy())
    unknown = state(Signal.GPU_MEMORY, None, None)
    assert controller.adjust(assessed(unknown), False, 0.0) is None
    assert controller.adjust(assessed(unknown, state(Signal.CPU, 20)), False, 0.0) is not None


def test_idle_host_grows_back_to_the_initial_size_and_no_further() -> None:
    """Without work there is nothing that larger batches could prove themselves on."""
    controller = BatchSizeController(BatchPolicy())
    assert controller.adjust(ROOMY, False, 0.0, working=False) is None
    assert sizes(controller, SHRUNK, 12, start=1.0) == [16, 14, 12, 10]
    controller.set_policy(BatchPolicy(step=4))
    for second in range(20, 60):
        controller.adjust(ROOMY, False, float(second), working=False)
    assert controller.size == 16
    assert controller.adjust(ROOMY, False, 60.0, working=True) is not None
    assert controller.adjust(ROOMY, False, 70.0, working=False) is None
    assert controller.size == 20, "what work has proved is kept"


def test_highest_rung_is_named() -> None:
    """Of two signals that lower the batch the one further up is told."""
    controller = BatchSizeController(BatchPolicy())
    step = controller.adjust(host(86, 96, Rung.SHRINK, Rung.UNLOAD), False, 0.0)
    assert step is not None
    assert step.signal is Signal.MEMORY


def test_reset_and_statistics_as_in_the_seed() -> None:
    """`get_stats` of the seed; reset goes back to the initial size and forgets the count and the cooldown."""
    controller = BatchSizeController(BatchPolicy())
    assert sizes(controller, SHRUNK, 7) == [16, 14, 12]
    assert controller.stats() == {
        "current_batch_size": 12,
        "adjustment_count": 2,
        "min_batch_size": 1,
        "max_batch_size": 32,
    }
    controller.reset()
    assert controller.stats()["current_batch_size"] == 16
    assert controller.stats()["adjustment_count"] == controller.adjustments == 0
    assert controller.adjust(SHRUNK, False, 7.0) is not None


def test_new_limits_keep_the_size_as_far_as_they_allow() -> None:
    """A reload with other limits cuts the size to them and touches nothing else."""
    controller = BatchSizeController(BatchPolicy())
    assert sizes(controller, SHRUNK, 2) == [16, 14]
    controller.set_policy(BatchPolicy(maximum=64))
    assert (controller.size, controller.adjustments) == (14, 1)
    controller.set_policy(BatchPolicy(maximum=8, initial=4))
    assert controller.size == 8
    assert controller.adjust(ROOMY, False, 3.0) is None, "the cooldown goes on"
    controller.set_policy(BatchPolicy(minimum=20))
    assert controller.size == 20
