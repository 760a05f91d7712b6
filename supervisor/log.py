"""Logs: structlog set up once; JSON lines or a console on one descriptor, or the journal; never in anyone's way.

Owns the level (changeable live), the format and the way out. Everything that logs, libraries through stdlib `logging`
included, comes through here. A line is an event name plus fields. Logging never raises and never blocks: a reader that
is too slow costs lines, which are counted, not time.
"""

import json
import logging
import math
import os
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from supervisor import journald
from supervisor.core.display import CONTROLS, printable
from supervisor.errors import StartError
from supervisor.journald import SOCKET, JournalSink
from supervisor.service.manager import REMEDY
from supervisor.sink import Sink

Format = Literal["auto", "json", "console", "journal"]
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class _State:
    """What all loggers share, so that a reload changes it for those that exist already."""

    threshold = LEVELS["info"]
    sink: Sink | JournalSink | None = None
    render: Processor
    console = False


class Logger(structlog.BoundLoggerBase):
    """The bound logger behind `structlog.get_logger(__name__)`: a level below the threshold costs one comparison."""

    def debug(self, event: str, /, *args: object, **fields: Any) -> None:
        """For whoever looks for a fault in the supervisor itself."""
        if _State.threshold <= 10:
            self._emit("debug", event, args, fields)

    def info(self, event: str, /, *args: object, **fields: Any) -> None:
        """The ordinary course of things."""
        if _State.threshold <= 20:
            self._emit("info", event, args, fields)

    def warning(self, event: str, /, *args: object, **fields: Any) -> None:
        """Something an operator may want to change."""
        if _State.threshold <= 30:
            self._emit("warning", event, args, fields)

    def error(self, event: str, /, *args: object, **fields: Any) -> None:
        """Something that was asked for could not be done."""
        if _State.threshold <= 40:
            self._emit("error", event, args, fields)

    def critical(self, event: str, /, *args: object, **fields: Any) -> None:
        """The daemon cannot go on."""
        self._emit("critical", event, args, fields)

    def exception(self, event: str, /, *args: object, **fields: Any) -> None:
        """An error, with the exception that is being handled."""
        fields.setdefault("exc_info", True)
        self.error(event, *args, **fields)

    def log(self, level: int, event: str, /, *args: object, **fields: Any) -> None:
        """At a level given as stdlib `logging` numbers them."""
        if _State.threshold <= level:
            name = next((name for name, number in LEVELS.items() if level <= number), "critical")
            self._emit(name, event, args, fields)

    def _emit(self, level: str, event: str, args: tuple[object, ...], fields: dict[str, Any]) -> None:
        try:
            if args:
                event = event % args
            line, _ = self._process_event(level, event, fields)
            self._logger.write(line[0])
        except structlog.DropEvent:
            pass
        except Exception as error:  # noqa: BLE001 - a fault in a value's repr() must not become a fault of the caller
            with suppress(Exception):
                fields = {"of": str(event)[:200], "error": type(error).__name__}
                self._logger.write(self._process_event("error", "log_failed", fields)[0][0])


class _Out:
    """What structlog wraps: a logger's name and the way out as it is now."""

    def __init__(self, *args: Any) -> None:
        self.name = str(args[0]).removeprefix("supervisor.") if args else ""

    def write(self, line: Any) -> None:
        """Write one finished line, as the sink takes them."""
        if _State.sink is not None:
            _State.sink.write(line)


def configure(level: str = "info", format: Format = "auto", *, descriptor: int = 2) -> None:
    """Set up structlog and stdlib logging to write to `descriptor`.

    "auto" is the console when that is a terminal, the journal when that is where it goes, else JSON lines. May be
    called again (a reload): loggers in use follow. Raises KeyError for a level that does not exist, StartError, when
    it logs JSON lines, for a journal that can't be had.
    """
    set_level(level)
    _occupy(descriptor)
    flush()
    terminal = os.isatty(descriptor)
    _State.console = format == "console" or (format == "auto" and terminal)
    journal = format == "journal" or (format == "auto" and journald.is_stream(descriptor))
    sink = JournalSink.connected(_dropped) if journal else None
    if sink is not None:
        _State.render, _State.sink = _entry, sink
    else:
        _State.render = _console(colors=terminal) if _State.console else _json
        _State.sink = Sink(descriptor, _dropped)
    structlog.configure(
        processors=[_name, structlog.processors.add_log_level, _stamp, _exception, _render],
        wrapper_class=Logger,
        context_class=dict,
        logger_factory=_Out,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _FromStdlib)]
    root.addHandler(_FromStdlib())
    logging.raiseExceptions = False  # stdlib would print a traceback of its own when a record cannot be written
    logging.captureWarnings(True)
    if format == "journal" and sink is None:
        raise StartError(
            f"logging.format is journal: no journal listens at {SOCKET}, or systemd-python is missing: {REMEDY}"
        )


