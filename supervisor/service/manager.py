"""What we tell the service manager: started, alive, at work on a reload, ending; and a line for `systemctl status`.

Owns the notification socket, by systemd's own library. Decides nothing: it is told. `tick` is called when a tick of the
control loop is finished, and nothing else feeds the watchdog or prolongs a drain.
"""

import os
import time
from collections.abc import Mapping

from supervisor.errors import StartError
from supervisor.outbox import Outbox

REMEDY = "install it beside the supervisor: `pip install 'infinity-supervisor[systemd]'` (it needs libsystemd-dev, gcc)"
# Of what waits for a manager that does not listen only so many ticks are kept.
_WAITING = 8
# A control loop counts as stuck after so many intervals (`Control.alive`): a watchdog with less patience gets as much.
_TICKS = 5
# An upgrade in place reads its program anew and may have to end workers before it ticks: as long as any other start.
_UPGRADE_WITHIN = 120.0
# How much more time than it has a start or a drain asks for each time (s), and how often a start does.
EXTENSION, EXTEND_EVERY = 30.0, 5.0


class ServiceManager:
    """The manager that started us; made by `find`. Where there is none, every call does nothing."""

    def __init__(self, watchdog: float | None = None, outbox: "Outbox[str] | None" = None) -> None:
        self._watchdog = watchdog
        self._outbox = outbox
        self._patience = watchdog
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
        return cls(watchdog, Outbox(daemon.notify, _WAITING, "service manager"))

    def ready(self, interval: float) -> None:
        """Started, or done with a reload; ticks come every `interval` seconds from now on."""
        self._busy = False
        lines = ["READY=1"]
        if self._watchdog is not None:
            self._patience = max(self._watchdog, _TICKS * interval)
            lines.append(_usec("WATCHDOG_USEC", self._patience))
        self._say(*lines)

    def tick(self, status: str) -> None:
        """A tick is finished: we are alive, and this is how we are."""
        lines = []
        if self._watchdog is not None:
            lines.append("WATCHDOG=1")
        if self._busy:
            lines.append(_usec("EXTEND_TIMEOUT_USEC", EXTENSION))
        if status != self._told:
            lines.append(_status(status))
        if lines and self._say(*lines, size=1):
            self._told = status

    def extend(self) -> None:
        """A start goes on: it takes longer than the manager may think."""
        self._say(_usec("EXTEND_TIMEOUT_USEC", EXTENSION), size=1)

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        self._busy = True
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def upgrading(self) -> None:
        """This process is about to run another program, which says `ready` when it has started."""
        self.reloading()
        if self._watchdog is not None:
            self._say(_usec("WATCHDOG_USEC", max(self._patience or 0.0, _UPGRADE_WITHIN)), _status("upgrading"))
        self.flush()

    def stopping(self) -> None:
        """We end: what was accepted is answered first."""
        self._busy = True
        self._say("STOPPING=1", _usec("EXTEND_TIMEOUT_USEC", EXTENSION))

    def flush(self) -> None:
        """Wait a moment for what is not told yet."""
        if self._outbox is not None:
            self._outbox.flush(1.0)

    def _say(self, *lines: str, size: int = 0) -> bool:
        return self._outbox is not None and self._outbox.put("\n".join(lines), size)


def _usec(name: str, seconds: float) -> str:
    return f"{name}={round(seconds * 1e6)}"


def _status(text: str) -> str:
    return "STATUS=" + text.replace("\n", " ")
