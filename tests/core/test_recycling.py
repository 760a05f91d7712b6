"""Recycling: whose process is replaced because of what it has grown to, when, and how seldom."""

import pytest

from supervisor.core.model import Rung, Signal
from supervisor.core.recycling import Recycle
from tests.support.residency_script import DRAINING, GB, READY, STARTING, STOPPED, STOPPING, TIGHT, Script, model

PAUSE = {"memory": Rung.PAUSE, "gate_closed": True, "ladder_quiet": False, "memory_used": int(9.1 * GB)}
SHRINK = {"memory": Rung.SHRINK, "gate_closed": False, "ladder_quiet": False, "memory_used": int(8.7 * GB)}
CALM = {"memory": Rung.NORMAL, "gate_closed": False, "ladder_quiet": True, "memory_used": 3 * GB}


def grown(by: int, **policy: object) -> Script:
    """Two models of 1 GB, loaded at 0, of which a has grown by so many bytes at 20."""
    script = Script(model("a"), model("b"), pressure=TIGHT, **({"inactive_timeout": 0} | policy))
    script.at(0)
    script.at(11)
    assert script.at(20, {"memory_used": 3 * GB}, a={"memory_bytes": GB + by}) == []
    return script


def test_a_worker_that_has_grown_is_replaced_after_10_s_in_pause() -> None:
    """Not before, and the reading that asked for it is named."""
    script = grown(2 * GB)
    script.at(100, PAUSE)
    assert script.until(101, 109) == []
    assert script.at(110) == ["recycle a"]
    (step,) = script.steps
    assert isinstance(step, Recycle)
    assert step.signal is Signal.MEMORY
    assert not step.beside
    assert "1.86 GiB above its level after loading, 20 % of the whole" in step.why
    assert script.until(111, 300) == []


def test_in_shrink_it_takes_60_s() -> None:
    """Shrink makes parts smaller first; what was in pause before counts as well."""
    script = grown(2 * GB)
    script.at(100, SHRINK)
    assert script.until(101, 159) == []
    assert script.at(160) == ["recycle a"]


def test_a_spell_of_calm_begins_the_wait_anew() -> None:
    """Only memory that stays short costs a restart."""
    script = grown(2 * GB)
    script.at(100, SHRINK)
    assert script.until(101, 150) == []
    script.at(151, CALM)
    script.at(152, SHRINK)
    assert script.until(153, 211) == []
    assert script.at(212) == ["recycle a"]


def test_what_somebody_else_runs_is_theirs_to_replace() -> None:
    """Only they could start it again."""
    script = grown(2 * GB)
    script.show(a={"managed": False})
    script.at(100, PAUSE)
    assert script.until(101, 400) == []


