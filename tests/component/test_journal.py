"""The decision journal."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

from structlog.testing import capture_logs

from supervisor.core.model import Rung, Signal
from supervisor.core.sentences import Action
from supervisor.journal import Decision, Journal

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
KEYS = [
    "id",
    "at",
    "rung_before",
    "rung_after",
    "signal",
    "percent",
    "threshold",
    "age_s",
    "action",
    "target",
    "outcome",
    "text",
]


def journal(capacity: int = 10_000) -> Journal:
    """A journal whose clock stands still."""
    return Journal(capacity, now=lambda: AT)


def pause(**fields: object) -> Decision:
    """Memory went over 90 %."""
    return Decision(
        Action.RUNG,
        Rung.WARN,
        Rung.PAUSE,
        Signal.MEMORY,
        91.23456,
        90.0,
        0.1234,
        **fields,  # type: ignore[arg-type]
    )


def test_a_decision_has_the_contracts_fields() -> None:
    """Every field of the contract, in its order, with an RFC 3339 date in UTC to the millisecond."""
    kept = journal().append(pause(outcome="12 requests held"))
    fields = kept.as_dict()
    assert list(fields) == KEYS
    assert fields == {
        "id": 1,
        "at": "2026-01-02T03:04:05.678Z",
        "rung_before": "warn",
        "rung_after": "pause",
        "signal": "memory",
        "percent": 91.235,
        "threshold": 90.0,
        "age_s": 0.123,
        "action": "rung",
        "target": None,
        "outcome": "12 requests held",
        "text": "paused: memory 91.2 % ≥ 90 % (0.1 s old); 12 requests held",
    }


def test_dates_of_other_zones_are_told_in_utc() -> None:
    """A date that comes with another offset is converted, not relabelled."""
    there = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert journal().append(pause(at=there)).as_dict()["at"] == "2026-01-02T03:04:05.678Z"


def test_ids_rise_and_the_oldest_are_forgotten() -> None:
    """Past its capacity the journal keeps the newest decisions; ids go on and are never used again."""
    kept = journal(capacity=3)
    for number in range(5):
        kept.append(Decision(Action.LOAD, target=str(number)))
    assert [(d.id, d.target) for d in kept.last(10)] == [(3, "2"), (4, "3"), (5, "4")]
    assert [d.id for d in kept.last(2)] == [4, 5]
    assert kept.last(0) == []


def test_an_outcome_is_filled_in_later() -> None:
    """What came of a decision joins its entry and its sentence; a forgotten or unknown id changes nothing."""
    kept = journal(capacity=2)
    first, second = kept.append(pause()), kept.append(pause())
    third = kept.append(Decision(Action.UNLOAD, target="minilm", why="idle for 301 s"))
    kept.update(third.id, "630 MiB are back")
    for unknown in (first.id, 0, -1, 99):
        kept.update(unknown, "nothing")
    assert [d.outcome for d in kept.last(2)] == [None, "630 MiB are back"]
    assert kept.last(1)[0].text == "unload minilm: idle for 301 s; 630 MiB are back"
    assert second.outcome is None


def test_every_decision_is_a_line_of_the_log() -> None:
    """The log has all the fields; going up the ladder is a warning, the rest information."""
    kept = journal()
    with capture_logs() as lines:
        entry = kept.append(pause())
        kept.append(Decision(Action.LOAD, target="minilm"))
        kept.update(2, "ready in 4.2 s")
    assert lines[0] == {"event": "decision", "log_level": "warning", **entry.as_dict()}
    assert [(line["event"], line["log_level"]) for line in lines[1:]] == [
        ("decision", "info"),
        ("decision_outcome", "info"),
    ]


async def test_listeners_get_decisions_as_they_are_taken() -> None:
    """A subscription sees what is appended and updated after it began, in order, and ends when it is closed."""
    kept = journal()
    kept.append(pause())
    subscription = kept.subscribe()
    kept.append(Decision(Action.LOAD, target="minilm"))
    kept.update(2, "ready")
    subscription.close()
    kept.append(pause())
    assert [(d["id"], d["outcome"]) async for d in subscription] == [(2, None), (2, "ready")]
    assert not subscription.lost


async def test_a_listener_that_falls_behind_is_cut_off() -> None:
    """A listener that does not read loses its place; the journal and the other listeners go on."""
    kept = journal()
    slow, fast = kept.subscribe(limit=3), kept.subscribe(limit=100)
    for _ in range(10):
        kept.append(pause())
    assert slow.lost
    assert [d async for d in slow] == []
    fast.close()
    assert [d["id"] async for d in fast] == list(range(1, 11))


async def test_a_waiting_listener_is_woken() -> None:
    """A listener that waits for the next decision gets it; one that waits when its subscription is closed ends."""
    kept = journal()
    subscription = kept.subscribe()
    waiting = asyncio.create_task(anext(subscription))
    await asyncio.sleep(0)
    kept.append(pause())
    assert (await waiting)["id"] == 1
    ending = asyncio.create_task(anext(subscription, None))
    await asyncio.sleep(0)
    subscription.close()
    assert await ending is None
