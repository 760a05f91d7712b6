"""From an assessment to orders: gates, windows, slow start, trickle."""

from collections.abc import Mapping

from supervisor.core.assessment import Assessment, SignalState
from supervisor.core.model import ModelState, ModelView, Orders, Rung, Signal
from supervisor.core.plan import SLOW_START, TRICKLE_AFTER, Planner, hold_target
from supervisor.core.policy import BatchPolicy

BATCH = BatchPolicy(minimum=2, maximum=32, initial=16)
CPU_MODEL = ModelView("cpu-model", ModelState.READY)
GPU_MODEL = ModelView("gpu-model", ModelState.READY, device="GPU-a")
OTHER_GPU_MODEL = ModelView("other-gpu-model", ModelState.READY, device="GPU-b")


def state(signal: Signal, rung: Rung, percent: float | None, paused_since: float | None, drilled: bool) -> SignalState:
    """One signal's state; what the planner doesn't read is left empty."""
    missing = "gone" if percent is None else None
    return SignalState(signal, percent, rung, 0.0, None, drilled, missing, paused_since, 85.0)


def assessed(
    at: float = 0.0,
    devices: Mapping[str, Rung] | None = None,
    drilled: bool = False,
    paused_since: float | None = None,
    **rungs: Rung,
) -> Assessment:
    """An assessment in which the named signals stand on these rungs."""
    states = {
        Signal(name): state(Signal(name), rung, 50.0, paused_since if rung >= Rung.PAUSE else None, drilled)
        for name, rung in rungs.items()
    }
    highest = max(rungs.values(), default=Rung.NORMAL)
    decider = next((Signal(name) for name, rung in rungs.items() if rung is highest and rung), None)
    return Assessment(at, highest, highest, decider, states, devices or {}, ())


def orders(planner: Planner, assessment: Assessment, now: float = 0.0, operator: bool = False) -> Orders:
    """The orders for three models, one on the CPU and two on GPUs, at batch size 16 and a hold of 83 %."""
    models = [CPU_MODEL, GPU_MODEL, OTHER_GPU_MODEL]
    return planner.orders(assessment, models, BATCH, 16, operator_paused=operator, now=now, cpu_hold=83.0)


def test_below_shrink_everything_flows() -> None:
    """At normal and warn all gates are open, with up to four parts in the window and the full batch size."""
    for rung in (Rung.NORMAL, Rung.WARN):
        given = orders(Planner(), assessed(cpu=rung))
        assert not given.paused
        assert {(lane.open, lane.batch_size, lane.window) for lane in given.lanes.values()} == {(True, 16, 4)}


def test_shrink_leaves_one_part_in_the_window() -> None:
    """From shrink on a worker has one part at a time."""
    given = orders(Planner(), assessed(memory=Rung.SHRINK))
    assert {(lane.open, lane.window) for lane in given.lanes.values()} == {(True, 1)}


def test_parts_on_the_cpu_are_short_and_shorter_from_shrink_on() -> None:
    """0.2 s a part, 0.1 s from shrink on; on a GPU the batch size alone bounds them, whatever the rung."""
    for rung, seconds in ((Rung.NORMAL, 0.2), (Rung.WARN, 0.2), (Rung.SHRINK, 0.1), (Rung.PAUSE, 0.1)):
        lanes = orders(Planner(), assessed(memory=rung)).lanes
        assert [lane.part_seconds for lane in lanes.values()] == [seconds, None, None]


def test_the_hold_is_lowered_while_the_cpu_is_in_shrink() -> None:
    """Shrink is left below 80 %, so the hold aims at 78 % from shrink on, and at what was chosen below it."""
    for rung, target in ((Rung.NORMAL, 83.0), (Rung.WARN, 83.0), (Rung.SHRINK, 78.0), (Rung.PAUSE, 78.0)):
        assert orders(Planner(), assessed(cpu=rung)).cpu_hold == target


def test_the_hold_is_the_cpus_own() -> None:
    """Memory in shrink leaves the hold where it is, and a hold below what shrink asks for stays there too."""
    assert orders(Planner(), assessed(cpu=Rung.WARN, memory=Rung.SHRINK)).cpu_hold == 83.0
    assert hold_target(assessed(cpu=Rung.SHRINK), 50.0) == 50.0


def test_the_hold_keeps_off_when_it_is_off() -> None:
    """Without a target there is none on any rung; without a shrink threshold the target stays as chosen."""
    assert hold_target(assessed(cpu=Rung.PAUSE), None) is None
    paused = SignalState(Signal.CPU, 95.0, Rung.PAUSE, 0.0, None, False, None, 0.0, None)
    without = Assessment(0.0, Rung.PAUSE, Rung.PAUSE, Signal.CPU, {Signal.CPU: paused}, {}, ())
    assert hold_target(without, 83.0) == 83.0


def test_pause_closes_every_gate() -> None:
    """At pause and unload of CPU or memory nothing new leaves."""
    for rung in (Rung.PAUSE, Rung.UNLOAD):
        given = orders(Planner(), assessed(memory=rung))
        assert given.paused
        assert not any(lane.open for lane in given.lanes.values())
        assert given.reason == "memory 50.0 %"


