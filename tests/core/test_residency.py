"""Which models stay in memory: idle clocks, the regular clean-up, places, what is asked once, statistics."""

from supervisor.core.model import Rung, Signal
from supervisor.core.policy import ResidencyPolicy
from tests.support.residency_script import (
    BACKOFF,
    DRAINING,
    FAILED,
    GB,
    READY,
    ROOMY,
    STARTING,
    STOPPED,
    STOPPING,
    Script,
    model,
)


def test_idle_clock_counts_from_readiness_and_from_the_last_use() -> None:
    """A ready model is idle from the moment it is ready, and again from the end of each use."""
    script = Script(model("a", STARTING))
    script.at(0)
    script.at(10, a={"state": READY})
    assert script.manager.idle_seconds("a") == 0
    script.at(14)
    assert script.manager.idle_seconds("a") == 4
    script.at(15, a={"inflight": 3})
    assert script.manager.idle_seconds("a") == 0
    script.at(20)
    assert script.manager.idle_seconds("a") == 0
    script.at(21, a={"inflight": 0})
    script.at(23)
    assert script.manager.idle_seconds("a") == 2


def test_use_between_two_looks_is_noticed_by_its_count() -> None:
    """A request that came and went between two looks resets the clock."""
    script = Script(model("a"))
    script.at(0)
    script.at(5)
    script.at(6, a={"uses": 1})
    assert script.manager.idle_seconds("a") == 0
    script.at(7)
    assert script.manager.idle_seconds("a") == 1


def test_idle_clock_stands_while_nobody_can_use_the_model() -> None:
    """The clock stands, without going back, while a gate is closed for the model or requests are queued."""
    script = Script(model("a"))
    script.at(0)
    script.at(5, {"gate_closed": True})
    script.at(9)
    assert script.manager.idle_seconds("a") == 5
    script.at(10, {"gate_closed": False, "paused": frozenset({"a"})})
    script.at(20, {"paused": frozenset()})
    assert script.manager.idle_seconds("a") == 5
    script.at(21)
    assert script.manager.idle_seconds("a") == 6
    script.at(22, a={"queued": 1})
    script.at(30, a={"queued": 0})
    script.at(31)
    assert 7 <= script.manager.idle_seconds("a") <= 8


def test_lease_is_a_use() -> None:
    """A lease holds the clock at 0 even when no input is in flight."""
    script = Script(model("a"))
    script.at(0)
    script.at(5, a={"leases": 1})
    script.at(9)
    assert script.manager.idle_seconds("a") == 0


def test_model_that_is_not_ready_is_not_idle() -> None:
    """Only a ready model has an idle time; an unknown one has none."""
    script = Script(model("a", STOPPED))
    script.at(0)
    script.at(500)
    assert script.manager.idle_seconds("a") == 0
    assert script.manager.idle_seconds("nobody") == 0


def test_idle_model_goes_at_the_clean_up_and_not_before() -> None:
    """A model idle past its time-out is unloaded at the next clean-up, the coldest first, one at a time."""
    script = Script(model("a"), model("b"), model("c"), inactive_timeout=100, cleanup_interval=60)
    assert script.at(0) == []
    assert script.at(40, b={"uses": 1}, c={"uses": 1}) == []
    assert script.until(41, 119) == []  # at 60 nothing is idle for 100 s; from 101 on a is, but nobody looks
    assert script.at(120) == ["unload a: idle"]
    assert "idle 120 s > 100 s" in script.why()
    assert script.until(121, 122) == []
    script.at(123, a={"state": DRAINING})
    script.at(124, a={"state": STOPPING})
    assert script.at(125, {"memory_used": GB}, a={"state": STOPPED}) == []
    assert script.until(126, 184) == []  # b and c are idle for 100 s from 140 on: the next clean-up is 60 s after this
    assert script.at(185) == ["unload c: idle"]  # as cold as b and as little used, but further down in the config


def test_last_ready_model_is_spared_while_the_ladder_is_quiet() -> None:
    """The last ready model stays past its time-out until the ladder is at warn."""
    script = Script(model("a"), model("b", STOPPED), inactive_timeout=100, cleanup_interval=10)
    assert script.until(0, 300) == []
    assert script.at(301, {"ladder_quiet": False}) == []
    assert script.until(302, 312) == [(310, "unload a: idle")]


def test_only_cold_unpinned_models_are_idle() -> None:
    """Pinned, busy, leased and waited-for models stay past their time-out."""
    script = Script(
        model("pinned", pinned=True),
        model("busy", inflight=1),
        model("leased", leases=1),
        model("waited_for", queued=1),
        max_models=4,
        inactive_timeout=50,
        cleanup_interval=10,
    )
    assert script.until(0, 400) == []


def test_idle_time_out_of_nought_means_never() -> None:
    """With `inactive_timeout` 0 no model goes for being idle."""
    script = Script(model("a"), model("b"), inactive_timeout=0, cleanup_interval=10)
    assert script.until(0, 2000) == []


