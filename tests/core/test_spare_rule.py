"""The warm spare among models: when it is made, and that it goes before any of them does."""

from dataclasses import replace
from typing import Any

from supervisor.core.model import ModelState, ModelView, Rung, WorkerUse
from supervisor.core.policy import ResidencyPolicy
from supervisor.core.residency import Load, ModelMemoryManager, Pressure, Unload
from supervisor.core.spare import FIRST_NEED, PEACE, DropSpare, MakeSpare, SpareRule, SpareState, SpareView
from tests.support.residency_script import BACKOFF, DRAINING, GB, STARTING, STOPPED, model

ABSENT = SpareView(SpareState.ABSENT)
WARM = SpareView(SpareState.WARM, pid=7, pgid=7, fits=frozenset("ab"))
ROOMY = Pressure(memory_used=2 * GB, memory_limit=10 * GB, fit_percent=85.0, last_fit_percent=95.0)


class Host:
    """Models, a spare of half a GB when there is one, and a clock; `looks` at them gives the steps."""

    def __init__(self, *models: ModelView, spare: SpareView = ABSENT, pressure: Pressure = ROOMY) -> None:
        self.models, self.spare, self.pressure = list(models), spare, pressure
        self.rule, self.now = SpareRule(), 100.0
        self.manager = ModelMemoryManager(ResidencyPolicy(max_models=9))
        self.held = GB // 2

    def looks(self, seconds: float = 1.0, **pressure: Any) -> list[object]:
        """What is to be done, some time later, under other pressure."""
        self.now += seconds
        self.pressure = replace(self.pressure, **pressure)
        use = WorkerUse(0.0, self.held) if self.spare.pid else None
        return list(self.rule.steps(self.spare, use, self.manager, self.models, self.pressure, self.now))

    def sees(self, seconds: float = 1.0, **pressure: Any) -> list[str]:
        """The same, the kinds of step only."""
        return [type(step).__name__ for step in self.looks(seconds, **pressure)]


def test_one_is_made_when_nothing_loads() -> None:
    """With models at rest or ready, also with none at rest: a crash is a start as well."""
    assert Host(model("a"), model("b", STOPPED)).sees() == ["MakeSpare"]
    assert Host(model("a")).sees() == ["MakeSpare"]
    assert Host(model("a", ModelState.FAILED)).sees() == ["MakeSpare"]
    assert Host(model("a"), spare=SpareView(SpareState.OFF)).sees() == []
    assert Host(model("a"), spare=SpareView(SpareState.BACKOFF)).sees() == []
    assert Host(model("a"), spare=WARM).sees() == []


def test_it_waits_for_loads() -> None:
    """Imports on a busy host would slow a load down that somebody waits for; so would memory that it needs."""
    for state in (STARTING, DRAINING, BACKOFF):
        assert Host(model("a", state)).sees() == []
    host = Host(model("a", STOPPED, queued=1))
    assert host.sees() == ["Load"]
    assert host.sees() == []  # the load is under way
    host = Host(model("a", STOPPED, queued=1, estimate=20 * GB))
    assert host.sees() == ["Refuse"]
    host.models = [model("a", STOPPED, estimate=20 * GB)]
    assert host.sees() == ["MakeSpare"]


def test_a_preload_that_found_no_place_waits_for_nothing() -> None:
    """It is wanted for ever, but nobody waits: no reason to have no spare."""
    host = Host(model("a"), model("b", STOPPED, wanted=True))
    host.manager.set_policy(ResidencyPolicy(max_models=1))
    assert host.sees() == ["MakeSpare"]


def test_none_under_pressure() -> None:
    """Memory has to be below warn and CPU below shrink, and there has to be room."""
    assert Host(model("a")).sees(memory=Rung.WARN) == []
    assert Host(model("a")).sees(cpu=Rung.SHRINK) == []
    assert Host(model("a")).sees(cpu=Rung.WARN) == ["MakeSpare"]
    limit = 85 * GB // 10
    assert Host(model("a")).sees(memory_used=limit - FIRST_NEED + 1) == []
    assert Host(model("a")).sees(memory_used=limit - FIRST_NEED) == ["MakeSpare"]
    assert Host(model("a")).sees(fit_percent=None, memory_used=9 * GB) == ["MakeSpare"]


def test_it_goes_at_shrink_and_before_a_model() -> None:
    """At unload the spare goes first; then, if that did not help, the coldest model. Peace follows."""
    host = Host(model("a"), model("b"), spare=WARM)
    host.looks()
    assert host.sees(memory=Rung.WARN) == []
    steps = host.looks(memory=Rung.UNLOAD, memory_used=96 * GB // 10)
    assert steps == [DropSpare("memory is at unload; it holds 477 MiB")]
    host.spare = ABSENT
    assert [type(step) for step in host.looks()] == [Unload]
    host.models = [model("a")]
    assert host.sees(10, memory=Rung.NORMAL, memory_used=2 * GB) == []
    assert host.sees(PEACE) == ["MakeSpare"]
    assert Host(model("a"), spare=WARM).sees(memory=Rung.SHRINK) == ["DropSpare"]


def test_what_it_took_is_remembered() -> None:
    """One that is larger than expected is not made again where it would have to go at once."""
    host = Host(model("a"), spare=WARM)
    host.held = 2 * GB
    assert host.sees() == []
    assert host.sees(memory=Rung.SHRINK) == ["DropSpare"]
    host.spare = ABSENT
    assert host.sees(2 * PEACE, memory=Rung.NORMAL, memory_used=7 * GB) == []
    assert host.sees(memory_used=6 * GB) == ["MakeSpare"]


def test_a_load_is_never_in_want_of_its_memory() -> None:
    """What it holds counts as free: the model is loaded beside it, none is evicted, and then the spare goes."""
    host = Host(model("a", estimate=GB), model("b", STOPPED, queued=1, estimate=3 * GB), spare=WARM, pressure=ROOMY)
    # 8.5 GB may be in use: 5.3 are, without the spare, so the load fits by 0.2 and together with the spare does not.
    steps = host.looks(memory_used=53 * GB // 10)
    assert [type(step) for step in steps] == [Load]
    host.models[1] = model("b", STARTING, estimate=3 * GB)
    assert host.looks() == [DropSpare("it holds 477 MiB, and models that load take 2.79 GiB more")]


def test_a_load_that_took_it_leaves_nothing_to_drop() -> None:
    """A model that was started from the spare: what it still takes is less by that."""
    host = Host(model("b", STOPPED, queued=1, estimate=3 * GB), spare=WARM)
    assert host.sees(memory_used=53 * GB // 10) == ["Load"]
    host.models, host.spare = [model("b", STARTING, estimate=3 * GB)], ABSENT
    assert host.sees() == []


def test_one_that_nobody_at_rest_could_use_goes() -> None:
    """Models with other environments: the spare is for those that may be asked for next. No peace follows ... but time.

    While all models run it stays: any of them may crash.
    """
    host = Host(model("a"), model("c"), spare=WARM)
    assert host.sees() == []
    host.models[1] = model("c", STOPPED)
    assert host.looks() == [DropSpare("no model at rest has its settings")]
    host.models.append(model("b", STOPPED))
    assert host.sees() == []


def test_steps_say_why() -> None:
    """The journal has the figures."""
    (step,) = Host(model("a")).looks()
    assert step == MakeSpare("nothing loads, and there is room for about 400 MiB")
