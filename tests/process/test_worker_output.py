"""Workers' output: line by line into our log, capped on disk, harmless whatever it is, never in a worker's way."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from supervisor.core.model import ModelState
from supervisor.workers import output
from supervisor.workers.output import FILE_CAP, LINE_CAP, LINES_KEPT, OutputFile, Tail, clean_line, file_name
from tests.support.fake_lanes import FakeLog, bench, scripted


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> FakeLog:
    """What `supervisor.workers.output` logs."""
    fake = FakeLog()
    monkeypatch.setattr(output, "log", fake)
    return fake


@pytest.fixture
def file(tmp_path: Path) -> OutputFile:
    """A worker's file, in a folder of its own."""
    return OutputFile(tmp_path / "logs", "m")


def write(file: OutputFile, data: bytes) -> None:
    """As a worker does: appending, through a descriptor of its own."""
    with file.path.open("ab") as worker:
        worker.write(data)


def lines(log: FakeLog) -> list[str]:
    return [fields["line"] for fields in log.of("worker_output")]


def test_line_by_line_with_the_models_name(file: OutputFile, log: FakeLog) -> None:
    """Each line becomes one event; a line is shown when it is complete; empty ones are not."""
    tail = Tail("m", file)
    write(file, b"one\n\n  two\r\nthr")
    tail.look(0)
    assert log.of("worker_output") == [{"model": "m", "line": "one"}, {"model": "m", "line": "  two"}]
    write(file, b"ee\n")
    tail.look(1)
    assert lines(log)[2:] == ["three"]
    assert list(tail.last) == ["one", "  two", "three"]


def test_text_without_an_end_is_shown_in_time(file: OutputFile, log: FakeLog) -> None:
    """A prompt or a progress bar that never ends its line is seen after a few looks, a worker's last words at once."""
    tail = Tail("m", file)
    write(file, b"Downloading 12%\rDownloading 13%")
    tail.look(0)
    assert lines(log) == ["Downloading 12%"]
    for now in range(1, 6):
        tail.look(now)
    assert lines(log) == ["Downloading 12%", "Downloading 13%"]
    write(file, b"last words")
    tail.look(6, final=True)
    assert lines(log)[-1] == "last words"


BAR = "\rmodel.safetensors: {:3d}%|███▍      | 30.9M/90.9M [00:03<00:06, 9.52MB/s]"