def test_too_many_models_after_a_reload() -> None:
    """When fewer may be in memory than are, the least recently used go at clean-up time, one per settle time."""
    script = Script(model("a"), model("b"), model("c"), inactive_timeout=0, cleanup_interval=60)
    script.at(0)
    script.at(10, a={"uses": 1}, c={"uses": 7})
    script.manager.set_policy(ResidencyPolicy(max_models=1, inactive_timeout=0, cleanup_interval=60))
    assert script.until(11, 59) == []
    assert script.at(60) == ["unload b: evicted"]
    assert "3 models in memory, 1 may be" in script.why()
    script.at(61, b={"state": STOPPING})
    assert script.at(62, {"memory_used": GB}, b={"state": STOPPED}) == ["unload a: evicted"]
    script.at(63, a={"state": STOPPING})
    script.at(64, {"memory_used": 0}, a={"state": STOPPED})
    assert script.until(65, 300) == []  # one may be, one is


def test_too_many_models_spares_the_busy() -> None:
    """Of too many models a busy or pinned one stays."""
    script = Script(
        model("a", inflight=1), model("b", pinned=True), max_models=1, inactive_timeout=0, cleanup_interval=10
    )
    assert script.until(0, 100) == []


def test_load_is_asked_once_and_again_if_it_does_not_take() -> None:
    """A load is given once; it is given again when the model is still stopped 5 s later, not before."""
    script = Script(model("a", STOPPED))
    assert script.at(0, a={"queued": 1}) == ["load a"]
    assert script.until(0, 4) == []
    assert script.at(5) == ["load a"]
    assert script.at(6, a={"state": STARTING}) == []
    assert script.until(7, 60) == []


def test_unload_is_asked_once_and_again_if_it_does_not_take() -> None:
    """An unload is given once; it is decided anew when the model is still ready 5 s later."""
    script = Script(model("a"), model("b"), inactive_timeout=30, cleanup_interval=60)
    assert script.until(0, 59) == []
    assert script.at(60, b={"uses": 1}) == ["unload a: idle"]
    assert script.until(61, 64) == []
    assert script.at(65) == ["unload a: idle"]


def test_unload_that_is_not_heeded_is_asked_for_ever_more_rarely() -> None:
    """Where somebody only observes, the same unload is told again after 5, 15, 25 and 45 s, then every 65 s."""
    drill = {"memory": Rung.UNLOAD, "drilled": frozenset({Signal.MEMORY})}
    script = Script(model("a"), model("b", inflight=1), inactive_timeout=0)
    assert script.at(0, drill) == ["unload a: memory"]
    assert [now for now, _ in script.until(1, 300)] == [5, 20, 45, 90, 155, 220, 285]
    script.at(301, {"memory": Rung.NORMAL}, a={"state": STOPPED})
    script.at(302, a={"state": STARTING})
    script.at(303, a={"state": READY})
    assert script.at(310, drill) == ["unload a: memory"]
    assert [now for now, _ in script.until(311, 350)] == [315, 330]


def test_worker_that_is_undone_is_asked_for_again() -> None:
    """A load that ended in a stop while somebody still waits is asked for again, once the memory is back."""
    script = Script(model("a", STOPPED), pressure=ROOMY)
    assert script.at(0, a={"queued": 1}) == ["load a"]
    script.at(1, a={"state": STARTING, "memory_bytes": GB})
    script.at(2, a={"state": STOPPING})
    assert script.at(3, {"memory_used": GB}, a={"state": STOPPED}) == ["load a"]


def test_model_taken_out_of_the_config_is_forgotten() -> None:
    """A model that is configured no more leaves no trace in the statistics."""
    script = Script(model("a"), model("b"))
    script.at(0)
    del script.models["a"]
    script.at(1)
    assert script.manager.stats()["total_models"] == 1
    assert script.manager.idle_seconds("a") == 0


def test_statistics_are_the_seeds() -> None:
    """The statistics have the seed's names: models known, in memory, their size in GB, how many may be."""
    script = Script(model("a", memory_bytes=1_500_000_000), model("b", STARTING), model("c", STOPPED), max_models=2)
    script.at(0, b={"memory_bytes": 250_000_000})
    assert script.manager.stats() == {"total_models": 3, "loaded_models": 2, "total_memory_gb": 1.75, "max_models": 2}


def test_crashed_model_keeps_its_place() -> None:
    """A model in back-off will be started again by the pool, so its place is not given away beside it."""
    script = Script(model("a", BACKOFF, queued=1), model("b", STOPPED), max_models=1)
    assert script.at(0, b={"queued": 1}) == []
    assert script.until(1, 19) == []


def test_given_up_model_holds_no_place_and_is_not_loaded() -> None:
    """A failed model is left alone however many ask for it, and takes nobody's place."""
    script = Script(model("a", FAILED, queued=3), model("b", STOPPED), max_models=1)
    assert script.at(0, b={"queued": 1}) == ["load b"]


def test_nothing_is_unloaded_at_any_rung_below_unload() -> None:
    """Warn, shrink and pause unload nothing by themselves."""
    script = Script(model("a"), model("b"), inactive_timeout=0)
    for now, rung in enumerate((Rung.WARN, Rung.SHRINK, Rung.PAUSE)):
        assert script.at(now, {"memory": rung, "cpu": rung, "ladder_quiet": False}) == []
