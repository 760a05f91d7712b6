"""What users may type: durations, drilled signals, the daemon's address; and how a command fails in one line."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from supervisor.core.display import printable
from supervisor.core.model import Signal

if TYPE_CHECKING:
    from supervisor.cli.client import Daemon

F = TypeVar("F", bound=Callable[..., Any])

_TOKEN_FILE = "supervisor.token_file"
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def duration(text: str) -> float:
    """Seconds, written `90`, `90s`, `5m`, `1h30m` or `2d`."""
    if _NUMBER.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise click.BadParameter(f"{text!r} is no duration; allowed: 90, 90s, 5m, 1h30m, 2d")
    return sum(float(part) * size for part, size in zip(match.groups(), (86_400, 3600, 60, 1), strict=True) if part)


def drilled(text: str) -> tuple[str, float]:
    """One `SIGNAL=PERCENT`: the signal's name and the percentage."""
    signals = [signal.value for signal in Signal]
    name, equals, figure = text.partition("=")
    if name not in signals or not equals:
        raise click.BadParameter(f"{text!r}; allowed: SIGNAL=PERCENT, with one of {', '.join(signals)}")
    try:
        percent = float(figure.removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 <= percent <= 100:
        raise click.BadParameter(f"{text!r}; allowed: a percentage from 0 to 100")
    return name, percent


def daemon_at(text: str) -> "Daemon":
    """The daemon at `http://HOST:PORT` or `unix:PATH`."""
    from supervisor.cli.client import Daemon, parse

    try:
        return Daemon(parse(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _remember(context: click.Context, _: click.Parameter, path: str | None) -> None:
    context.meta[_TOKEN_FILE] = path


def admin_option(function: F) -> F:
    """`--admin` and `--token-file`: every command that talks to a daemon has them; see `daemon()`."""
    function = click.option(
        "--token-file",
        type=click.Path(dir_okay=False),
        envvar="INFINITY_SUPERVISOR_TOKEN_FILE",
        show_envvar=True,
        expose_value=False,
        callback=_remember,
        metavar="FILE",
        help="File with the admin API's token, where it asks for one. Default: admin.token_file of "
        "/etc/infinity-supervisor/supervisor.yaml for the address that is written there.",
    )(function)
    return click.option(
        "--admin",
        type=daemon_at,
        envvar="INFINITY_SUPERVISOR_ADMIN",
        show_envvar=True,
        metavar="URL|unix:PATH",
        help="Where the daemon's admin listener is. Default: admin.socket, if you may write to it, or admin.listen of "
        "/etc/infinity-supervisor/supervisor.yaml, else http://127.0.0.1:7998.",
    )(function)


def example(text: str) -> str:
    """An epilog that shows a command line as it is typed."""
    return "\b\nExample:\n  " + text.replace("\n", "\n  ")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a call to the daemon can raise into one line and exit code 1."""
    from supervisor.cli.client import CallFailed

    try:
        yield
    except CallFailed as error:
        click.echo(f"infinity-supervisor: {printable(str(error))}", err=True)
        raise click.exceptions.Exit(1) from error
    except KeyboardInterrupt:
        click.echo("infinity-supervisor: interrupted; what the daemon was asked to do, it goes on doing", err=True)
        raise click.exceptions.Exit(1) from None


def daemon(admin: "Daemon | None") -> "Daemon":
    """The daemon that `--admin` names, or the one at the default address."""
    from supervisor.cli.client import Daemon, default_address, default_token_file

    found = admin if admin is not None else Daemon(default_address())
    found.token_file = click.get_current_context().meta.get(_TOKEN_FILE) or default_token_file(found.address)
    return found
