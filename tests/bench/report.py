"""What is told at the end: a table for people (Markdown), and JSON with every single value."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.arithmetic import Spread
from tests.bench.figures import BASE, JUDGED, Figure, Of, Rounds
from tests.bench.scenario import Scenario

OUTCOME = {True: "reached", False: "not reached", None: "not judged"}


def number(value: float, digits: int) -> str:
    """With so many significant digits, thousands apart, no exponent."""
    if not math.isfinite(value) or value == 0:
        return "0" if value == 0 else str(value)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shown(got: Spread | None, digits: int, mark: str = "") -> str:
    """The median with the least and the most in brackets, or the one value they all are."""
    if got is None:
        return ""
    middle, least, most = (f"{mark}{number(value, digits)}" for value in got)
    return middle if least == most else f"{middle} ({least}–{most})"


def table(scenario: Scenario, contestants: list[str], rounds: Rounds) -> str:
    """The scenario's figures: a row for each and for what it is to bare Infinity's, a column for each contestant."""
    rows = [["", *contestants, "target"]]
    for figure in scenario.figures:
        for of in figure.shown:
            if of is not Of.VALUE and len(contestants) == 1:
                continue
            rows.append(_row(figure, of, contestants, rounds))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    taken = max((s.round for s in rounds.slices), default=0)
    others = max((s.values.get("others_cores", 0.0) for s in rounds.slices), default=0.0)
    head = f"{scenario.name}: {scenario.title} ({taken} rounds; others used at most {number(others, 2)} cores)"
    return f"{head}\n\n" + "\n".join(lines)


def _row(figure: Figure, of: Of, contestants: list[str], rounds: Rounds) -> list[str]:
    title = figure.title if of is Of.VALUE else f"— {of} to {BASE}"
    mark = "×" if of is Of.RATIO else ""
    cells = [
        "" if of is not Of.VALUE and name == BASE else shown(rounds.spread(name, figure.key, of), figure.digits, mark)
        for name in contestants
    ]
    aim = ""
    if figure.target is not None and figure.target.of is of:
        aim = f"{figure.target}: {OUTCOME[rounds.verdict(figure)]}"
    return [title, *cells, aim]


def document(scenario: Scenario, rounds: Rounds, settings: dict[str, Any]) -> dict[str, Any]:
    """One scenario in the JSON."""
    names = list(dict.fromkeys(s.contestant for s in rounds.slices))
    return {
        "name": scenario.name,
        "title": scenario.title,
        "settings": settings,
        "figures": [_figure(figure, names, rounds) for figure in scenario.figures],
        "slices": [{"round": s.round, "contestant": s.contestant, "values": _finite(s.values)} for s in rounds.slices],
    }


def _figure(figure: Figure, names: list[str], rounds: Rounds) -> dict[str, Any]:
    result: dict[str, Any] = {"key": figure.key, "title": figure.title}
    if figure.target is not None:
        result["target"] = str(figure.target)
        result["reached"] = rounds.verdict(figure)
    for of in dict.fromkeys((*figure.shown, figure.target.of if figure.target else Of.VALUE)):
        spreads = {name: rounds.spread(name, figure.key, of) for name in names}
        result[of.value] = {name: got._asdict() for name, got in spreads.items() if got is not None}
    return result


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def misses(scenarios: list[tuple[Scenario, Rounds]]) -> list[str]:
    """What the supervisor did not reach, a line each."""
    return [
        f"{scenario.name}: {figure.title}: {figure.target}, "
        f"got {shown(rounds.spread(JUDGED, figure.key, figure.target.of), figure.digits)}"
        for scenario, rounds in scenarios
        for figure in scenario.figures
        if figure.target is not None and rounds.verdict(figure) is False
    ]


def write(path: Path, head: dict[str, Any], scenarios: list[dict[str, Any]]) -> None:
    """The whole JSON, anew after each scenario, so that a run that breaks off has told what it had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {**head, "written": datetime.now(UTC).isoformat(timespec="seconds"), "scenarios": scenarios}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n")
    new.replace(path)
