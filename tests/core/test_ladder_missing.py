"""Signals that cannot be read, were never read, or are drilled: what the ladder makes of them."""

from dataclasses import replace

import pytest

from supervisor.core.model import Rung, Signal
from supervisor.core.policy import Thresholds
from tests.support.timeline import DEFAULTS, Timeline


def test_signal_never_read_is_left_out() -> None:
    """A host without a GPU is normal; the signal has no rung and says why it has no reading."""
    story = Timeline().at(60).expect("normal", gpu=None, gpu_memory=None)
    assert story.assessment is not None
    state = story.assessment.signals[Signal.GPU_MEMORY]
    assert (state.percent, state.missing, state.age_s) == (None, "no NVML", None)
    assert not story.assessment.devices
    assert not story.moves


@pytest.mark.parametrize("level", [40, 82, 87, 92, 97])
def test_missing_holds_the_rung(level: float) -> None:
    """For 3 s a reading that fails changes nothing, up or down."""
    story = Timeline().memory(level).at(20)
    rung = story.rung("memory")
    story.memory("unreadable").at(22.9)
    assert story.rung("memory") is rung
    assert story.assessment is not None
    assert story.assessment.signals[Signal.MEMORY].percent is None
    assert story.assessment.signals[Signal.MEMORY].missing == "unreadable"


@pytest.mark.parametrize("level", [40, 82, 92, 97])
def test_blind_for_three_seconds_is_shrink(level: float) -> None:
    """From above and from below: a signal that was known and is blind has the rung shrink, and says so."""
    story = Timeline().memory(level).at(20).memory("unreadable").at(24.1).expect("shrink", memory="shrink")
    _, move = story.moves[-1]
    assert move.after is Rung.SHRINK
    assert "blind for 3" in move.why
    assert "unreadable" in move.why
    assert (move.percent, move.threshold) == (level, 85)
    assert move.age_s >= 3
    assert story.assessment is not None
    assert "blind for 4 s" in (story.assessment.signals[Signal.MEMORY].missing or "")
    story.at(120).expect("shrink")


def test_blind_signal_comes_back_by_the_usual_rules() -> None:
    """A level that is read again is believed after the quiet time; a high one at once."""
    story = Timeline().memory(40).at(20).memory("unreadable").at(40).memory(40)
    story.at(42).expect("shrink").at(44).expect("warn").at(50).expect("normal")
    Timeline().memory(40).at(20).memory("unreadable").at(40.05).memory(93).at(40.1).expect("pause")


def test_blind_signal_without_shrink_goes_below_it() -> None:
    """Where shrink is off, the rung of a blind signal is the highest below: warn, else normal."""
    story = Timeline(gpus=["a"]).set(gpu=100).at(20).expect("warn", gpu="warn")
    story.set(gpu="NVML lost").at(30).expect("warn", gpu="warn")
    story = Timeline(gpus=["a"]).set(gpu=30).at(20).set(gpu="NVML lost").at(30).expect("warn", gpu="warn")
    thresholds = {**DEFAULTS, Signal.MEMORY: Thresholds(warning=None, shrink=None)}
    Timeline(thresholds).memory(92).at(20).memory("unreadable").at(30).expect("normal", memory="normal")


def test_sensor_that_stands_still_is_blind() -> None:
    """A sensor that shows the same old reading for ever is not believed for ever (edge case 29)."""
    story = Timeline(gpus=["a"]).device("a", 92).at(20).expect("pause", a="pause")
    old = story.sample()

    def look(now: float) -> None:
        fresh = Timeline(gpus=["a"])
        fresh.now = now
        story.ladder.observe(replace(fresh.sample(), gpu_memory=old.gpu_memory, devices=old.devices), frozenset(), now)

    for k in range(1, 60):
        look(20 + k / 10)
    seen = story.ladder.assess(26.0)
    assert seen.devices["a"] is Rung.SHRINK
    assert "stands still" in (seen.signals[Signal.GPU_MEMORY].missing or "")
    look(26.1)
    assert not story.ladder.due(26.1), "what it stands at is no reason to decide"