def test_a_bar_does_not_flood_the_log(file: OutputFile, log: FakeLog) -> None:
    """Ten states a second for a minute are a line each 10 s; the newest is known, and the last lines are kept."""
    tail = Tail("m", file)
    write(file, b"loading\n")
    for tick in range(600):
        write(file, BAR.format(tick // 6).encode())
        tail.look(tick / 10)
        if tick > 1:
            assert f"{(tick - 1) // 6:3d}%|" in tail.bar  # the newest but one: who knows whether it is overwritten
    assert 6 <= len(lines(log)) - 1 <= 7
    assert list(tail.last) == ["loading"]
    write(file, b"\nloaded\n")
    tail.look(60)
    assert tail.bar == ""
    assert list(tail.last) == ["loading", "loaded"]
    assert lines(log)[-1] == "loaded"


def test_a_bar_that_stands_is_seen(file: OutputFile, log: FakeLog) -> None:
    """The state that nothing overwrites is known after a few looks; last words after a bar are not taken for it."""
    tail = Tail("m", file)
    write(file, BAR.format(34).encode())
    for now in range(6):
        tail.look(now)
    assert " 34%|" in tail.bar
    assert not tail.last
    write(file, BAR.format(35).encode() + b"Killed: no memory")
    tail.look(6, final=True)
    assert tail.last[-1].endswith("Killed: no memory")


def test_an_end_of_line_in_two_writes_is_one(file: OutputFile, log: FakeLog) -> None:
    """A line that ends with \\r\\n is a line, also when it is seen between the two."""
    tail = Tail("m", file)
    write(file, b"one\r")
    tail.look(0)
    write(file, b"\ntwo\r\n")
    tail.look(1)
    assert list(tail.last) == lines(log) == ["one", "two"]


def test_earlier_runs_are_not_told_again(file: OutputFile, log: FakeLog) -> None:
    """A new worker's tail begins where the file ended."""
    write(file, b"old\n")
    tail = Tail("m", file)
    write(file, b"new\n")
    tail.look(0)
    assert lines(log) == ["new"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07text", "red text"),
        (b"a\x00b\x08c\x1b7d", "a\\x00b\\x08c\\x1b7d"),
        ("one\u2028two\x85three\x0bfour".encode(), "one\\u2028two\\x85three\\x0bfour"),
        ("right\u202eto left".encode(), "right\\u202eto left"),
        (b"bad \xff\xfe utf-8", "bad \ufffd\ufffd utf-8"),
        ("schön ♾️".encode(), "schön ♾️"),
        (b"INFO     text" + b" " * 900 + b"server.py:66", "INFO     text  server.py:66"),
        (("╭─ Error " + "─" * 900 + "╮").encode(), "╭─ Error ───╮"),
        (b"    indented\tonce", "    indented    once"),
        (b"the key is s3cret.", "the key is ***."),
    ],
    ids=["ansi", "controls", "separators", "direction", "utf8", "unicode", "padding", "frame", "indent", "secret"],
)
def test_no_line_can_command_or_inject(line: bytes, shown: str) -> None:
    """Escapes are taken out, other controls and line separators are shown as what they are, the key never is."""
    assert clean_line(line, "s3cret") == shown


def test_access_lines_do_not_push_out_last_words(file: OutputFile, log: FakeLog) -> None:
    """One line for each answered part is for debugging only; an error's access line is shown like any other."""
    tail = Tail("m", file)
    write(file, b"RuntimeError: out of memory\n")
    write(file, b'INFO:     127.0.0.1:40000 - "POST /embeddings HTTP/1.1" 200 OK\n' * 300)
    write(file, b'INFO:     127.0.0.1:40000 - "POST /embeddings HTTP/1.1" 500 Internal Server Error\n')
    tail.look(0, final=True)
    assert [line.partition(" ")[0] for line in tail.last] == ["RuntimeError:", "INFO:"]
    assert not log.of("worker_output_dropped")
    assert [level for level, _, _ in log.lines].count("debug") == 300


def test_long_lines_are_cut(file: OutputFile, log: FakeLog) -> None:
    """A line of megabytes, ended or not, costs a few kB of log and no memory, and the next line is shown again."""
    tail = Tail("m", file)
    write(file, b"x" * 300_000 + b"\nafter\n")
    tail.look(0)
    assert lines(log)[-1] == "after"
    assert all(len(line) < LINE_CAP + 50 for line in lines(log))
    assert len(lines(log)) <= 4
    assert len(tail._rest) <= 2 * LINE_CAP


def test_floods_are_limited_and_counted(file: OutputFile, log: FakeLog) -> None:
    """200 lines a second reach the log, the rest is counted; the newest are kept for status all the same."""
    tail = Tail("m", file)
    write(file, b"".join(b"line %d\n" % n for n in range(1000)))
    tail.look(0)
    assert len(lines(log)) == 200
    assert list(tail.last) == [f"line {n}" for n in range(1000 - LINES_KEPT, 1000)]
    tail.look(1)
    (dropped,) = log.of("worker_output_dropped")
    assert (dropped["model"], dropped["lines"]) == ("m", 800)
    write(file, b"calm again\n")
    tail.look(1.5)
    assert lines(log)[-1] == "calm again"
    assert len(log.of("worker_output_dropped")) == 1


def test_a_backlog_is_skipped_not_read(file: OutputFile, log: FakeLog) -> None:
    """Megabytes between two looks are not read all; how much was left out is said."""
    tail = Tail("m", file)
    write(file, b"noise\n" * 500_000 + b"the end\n")
    tail.look(0)
    tail.look(10)
    assert tail.last[-1] == "the end"
    assert tail.written == 3_000_008
    assert log.of("worker_output_dropped")[0]["skipped_bytes"] > 2_000_000


def test_the_file_is_capped_in_place(file: OutputFile, log: FakeLog) -> None:
    """Past the cap it is copied to `.1` and emptied; a worker that has it open goes on, and no line is told twice."""
    tail = Tail("m", file)
    with file.path.open("ab", buffering=0) as worker:
        worker.write((b"y" * 99 + b"\n") * (FILE_CAP // 100 + 1))
        tail.look(0)
        assert file.path.stat().st_size == 0
        worker.write(b"goes on\n")
        tail.look(10)
    assert lines(log)[-1] == "goes on"
    old = file.path.with_name(file.path.name + ".1")
    assert old.stat().st_size >= FILE_CAP
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert file.path.read_bytes() == b"goes on\n"


def test_a_file_that_somebody_emptied(file: OutputFile, log: FakeLog) -> None:
    """`> m.log` by an operator neither stops the tail nor repeats lines."""
    tail = Tail("m", file)
    write(file, b"before\n")
    tail.look(0)
    os.truncate(file.path, 0)
    write(file, b"a\n")
    tail.look(1)
    assert lines(log) == ["before", "a"]


def test_a_tail_that_cannot_read_says_so(file: OutputFile, log: FakeLog) -> None:
    """A fault of the disk is a warning, not an exception in the worker's task."""
    tail = Tail("m", file)
    os.close(file.fd)
    tail.look(0)
    assert log.lines[-1][1] == "worker_output_unreadable"
    file.fd = -1


def test_files_are_private_and_named_for_any_model(tmp_path: Path) -> None:
    """Slashes, dots and long names give one valid file each, in the folder, readable by nobody else."""
    names = ["a/b", "a%2Fb", "..", ".", "a b", "ü" * 300, "ü" * 301, "A"]
    files = {file_name(name) for name in names}
    assert len(files) == len(names)
    for name in names:
        made = OutputFile(tmp_path / "logs", name)
        assert made.path.parent == tmp_path / "logs"
        assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
        made.close()
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700


def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    """Nobody can have us append to another file by a link with the log's name."""
    victim = tmp_path / "victim"
    victim.write_text("")
    (tmp_path / "m.log").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        OutputFile(tmp_path, "m")


async def test_a_flood_does_not_hold_up_a_worker(tmp_path: Path, log: FakeLog) -> None:
    """A worker that writes 100,000 lines with escapes starts as it would, and its log stays usable."""
    evil = "\x1b[2J\x1b]0;owned\x07" + '{"event":"forged"}\r\x00'
    async with bench(tmp_path, scripted(flood_lines=100_000, flood_text=evil)) as it:
        await asyncio.wait_for(it.pool.ensure_ready("m"), 20)
        await it.until(lambda: bool(log.of("worker_output_dropped")))
        await it.until(lambda: it.view().log_tail[-1].startswith("Uvicorn running"))
        assert it.view().state is ModelState.READY
        assert len(lines(log)) < 2000
        assert not any("\x1b" in line or "\x00" in line or "\n" in line for line in lines(log))
