"""An `infinity_emb` that is quickly imported: a package, the console script pip would write for it, a scripted worker.

    it = ScriptedInfinity.made(tmp_path)
    spec = it.spec("m", start_seconds=1.0)     # `infinity.command` names the script; up in 0.2 s

Each import adds a line to `imports`: pid and what Infinity would read of its environment. What an import does wrong
stands in `import.json`: {"seconds": 1.0}, {"fails": true}, {"hangs": true} with the interpreter's lock held.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from supervisor.workers.launch import WorkerSpec
from tests.support.fake_lanes import scripted
from tests.support.infinity import SUPPORT

CLI = """\
import ctypes, json, os, pathlib, sys, time
folder = pathlib.Path({folder!r})
with (folder / "imports").open("a") as file:
    file.write(json.dumps([os.getpid(), os.environ.get("INFINITY_API_KEY"), os.environ.get("MARK")]) + "\\n")
script = json.loads((folder / "import.json").read_text())
time.sleep(script.get("seconds", 0))
if script.get("fails"):
    raise RuntimeError("no such library today")
if script.get("hangs"):
    ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the lock: the listener can't answer
def cli():
    sys.path.insert(0, {support!r})
    import scripted_worker
    sys.stdout.write(json.dumps(dict(argv=sys.argv, gpu=os.environ.get("CUDA_VISIBLE_DEVICES"))) + "\\n")
    scripted_worker.main()
"""
SCRIPT = """\
#!{python}
# -*- coding: utf-8 -*-
import re
import sys
from infinity_emb.cli import cli
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(cli())
"""


class ScriptedInfinity:
    """The installation in `folder`, which has `bin` and `lib`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "bin" / "infinity_emb"
        self.package = folder / "lib" / "infinity_emb"

    @classmethod
    def made(cls, folder: Path) -> "ScriptedInfinity":
        """Make one in a sub-folder."""
        it = cls(folder / "infinity")
        for made in (it.program.parent, it.package):
            made.mkdir(parents=True)
        (it.package / "__init__.py").touch()
        (it.package / "cli.py").write_text(CLI.format(folder=str(it.folder), support=str(SUPPORT)))
        it.imports_with()
        it.install()
        return it

    def install(self, text: str = SCRIPT) -> None:
        """Write the script, as an installation does: a new file in place of the old."""
        new = self.program.with_suffix(".new")
        new.write_text(text.format(python=sys.executable))
        new.chmod(0o755)
        new.replace(self.program)

    def imports_with(self, **script: Any) -> None:
        """What imports do from now on."""
        (self.folder / "import.json").write_text(json.dumps(script))

    def imports(self) -> list[list[Any]]:
        """Every import so far: pid, key, and the environment's MARK."""
        file = self.folder / "imports"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def env(self) -> dict[str, str]:
        """What leads the interpreter to the package."""
        return {"PYTHONPATH": str(self.package.parent)}

    @property
    def command(self) -> tuple[str, ...]:
        """What to write as `infinity.command`."""
        return (str(self.program), "v2")

    def spec(self, name: str = "m", **settings: Any) -> WorkerSpec:
        """A worker's spec, with a warm spare; `settings` are `Script`'s."""
        spec = scripted(name, **settings)
        return replace(spec, command=self.command, env={**spec.env, **self.env}, warm_spare=True)