def test_missing_in_the_middle_of_an_entry_time_neither_ends_nor_completes_it() -> None:
    """An entry time goes on over a reading that fails, but only a reading completes it."""
    story = Timeline().at(10.05).cpu(92).at(11.5).cpu("unreadable").at(12.9).expect("normal").cpu(92)
    story.at(13.0).expect("pause")


def test_flaky_sensor_holds_its_rung() -> None:
    """A sensor that fails every other second never shows a whole quiet time: the rung stays."""
    story = Timeline().at(10).memory(92).at(20)
    for k in range(20, 60, 2):
        story.memory("unreadable").at(k + 1).memory(40).at(k + 2)
    story.expect("pause")
    story.at(80).expect("normal")


# -- drills ----------------------------------------------------------------------------------------------------------


def test_drill_of_cpu_counts_at_once_for_its_entry_time() -> None:
    """The drilled figure is not averaged with what was: pause 1 s after the drill began."""
    story = Timeline().at(10.05).drill(20, cpu=92)
    story.at(11.0).expect("normal")
    story.at(11.1).expect("pause")
    assert story.assessment is not None
    assert story.assessment.signals[Signal.CPU].drilled


def test_drill_82_is_warn_and_only_warn() -> None:
    """No other rung is touched on the way in or out."""
    story = Timeline().at(10).drill(20, cpu=82).at(29).expect("warn").at(50).expect("normal")
    assert [move.after for _, move in story.moves] == [Rung.WARN, Rung.NORMAL]


def test_after_a_drill_the_ladder_comes_down_by_its_own_rules() -> None:
    """One rung per 3 s, judged by the mean that still has the drill in it."""
    story = Timeline().at(10).drill(20, cpu=92).at(30).expect("pause")
    story.at(30.4).expect("pause").at(31.1).expect("shrink").at(34.0).expect("shrink").at(34.1).expect("warn")
    story.at(37.0).expect("warn").at(37.1).expect("normal")
    assert story.assessment is not None
    assert not story.assessment.signals[Signal.CPU].drilled


@pytest.mark.parametrize("signal", ["cpu", "memory", "gpu_memory"])
def test_what_a_drill_paused_has_not_paused_for_long(signal: str) -> None:
    """The pause of a drill does not count towards the 10 s after which a pause lets parts trickle."""
    story = Timeline().at(10).drill(20, **{signal: 92}).at(30)
    while story.rung(signal) is Rung.PAUSE:
        assert story.assessment is not None
        state = story.assessment.signals[Signal(signal)]
        assert state.paused_since is not None
        assert state.drilled or story.now - state.paused_since < 10
        story.at(story.now + 0.1)
    assert story.now > 30


def test_drills_in_sequence_recover_at_the_normal_pace() -> None:
    """Rehearsing the same drill six times does not make the signal restless, nor the flat exit slow."""
    story = Timeline()
    for k in range(6):
        begin = 10 + 20 * k
        story.at(begin).drill(5, memory=96).at(begin + 1).expect("unload")
        story.at(begin + 16).expect("normal")
    story.at(140).memory(92).at(145).memory(80).at(162).expect("shrink")


def test_drill_on_a_host_without_a_gpu() -> None:
    """GPU memory can be drilled where none is: one unnamed device stands for all, and is gone after it."""
    story = Timeline().at(10.05).drill(10, gpu_memory=96).at(10.1).expect("unload", gpu_memory="unload")
    assert story.assessment is not None
    assert story.assessment.devices == {"": Rung.UNLOAD}
    assert story.assessment.signals[Signal.GPU_MEMORY].percent == 96
    story.at(23).expect("unload")  # the drill's last reading was at 20
    story.at(24).expect("pause").at(27).expect("shrink").at(30).expect("warn").at(33).expect("normal", gpu_memory=None)
    assert not story.assessment.devices or story.assessment.devices == {}
    assert not [move for _, move in story.moves if "blind" in move.why], "a drill is no knowledge to be blind about"


def test_drill_of_an_unreadable_signal_that_was_known() -> None:
    """It stands in while it lasts; afterwards the signal is held for 3 s, then blind again."""
    story = Timeline().memory(40).at(10).memory("unreadable").at(20).expect("shrink").drill(10, memory=92)
    story.at(21).expect("pause").at(32).expect("pause").at(34).expect("shrink").at(60).expect("shrink")