def test_a_gpus_memory_stops_only_its_models() -> None:
    """GPU memory at pause closes the gate of the models on that device; the host is not paused."""
    given = orders(Planner(), assessed(gpu_memory=Rung.PAUSE, devices={"GPU-a": Rung.PAUSE, "GPU-b": Rung.WARN}))
    assert not given.paused
    assert {name: lane.open for name, lane in given.lanes.items()} == {
        "cpu-model": True,
        "gpu-model": False,
        "other-gpu-model": True,
    }


def test_a_drill_without_gpu_stands_for_all_gpus() -> None:
    """The unnamed device of a drill acts on every model that is not on the CPU."""
    given = orders(Planner(), assessed(gpu_memory=Rung.PAUSE, devices={"": Rung.PAUSE}, drilled=True))
    assert [lane.open for lane in given.lanes.values()] == [True, False, False]


def test_all_models_stopped_is_a_pause() -> None:
    """When the only models there are stand still, status says paused."""
    given = Planner().orders(
        assessed(gpu_memory=Rung.PAUSE, devices={"GPU-a": Rung.PAUSE}),
        [GPU_MODEL],
        BATCH,
        16,
        operator_paused=False,
        now=0,
    )
    assert given.paused


def test_an_operators_pause_wins_and_never_trickles() -> None:
    """An operator's pause closes all gates whatever the rung, gives itself as the reason, and lets nothing through."""
    planner = Planner()
    assert orders(planner, assessed(), operator=True).reason == "operator"
    later = orders(planner, assessed(memory=Rung.PAUSE, paused_since=0.0), now=TRICKLE_AFTER + 1, operator=True)
    assert later.paused
    assert not later.trickle


def test_a_long_pause_trickles() -> None:
    """Not yet before ten seconds, then one smallest part for each time orders are given."""
    planner = Planner()
    paused = assessed(cpu=Rung.PAUSE, paused_since=0.0)
    assert not orders(planner, paused, now=TRICKLE_AFTER - 0.1).trickle
    given = orders(planner, paused, now=TRICKLE_AFTER)
    assert given.trickle
    assert given.trickle_size == BATCH.minimum


def test_long_parts_trickle_with_gaps_on_the_cpus_account() -> None:
    """Parts of 4 s leave 6 s apart, or they alone would keep the CPU full and the pause up; memory does not mind."""

    def trickled(**rungs: Rung) -> list[int]:
        planner = Planner()
        paused = assessed(paused_since=0.0, **rungs)
        orders = [
            planner.orders(paused, [CPU_MODEL], BATCH, 16, operator_paused=False, now=float(now), longest_part=4.0)
            for now in range(10, 23)
        ]
        return [now for now, given in enumerate(orders, 10) if given.trickle]

    assert trickled(cpu=Rung.PAUSE) == [10, 16, 22]
    assert trickled(memory=Rung.PAUSE) == list(range(10, 23))
    assert trickled(cpu=Rung.PAUSE, memory=Rung.PAUSE) == list(range(10, 23))


def test_a_drilled_pause_never_trickles() -> None:
    """A drill holds everything, however long."""
    paused = assessed(cpu=Rung.PAUSE, paused_since=0.0, drilled=True)
    assert not orders(Planner(), paused, now=100.0).trickle


def test_resume_starts_slowly() -> None:
    """A reopened gate works with one smallest part and grows to the full batch over ten seconds."""
    planner = Planner()
    orders(planner, assessed(cpu=Rung.PAUSE), now=0.0)
    seen = []
    for tick in range(13):
        lane = orders(planner, assessed(), now=1.0 + tick).lanes["cpu-model"]
        assert lane.open
        seen.append((lane.batch_size, lane.window))
    assert seen[0] == (BATCH.minimum, 1)
    sizes = [size for size, _ in seen]
    assert sizes == sorted(sizes)
    assert seen[int(SLOW_START) - 1] == (14, 1)
    assert seen[int(SLOW_START)] == (16, 4)


def test_slow_start_begins_anew_with_each_pause() -> None:
    """A gate that closes during its slow start begins it again."""
    planner = Planner()
    orders(planner, assessed(cpu=Rung.PAUSE), now=0.0)
    orders(planner, assessed(), now=1.0)
    orders(planner, assessed(cpu=Rung.PAUSE), now=5.0)
    assert orders(planner, assessed(), now=9.0).lanes["cpu-model"].batch_size == BATCH.minimum


def test_the_same_world_gives_the_same_orders() -> None:
    """Planning an unchanged world again changes nothing."""
    planner = Planner()
    paused = assessed(memory=Rung.PAUSE, paused_since=0.0)
    assert orders(planner, paused, now=5.0) == orders(planner, paused, now=5.0)


def test_an_unreadable_signal_is_named() -> None:
    """The reason tells a blind sensor from a high reading."""
    blind = Assessment(
        0.0,
        Rung.SHRINK,
        Rung.SHRINK,
        Signal.MEMORY,
        {Signal.MEMORY: state(Signal.MEMORY, Rung.SHRINK, None, None, False)},
        {},
        (),
    )
    assert orders(Planner(), blind).reason == "memory unreadable: gone"
