"""The status as a plain page: no script, nothing fetched from elsewhere, reloads itself, everything escaped."""

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape as escape_html
from importlib.resources import files
from typing import Any

from supervisor.core.display import byte_size, duration, percentage, printable

DECISIONS = 12  # how many of the last decisions the page tells
REFRESH = 2  # s between reloads
HEADERS = {
    # The page has no script and no form: nothing that slips into it could do anything.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_WIDE_COLUMNS = frozenset({"Model", "Note"})  # their text may break anywhere
_SIGNAL_NAMES = {"cpu": "CPU", "memory": "Memory", "gpu": "GPU", "gpu_memory": "GPU memory"}
_MODEL_COLUMNS = ("Model", "State", "Memory", "Batch", "In flight", "Idle", "Uses", "Loads", "Note")
_LINKS = (
    ("/metrics", "metrics"),
    ("/api/v1/status", "status"),
    ("/api/v1/history", "history"),
    ("/api/v1/decisions?n=100", "decisions"),
    ("/api/v1/config", "config"),
    ("/api/v1/events", "events"),
)


def render(status: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> str:
    """The whole page from a status document and the last decisions, oldest first."""
    rung = str(status.get("rung", "normal"))
    state = _headline(status)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH}">
<meta name="color-scheme" content="light dark">
<title>{escape(state)} · Infinity Supervisor</title>
<style>{_style()}</style>
</head>
<body>
<header>
<h1>Infinity Supervisor <small>{escape(str(status.get("version", "")))}</small></h1>
<p>up {duration(status.get("uptime_s"))} · {_mode(status)}</p>
</header>
<main>
<section class="now {_rung_class(rung)}">
<p class="state">{escape(state)}</p>
<p>{escape(_explanation(status))}</p>
</section>
<section>
<h2>Signals</h2>
<ul class="signals">
{_signals(status.get("signals", {}))}
</ul>
</section>
<section>
<h2>Requests</h2>
{_requests(status)}
</section>
<section>
<h2>Models</h2>
{_models(status.get("models", ()))}
</section>
<section>
<h2>Last decisions</h2>
{_decisions(decisions)}
</section>
</main>
<footer>
<nav>{" ".join(f'<a href="{escape(path)}">{name}</a>' for path, name in _LINKS)}</nav>
</footer>
</body>
</html>
"""


def escape(text: str) -> str:
    """Text from anywhere, as harmless text in the page."""
    return escape_html(printable(text))


@cache
def _style() -> str:
    return (files("supervisor.admin") / "static" / "page.css").read_text(encoding="utf-8")


def _headline(status: Mapping[str, Any]) -> str:
    rung = str(status.get("rung", "normal"))
    if status.get("paused"):
        if status.get("reason") == "operator":
            return "Paused by the operator"
        return "Paused, unloading cold models" if rung == "unload" else "Paused"
    return {"normal": "Normal", "warn": "Warning", "shrink": "Smaller batches"}.get(rung, rung.capitalize())


def _explanation(status: Mapping[str, Any]) -> str:
    """What the headline means for requests, and the reason as far as it is known."""
    reason = status.get("reason")
    if status.get("paused"):
        waiting = status.get("queue", {}).get("requests", 0)
        held = f"{waiting} request{'' if waiting == 1 else 's'} held"
        return held if reason in (None, "operator") else f"{held}; {reason}"
    return f"Requests flow; {reason}" if reason else "Requests flow."


def _mode(status: Mapping[str, Any]) -> str:
    return "observing only, nothing is touched" if status.get("mode") == "observe" else "enforcing"


def _rung_class(rung: object) -> str:
    """A class name of our own for a rung; anything else is shown as unknown."""
    known = ("normal", "warn", "shrink", "pause", "unload")
    return f"rung-{rung}" if rung in known else "rung-none"


def _signals(signals: Mapping[str, Mapping[str, Any]]) -> str:
    return "\n".join(_signal(name, entry) for name, entry in signals.items() if entry)


def _signal(name: str, entry: Mapping[str, Any]) -> str:
    title = escape(_SIGNAL_NAMES.get(name, name))
    percent = entry.get("percent")
    if percent is None:
        why = escape(str(entry.get("missing") or "not read yet"))
        return f'<li class="{_rung_class(entry.get("rung"))}"><h3>{title}</h3><p>not available: {why}</p></li>'
    trend = entry.get("trend_per_min")
    details = [escape(str(entry.get("rung")))]
    if trend is not None:
        details.append(f"{trend:+.1f} per min")
    if entry.get("drill"):
        details.append("<strong>drill</strong>")
    width = min(100.0, max(0.0, float(percent)))
    return (
        f'<li class="{_rung_class(entry.get("rung"))}"><h3>{title} <b>{percentage(percent)}</b></h3>'
        f'<div class="bar"><span style="width:{width:.1f}%"></span></div><p>{" · ".join(details)}</p></li>'
    )


def _requests(status: Mapping[str, Any]) -> str:
    queue, batch = status.get("queue", {}), status.get("batch", {})
    facts = (
        ("Waiting", f"{queue.get('requests', 0)} requests, {queue.get('inputs', 0)} inputs"),
        ("Waiting bytes", byte_size(queue.get("bytes"))),
        ("Oldest", duration(queue.get("oldest_s"))),
        ("Batch size", f"{batch.get('size')} ({batch.get('min')} to {batch.get('max')})"),
    )
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts) + "</dl>"


def _models(models: Sequence[Mapping[str, Any]]) -> str:
    if not models:
        return "<p>No models are configured.</p>"
    head = "".join(f"<th>{column}</th>" for column in _MODEL_COLUMNS)
    rows = "\n".join(_model(model) for model in models)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _model(model: Mapping[str, Any]) -> str:
    state = str(model.get("state"))
    notes = [word for word, said in (("pinned", model.get("pinned")), ("paused", model.get("paused"))) if said]
    if model.get("reason"):
        notes.append(str(model["reason"]))
    cells = (
        str(model.get("name")),
        state,
        byte_size(model.get("memory_bytes")),
        str(model.get("batch_size", "")),
        str(model.get("inflight_inputs", "")),
        duration(model.get("idle_s")),
        str(model.get("uses", "")),
        str(model.get("loads", "")),
        "; ".join(notes),
    )
    columns = zip(_MODEL_COLUMNS, cells, strict=True)
    return f'<tr class="{_state_class(state)}">' + "".join(_cell(name, text) for name, text in columns) + "</tr>"


def _cell(column: str, text: str) -> str:
    wide = ' class="wide"' if column in _WIDE_COLUMNS else ""
    return f'<td data-label="{column}"{wide}>{escape(text)}</td>'


def _state_class(state: str) -> str:
    known = {"ready": "rung-normal", "backoff": "rung-shrink", "failed": "rung-pause", "stopped": "rung-none"}
    return known.get(state, "rung-warn")


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> str:
    if not decisions:
        return "<p>None yet.</p>"
    items = "\n".join(_decision(decision) for decision in reversed(decisions))
    return f'<ol class="decisions">\n{items}\n</ol>'


def _decision(decision: Mapping[str, Any]) -> str:
    at = str(decision.get("at")).replace("T", " ")
    return f"<li><time>{escape(at)}</time> <span>{escape(str(decision.get('text')))}</span></li>"
