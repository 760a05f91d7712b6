"""The journal of systemd as the way out for log lines: each field of ours a field of its own, for journalctl to match.

Owns the fields' names, the priorities, and the message ID of each kind of decision. Sent by systemd's own library. That
blocks while the journal does not listen, with the interpreter locked (seen: after 30 s the watchdog bit), so its queue
is looked at first: a journal that stands still costs lines, which are counted, not time.
"""

import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from supervisor.core.display import printable
from supervisor.core.sentences import Action
from supervisor.sink import Backlog, takes_more

# Where journald listens; libsystemd knows no other place.
SOCKET = "/run/systemd/journal/socket"
# How long a tick may wait for it while lines wait (s): one that listens reads hundreds of entries meanwhile.
PATIENCE = 0.005
IDENTIFIER = "infinity-supervisor"
# As syslog numbers them.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
# One for each kind of decision; they stay as they are for ever: `journalctl MESSAGE_ID=…` and alerts rely on them.
MESSAGE_IDS: Mapping[str, str] = {
    Action.RUNG: "5ac9fb2c7f764176aed92fe6a289ca59",
    Action.SIGNAL: "a90e51c0e8154c6b85d37625057c95af",
    Action.STILL_WARN: "3aa48f6479a9447b9ff37ed054e04b28",
    Action.BATCH_DOWN: "977c2afb9ce947aab7392208ce4fe038",
    Action.BATCH_UP: "fcfe8b32c66d415d8bf7e5a7eba12dbf",
    Action.BATCH_RESET: "74341ab5ff0b44468d1de2c932bf07b9",
    Action.LOAD: "331f9aa7c6594ded85599a9060e2220b",
    Action.UNLOAD: "f427af1fbb5f482c8a91db1d4f682de2",
    Action.RESTART: "a3b14c3f144c4199843e0cdc593eb51c",
    Action.RECYCLE: "026884853c43441fa93be6aa98154730",
    Action.REFUSE: "a08b3f87b9f246e2a4e1c75841aceda8",
    Action.SPARE: "a956ae02520c47aea7ec64786efc0405",
    Action.SPARE_DROPPED: "8658fd4d136c4d78bc860497c0f19538",
    Action.PAUSE: "7896e6df2d6a46b088b19802d381c8d2",
    Action.RESUME: "096df6a9732d4a9cb403aa99dbdffd29",
    Action.DRILL: "3cdb14b9f2de42d38230f1fe4b219ba6",
    Action.DRILL_END: "a67abdc87d804a0cb77edb558f75b089",
    Action.RELOAD: "898da99496f640e895611ac5b93feffa",
}
# Decisions whose target is a model.
_OF_A_MODEL = frozenset({Action.LOAD, Action.UNLOAD, Action.RESTART, Action.RECYCLE, Action.REFUSE})
# What the journal itself, or we, have a meaning for already.
_TAKEN = frozenset({"MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", "EVENT", "RUNG"})
_FOREIGN = re.compile(r"[^A-Z0-9_]")
# Told in words, by the journal itself, or as fields only.
_NOT_IN_WORDS = frozenset({"timestamp", "level", "event", "logger", "exception"})

Entry = tuple[bytes, ...]


def is_stream(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this descriptor goes to the journal: systemd tells which file that is, and children may have others."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def entry(level: str, fields: Mapping[str, Any]) -> Entry:
    """One log line as the journal takes it: `MESSAGE` for eyes, all else to be matched; what is None is left out."""
    event = str(fields["event"])
    decision = event == "decision"
    named: dict[str, Any] = {
        "MESSAGE": _message(event, fields),
        "PRIORITY": PRIORITIES[level],
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "EVENT": event,
    }
    if decision:
        named["RUNG"] = fields["rung_after"]
        named["MESSAGE_ID"] = MESSAGE_IDS.get(fields["action"])
        if fields["action"] in _OF_A_MODEL:
            named["MODEL"] = fields["target"]
    for key, value in fields.items():
        name = _FOREIGN.sub("_", key.upper()).lstrip("_0123456789")[:60]
        if name and key not in ("timestamp", "level", "event"):
            named.setdefault(f"{name}_" if name in _TAKEN else name, value)
    return tuple(_field(name, value) for name, value in named.items() if value is not None)


class JournalSink(Backlog[Entry]):
    """Sends entries to the journal."""

    def __init__(self, send: Callable[..., object], probe: int, notice: Callable[[int], object]) -> None:
        super().__init__(notice)
        self._send = send
        self._probe = probe
        self._until = 0.0

    @classmethod
    def connected(cls, notice: Callable[[int], object]) -> "JournalSink | None":
        """One for this host's journal; None where none listens, or systemd's library is missing."""
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            from systemd import journal

            probe.connect(SOCKET)
        except (ImportError, OSError):
            probe.close()
            return None
        return cls(journal.sendv, probe.detach(), notice)  # for as long as this process is

    def encode(self, line: object) -> Entry:
        """It is one already: `entry` made it."""
        assert isinstance(line, tuple)
        return line

    def writable(self) -> bool:
        """Whether there is room in the journal's queue: a socket that is connected to it tells."""
        return takes_more(self._probe, max(0.0, self._until - time.monotonic()))

    def flush(self) -> None:
        """Send what waits. A queue may hold no more than ten entries, so the journal gets a moment to take more."""
        self._until = time.monotonic() + PATIENCE
        super().flush()
        self._until = 0.0

    def send(self, data: Entry) -> None:
        """Hand it over, whole."""
        self._send(*data)


def _message(event: str, fields: Mapping[str, Any]) -> str:
    """The decision's sentence, or the event and its fields; the lines of a traceback below it."""
    told = fields.get("text")
    if told is None:
        words = (f"{key}={value}" for key, value in fields.items() if key not in _NOT_IN_WORDS and value is not None)
        told = " ".join((event, *words))
    lines = [str(told), *str(fields.get("exception") or "").splitlines()]
    return "\n".join(printable(line) for line in lines)


def _field(name: str, value: object) -> bytes:
    return f"{name}={value}".encode("utf-8", "backslashreplace")
