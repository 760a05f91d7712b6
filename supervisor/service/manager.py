"""What we tell the service manager: started, alive, at work on a reload, ending; and a line for `systemctl status`.

Owns what was not told yet. Decides nothing: it is told. `tick` is called when a tick of the control loop is finished,
and nothing else feeds the watchdog or prolongs a drain.

Told by systemd's own library. That blocks while PID 1 does not listen (a daemon-reload takes seconds on a large host,
and a socket may hold no more than ten messages), so its queue is looked at first.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping

from supervisor.errors import StartError
from supervisor.sink import takes_more

REMEDY = "install it beside the supervisor: `pip install 'infinity-supervisor[systemd]'` (it needs libsystemd-dev, gcc)"
# A control loop counts as stuck after so many intervals (`Control.alive`): a watchdog with less patience gets as much.
_TICKS = 5
# An upgrade in place reads its program anew and may have to end workers before it ticks: as long as any other start.
_UPGRADE_WITHIN = 120.0
# How much more time than it has a start or a drain asks for each time (s), and how often a start does.
EXTENSION, EXTEND_EVERY = 30.0, 5.0


class ServiceManager:
    """The manager that started us; made by `find`. Where there is none, every call does nothing."""

    def __init__(
        self,
        watchdog: float | None = None,
        notify: Callable[[str], object] | None = None,
        listens: Callable[[], bool] = lambda: True,
    ) -> None:
        self._watchdog = watchdog
        self._notify = notify
        self._listens = listens
        self._untold: deque[str] = deque()
        self._patience: float | None = None  # of its watchdog, as it was last told
        self._told = ""
        self._busy = False  # draining or reloading: each tick asks for more time

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> "ServiceManager":
        """The manager that wants to hear of us, if any.

        Raises:
            StartError: there is one, and the library that speaks to it is missing.
        """
        if not environ.get("NOTIFY_SOCKET"):
            return cls()
        try:
            from systemd import daemon
        except ImportError:
            raise StartError(
                f"systemd waits for our word (NOTIFY_SOCKET), and systemd-python is missing: {REMEDY}"
            ) from None
        usec = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog = int(usec) / 1e6 if ours and usec.isdigit() and int(usec) else None
        return cls(watchdog, daemon.notify, _probe(environ["NOTIFY_SOCKET"]))

    def ready(self, interval: float) -> None:
        """Started, or done with a reload; ticks come every `interval` seconds from now on.

        The watchdog's patience is told only when it is another: to be told it is fed.
        """
        self._busy = False
        lines = ["READY=1"]
        if self._watchdog is not None and (patience := max(self._watchdog, _TICKS * interval)) != self._patience:
            self._patience = patience
            lines.append(_usec("WATCHDOG_USEC", patience))
        self._say(*lines)

    def tick(self, status: str) -> None:
        """A tick is finished: we are alive, and this is how we are."""
        lines = []
        if self._watchdog is not None:
            lines.append("WATCHDOG=1")
        if self._busy:
            lines.append(_usec("EXTEND_TIMEOUT_USEC", EXTENSION))
        self._show(status, lines)

    def show(self, status: str) -> None:
        """This is how we are; no sign of life."""
        self._show(status, [])

    def _show(self, status: str, lines: list[str]) -> None:
        if status != self._told:
            lines.append(_status(status))
        if self._drained() and lines and self._say(*lines):
            self._told = status

    def extend(self) -> None:
        """A start goes on: it takes longer than the manager may think."""
        self._say(_usec("EXTEND_TIMEOUT_USEC", EXTENSION))

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        self._busy = True
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def upgrading(self) -> None:
        """This process is about to run another program, which says `ready` when it has started."""
        self.reloading()
        if self._watchdog is not None:
            self._say(
                _usec("WATCHDOG_USEC", max(self._patience or self._watchdog, _UPGRADE_WITHIN)), _status("upgrading")
            )

    def stopping(self) -> None:
        """We end: what was accepted is answered first."""
        self._busy = True
        self._say("STOPPING=1", _usec("EXTEND_TIMEOUT_USEC", EXTENSION))

    def _say(self, *lines: str) -> bool:
        """Tell it, after what could not be told before; whether it could be."""
        if self._notify is None:
            return False
        self._untold.append("\n".join(lines))
        return self._drained()

    def _drained(self) -> bool:
        while self._notify is not None and self._untold and self._listens():
            self._notify(self._untold.popleft())
        return not self._untold


def _probe(address: str) -> Callable[[], bool]:
    """Whether there is room in the queue behind this address; True where that can't be found out."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        probe.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        probe.close()
        return lambda: True
    descriptor = probe.detach()  # for as long as this process is
    return lambda: takes_more(descriptor)


def _usec(name: str, seconds: float) -> str:
    return f"{name}={round(seconds * 1e6)}"


def _status(text: str) -> str:
    return "STATUS=" + text.replace("\n", " ")
