"""One run of pip: its words go to a log, its steps to the progress line, its failure becomes one sentence."""

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from progress import Progress, SetupError, duration

# Files of at least this many megabytes are named in a line of their own.
LARGE_MB = 20.0

_FILE = r"(\S+?)(?:-(?:py|cp)\d\S*)?\.(?:whl|tar\.gz)"
_DOWNLOAD = re.compile(rf"(?:Downloading|Using cached) (?:\S*/)?{_FILE} \(([\d.]+) ([kMG]?B)\)")
_LOCAL = re.compile(rf"Processing \S*/{_FILE}")

NETWORK_REMEDY = "check the network (or pip's index and proxy settings, `pip config list`) and run this again"

# What pip says when the way to the package index is the trouble, and when it is the disk.
_NETWORK = re.compile(
    r"Retrying \(Retry|Max retries exceeded|NewConnectionError|Connection (?:aborted|broken|refused|reset)"
    r"|IncompleteRead|ReadTimeout|ConnectTimeout|Read timed out|name resolution|Name or service not known"
    r"|SSLError|ProxyError|DO NOT MATCH THE HASHES|connection error|incomplete-download|from versions: none",
    re.IGNORECASE,
)
_DISK = re.compile(r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]")


def run_pip(
    command: Sequence[str | Path],
    *,
    title: str,
    root: Path,
    environ: Mapping[str, str],
    log: Path,
    held: int,
    progress: Progress,
) -> None:
    """Run `command` in `root` to its end, or raise SetupError with the remedy.

    `held` is the lock's file descriptor: pip inherits it, so that a pip that outlives us still keeps others out.
    """
    began = time.monotonic()
    words: list[str] = []
    with log.open("a", encoding="utf-8") as noise:
        noise.write(f"\n$ {' '.join(map(str, command))}\n")
        noise.flush()
        # A process group of its own: one signal ends pip and the builds it started, and Ctrl-C is ours to hand on.
        process = subprocess.Popen(
            command,
            cwd=root,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            pass_fds=(held,),
        )
        try:
            step = "asking the package index"
            for line in _lines(process):
                if line is not None:
                    noise.write(line + "\n")
                    words.append(line)
                    step = _step(line, progress) or step
                fetched = _fetched(Path(environ["TMPDIR"])) if step.startswith("downloading") else ""
                progress.move(f"  {title}: {step}{fetched}, {duration(time.monotonic() - began)}")
            status = process.wait()
        finally:
            _end(process)
    if status:
        raise SetupError(f"{title}: {reason(chr(10).join(words), status)}; what pip said is in {log}")


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str | None]:
    """The lines of `process` as they come, and None four times a second while none comes."""
    assert process.stdout is not None
    waiting = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(0.25):
                yield None
                continue
            chunk = os.read(process.stdout.fileno(), 65536)
            *whole, waiting = (waiting + chunk).split(b"\n")
            if not chunk and waiting:
                whole.append(waiting)
            yield from (line.decode(errors="replace").rstrip() for line in whole)
            if not chunk:
                return


def _step(line: str, progress: Progress) -> str | None:
    """What pip does from this line on, None when the line does not tell."""
    if found := _DOWNLOAD.search(line):
        name, size, unit = found.groups()
        megabytes = float(size) * {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}[unit]
        if megabytes >= LARGE_MB:
            progress.say(f"  downloading {name} ({size} {unit})")
        return f"downloading {name} ({size} {unit})"
    if found := _LOCAL.search(line):
        return f"reading {found[1]}"
    if line.startswith("Installing collected packages:"):
        return f"unpacking {line.count(',') + 1} packages"
    if "Building" in line or "Installing build dependencies" in line:
        return "building"
    return None


def _fetched(folder: Path) -> str:
    """How much lies in pip's download folders, as words; empty below a megabyte."""
    total = 0
    for path in folder.glob("pip-unpack-*/*"):
        with suppress(OSError):  # pip moves and removes files while we look
            total += path.stat().st_size
    return f", {total / 1e6:.0f} MB fetched" if total >= 1e6 else ""


def reason(words: str, status: int) -> str:
    """Why a pip that said `words` ended with `status`, and what to do: a part of a sentence."""
    if _DISK.search(words):
        return "the disk is full: make room and run this again"
    if _NETWORK.search(words):
        return f"the download broke off: {NETWORK_REMEDY}"
    if found := re.search(r"No matching distribution found for (\S+)", words):
        return f"the package index has no {found[1]} for this Python and this machine"
    if status < 0:
        return f"pip was ended by {signal.Signals(-status).name}: run this again"
    lines = words.strip().splitlines() or ["no word"]
    fault = next((line for line in reversed(lines) if line.lower().startswith("error")), lines[-1])
    return f"pip failed ({fault.strip()})"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of `process` and its group running."""
    if process.poll() is None:
        for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                break
    assert process.stdout is not None
    process.stdout.close()