def test_little_growth_is_not_worth_a_restart() -> None:
    """Under 2 % of the whole nothing would be won."""
    script = grown(GB // 10)
    script.at(100, PAUSE)
    assert script.until(101, 400) == []


def test_a_drill_recycles_nothing() -> None:
    """The memory that is short in a drill is not real."""
    script = grown(2 * GB)
    script.at(100, PAUSE | {"drilled": frozenset({Signal.MEMORY})})
    assert script.until(101, 400) == []


def test_the_one_that_has_grown_most_goes_first_and_only_one_at_a_time() -> None:
    """The next one may follow when the first is back."""
    script = grown(GB)
    script.at(21, b={"memory_bytes": 3 * GB})
    script.at(100, PAUSE)
    assert script.until(101, 110) == [(110, "recycle b")]
    script.at(111, b={"state": DRAINING})
    script.at(112, b={"state": STOPPING})
    script.at(113, b={"state": STOPPED, "wanted": True})
    script.at(114, b={"state": STARTING})
    assert script.until(115, 130) == []
    assert script.at(131, b={"state": READY, "ready_since": 131.0}) == ["recycle a"]


def test_a_successor_counts_as_a_load() -> None:
    """While one process comes up beside another nobody else is replaced, and its memory is reserved."""
    script = grown(2 * GB)
    script.at(99, b={"successor_bytes": 0})
    script.at(100, PAUSE)
    assert script.until(101, 130) == []
    assert script.at(131, b={"successor_bytes": None}) == ["recycle a"]
    # 10 GB, 8.5 may be used: c needs 2, and a's successor is still going to take 2.
    script = Script(model("a", estimate=2 * GB, pinned=True), model("c", STOPPED, estimate=2 * GB), pressure=TIGHT)
    script.at(0, {"memory_used": 5 * GB}, a={"successor_bytes": 0})
    assert script.at(1, c={"queued": 1}) == []
    assert script.at(2, {"memory_used": 6 * GB}, a={"successor_bytes": 2 * GB}) == ["load c"]


def test_never_more_than_three_in_ten_minutes() -> None:
    """However many have grown; the fourth has to wait."""
    names = ("a", "b", "c", "d")
    script = Script(*(model(name) for name in names), pressure=TIGHT, inactive_timeout=0, max_models=4)
    script.at(0)
    script.at(11)
    script.at(20, PAUSE, **{name: {"memory_bytes": 2 * GB} for name in names})
    said = []
    for now in range(21, 900):
        for word in script.at(now):
            said.append((now, word))
            script.show(None, **{word[-1]: {"memory_bytes": GB}})
    assert [now for now, _ in said] == [30, 31, 32, 630]
    assert {word for _, word in said} == {f"recycle {name}" for name in names}


def test_a_caching_allocator_is_not_restarted_for_ever() -> None:
    """What grows back to 91 % at once is what its work takes (edge case 37): at most 5 restarts an hour."""
    script = grown(2 * GB)
    restarts, back_at = 0, 0
    script.show(PAUSE)
    for now in range(100, 3700):
        if now == back_at:
            script.show(CALM, a={"state": READY, "memory_bytes": GB, "ready_since": float(now)})
        elif now == back_at + 20:
            script.show(PAUSE, a={"memory_bytes": 3 * GB})
        if script.at(now) == ["recycle a"]:
            restarts += 1
            back_at = now + 20
            script.show(None, a={"state": STARTING})
    assert 1 <= restarts <= 5


def test_growth_that_the_operator_does_not_allow() -> None:
    """Off the peak: not while requests wait, nor above warn; beside the old process where there is room for both."""
    script = grown(GB - 1, recycle_growth=GB)
    script.at(30, {"ladder_quiet": False}, a={"memory_bytes": 2 * GB})
    assert script.until(31, 40) == []
    script.at(41, CALM, a={"queued": 1, "inflight": 1})
    assert script.until(42, 50) == []
    assert script.at(51, a={"queued": 0}) == ["recycle a"]
    (step,) = script.steps
    assert isinstance(step, Recycle)
    assert step.beside
    assert step.signal is None
    assert step.why == "954 MiB above its level after loading, 954 MiB is allowed"


def test_without_room_for_two_it_waits_until_nobody_uses_it() -> None:
    """A restart that clients would wait for is not worth what no one misses yet."""
    script = grown(GB - 1, recycle_growth=GB)
    full = CALM | {"memory_used": int(8.4 * GB)}
    script.at(30, full, a={"memory_bytes": 2 * GB, "inflight": 1, "estimate": GB})
    assert script.until(31, 60) == []
    assert script.at(61, a={"inflight": 0}) == ["recycle a"]
    (step,) = script.steps
    assert isinstance(step, Recycle)
    assert not step.beside


@pytest.mark.parametrize(("per_minute", "recycled"), [(20 * 2**20, True), (10 * 2**20, False)])
def test_growth_per_hour(per_minute: int, recycled: bool) -> None:
    """1 GiB an hour is allowed: 20 MiB a minute is more, 10 is less; half an hour of samples is needed to know."""
    script = Script(model("a"), pressure=TIGHT, inactive_timeout=0, recycle_slope=2**30)
    said = []
    for now in range(0, 3600, 2):
        script.show(None, a={"memory_bytes": GB + per_minute * now // 60})
        said += [(now, word) for word in script.at(now)]
    if recycled:
        ((at, word),) = said[:1]
        assert word == "recycle a"
        assert 1700 <= at <= 1900
    else:
        assert said == []
