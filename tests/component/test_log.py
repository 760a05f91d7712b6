"""Logs: format, levels, safety of what is written, and never in anyone's way."""

import asyncio
import json
import logging
import os
import pty
import sys
import warnings
from collections.abc import Iterator

import pytest
import structlog

from supervisor import log as logs
from tests.support.log_output import Output, log_output


@pytest.fixture
def output() -> Iterator[Output]:
    """A pipe for log lines."""
    with log_output() as output:
        yield output


def test_json_lines_when_not_a_terminal(output: Output) -> None:
    """On a pipe each event is one JSON object: stamp in UTC, level, event, fields, logger."""
    logs.configure("info", "auto", descriptor=output.writer)
    structlog.get_logger("supervisor.workers.pool").info("ready", model="minilm", seconds=4.2, port=None)
    (line,) = output.lines()
    stamp = line.pop("timestamp")
    assert line == {
        "level": "info",
        "event": "ready",
        "model": "minilm",
        "seconds": 4.2,
        "port": None,
        "logger": "workers.pool",
    }
    assert len(stamp) == len("2026-01-02T03:04:05.678Z")
    assert stamp.endswith("Z")


def test_a_terminal_gets_readable_lines_in_colour(output: Output) -> None:
    """On a terminal the same event is text with colours."""
    master, terminal = pty.openpty()
    try:
        logs.configure("info", "auto", descriptor=terminal)
        structlog.get_logger("x").warning("paused", percent=91.2)
        text = os.read(master, 4096).decode()
    finally:
        os.close(master)
        os.close(terminal)
    assert "paused" in text
    assert "91.2" in text
    assert "\x1b[" in text
    assert not text.startswith("{")


def test_the_console_on_a_pipe_has_no_colours(output: Output) -> None:
    """`format: console` into a file stays readable there too."""
    logs.configure("info", "console", descriptor=output.writer)
    structlog.get_logger("x").info("started", model="minilm")
    text = output.text()
    assert "model=minilm" in text
    assert "\x1b" not in text


def test_the_level_filters_and_changes_live(output: Output) -> None:
    """Levels below the threshold write nothing; changing it acts on loggers that exist."""
    logs.configure("warning", "json", descriptor=output.writer)
    log = structlog.get_logger("x")
    log.debug("a"), log.info("b"), log.warning("c"), log.error("d"), log.critical("e")
    assert [line["event"] for line in output.lines()] == ["c", "d", "e"]
    logs.set_level("debug")
    log.debug("f")
    logs.set_level("critical")
    log.error("g")
    assert [line["event"] for line in output.lines()] == ["f"]
    with pytest.raises(KeyError):
        logs.set_level("loud")


def test_the_format_changes_live(output: Output) -> None:
    """A logger in use follows a second set-up."""
    logs.configure("info", "json", descriptor=output.writer)
    log = structlog.get_logger("x")
    log.info("one")
    logs.configure("info", "console", descriptor=output.writer)
    log.info("two")
    first, second = output.text().splitlines()
    assert first.startswith("{")
    assert "two" in second
    assert not second.startswith("{")


@pytest.mark.parametrize("format", ["json", "console"])
def test_values_cannot_forge_lines(output: Output, format: logs.Format) -> None:
    """Line ends, escapes and other controls in events and values stay inside their line, as escapes."""
    logs.configure("info", format, descriptor=output.writer)
    evil = "x\n2026-01-02 [info] forged\r\x1b[2J\x9b31m\u2028\u202e"
    structlog.get_logger("x").info(evil, model=evil, many=[evil], pair={"k": evil})
    logging.getLogger("lib").warning(evil)
    text = output.text()
    assert text.count("\n") == 2
    assert not set("\r\x1b\x9b\u2028\u202e") & set(text)
    if format == "json":
        assert [json.loads(line)["event"] for line in text.splitlines()] == [evil, evil]


