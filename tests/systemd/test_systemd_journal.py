"""The log in systemd's journal: fields, priorities, message IDs; and a journal that does not listen."""

import os
from pathlib import Path

import pytest

from supervisor.journald import MESSAGE_IDS
from tests.support.private_systemd import ADMIN, SERVICE, Host, exchange


def test_decisions_are_found_by_what_they_are(host: Host) -> None:
    """Rung, signal, model, event and kind are fields of their own; the priority is the line's level."""
    host.start()
    host.wait_ready("m")
    host.post(ADMIN + "/api/v1/drill", {"signals": {"memory": 92}, "seconds": 20})
    unit = f"_SYSTEMD_UNIT={SERVICE}"
    pid = f"_PID={host.main_pid()}"
    host.until(lambda: bool(host.journal(pid, "RUNG=pause", "SIGNAL=memory")))
    paused = host.journal(pid, "RUNG=pause", "SIGNAL=memory", f"MESSAGE_ID={MESSAGE_IDS['rung']}")[0]
    assert str(paused["MESSAGE"]).startswith("paused: memory 92.0 % ≥ 90 %")
    assert (paused["EVENT"], paused["PRIORITY"], paused["RUNG_BEFORE"]) == ("decision", "4", "normal")
    assert paused["SYSLOG_IDENTIFIER"] == "infinity-supervisor"
    (loaded,) = host.journal(pid, unit, f"MESSAGE_ID={MESSAGE_IDS['load']}")
    assert (loaded["MODEL"], loaded["ACTION"], loaded["PRIORITY"]) == ("m", "load", "6")
    assert [entry["MODEL"] for entry in host.journal(pid, "EVENT=worker_ready")] == ["m"]


def test_a_line_is_no_other_line(host: Host) -> None:
    """What a worker, or a client, writes stays inside its own entry and its own field."""
    words = "x\nPRIORITY=0\nEVENT=forged\x1b[31m"
    host.configure({"models": [host.model("m", start_seconds=0.1, start_lines=1, flood_lines=1, flood_text=words)]})
    host.start()
    host.wait_ready("m")
    assert not host.journal("EVENT=forged")
    assert all(isinstance(entry["MESSAGE"], str) for entry in host.journal(f"_PID={host.main_pid()}"))


@pytest.mark.long
def test_a_journal_that_does_not_listen_costs_lines(host: Host) -> None:
    """Stopped, it keeps neither requests nor the control loop waiting; what was lost is counted when it is back."""
    host.start()
    host.wait_ready("m")
    journald = host.run("pidof", "systemd-journald").stdout.strip()
    host.run("kill", "-STOP", journald)
    try:
        told = [host.submit(exchange, ADMIN + "/api/v1/resume", b"{}") for _ in range(1500)]
        assert {each.result()[0] for each in told} == {200}
        assert host.embed("m") == 200
        assert host.get(ADMIN + "/healthz")[0] == 200
    finally:
        host.run("kill", "-CONT", journald)
    host.until(lambda: bool(host.journal(f"_PID={host.main_pid()}", "EVENT=log_lines_dropped")))
    lost = sum(int(entry["LINES"]) for entry in host.journal(f"_PID={host.main_pid()}", "EVENT=log_lines_dropped"))
    kept = len(host.journal(f"_PID={host.main_pid()}", "ACTION=resume"))
    assert (lost > 100, lost + kept >= 1500) == (True, True), (lost, kept)


def test_the_journal_is_told_from_another_file(tmp_path: Path) -> None:
    """JOURNAL_STREAM names one file: a child whose output goes elsewhere has the variable too, and logs there."""
    from supervisor.journald import is_stream

    with (tmp_path / "file").open("w") as file:
        found = os.fstat(file.fileno())
        assert is_stream(file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not is_stream(file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
        assert not is_stream(file.fileno(), {})
