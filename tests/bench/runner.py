"""Runs a scenario: starts the contestants, alternates them, keeps what each slice yields."""

import contextlib
import itertools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import children
from tests.bench.arithmetic import CpuSample
from tests.bench.contestants import Contestant, Place, Setup, Supervisor, running
from tests.bench.figures import Rounds, Values
from tests.bench.host import TICKS_PER_SECOND, busy_before, cpu_sample, own_cpu_seconds
from tests.bench.memory_group import MemoryGroup, memory_group
from tests.bench.report import number
from tests.bench.scenario import Scenario
from tests.support import infinity

SETTLE = 90.0
"""Seconds to wait, at most, for what an earlier load left behind: a bare Infinity works off all it was sent."""
NOISE = 15.0
"""Percent of CPU that others may use before the figures are doubtful."""


@dataclass(frozen=True)
class Choice:
    """What the caller asked for."""

    runs: int
    runs_given: bool
    seconds: float | None
    against: Sequence[str]
    command: Sequence[str]
    """How Infinity is started."""

    def rounds(self, scenario: Scenario) -> int:
        """How many rounds that makes."""
        runs = scenario.runs if scenario.runs is not None and not self.runs_given else self.runs
        return runs * scenario.slices

    def slice_seconds(self, scenario: Scenario) -> float:
        """How long one slice takes."""
        return (scenario.seconds if self.seconds is None else self.seconds) / scenario.slices

    def place(self, folder: Path, model_id: str, group: MemoryGroup | None = None) -> Place:
        """Where contestants live. What a fork template forks would live in the template's cgroup."""
        command = self.command if group is None else infinity.plain_command()
        return Place(folder, command, model_id, group)

    def contestants(self, scenario: Scenario) -> list[str]:
        """Who takes part."""
        return [name for name in scenario.contestants if name in self.against]


@dataclass
class Outcome:
    """What running a scenario yielded."""

    scenario: Scenario
    contestants: list[str]
    rounds: Rounds = field(default_factory=Rounds)
    settings: dict[str, Any] = field(default_factory=dict)


def say(text: str) -> None:
    """Progress, on stderr: stdout is for the tables."""
    print(text, file=sys.stderr, flush=True)


def run(scenarios: Sequence[Scenario], choice: Choice) -> Iterator[Outcome]:
    """One outcome after the other. Neighbours with the same set-up share one start of the contestants."""
    for setup, alike in itertools.groupby(scenarios, key=lambda scenario: (scenario.setup, scenario.fresh)):
        yield from _run_alike(setup[0], list(alike), choice)


def _run_alike(setup: Setup, scenarios: list[Scenario], choice: Choice) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory(prefix="infinity-bench-") as name:
        folder = Path(name)
        model_id = setup.make_model(folder)
        if scenarios[0].fresh:
            for scenario in scenarios:
                yield _run_fresh(scenario, choice, folder, model_id)
            return
        names = list(dict.fromkeys(name for scenario in scenarios for name in choice.contestants(scenario)))
        say(f"starting {', '.join(names)} for {', '.join(scenario.name for scenario in scenarios)}")
        with running(names, setup, choice.place(folder, model_id)) as contestants:
            for scenario in scenarios:
                yield _run_one(scenario, choice, contestants)


def _run_one(scenario: Scenario, choice: Choice, running: dict[str, Contestant]) -> Outcome:
    names = choice.contestants(scenario)
    outcome = Outcome(scenario, names)
    if scenario.warm_up:
        for name in names:
            say(f"{scenario.name} warm-up {name}")
            scenario.slice(running[name], scenario.warm_up)
    children.wait_until_idle(SETTLE)
    outcome.settings = _settings(scenario, choice, running)
    rounds = choice.rounds(scenario)
    for turn, name in itertools.product(range(1, rounds + 1), names):
        children.wait_until_idle(SETTLE)
        running[name].settle(SETTLE)
        _measure(outcome, choice, turn, running[name])
    return outcome


def _run_fresh(scenario: Scenario, choice: Choice, folder: Path, model_id: str) -> Outcome:
    names = choice.contestants(scenario)
    outcome = Outcome(scenario, names)
    for turn, name in itertools.product(range(1, choice.rounds(scenario) + 1), names):
        with contextlib.ExitStack() as stack:
            group = None
            if scenario.setup.memory_limit is not None:
                group = stack.enter_context(memory_group(f"infinity-bench-{folder.name}", scenario.setup.memory_limit))
            mine = folder / f"{turn}-{name}"
            mine.mkdir()
            place = choice.place(mine, model_id, group)
            contestants = stack.enter_context(running([name], scenario.setup, place))
            children.wait_until_idle(SETTLE)
            if name not in outcome.settings:
                outcome.settings |= _settings(scenario, choice, contestants)
            _measure(outcome, choice, turn, contestants[name])
    return outcome


def _measure(outcome: Outcome, choice: Choice, turn: int, contestant: Contestant) -> None:
    scenario = outcome.scenario
    host, ours, used = cpu_sample(), children.cpu_seconds(), own_cpu_seconds()
    values = scenario.slice(contestant, choice.slice_seconds(scenario))
    used = own_cpu_seconds() - used
    ours = children.cpu_seconds() - ours + used
    values = {**values, **costs(host, cpu_sample(), used, ours)}
    outcome.rounds.add(turn, contestant.name, values)
    say(f"{scenario.name} round {turn}/{choice.rounds(scenario)} {contestant.name}: {_brief(scenario, values)}")


def costs(before: CpuSample, after: CpuSample, used: float, ours: float) -> Values:
    """What the load took and what others took, in cores; from CPU seconds `used` by it and by all that is `ours`."""
    took = after.at - before.at
    busy = (after.busy - before.busy) / TICKS_PER_SECOND
    return {"client_cores": used / took, "others_cores": max(0.0, busy - ours) / took, "took_s": took}


def _brief(scenario: Scenario, values: Values) -> str:
    return ", ".join(f"{f.title} {number(values[f.key], f.digits)}" for f in scenario.figures if f.key in values)


def _settings(scenario: Scenario, choice: Choice, running: dict[str, Contestant]) -> dict[str, Any]:
    busy = busy_before()
    if busy > NOISE:
        say(f"{scenario.name}: others use {busy:.0f} % of this host's CPU; figures taken now say little")
    supervisors = [c for c in running.values() if isinstance(c, Supervisor)]
    return {
        "rounds": choice.rounds(scenario),
        "slice_s": choice.slice_seconds(scenario),
        "infinity_command": list(choice.command),
        "engine": scenario.setup.engine,
        "memory_limit": scenario.setup.memory_limit,
        "others_busy_percent": round(busy, 1),
        "supervisor_config": supervisors[0].config() if supervisors else None,
    }
