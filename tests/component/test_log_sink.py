"""The way out for log lines: closed, full, slow, shared by threads; never in anyone's way."""

import json
import os
import threading
from collections.abc import Iterator

import pytest
import structlog

from supervisor import log as logs
from supervisor.sink import WAITING_BYTES
from tests.support.log_output import Output, log_output


@pytest.fixture
def output() -> Iterator[Output]:
    """A pipe for log lines."""
    with log_output() as output:
        yield output


def test_a_reader_that_has_gone_costs_nothing(output: Output) -> None:
    """With the pipe's other end closed, logging goes on without an error."""
    logs.configure("info", "json", descriptor=output.writer)
    os.close(output.reader)
    for _ in range(3):
        structlog.get_logger("x").info("unheard")
    logs.flush()


def test_a_full_disk_costs_nothing(output: Output) -> None:
    """Where nothing can be written, nothing is raised."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        logs.configure("info", "json", descriptor=full)
        structlog.get_logger("x").info("unwritten")
    finally:
        os.close(full)


def test_a_descriptor_closed_later_costs_nothing(output: Output) -> None:
    """stderr closed under our hands: logging goes on without an error."""
    logs.configure("info", "json", descriptor=output.writer)
    os.close(output.writer)
    structlog.get_logger("x").info("unwritten")


def test_a_descriptor_closed_from_the_start_is_occupied(output: Output) -> None:
    """Started with stderr closed, the next file that is opened must not get its number and our lines."""
    os.close(output.writer)
    logs.configure("info", "json", descriptor=output.writer)
    structlog.get_logger("x").info("unwritten")
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        assert other != output.writer
    finally:
        os.close(other)


def test_a_slow_reader_never_blocks_and_is_told_what_it_missed(output: Output) -> None:
    """A reader that stops loses the newest lines, gets the kept ones in order later, and how many are missing."""
    logs.configure("info", "json", descriptor=output.writer)
    log = structlog.get_logger("x")
    count = (WAITING_BYTES * 3) // 200
    for number in range(count):
        log.info("event", number=number, padding="x" * 200)
    text = output.text()
    logs.flush()
    while more := output.text():
        text += more
        logs.flush()
    log.info("back")
    text += output.text()
    lines = [json.loads(line) for line in text.splitlines()]
    numbers = [line["number"] for line in lines if line["event"] == "event"]
    assert numbers == list(range(len(numbers)))
    dropped, last = lines[-2:]
    assert (dropped["event"], dropped["level"]) == ("log_lines_dropped", "warning")
    assert len(numbers) + dropped["lines"] == count
    assert last["event"] == "back"


def test_a_destructor_may_log_in_the_middle_of_a_line(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log call from within a log call, as the garbage collector can make, neither blocks nor mixes lines."""
    logs.configure("info", "json", descriptor=output.writer)
    log = structlog.get_logger("x")
    nested = iter(["nested"])
    write = os.write

    def write_and_log(descriptor: int, data: bytes) -> int:
        for event in nested:
            log.info(event)
        return write(descriptor, data[:30])

    monkeypatch.setattr(os, "write", write_and_log)
    log.info("outer")
    assert [line["event"] for line in output.lines()] == ["outer", "nested"]


def test_threads_do_not_mix_lines(output: Output) -> None:
    """Lines of several threads come out whole, each thread's in order."""
    logs.configure("info", "json", descriptor=output.writer)

    def talk(name: str) -> None:
        for number in range(50):
            structlog.get_logger(name).info("said", number=number)

    threads = [threading.Thread(target=talk, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logs.flush()
    lines = output.lines()
    for name in "abc":
        assert [line["number"] for line in lines if line["logger"] == name] == list(range(50))


def test_a_line_longer_than_the_pipe_does_not_block(output: Output) -> None:
    """One huge line is written as far as the reader takes it, the rest later."""
    logs.configure("info", "json", descriptor=output.writer)
    structlog.get_logger("x").info("huge", text="y" * (3 * WAITING_BYTES))
    text = ""
    while more := output.text():
        text += more
        logs.flush()
    assert len(json.loads(text)["text"]) == 3 * WAITING_BYTES
