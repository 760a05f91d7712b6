"""An upgrade in place (SIGUSR2): this process runs the program anew, with the same pid and the same listening sockets.

Owns what crosses the exec: the sockets, by number, in one environment variable. The workers cross it by their records
(`workers.records`), as they do when a supervisor was killed.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import NoReturn

import structlog

from supervisor.errors import Refused

log = structlog.get_logger(__name__)

_SOCKETS = "INFINITY_SUPERVISOR_SOCKETS"
# The new program has to import and read its config in this time (s): 0.5 s as a rule.
_CHECK_WITHIN = 60.0


class Upgrade:
    """Asked for by a signal, and `wanted` once the program that is installed now was seen to be able to run.

    `possible` tells whether there is anything to go on with now.
    """

    def __init__(self, config: Path, possible: Callable[[], bool]) -> None:
        self.wanted = asyncio.Event()
        self._config = config
        self._possible = possible
        self._checking: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Check, and then have it done."""
        if not self._possible() or (self._checking is not None and not self._checking.done()):
            log.warning("upgrade_refused", reason="the supervisor is starting, ending or about to upgrade")
        else:
            self._checking = asyncio.create_task(self._check(), name="upgrade check")

    async def _check(self) -> None:
        try:
            await check(self._config)
        except (Refused, OSError) as refusal:
            log.error("upgrade_refused", reason=str(refusal), consequence="this version goes on")
        else:
            log.info("upgrading", note="what was accepted is answered first; workers go on; who connects now waits")
            self.wanted.set()


async def check(config: Path) -> None:
    """See that the program that is installed now can run with the config as it is now; else Refused, with why.

    After the exec there is no way back.
    """
    words = [sys.executable, "-m", "supervisor", "check-config", "-c", str(config)]
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_CHECK_WITHIN):
            _, said = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Refused(f"the program that is installed now did not check its config in {_CHECK_WITHIN:.0f} s") from None
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines()
        raise Refused(f"the program that is installed now can't run: {lines[-1] if lines else process.returncode}")


def execute(listeners: Sequence[int], address: str) -> NoReturn:
    """Run this program anew, with these listening sockets for `address`; OSError when that can't be done."""
    for descriptor in listeners:
        os.set_inheritable(descriptor, True)
    told = ",".join(map(str, listeners))
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _SOCKETS: f"{told}@{address}"})


def inherited(address: str, environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening sockets that the program before this one left for `address`; others it left are closed.

    Asked once: what is told in the environment is nobody else's to see.
    """
    told, _, theirs = environ.pop(_SOCKETS, "").partition("@")
    sockets = []
    for word in told.split(",") if told else ():
        try:
            found = socket.socket(fileno=int(word))
        except (OSError, ValueError):
            continue  # closed, or no socket: whoever wrote that was not us
        found.set_inheritable(False)
        if theirs == address and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sockets.append(found)
        else:
            found.close()
    return sockets
