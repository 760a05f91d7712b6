"""The status and decisions as text for a terminal: compact, aligned, and nothing in it that a terminal would obey."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from supervisor.core.display import NONE, byte_size, duration, percentage, printable

_COLUMNS = ("MODEL", "STATE", "PID", "MEMORY", "BATCH", "IN FLIGHT", "IDLE", "USES", "LOADS", "NOTE")
# Characters of a model's reason that the table shows: two lines of a terminal.
_REASON_MOST = 160


def status_text(status: Mapping[str, Any]) -> str:
    """The whole status document."""
    queue, batch = status["queue"], status["batch"]
    facts = [
        ("rung", _rung(status)),
        ("gate", _gate(status)),
        *((name, _signal(entry)) for name, entry in status["signals"].items() if entry),
        ("batch", f"{batch['size']}  ({batch['min']} to {batch['max']}, adjusted {batch['adjustments']} times)"),
        ("queue", _queue(queue)),
        *_spare(status["spare"]),
    ]
    lines = [
        f"infinity-supervisor {status['version']}, up {duration(status['uptime_s'])}, {status['mode']}",
        "",
        *(f"{name:<11} {printable(text)}" for name, text in facts),
        "",
        *_models(status["models"]),
    ]
    return "\n".join(lines)


def decision_line(decision: Mapping[str, Any]) -> str:
    """One decision: its date in UTC and its sentence."""
    at = str(decision["at"]).replace("T", " ")
    return printable(f"{at}  {decision['text']}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns, as wide as their widest cell."""
    cells = [list(head), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(head))]
    return [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _rung(status: Mapping[str, Any]) -> str:
    reason = status["reason"]
    return str(status["rung"]) + (f"  ({reason})" if reason not in (None, "operator") else "")


def _gate(status: Mapping[str, Any]) -> str:
    if not status["paused"]:
        return "open"
    return "closed by the operator" if status["reason"] == "operator" else "closed, requests are held"


def _signal(entry: Mapping[str, Any]) -> str:
    percent = entry.get("percent")
    if percent is None:
        rung = entry.get("rung")
        return f"{NONE:>8}  {entry.get('missing') or 'not read yet'}" + (f" (taken as {rung})" if rung else "")
    trend = entry.get("trend_per_min")
    words = [
        f"{percentage(percent):>8}",
        f"{entry.get('rung'):<6}",
        "" if trend is None else f"{trend:+.1f} per min",
        "drill" if entry.get("drill") else "",
    ]
    return "  ".join(word for word in words if word).rstrip()


def _queue(queue: Mapping[str, Any]) -> str:
    if not queue["requests"]:
        return "empty"
    size, oldest = byte_size(queue["bytes"]), duration(queue["oldest_s"])
    return f"{queue['requests']} requests, {queue['inputs']} inputs, {size}, oldest {oldest}"


def _spare(spare: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The warm spare, where one is wanted."""
    words = [str(spare["state"]), *([byte_size(spare["memory_bytes"])] if spare["memory_bytes"] else [])]
    reason = f"  ({spare['reason']})" if spare["reason"] else ""
    return [] if words == ["off"] and not reason else [("spare", ", ".join(words) + reason)]


def _models(models: Sequence[Mapping[str, Any]]) -> list[str]:
    if not models:
        return ["no models are configured"]
    return table(_COLUMNS, (_model(model) for model in models))


def _model(model: Mapping[str, Any]) -> list[str]:
    notes = [word for word in ("pinned", "paused") if model.get(word)]
    notes += [f"{model['restarts']} restarts"] if model["restarts"] else []
    notes += [_shortened(str(model["reason"]))] if model["reason"] else []
    return [
        str(model["name"]),
        str(model["state"]),
        NONE if model["pid"] is None else str(model["pid"]),
        byte_size(model["memory_bytes"]),
        str(model["batch_size"]),
        str(model["inflight_inputs"]),
        duration(model["idle_s"]),
        str(model["uses"]),
        str(model["loads"]),
        "; ".join(notes),
    ]


def _shortened(reason: str) -> str:
    """What is wrong stands first; a worker's last words follow, which `logs` has as well."""
    return reason if len(reason) <= _REASON_MOST else f"{reason[:_REASON_MOST]}… (more by `logs` and `status --json`)"


def _width(text: str) -> int:
    """How many terminal columns the text takes: East Asian characters two, combining marks none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
