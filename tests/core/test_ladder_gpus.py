"""GPU memory: a ladder for each device, one signal for all."""

import pytest

from supervisor.core.model import Rung, Signal
from tests.support.timeline import Timeline


def test_each_gpu_has_its_own_rung() -> None:
    """One full GPU is at pause, the other normal; the signal is at the fullest one's rung and percentage."""
    story = Timeline(gpus=["a", "b"]).device("b", 92).at(10).expect("pause", a="normal", b="pause", gpu_memory="pause")
    assert story.assessment is not None
    assert story.assessment.signals[Signal.GPU_MEMORY].percent == 92
    assert story.moves[0][1].device == "b"


def test_signal_comes_down_with_the_last_gpu() -> None:
    """While one GPU is up the signal is; each comes down at its own pace."""
    story = Timeline(gpus=["a", "b"]).device("a", 96).device("b", 86).at(10).device("a", 20)
    story.at(30).expect("shrink", a="normal", b="shrink", gpu_memory="shrink")
    story.device("b", 20).at(45).expect("normal", gpu_memory="normal")


def test_gpu_that_is_unreadable_is_named() -> None:
    """One blind GPU is at shrink and named; the other's reading stays the signal's percentage."""
    story = Timeline(gpus=["a", "b"]).at(10).device("b", "NVML lost").at(20)
    story.expect("shrink", a="normal", b="shrink")
    assert story.assessment is not None
    state = story.assessment.signals[Signal.GPU_MEMORY]
    assert state.percent == 20
    assert state.missing is not None
    assert state.missing.startswith("b: NVML lost")


def test_gpus_that_vanish_from_the_list_go_blind() -> None:
    """A library that is lost takes its list along: the GPUs that were known are blind, not gone."""
    story = Timeline(gpus=["a"]).device("a", 92).at(10).expect("pause", a="pause")
    story.gpus = []
    story.at(12.9).expect("pause", a="pause")
    story.at(14).expect("shrink", a="shrink")
    assert "no NVML" in story.moves[-1][1].why


def test_gpus_that_appear_take_over_from_the_unnamed_one() -> None:
    """A GPU seen for the first time has its own ladder, and nothing is left of the unnamed one."""
    story = Timeline().at(10)
    story.gpus = ["a"]
    story.device("a", 30).at(20).expect("normal", a="normal", gpu_memory="normal")
    assert story.assessment is not None
    assert set(story.assessment.devices) == {"a"}
    assert story.assessment.signals[Signal.GPU_MEMORY].missing is None


def test_drill_of_gpu_memory_is_on_every_gpu() -> None:
    """All GPUs are drilled together and come down together."""
    story = Timeline(gpus=["a", "b"]).at(10.05).drill(10, gpu_memory=92).at(10.1).expect("pause", a="pause", b="pause")
    story.at(40).expect("normal", a="normal", b="normal")


def test_pause_of_the_signal_is_as_old_as_the_first_gpus() -> None:
    """What trickles after 10 s of pause goes by the GPU that has paused longest."""
    story = Timeline(gpus=["a", "b"]).at(10).device("a", 92).at(20).device("b", 92).at(30)
    assert story.assessment is not None
    assert story.assessment.signals[Signal.GPU_MEMORY].paused_since == pytest.approx(10.1)
    assert story.rung("b") is Rung.PAUSE
