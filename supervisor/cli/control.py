"""The commands that talk to a running daemon."""

import json
import time
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli.parameters import admin_option, daemon, drilled, duration, example, one_line_errors
from supervisor.core.display import printable

if TYPE_CHECKING:
    from supervisor.cli.client import Daemon

# Seconds between two looks at a log that is followed.
LOOK_EVERY = 0.5
# And after one that was not answered.
RETRY_EVERY = 5.0

as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


@click.command(epilog=example("infinity-supervisor status\ninfinity-supervisor status --json | jq .rung"))
@as_json
@admin_option
def status(as_json: bool, admin: "Daemon | None") -> None:
    """One look: the rung and why, the signals, the queue and the models."""
    from supervisor.cli.render import status_text

    with one_line_errors():
        document = daemon(admin).get("/api/v1/status")
    click.echo(json.dumps(document, indent=2) if as_json else status_text(document))


@click.command(epilog=example("infinity-supervisor load BAAI/bge-small-en-v1.5"))
@click.argument("model")
@admin_option
def load(model: str, admin: "Daemon | None") -> None:
    """Load MODEL and wait until it is ready, or say why it can't be."""
    _act_on(model, "load", admin)


@click.command(epilog=example("infinity-supervisor unload minilm"))
@click.argument("model")
@admin_option
def unload(model: str, admin: "Daemon | None") -> None:
    """Unload MODEL, also a pinned or the last one, and wait until its memory is back.

    A request for it loads it again.
    """
    _act_on(model, "unload", admin)


@click.command(epilog=example("infinity-supervisor restart minilm"))
@click.argument("model")
@admin_option
def restart(model: str, admin: "Daemon | None") -> None:
    """Stop MODEL's worker, start it anew and wait until it is ready."""
    _act_on(model, "restart", admin)


@click.command(epilog=example("infinity-supervisor logs minilm -n 20\ninfinity-supervisor logs minilm -f"))
@click.argument("model")
@click.option("-n", "count", type=click.IntRange(0, 10_000), default=50, show_default=True, help="How many lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what it writes, until Ctrl-C.")
@admin_option
def logs(model: str, count: int, follow: bool, admin: "Daemon | None") -> None:
    """The last lines that MODEL's worker wrote, those of earlier starts included."""
    from supervisor.cli.client import CallFailed

    target = daemon(admin)
    with one_line_errors():
        lines, position = target.logs(model, count)
        _print(lines)
        if not lines and not follow:
            click.echo(f"{printable(model)} has written nothing yet", err=True)
    while follow:
        time.sleep(LOOK_EVERY)
        try:
            lines, position = target.logs(model, 0, position)
        except CallFailed as error:  # a restart of the daemon is no end of the log
            click.echo(f"{error}; still trying, Ctrl-C ends", err=True)
            time.sleep(RETRY_EVERY)
        else:
            _print(lines)


@click.command(epilog=example("infinity-supervisor pause --for 5m"))
@click.option("--for", "seconds", type=duration, metavar="DURATION", help="How long. Default: until `resume`.")
@admin_option
def pause(seconds: float | None, admin: "Daemon | None") -> None:
    """Hold all requests; those under way are finished. A restart of the daemon does not end it."""
    with one_line_errors():
        _say(daemon(admin).post("/api/v1/pause", {"seconds": seconds}))


@click.command(epilog=example("infinity-supervisor resume"))
@admin_option
def resume(admin: "Daemon | None") -> None:
    """End the operator's pause; one that the limits demand goes on."""
    with one_line_errors():
        _say(daemon(admin).post("/api/v1/resume"))


@click.command(epilog=example("infinity-supervisor drill memory=96 --for 30s\ninfinity-supervisor drill --for 0"))
@click.argument("signals", type=drilled, nargs=-1, metavar="SIGNAL=PERCENT...")
@click.option(
    "--for", "seconds", type=duration, metavar="DURATION", default="30s", show_default=True, help="How long; 0 ends it."
)
@admin_option
def drill(signals: tuple[tuple[str, float], ...], seconds: float, admin: "Daemon | None") -> None:
    """Rehearse pressure: replace the readings of these signals for a time; all else is real.

    SIGNAL is cpu, memory, gpu or gpu_memory, PERCENT 0 to 100. Returns when the readings are in force.
    """
    if seconds and not signals:
        raise click.UsageError("name at least one SIGNAL=PERCENT, as in memory=96")
    if len(dict(signals)) < len(signals):
        raise click.UsageError("a signal is named twice")
    with one_line_errors():
        _say(daemon(admin).post("/api/v1/drill", {"signals": dict(signals), "seconds": seconds}))


@click.command(epilog=example("infinity-supervisor explain -n 5"))
@click.option("-n", "count", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many, at most.")
@as_json
@admin_option
def explain(count: int, as_json: bool, admin: "Daemon | None") -> None:
    """The last decisions, oldest first: what was done, because of which reading, and what came of it. Times are UTC."""
    from supervisor.cli.render import decision_line

    with one_line_errors():
        decisions = daemon(admin).get(f"/api/v1/decisions?n={count}")
    if as_json:
        click.echo(json.dumps(decisions, indent=2))
    elif decisions:
        click.echo("\n".join(decision_line(decision) for decision in decisions))
    else:
        click.echo("no decisions yet", err=True)


def _act_on(model: str, action: str, admin: "Daemon | None") -> None:
    from supervisor.cli.progress import progress_of

    target = daemon(admin)
    with one_line_errors(), progress_of(target, model):
        outcome = target.act_on(model, action)
    _say(outcome)


def _print(lines: list[str]) -> None:
    for line in lines:
        click.echo(printable(line))


def _say(outcome: Any) -> None:
    click.echo(printable(str(outcome["text"])))
