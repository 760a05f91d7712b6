"""Models in memory under the real ladder: the simulated host's readings, holds and dwell times decide the rung."""

from collections.abc import Callable

from supervisor.core.assessment import Assessment
from supervisor.core.model import ModelState, Rung, Signal
from supervisor.core.plan import host_rung
from supervisor.core.policy import ResidencyPolicy
from supervisor.core.residency import Load, ModelMemoryManager, Pressure, Step, Unload
from tests.support.simulated_host import SimModel, SimulatedHost
from tests.support.timeline import DEFAULTS, GIB


class Keeper:
    """The manager as an actor in the simulated host: does at once what the manager says, and remembers it."""

    def __init__(self, **policy: float) -> None:
        self.manager = ModelMemoryManager(ResidencyPolicy(**({"max_models": 9, "inactive_timeout": 0.0} | policy)))
        self.steps: list[tuple[float, Step]] = []
        self.rungs: list[tuple[float, Rung]] = []

    def __call__(self, host: SimulatedHost, seen: Assessment) -> None:
        """One look of the manager."""
        memory = seen.signals[Signal.MEMORY]
        self.rungs.append((host.now, memory.rung or Rung.NORMAL))
        pressure = Pressure(
            memory_used=int(host.used()),
            memory_limit=host.memory_limit,
            fit_percent=DEFAULTS[Signal.MEMORY].shrink,
            last_fit_percent=DEFAULTS[Signal.MEMORY].unload,
            cpu=seen.signals[Signal.CPU].rung or Rung.NORMAL,
            memory=memory.rung or Rung.NORMAL,
            gate_closed=host_rung(seen) >= Rung.PAUSE,
            ladder_quiet=seen.rung < Rung.WARN,
            drilled=frozenset({Signal.MEMORY}) if memory.drilled else frozenset(),
        )
        for step in self.manager.steps(host.views(), pressure, host.now):
            self.steps.append((host.now, step))
            if isinstance(step, Load):
                host.load(step.model)
            elif isinstance(step, Unload):
                host.unload(step.model)

    def unloads(self) -> list[tuple[str, str]]:
        """Which models were unloaded, and why."""
        return [(step.model, step.cause.value) for _, step in self.steps if isinstance(step, Unload)]

    def highest(self, start: float = 0.0) -> Rung:
        """The highest rung of memory since a moment; that of the CPU, which these models saturate, is left out."""
        return max(rung for at, rung in self.rungs if at >= start)


def never(_now: float) -> bool:
    """Nobody asks for it."""
    return False


def after(seconds: float) -> Callable[[float], bool]:
    """It is asked for from then on."""
    return lambda now: now >= seconds


def test_loads_of_our_own_do_not_pause_us() -> None:
    """Five models of 2 GiB, asked for at once on a host of 16 with 4 taken, come up without a pause (edge case 38)."""
    models = [
        SimModel(f"m{i}", base=2 * GIB, load_seconds=5, state=ModelState.STOPPED, demand=after(20)) for i in range(5)
    ]
    keeper = Keeper()
    SimulatedHost(models=models, foreign_memory=lambda t: 3.0 * GIB, actors=[keeper]).run(200)
    assert sum(model.state is ModelState.READY for model in models) == 5
    assert keeper.unloads() == []
    assert keeper.highest() < Rung.PAUSE


def test_drill_of_memory_unloads_the_cold_and_only_those() -> None:
    """Memory 96 for 20 s: the two cold models go, the busy one stays; one that is asked for then is loaded again."""
    busy, cold, colder = SimModel("busy"), SimModel("cold", demand=after(60)), SimModel("colder", demand=never)
    keeper = Keeper()
    host = SimulatedHost(models=[busy, cold, colder], actors=[keeper]).run(30)
    host.drills.set({Signal.MEMORY: 96.0}, until=50.0)
    host.run(20)
    assert sorted(keeper.unloads()) == [("cold", "memory"), ("colder", "memory")]
    assert busy.state is ModelState.READY
    host.run(80)
    assert cold.state is ModelState.READY
    assert colder.state is ModelState.STOPPED
    assert not keeper.manager.external_pressure


def test_foreign_memory_for_an_hour_takes_nothing_of_ours_in_sequence() -> None:
    """Others at 93 % with spikes over 95: at most one model goes, work goes on, normal 30 s after relief (edge 45)."""

    def others(now: float) -> float:
        if not 60 <= now < 3600:
            return 4.0 * GIB
        return (14.3 if now % 120 < 15 else 13.9) * GIB

    models = [SimModel("hot", base=GIB // 2), *(SimModel(n, base=GIB // 6, demand=never) for n in "abc")]
    keeper = Keeper()
    host = SimulatedHost(models=models, foreign_memory=others, memory_noise=0.2, actors=[keeper]).run(3700)
    assert len(keeper.unloads()) <= 1
    assert host.rows(60, 3600) > 0
    assert host.longest_gap(60, 3600) < 15
    assert keeper.highest(start=3630.0) is Rung.NORMAL


def test_cold_models_of_our_own_end_a_real_pressure() -> None:
    """Where cold models of ours fill memory, so many go as bring it under the thresholds, and no more."""
    models = [SimModel("hot", base=2 * GIB), *(SimModel(n, base=2 * GIB, demand=never) for n in "abc")]
    keeper = Keeper()
    host = SimulatedHost(models=models, foreign_memory=lambda t: (7.4 if t > 60 else 4.0) * GIB, actors=[keeper])
    host.run(300)
    assert keeper.unloads() == [("c", "memory")]
    assert keeper.highest(start=100.0) < Rung.PAUSE