def test_exceptions_are_readable_and_cannot_forge_lines(output: Output) -> None:
    """JSON has the traceback in one field; on the console each of its lines begins with a bar."""

    def fail() -> None:
        raise ValueError("bad\n2026-01-02 [info] forged \x1b[2J")

    for format in ("json", "console"):
        logs.configure("info", format, descriptor=output.writer)
        try:
            fail()
        except ValueError:
            structlog.get_logger("x").exception("failed", model="minilm")
        if format == "json":
            (line,) = output.lines()
            assert (line["level"], line["event"], line["model"]) == ("error", "failed", "minilm")
            assert line["exception"].startswith("Traceback")
            assert "in fail" in line["exception"]
        else:
            first, *rest = output.text().splitlines()
            assert "failed" in first
            assert rest
            assert all(line.startswith("  | ") and "\x1b" not in line for line in rest)


def test_exc_info_takes_an_exception_too(output: Output) -> None:
    """An exception that was kept for later is told with its traceback; none at all costs nothing."""
    logs.configure("info", "json", descriptor=output.writer)
    log = structlog.get_logger("x")
    log.error("kept", exc_info=OSError("gone"))
    log.error("none", exc_info=True)
    log.error("nothing", exc_info=None)
    kept, none, nothing = output.lines()
    assert kept["exception"] == "OSError: gone"
    assert "exception" not in none
    assert "exc_info" not in nothing


def test_libraries_log_the_same_way(output: Output) -> None:
    """stdlib records and warnings become events with their logger's name and level, exceptions included."""
    logs.configure("info", "json", descriptor=output.writer)
    library = logging.getLogger("aiohttp.server")
    library.debug("noise")
    library.error("Error %s", "handling", exc_info=ValueError("x"))
    library.warning("%d", "not a number")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", RuntimeWarning, stacklevel=1)
    error, unformatted, warning = output.lines()
    assert (error["logger"], error["level"], error["event"]) == ("aiohttp.server", "error", "Error handling")
    assert error["exception"] == "ValueError: x"
    assert unformatted["event"] == "%d"
    assert (warning["logger"], warning["level"]) == ("py.warnings", "warning")


async def test_asyncio_tells_its_troubles_here(output: Output) -> None:
    """An exception that reaches the event loop's handler becomes one event, not a traceback on stderr."""
    logs.configure("info", "json", descriptor=output.writer)
    asyncio.get_running_loop().call_exception_handler({"message": "task failed", "exception": ValueError("x")})
    (line,) = output.lines()
    assert (line["logger"], line["event"]) == ("asyncio", "task failed")


class Rude:
    """A value that can't be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("format", ["json", "console"])
def test_strange_values_never_raise(output: Output, format: logs.Format) -> None:
    """Values without a JSON form are shown as they can be; one that can't be shown at all leaves a trace."""
    logs.configure("info", format, descriptor=output.writer)
    log = structlog.get_logger("x")
    log.info("odd", surrogate="\udc80", big=2**80, nan=float("nan"), set={1}, keys={1: 2, (3,): 4}, raw=b"\xff")
    log.info("rude", value=Rude())
    log.info("%d inputs", "many")
    log.info("%d inputs", 3)
    log.log(logging.WARNING + 1, "between")
    text = output.text()
    assert text.count("\n") == 5
    assert text.count("log_failed") == 2
    assert "3 inputs" in text
    if format == "json":
        odd = json.loads(text.splitlines()[0])
        assert (odd["big"], odd["nan"]) == (2**80, None)


def test_bound_fields_are_kept(output: Output) -> None:
    """A logger bound to a model names it in each event."""
    logs.configure("info", "json", descriptor=output.writer)
    log = structlog.get_logger("x").bind(model="minilm")
    log.info("a")
    log.info("b", model="other")
    assert [line["model"] for line in output.lines()] == ["minilm", "other"]


def test_without_set_up_nothing_is_needed() -> None:
    """The module can be used, and flushed, before it is set up."""
    logs.reset()
    logs.flush()
    assert sys.stderr is not None
