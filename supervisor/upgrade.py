"""An upgrade in place (SIGUSR2): this process runs the program anew, with the same pid and the same listening sockets.

Owns what crosses the exec: the sockets, by number, in one environment variable. The workers cross it by their records
(`workers.records`), as they do when a supervisor was killed.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import orjson
import structlog

from supervisor import log as logs
from supervisor.config import Settings
from supervisor.errors import Refused
from supervisor.state import default_root
from supervisor.workers.waits import cancelled

log = structlog.get_logger(__name__)

_SOCKETS = "INFINITY_SUPERVISOR_SOCKETS"
# The new program has to import and read its config in this time (s): 0.5 s as a rule.
_CHECK_WITHIN = 60.0
_STOPS = (signal.SIGTERM, signal.SIGINT)


class Upgrade:
    """Asked for by a signal, and `wanted` once the program that is installed now was seen to be able to run.

    `possible` tells whether there is anything to go on with now, `settings` which are in force.
    """

    def __init__(self, config: Path, possible: Callable[[], bool], settings: Callable[[], Settings]) -> None:
        self.wanted = asyncio.Event()
        self._config = config
        self._possible = possible
        self._settings = settings
        self._checking: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Check, and then have it done."""
        if not self._possible() or (self._checking is not None and not self._checking.done()):
            log.warning("upgrade_refused", reason="the supervisor is starting, ending or about to upgrade")
        else:
            self._checking = asyncio.create_task(self._check(), name="upgrade check")

    async def _check(self) -> None:
        try:
            await check(self._config, _fixed(self._settings()))
        except (Refused, OSError) as refusal:
            log.error("upgrade_refused", reason=str(refusal), consequence="this version goes on")
        else:
            log.info("upgrading", note="what was accepted is answered first; workers go on; who connects now waits")
            self.wanted.set()

    async def carry_out(self, hand_over: Coroutine[Any, Any, list[int]], stop: asyncio.Event) -> None:
        """Hand over, then run the program anew: returns when `stop` was set first. OSError when it can't be run."""
        handing, stopping = asyncio.create_task(hand_over), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((handing, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                logs.flush()
                execute(handing.result(), self._settings().proxy.listen)
        finally:
            await cancelled([handing, stopping])


def _fixed(settings: Settings) -> dict[str, str]:
    """What must stay as it is: where clients connect, where the workers are found; and what has to be free."""
    state = settings.state_dir or str(default_root(os.environ))
    return {"proxy.listen": settings.proxy.listen, "admin.listen": settings.admin.listen, "state_dir": state}


async def check(config: Path, fixed: Mapping[str, str]) -> None:
    """See that the program that is installed now can go on with the config as it is now; else Refused, with why.

    After the exec there is no way back. `fixed` are settings, by dotted path, that must be what they are: the sockets
    and the workers would not be found again under others.
    """
    words = [sys.executable, "-m", "supervisor", "check-config", "--json", "-c", str(config)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(_CHECK_WITHIN):
            told, said = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Refused(f"the program that is installed now did not check its config in {_CHECK_WITHIN:.0f} s") from None
    try:
        report = orjson.loads(told)
        faults, effective = report["faults"], report["effective"]
    except (ValueError, LookupError, TypeError) as error:
        lines = said.decode(errors="replace").strip().splitlines()
        raise Refused(f"the program that is installed now can't run: {lines[-1] if lines else error}") from error
    if faults:
        first = faults[0]
        raise Refused(f"{first.get('file')}:{first.get('line')}: {first.get('path')}: {first.get('message')}")
    if not effective["models"]:
        raise Refused(f"{config}: no models are configured")
    for path, value in fixed.items():
        new = effective
        for key in path.split("."):
            new = new[key]
        if new != value:
            raise Refused(f"{path} is {new!r} in {config} and {value!r} here: that takes a restart")


def execute(listeners: Sequence[int], address: str) -> NoReturn:
    """Run this program anew, with these listening sockets for `address`; OSError when that can't be done.

    Signals that come before it can take them must not kill it, for nobody would look after the workers then: a reload
    or another upgrade is not needed, an order to stop waits (`ready_for_signals`).
    """
    for descriptor in listeners:
        os.set_inheritable(descriptor, True)
    told = ",".join(map(str, listeners))
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    for number in (signal.SIGHUP, signal.SIGUSR2):
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _SOCKETS: f"{told}@{address}"})
    finally:
        ready_for_signals()


def ready_for_signals() -> None:
    """From now on an order to stop is taken, also one that came during an upgrade; before any worker is started."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


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
