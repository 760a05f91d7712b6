"""A reload that is waited for: what ExecReload= of the unit runs, and what the daemon leaves for it.

`python -Im supervisor.service.reload PID` has the daemon read its configuration again (SIGHUP), waits for the outcome
and tells it. It needs no port and no key: the file that is to be read may be wrong about both. The outcome comes by a
small file in the unit's runtime folder. Standard library only: it is started for each reload.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# Between two looks at the file (s).
_POLL = 0.05


def now() -> int:
    """A clock that all processes of this host have in common, in µs."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def tell(began: int, faults: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> None:
    """Leave the outcome of a reload that `began` then, for whoever waits for one; outside a unit nobody does."""
    path = _path(environ)
    if path is None:
        return
    new = path.with_suffix(".new")
    with suppress(OSError):  # who waits is told by systemd's patience then
        new.write_text(json.dumps({"began": began, "faults": list(faults)}))
        new.replace(path)


def ask(pid: int, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Have the daemon with this number read its configuration, wait until it has; the faults it found."""
    path = _path(environ)
    if path is None:
        return ["RUNTIME_DIRECTORY is not set: the unit needs RuntimeDirectory="]
    asked = now()
    try:
        os.kill(pid, signal.SIGHUP)
        while True:
            outcome = _outcome(path)
            if outcome is not None and outcome["began"] >= asked:
                return [str(fault) for fault in outcome["faults"]]
            os.kill(pid, 0)
            time.sleep(_POLL)
    except OSError as error:
        return [f"process {pid}: {error.strerror}; it has not read its configuration"]


def main() -> int:
    """The exit status: 1 when it has faults, which are printed."""
    faults = ask(int(sys.argv[1]))
    for fault in faults:
        sys.stderr.write(fault + "\n")
    if faults:
        sys.stderr.write("the configuration in force stays\n")
    return 1 if faults else 0


def _path(environ: Mapping[str, str]) -> Path | None:
    folder = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(folder) / "reload.json" if folder else None


def _outcome(path: Path) -> dict[str, Any] | None:
    try:
        outcome: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return outcome


if __name__ == "__main__":
    sys.exit(main())