def set_level(level: str) -> None:
    """Change the level of every logger, at once. Raises KeyError for one that does not exist."""
    _State.threshold = LEVELS[level]
    logging.getLogger().setLevel(LEVELS[level])


def reset() -> None:
    """Write nowhere until the next `configure`: for tests, whose descriptors come and go."""
    _State.sink = None


def flush() -> None:
    """Try again to write what a slow reader has not taken; costs nothing when there is nothing."""
    if _State.sink is not None:
        _State.sink.flush()


def utc_stamp(at: datetime | None = None) -> str:
    """RFC 3339 in UTC with milliseconds; now when `at` is not given."""
    return (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _FromStdlib(logging.Handler):
    """Takes the records of aiohttp, asyncio and other libraries into the same lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit the format are the library's fault, not the caller's
            message = str(record.msg)
        fields = {"exc_info": record.exc_info} if record.exc_info else {}
        structlog.get_logger(record.name).log(record.levelno, message, **fields)


def _occupy(descriptor: int) -> None:
    """A daemon started with its stderr closed must not log into whatever file or socket gets that number next."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def _dropped(lines: int) -> Any:
    fields = {"timestamp": utc_stamp(), "level": "warning", "event": "log_lines_dropped", "lines": lines}
    return _State.render(None, "warning", fields)


def _name(logger: WrappedLogger, _: str, fields: EventDict) -> EventDict:
    if logger.name:
        fields["logger"] = logger.name
    return fields


def _stamp(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
    fields["timestamp"] = utc_stamp()
    return fields


def _exception(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
    """Turn `exc_info` into the text of a traceback.

    On the console each of its lines begins with a bar, so that no line of an exception's message, which may come from
    anywhere, can be taken for a line of the log.
    """
    info = fields.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else sys.exc_info()[1]
    if info and error is not None:
        lines = "".join(traceback.format_exception(error)).rstrip().split("\n")
        fields["exception"] = "\n".join("  | " + printable(line) if _State.console else line for line in lines)
    return fields


def _render(logger: WrappedLogger, method: str, fields: EventDict) -> tuple[tuple[Any], dict[str, Any]]:
    return (_State.render(logger, method, fields),), {}


def _entry(_: WrappedLogger, method: str, fields: EventDict) -> Any:
    return journald.entry(method, fields)


def _json(_: WrappedLogger, __: str, fields: EventDict) -> str:
    """One JSON object in one line: stamp, level and event first; nothing in it that a terminal would obey."""
    ordered = {key: fields.pop(key) for key in ("timestamp", "level", "event")} | dict(fields)
    try:
        line = orjson.dumps(ordered, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
        # JSON asks for C0 controls to be escaped, but not for DEL, C1 (CSI is one) or marks that turn the text around.
        return line if line.isprintable() else CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
    except (TypeError, ValueError):  # lone surrogates, numbers beyond 64 bits: rare, and the slow way can do them
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in ordered.items()}
        return json.dumps(finite, default=repr, skipkeys=True)


def _console(*, colors: bool) -> Processor:
    """Stamp, level, event, key=value: for eyes."""
    render = structlog.dev.ConsoleRenderer(
        colors=colors, sort_keys=False, pad_event_to=28, exception_formatter=structlog.dev.plain_traceback
    )

    def console(logger: WrappedLogger, method: str, fields: EventDict) -> str:
        if "text" in fields:  # a decision: for eyes its sentence is all of it
            fields = {key: fields[key] for key in ("timestamp", "level", "event", "text") if key in fields}
        for key, value in fields.items():
            if key != "exception" and not isinstance(value, int | float | None):
                fields[key] = printable(value if isinstance(value, str) else repr(value))
        return str(render(logger, method, fields))

    return console
