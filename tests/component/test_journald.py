"""Log lines as the journal takes them: names, priorities, message IDs; no journal needed."""

import re
import sys
from pathlib import Path

import pytest

from supervisor import log as logs
from supervisor.core.sentences import Action
from supervisor.errors import StartError
from supervisor.journald import MESSAGE_IDS, entry
from tests.support.log_output import log_output

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def fields(level: str, **values: object) -> dict[str, str]:
    """An entry's fields by name."""
    return dict(field.decode().split("=", 1) for field in entry(level, values))


def test_each_kind_of_decision_has_an_id_of_its_own_and_readme_has_it() -> None:
    """A new kind needs one; what is in use is looked for by alerts."""
    assert set(MESSAGE_IDS) == set(Action)
    assert len(set(MESSAGE_IDS.values())) == len(Action)
    assert all(re.fullmatch("[0-9a-f]{32}", found) for found in MESSAGE_IDS.values())
    rows = dict(re.findall(r"^\| `(\w+)` \| `([0-9a-f]{32})` \|", README, re.MULTILINE))
    assert rows == {str(action): found for action, found in MESSAGE_IDS.items()}


def test_a_line_is_an_event_and_its_fields() -> None:
    """What is None is left out; a name that has a meaning already is not taken; eyes get all of it in one line."""
    told = fields("warning", event="worker_late", model="m", seconds=4.5, port=None, message="x\ny", logger="workers")
    assert told == {
        "MESSAGE": r"worker_late model=m seconds=4.5 message=x\ny",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "infinity-supervisor",
        "EVENT": "worker_late",
        "MODEL": "m",
        "SECONDS": "4.5",
        "MESSAGE_": "x\ny",
        "LOGGER": "workers",
    }


def test_a_traceback_is_below_its_line() -> None:
    """Each of its lines stays one."""
    told = fields("error", event="tick_failed", exception="Traceback\n  x\x1b[31m")
    assert told["MESSAGE"] == "tick_failed\nTraceback\n  x\\x1b[31m"


def test_a_journal_that_was_asked_for_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start is refused with the remedy, in JSON lines; `auto` goes on with those."""
    monkeypatch.setitem(sys.modules, "systemd", None)
    with log_output() as output:
        with pytest.raises(StartError, match=r"pip install 'infinity-supervisor\[systemd\]'"):
            logs.configure("info", "journal", descriptor=output.writer)
        logs.logging.getLogger("x").warning("told")
        assert [line["event"] for line in output.lines()] == ["told"]
