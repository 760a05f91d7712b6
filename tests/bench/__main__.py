"""`tests/bench/run`: which scenarios, how often, against whom; then the tables and the JSON."""

import argparse
import os
import resource
import shlex
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.bench import children, report
from tests.bench.contestants import ALL
from tests.bench.host import machine, versions
from tests.bench.memory_group import Unavailable
from tests.bench.runner import Choice, Outcome, run, say
from tests.bench.scenarios import BY_NAME, SCENARIOS
from tests.support import infinity
from tests.support.daemon import ROOT

EXAMPLES = """
Examples:
  tests/bench/run --list
  tests/bench/run single-128 --against bare,supervisor
  tests/bench/run --runs 5 --json figures.json
  tests/bench/run hold --runs 1 --seconds 20      a quick look, not a figure
"""


def arguments(words: list[str]) -> argparse.Namespace:
    """The command line; ends the program with 2 when it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description="Compares the supervisor with a bare Infinity, nginx in front of one, and a naive pause. Tables go"
        " to stdout, progress to stderr. Exit status 0: measured; 1: something could not be run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="which ones; all when none is named")
    parser.add_argument("--list", action="store_true", help="what there is, and what is to be reached")
    parser.add_argument("--runs", type=int, metavar="N", help="how often each contestant is measured (default: 5)")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="of load per contestant and run (default: by scenario)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="default: .quickstart/bench/DATE.json")
    parser.add_argument(
        "--against",
        default=",".join(ALL),
        metavar="A,B",
        help=f"which contestants take part (default: all of {','.join(ALL)})",
    )
    parser.add_argument(
        "--fast-start",
        action="store_true",
        help="fork each Infinity from one that has imported everything: quick, for trying a scenario out",
    )
    chosen = parser.parse_args(words)
    against = chosen.against.split(",")
    chosen.against = [name for name in ALL if name in against]
    unknown = [name for name in chosen.scenarios if name not in BY_NAME]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    if not set(against) <= set(ALL):
        parser.error(f"--against knows {', '.join(ALL)}")
    if (chosen.runs is not None and chosen.runs < 1) or (chosen.seconds is not None and chosen.seconds <= 0):
        parser.error("--runs and --seconds must be positive")
    return chosen


def listing() -> str:
    """Every scenario with its targets."""
    lines = []
    for scenario in SCENARIOS:
        lines.append(f"{scenario.name:14} {scenario.title}")
        lines += [f"{'':16}{figure.title}: {figure.target}" for figure in scenario.figures if figure.target]
    return "\n".join(lines)


def measure(chosen: argparse.Namespace) -> int:
    """Run it all; the exit status."""
    scenarios = [s for s in SCENARIOS if not chosen.scenarios or s.name in chosen.scenarios]
    command = infinity.template().command() if chosen.fast_start else infinity.plain_command()
    choice = Choice(chosen.runs or 5, chosen.runs is not None, chosen.seconds, chosen.against, command)
    began = datetime.now(UTC)
    # `run` has changed to the checkout; what the caller named counts from where that was.
    path = (
        Path(os.environ.get("BENCH_FROM", ".")) / chosen.json
        if chosen.json
        else ROOT / ".quickstart" / "bench" / f"{began:%Y%m%d-%H%M%S}.json"
    )
    head = {
        "began": began.isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv[1:]),
        "machine": machine(),
        "versions": versions(),
    }
    outcomes: list[Outcome] = []
    idle = [s.name for s in scenarios if not choice.contestants(s)]
    if idle:
        say(f"nobody of {', '.join(chosen.against)} takes part in {', '.join(idle)}")
    for outcome in run([s for s in scenarios if choice.contestants(s)], choice):
        outcomes.append(outcome)
        print(report.table(outcome.scenario, outcome.contestants, outcome.rounds) + "\n", flush=True)
        told = [report.document(o.scenario, o.rounds, o.settings) for o in outcomes]
        report.write(path, head, told)
    for line in report.misses([(o.scenario, o.rounds) for o in outcomes]):
        print(f"not reached: {line}")
    if not outcomes:
        return 1
    say(f"every value is in {path}")
    return 0


def main() -> int:
    """Whatever happens, nothing that was started is left."""
    chosen = arguments(sys.argv[1:])
    if chosen.list:
        print(listing())
        return 0
    signal.signal(signal.SIGTERM, _terminated)
    # Ten thousand connections need more descriptors than a shell gives; children inherit it.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    children.adopt_orphans()
    try:
        return measure(chosen)
    except (RuntimeError, OSError, Unavailable) as error:
        say(f"tests/bench/run: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        children.end_all()


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
