"""A worker's log read back: its last lines, what came since, and what must not show."""

import secrets
from pathlib import Path

import pytest

from supervisor.workers import logfile
from supervisor.workers.output import OutputFile, file_name

MODEL = "org/a model"


def write(folder: Path, text: bytes, *, old: bool = False) -> None:
    """As a worker would."""
    path = folder / (file_name(MODEL) + (".1" if old else ""))
    with path.open("ab") as file:
        file.write(text)


def test_the_last_lines_and_what_came_since(tmp_path: Path) -> None:
    """Whole lines only: one that is still being written comes when it has its end."""
    assert logfile.last_lines(tmp_path, MODEL, 5) == ([], 0)
    write(tmp_path, b"one\ntwo\nthree\nfo")
    lines, position = logfile.last_lines(tmp_path, MODEL, 2)
    assert lines == ["two", "three"]
    assert logfile.lines_since(tmp_path, MODEL, position) == ([], position)
    write(tmp_path, b"ur\nfive\n")
    lines, after = logfile.lines_since(tmp_path, MODEL, position)
    assert lines == ["four", "five"]
    assert logfile.lines_since(tmp_path, MODEL, after).lines == []
    assert logfile.last_lines(tmp_path, MODEL, 0) == ([], after)


def test_a_file_that_was_rolled_goes_on_with_the_older_one(tmp_path: Path) -> None:
    """What was copied away still counts as the last lines; whoever follows gets what is new in the emptied one."""
    write(tmp_path, b"a\nb\nc\n", old=True)
    write(tmp_path, b"d\n")
    assert logfile.last_lines(tmp_path, MODEL, 3).lines == ["b", "c", "d"]
    assert logfile.lines_since(tmp_path, MODEL, 1_000_000).lines == ["d"]
    assert logfile.lines_since(tmp_path, MODEL, 4).lines == ["c", "d"]


def test_only_the_end_of_a_large_file_is_read(tmp_path: Path) -> None:
    """A megabyte at most, from the beginning of a line."""
    write(tmp_path, b"".join(b"line %07d\n" % i for i in range(200_000)))
    lines, _ = logfile.last_lines(tmp_path, MODEL, 10_000)
    assert lines[-1] == "line 0199999"
    assert len(lines) == 10_000
    since = logfile.lines_since(tmp_path, MODEL, 0).lines
    assert since[-1] == "line 0199999"
    assert all(line.startswith("line 0") and len(line) == 12 for line in since)


def test_what_must_not_show(tmp_path: Path) -> None:
    """Escape sequences command no terminal, and a key of any start is struck out."""
    key = secrets.token_urlsafe(32)
    write(tmp_path, b"\x1b[31mred\x1b[0m\r\n\n")
    write(tmp_path, f"authorization: Bearer {key}, and {'x' * 44}\n".encode())
    assert logfile.last_lines(tmp_path, MODEL, 9).lines == [
        "red",
        f"authorization: Bearer ***, and {'x' * 44}",
    ]


def test_a_progress_bar_is_one_line(tmp_path: Path) -> None:
    """Of texts that were written over one another the last one is shown, as on a terminal."""
    write(tmp_path, b"before\r\n\rmodel:  1%|\rmodel: 50%|\rmodel: 100%|\nafter\n")
    assert logfile.last_lines(tmp_path, MODEL, 9).lines == ["before", "model: 100%|", "after"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Whoever can write to the folder does not get other files read out."""
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / file_name(MODEL)).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        logfile.last_lines(tmp_path, MODEL, 5)


def test_it_reads_what_an_output_file_has(tmp_path: Path) -> None:
    """The name and the place are those that workers write to."""
    output = OutputFile(tmp_path, MODEL)
    write(tmp_path, b"hello\n")
    output.close()
    assert logfile.read(tmp_path, MODEL, 5, None).lines == ["hello"]
    assert logfile.read(tmp_path, MODEL, 0, 0).lines == ["hello"]
