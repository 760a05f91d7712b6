"""The commands that read a configuration: `run`, `check-config`, `config-schema`."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from supervisor.cli.parameters import example

config_option = click.option(
    "-c", "--config", "path", required=True, type=click.Path(), metavar="FILE", help="The configuration, a YAML file."
)


@click.command(epilog=example("infinity-supervisor run -c /etc/infinity-supervisor/supervisor.yaml"))
@config_option
def run(path: str) -> None:
    """Run the daemon in the foreground. SIGTERM or Ctrl-C ends it, SIGHUP reads FILE again."""
    from supervisor.config import check

    settings, faults, _ = check(path)
    _tell(faults)
    if settings is None:
        raise click.exceptions.Exit(2)
    if not settings.models:
        click.echo(f"{path}: models: no models are configured; add at least one with `name` and `model_id`", err=True)
        raise click.exceptions.Exit(2)

    from supervisor import daemon  # only now: what a refused file needs none of takes a while to load

    raise click.exceptions.Exit(daemon.run(Path(path), settings))


@click.command(epilog=example("infinity-supervisor check-config -c etc/supervisor.yaml"))
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: ok, faults, notes, effective.")
def check_config(path: str, as_json: bool) -> None:
    """Check FILE: prints what it amounts to, every default and derived value included, or all its faults."""
    from supervisor.config import check, effective

    settings, faults, notes = check(path)
    amounts_to = None
    if settings is not None:
        from supervisor.sense.memory import total_memory
        from supervisor.state import default_root

        state = str(default_root(os.environ))
        amounts_to = effective(settings, total_memory=total_memory(), state_dir=state)
    if as_json:
        report = {
            "ok": settings is not None,
            "faults": [_as_dict(fault) for fault in faults],
            "notes": [_as_dict(note) for note in notes],
            "effective": amounts_to,
        }
        click.echo(json.dumps(report, indent=2))
    else:
        _tell(faults)
        if amounts_to is not None:  # else the faults stand alone, one a line
            import yaml

            _tell(f"note: {note}" for note in notes)
            click.echo(yaml.safe_dump(amounts_to, sort_keys=False, allow_unicode=True, width=120), nl=False)
    raise click.exceptions.Exit(0 if settings is not None else 2)


@click.command(epilog=example("infinity-supervisor config-schema > supervisor.schema.json"))
def config_schema() -> None:
    """Print the JSON Schema of the configuration, for editors that complete and check it."""
    from supervisor.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _tell(findings: Iterable[object]) -> None:
    """One line each: `FILE:LINE: dotted.path: what is wrong, what is allowed`."""
    for finding in findings:
        click.echo(str(finding), err=True)


def _as_dict(finding: Any) -> dict[str, object]:
    return {key: getattr(finding, key) for key in ("file", "line", "path", "message")}
