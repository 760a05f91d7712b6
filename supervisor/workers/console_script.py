"""What `infinity.command` names: the script that pip wrote for Infinity's command line, and the interpreter it runs on.

Reads that one file; runs nothing.
"""

import ast
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

# pip's, uv's and conda's scripts have 200 to 400 bytes.
_LONGEST = 4096
# All that such a script imports.
_IMPORTS = frozenset({"re", "sys", "infinity_emb.cli"})
# What pip writes for an interpreter whose path is too long for the kernel, or has a space in it.
_LONG_PATH = re.compile(r"^'''exec' (?:\"([^\"]+)\"|(\S+)) \"\$0\" \"\$@\"$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ConsoleScript:
    """The script, and its interpreter with that one's options. `written` is another after each installation."""

    path: str
    interpreter: tuple[str, ...]
    written: tuple[int, int]


def console_script(program: str, env: Mapping[str, str]) -> ConsoleScript | str:
    """The script that running `program` would run, or why it is none.

    1. The program is found as it would be for a process with this environment.
    2. Its first line names a Python.
    3. It imports Infinity's command line and does nothing else before it runs that: what a wrapper may do first
       (settings, patches) would come too late for an Infinity that is imported already.
    """
    path = shutil.which(program, path=env.get("PATH", os.defpath))  # 1
    if path is None:
        return f"{program} is not found"
    path = os.path.abspath(path)
    try:
        with open(path, "rb") as file:
            text = file.read(_LONGEST).decode()
            status = os.fstat(file.fileno())
    except OSError as error:
        return f"{path}: {error.strerror}"
    except UnicodeDecodeError:
        return f"{path} is no Python script"
    interpreter = _interpreter(text)
    if interpreter is None:  # 2
        return f"{path} is no Python script"
    if not _is_entry_point(text):  # 3
        return f"{path} does more than run Infinity's command line: a wrapper"
    return ConsoleScript(path, interpreter, (status.st_ino, status.st_mtime_ns))


def _interpreter(text: str) -> tuple[str, ...] | None:
    """What the kernel would run the script with: all behind the first word is one argument to it."""
    head, _, rest = text.partition("\n")
    if not head.startswith("#!"):
        return None
    words = tuple(head[2:].split(maxsplit=1))
    if words == ("/bin/sh",) and (found := _LONG_PATH.search(rest)):
        words = (found[1] or found[2],)
    named = words[-1] if words and os.path.basename(words[0]) == "env" else words[0] if words else ""
    return words if re.fullmatch(r"(python|pypy)[\d.]*", os.path.basename(named)) else None


def _is_entry_point(text: str) -> bool:
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return False
    imported = set()
    for node in body:
        match node:
            case ast.Import(names=names):
                imported |= {alias.name for alias in names}
            case ast.ImportFrom(module=module):
                imported.add(module or "")
            case ast.Expr(value=ast.Constant()):
                pass
            case ast.If(test=test) if ast.unparse(test) == "__name__ == '__main__'":
                pass
            case _:
                return False
    return "infinity_emb.cli" in imported <= _IMPORTS
