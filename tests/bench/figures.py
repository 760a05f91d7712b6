"""What a scenario measures, how contestants are compared, and what is to be reached.

A slice (one contestant under load, once) yields values by key. A `Figure` says how one of them is shown and judged;
`Rounds` keeps the values of all slices and answers with spreads over the rounds.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from tests.bench.arithmetic import Spread, ratio, spread

BASE = "bare"
JUDGED = "supervisor"

Values = dict[str, float]


class Of(StrEnum):
    """What of a figure is judged: itself, or in the same round over, or minus, bare Infinity's."""

    VALUE = "value"
    RATIO = "ratio"
    DIFFERENCE = "difference"


@dataclass(frozen=True)
class Target:
    """At least, at most, or both. The median over the rounds is judged, or the `worst` of them."""

    of: Of = Of.VALUE
    at_least: float = -math.inf
    at_most: float = math.inf
    worst: bool = False

    def reached(self, got: Spread) -> bool:
        """Whether that is reached; never by what is not a number."""
        low, high = (got.least, got.most) if self.worst else (got.median, got.median)
        return low >= self.at_least and high <= self.at_most

    def __str__(self) -> str:
        """As the table shows it: `ratio ≥ 5`, or `≤ 0 in every round`."""
        if math.isfinite(self.at_least) and math.isfinite(self.at_most):
            bounds = f"{self.at_least:g}–{self.at_most:g}"
        else:
            bounds = f"≥ {self.at_least:g}" if math.isfinite(self.at_least) else f"≤ {self.at_most:g}"
        what = "" if self.of is Of.VALUE else f"{self.of} "
        return f"{what}{bounds}{' in every round' if self.worst else ''}"


@dataclass(frozen=True)
class Figure:
    """One measured quantity: its key in the values, its title with the unit, and what is to be reached, if anything."""

    key: str
    title: str
    target: Target | None = None
    shown: tuple[Of, ...] = (Of.VALUE, Of.RATIO)
    digits: int = 3


@dataclass(frozen=True)
class Slice:
    """The values of one contestant in one round."""

    round: int
    contestant: str
    values: Values


@dataclass
class Rounds:
    """All slices of one scenario."""

    slices: list[Slice] = field(default_factory=list)

    def add(self, number: int, contestant: str, values: Values) -> None:
        """Keep one more."""
        self.slices.append(Slice(number, contestant, values))

    def by_round(self, contestant: str, key: str) -> dict[int, float]:
        """One value a round, where there is one."""
        found = (s for s in self.slices if s.contestant == contestant and key in s.values)
        return {s.round: s.values[key] for s in found if not math.isnan(s.values[key])}

    def spread(self, contestant: str, key: str, of: Of = Of.VALUE) -> Spread | None:
        """Over the rounds: the values, or what they are to the base's of the same round; None when there are none."""
        values = self.by_round(contestant, key)
        if of is Of.VALUE:
            return spread(values.values())
        base = self.by_round(BASE, key)
        both = [(value, base[number]) for number, value in values.items() if number in base]
        if of is Of.RATIO:
            return spread(ratio(value, to) for value, to in both)
        return spread(value - to for value, to in both)

    def verdict(self, figure: Figure) -> bool | None:
        """Whether the supervisor reached the figure's target; None where there is no target or nothing to judge."""
        if figure.target is None or not any(s.contestant == JUDGED for s in self.slices):
            return None
        if figure.target.of is not Of.VALUE and not any(s.contestant == BASE for s in self.slices):
            return None
        got = self.spread(JUDGED, figure.key, figure.target.of)
        return got is not None and figure.target.reached(got)
