"""Decisions in plain words: one sentence from the fields of a decision, the same in log, API, page and `explain`.

Values in, text out; knows the words for every action and nothing about who took it.
"""

from enum import StrEnum

from supervisor.core.model import Rung, Signal


class Action(StrEnum):
    """What a decision did. A decision may also name another action: its words are then the action's name."""

    RUNG = "rung"  # the host's rung changed
    SIGNAL = "signal"  # a signal's own rung changed, but the host's did not follow it
    STILL_WARN = "still_warn"  # the warning lasts; told again ever more rarely
    BATCH_DOWN = "batch_down"  # target: the new size
    BATCH_UP = "batch_up"
    BATCH_RESET = "batch_reset"
    LOAD = "load"  # target: the model; also of the next four
    UNLOAD = "unload"
    RESTART = "restart"
    RECYCLE = "recycle"  # a restart only to get memory back
    REFUSE = "refuse"  # a load that cannot be
    SPARE = "spare"  # a warm spare is made
    SPARE_DROPPED = "spare_dropped"
    PAUSE = "pause"  # by an operator; target: for how long, None = until resumed
    RESUME = "resume"
    DRILL = "drill"  # target: what is injected, and for how long
    DRILL_END = "drill_end"
    RELOAD = "reload"  # target: the file


_HEADS = {
    Action.SIGNAL: "signal",
    Action.STILL_WARN: "still warning",
    Action.BATCH_DOWN: "batch size down to {target}",
    Action.BATCH_UP: "batch size up to {target}",
    Action.BATCH_RESET: "batch size back to {target}",
    Action.LOAD: "load {target}",
    Action.UNLOAD: "unload {target}",
    Action.RESTART: "restart {target}",
    Action.RECYCLE: "restart {target} to get its memory back",
    Action.REFUSE: "load of {target} refused",
    Action.SPARE: "warm spare made",
    Action.SPARE_DROPPED: "warm spare given up",
    Action.PAUSE: "paused by the operator",
    Action.RESUME: "operator's pause ended",
    Action.DRILL: "drill: {target}",
    Action.DRILL_END: "drill ended",
    Action.RELOAD: "config reloaded",
}
_TARGET_APART = {Action.PAUSE: " for {target}", Action.RELOAD: " from {target}"}
_UP = {
    Rung.WARN: "warning",
    Rung.SHRINK: "smaller batches",
    Rung.PAUSE: "paused",
    Rung.UNLOAD: "paused, unloading cold models",
}


def sentence(
    action: str,
    *,
    rung_before: Rung,
    rung_after: Rung,
    signal: Signal | None = None,
    percent: float | None = None,
    threshold: float | None = None,
    age_s: float | None = None,
    target: str | None = None,
    why: str | None = None,
    outcome: str | None = None,
) -> str:
    """What was decided, because of which reading, and what came of it.

    >>> sentence("rung", rung_before=Rung.WARN, rung_after=Rung.PAUSE, signal=Signal.MEMORY, percent=91.2,
    ...          threshold=90.0, age_s=0.1, outcome="12 requests held")
    'paused: memory 91.2 % ≥ 90 % (0.1 s old); 12 requests held'
    """
    head = _rung_change(rung_before, rung_after) if action == Action.RUNG else _head(action, target)
    because = ", ".join(part for part in (reading(signal, percent, threshold, age_s), why) if part)
    return (f"{head}: {because}" if because else head) + (f"; {outcome}" if outcome else "")


def reading(signal: Signal | None, percent: float | None, threshold: float | None, age_s: float | None) -> str:
    """A reading beside the threshold that it met or left, and its age; as much of that as is known."""
    if signal is None:
        return ""
    if percent is None:
        return f"{signal.value} unreadable"
    text = f"{signal.value} {percent:.1f} %"
    if threshold is not None:
        met = percent >= threshold
        text = f"{signal.value} {_rounded(percent, threshold)} % {'≥' if met else '<'} {threshold:g} %"
    return text + (f" ({age_s:.1f} s old)" if age_s is not None else "")


def _rounded(percent: float, threshold: float) -> str:
    """One decimal, or as many (up to four) as keep 89.96 from reading as "90.0 % < 90 %"."""
    for decimals in range(1, 5):
        text = f"{percent:.{decimals}f}"
        if (float(text) >= threshold) == (percent >= threshold):
            break
    return text


def _head(action: str, target: str | None) -> str:
    known = next((item for item in _HEADS if item == action), None)
    if known is None:
        return action.replace("_", " ") + (f" {target}" if target else "")
    apart = _TARGET_APART.get(known, "") if target else ""
    return (_HEADS[known] + apart).format(target=target or "").strip()


def _rung_change(before: Rung, after: Rung) -> str:
    if after == before:
        return f"still at {after.label}"
    if after > before:
        return _UP[after]
    if after is Rung.NORMAL:
        return "resumed, back to normal" if before >= Rung.PAUSE else "back to normal"
    if after is Rung.PAUSE:
        return "unloading ended, still paused"
    return f"resumed at {after.label}" if before >= Rung.PAUSE else f"down to {after.label}"
