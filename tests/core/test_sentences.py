"""Decisions in plain words."""

import pytest

from supervisor.core.model import Rung, Signal
from supervisor.core.sentences import Action, reading, sentence

N, W, S, P, U = Rung.NORMAL, Rung.WARN, Rung.SHRINK, Rung.PAUSE, Rung.UNLOAD


def test_a_pause_names_reading_threshold_age_and_outcome() -> None:
    """A rung that was entered tells which reading met which threshold, how old it was, and what came of it."""
    text = sentence(
        Action.RUNG,
        rung_before=W,
        rung_after=P,
        signal=Signal.MEMORY,
        percent=91.2,
        threshold=90.0,
        age_s=0.1,
        outcome="12 requests held",
    )
    assert text == "paused: memory 91.2 % ≥ 90 % (0.1 s old); 12 requests held"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (N, W, "warning"),
        (N, S, "smaller batches"),
        (W, P, "paused"),
        (P, U, "paused, unloading cold models"),
        (U, P, "unloading ended, still paused"),
        (P, S, "resumed at shrink"),
        (P, N, "resumed, back to normal"),
        (S, W, "down to warn"),
        (W, N, "back to normal"),
        (W, W, "still at warn"),
    ],
)
def test_every_change_of_rung_has_its_words(before: Rung, after: Rung, expected: str) -> None:
    """Up and down the ladder, each change reads as what it means for requests."""
    assert sentence("rung", rung_before=before, rung_after=after) == expected


def test_every_pair_of_rungs_and_every_action_gives_a_sentence() -> None:
    """No combination of fields fails or leaves a placeholder behind."""
    for action in Action:
        for before in Rung:
            for after in Rung:
                for target in (None, "minilm", "a{b}c"):
                    text = sentence(action, rung_before=before, rung_after=after, target=target)
                    assert text
                    assert text == text.strip()
                    assert "{target}" not in text


@pytest.mark.parametrize(
    ("action", "target", "expected"),
    [
        ("load", "minilm", "load minilm: asked for"),
        ("unload", "minilm", "unload minilm: asked for"),
        ("batch_down", "14", "batch size down to 14: asked for"),
        ("pause", "300 s", "paused by the operator for 300 s: asked for"),
        ("pause", None, "paused by the operator: asked for"),
        ("reload", "/etc/x.yaml", "config reloaded from /etc/x.yaml: asked for"),
        ("something_new", "minilm", "something new minilm: asked for"),
    ],
)
def test_other_decisions_name_their_target_and_reason(action: str, target: str | None, expected: str) -> None:
    """What was done to which target, and why; an action without words of its own uses its name."""
    assert sentence(action, rung_before=N, rung_after=N, target=target, why="asked for") == expected


@pytest.mark.parametrize(
    ("percent", "threshold", "expected"),
    [
        (89.96, 90.0, "cpu 89.96 % < 90 %"),
        (89.9999, 90.0, "cpu 89.9999 % < 90 %"),
        (90.0, 90.0, "cpu 90.0 % ≥ 90 %"),
        (74.9, 75.0, "cpu 74.9 % < 75 %"),
        (87.54, 87.5, "cpu 87.5 % ≥ 87.5 %"),
    ],
)
def test_rounding_never_contradicts_the_comparison(percent: float, threshold: float, expected: str) -> None:
    """A reading just below its threshold is not rounded up to it."""
    assert reading(Signal.CPU, percent, threshold, None) == expected


def test_a_missing_reading_is_said_to_be_missing() -> None:
    """A decision about a blind signal names it without inventing a figure."""
    text = sentence("rung", rung_before=N, rung_after=S, signal=Signal.MEMORY, why="blind for 3 s")
    assert text == "smaller batches: memory unreadable, blind for 3 s"
