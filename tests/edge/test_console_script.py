"""What counts as Infinity's own console script, and which interpreter it runs on."""

import os
import sys
from pathlib import Path

import pytest

from supervisor.workers.console_script import ConsoleScript, console_script
from tests.support import infinity

PIP = """\
# -*- coding: utf-8 -*-
import re
import sys
from infinity_emb.cli import cli
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(cli())
"""
UV = """\
# -*- coding: utf-8 -*-
import sys
from infinity_emb.cli import cli
if __name__ == "__main__":
    if sys.argv[0].endswith("-script.pyw"):
        sys.argv[0] = sys.argv[0][:-11]
    sys.exit(cli())
"""
LONG = "#!/bin/sh\n'''exec' {} \"$0\" \"$@\"\n' '''\n"


def written(folder: Path, text: str, mode: int = 0o755) -> str:
    """A program with this text."""
    path = folder / "infinity_emb"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        ("#!/opt/infinity/bin/python\n", ("/opt/infinity/bin/python",)),
        ("#!/usr/bin/python3.11 -sP\n", ("/usr/bin/python3.11", "-sP")),
        ("#! /usr/bin/env python3\n", ("/usr/bin/env", "python3")),
        (LONG.format('"/a long/way/bin/python3"'), ("/a long/way/bin/python3",)),
        (LONG.format("/a/very/long/way/bin/python"), ("/a/very/long/way/bin/python",)),
    ],
)
@pytest.mark.parametrize("body", [PIP, UV])
def test_scripts_that_installers_write(tmp_path: Path, head: str, interpreter: tuple[str, ...], body: str) -> None:
    """pip's and uv's, with a short or a long path to the interpreter, options included."""
    program = written(tmp_path, head + body)
    found = console_script(program, {})
    assert isinstance(found, ConsoleScript)
    assert (found.path, found.interpreter) == (program, interpreter)
    written(tmp_path, head + body + "# newer\n")
    assert console_script(program, {}) != found


def test_the_real_one() -> None:
    """What pip wrote for the Infinity that the tests run."""
    found = console_script(str(infinity.PROGRAM), {})
    assert isinstance(found, ConsoleScript)
    assert os.path.samefile(found.interpreter[0], infinity.PYTHON)


def test_a_name_is_looked_up_where_a_process_would_be(tmp_path: Path) -> None:
    """In the PATH of the worker's environment, not in ours."""
    program = written(tmp_path, "#!/bin/python\n" + PIP)
    found = console_script("infinity_emb", {"PATH": f"/nowhere:{tmp_path}"})
    assert isinstance(found, ConsoleScript)
    assert found.path == program
    assert console_script("infinity_emb", {"PATH": "/nowhere"}) == "infinity_emb is not found"


@pytest.mark.parametrize(
    "text",
    [
        '#!/bin/sh\nexec infinity_emb "$@"\n',
        "#!/usr/bin/env bash\nexec infinity_emb\n",
        PIP,
        "",
        "#!\n" + PIP,
    ],
)
def test_what_is_no_python_script(tmp_path: Path, text: str) -> None:
    """A shell's, one that names no interpreter, nothing at all."""
    assert "is no Python script" in str(console_script(written(tmp_path, text), {}))


@pytest.mark.parametrize(
    "text",
    [
        "import os\n" + PIP,
        "import wrapper\n" + PIP,
        "print('before')\n" + PIP,
        "from infinity_emb.cli import cli\ncli()\n",
        "if True:\n    import os\n" + PIP,
        "import sys\nif __name__ == '__main__':\n    from infinity_emb.cli import cli\n    sys.exit(cli())\n",
        "import sys\nfrom other.cli import cli\nif __name__ == '__main__':\n    sys.exit(cli())\n",
        "this is no Python\n",
    ],
)
def test_what_does_more_is_a_wrapper(tmp_path: Path, text: str) -> None:
    """Whatever runs before Infinity is imported, or in its place, would be too late or missing in a spare."""
    assert "a wrapper" in str(console_script(written(tmp_path, f"#!{sys.executable}\n{text}"), {}))


def test_what_can_not_be_read(tmp_path: Path) -> None:
    """A binary, a folder, a file that is no program."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\x7fELF\xff\xfe" * 2000)
    binary.chmod(0o755)
    assert "is no Python script" in str(console_script(str(binary), {}))
    assert "is not found" in str(console_script(str(tmp_path), {}))
    assert "is not found" in str(console_script(written(tmp_path, "#!/bin/python\n" + PIP, 0o644), {}))
