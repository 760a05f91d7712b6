"""The journal of systemd as the way out for log lines: each field of ours a field of its own, for journalctl to match.

Owns the fields' names, the priorities, and the message ID of each kind of decision. Sent by systemd's own library, on a
thread: a journal that does not listen costs lines, which are counted, not time.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from supervisor.core.display import printable
from supervisor.core.sentences import Action
from supervisor.outbox import Outbox
from supervisor.sink import WAITING_BYTES

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


def sender() -> Callable[..., object] | None:
    """What sends an entry; None where systemd's library is missing."""
    try:
        from systemd import journal
    except ImportError:
        return None
    send: Callable[..., object] = journal.sendv
    return send


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


class JournalSink:
    """Sends entries to the journal, in order, from any thread. `notice` makes the one that tells how many were lost."""

    def __init__(self, send: Callable[..., object], notice: Callable[[int], Entry]) -> None:
        self._outbox: Outbox[Entry] = Outbox(lambda fields: send(*fields), WAITING_BYTES, "journal")
        self._notice = notice
        self.dropped = 0

    def write(self, fields: Entry) -> None:
        """Send one entry, or lose it, when the journal is too far behind."""
        if self.dropped and self._outbox.put(notice := self._notice(self.dropped), _size(notice)):
            self.dropped = 0
        if not self._outbox.put(fields, _size(fields)):
            self.dropped += 1

    def flush(self, wait: float = 0.0) -> None:
        """Wait until all is sent, so many seconds at most."""
        if wait:
            self._outbox.flush(wait)


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


def _size(fields: Entry) -> int:
    return sum(map(len, fields))
