"""The decision journal: what was decided, in order, and what came of it.

Owns the last decisions and those who listen for new ones. Every decision is also a line of the log, with all its
fields. `explain`, the page, the API and the log show the same entries.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from supervisor.core.model import Rung, Signal
from supervisor.core.sentences import sentence
from supervisor.log import utc_stamp

log = structlog.get_logger(__name__)

CAPACITY = 10_000
# How far a listener may fall behind before it is cut off.
BACKLOG = 256


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision. `percent` and `threshold` are percentages, `age_s` is the reading's age in seconds.

    `action` is one of `core.sentences.Action`, or a word of its own; `why` adds a reason that is not a reading;
    `outcome` is None until it is known. `id` and `at` are the journal's to give.
    """

    action: str
    rung_before: Rung = Rung.NORMAL
    rung_after: Rung = Rung.NORMAL
    signal: Signal | None = None
    percent: float | None = None
    threshold: float | None = None
    age_s: float | None = None
    target: str | None = None
    outcome: str | None = None
    why: str | None = None
    id: int = 0
    at: datetime | None = None

    @property
    def text(self) -> str:
        """The decision in one sentence."""
        return sentence(
            self.action,
            rung_before=self.rung_before,
            rung_after=self.rung_after,
            signal=self.signal,
            percent=self.percent,
            threshold=self.threshold,
            age_s=self.age_s,
            target=self.target,
            why=self.why,
            outcome=self.outcome,
        )

    def as_dict(self) -> dict[str, object]:
        """The contract's fields, ready for JSON."""
        return {
            "id": self.id,
            "at": None if self.at is None else utc_stamp(self.at),
            "rung_before": self.rung_before.label,
            "rung_after": self.rung_after.label,
            "signal": None if self.signal is None else self.signal.value,
            "percent": None if self.percent is None else round(self.percent, 3),
            "threshold": self.threshold,
            "age_s": None if self.age_s is None else round(self.age_s, 3),
            "action": str(self.action),
            "target": self.target,
            "outcome": self.outcome,
            "text": self.text,
        }


class Subscription:
    """Decisions as they are taken, for one listener: `async for decision in subscription`.

    Ends when it is closed, or when the listener fell more than `limit` decisions behind (`lost`).
    """

    def __init__(self, limit: int, on_close: Callable[["Subscription"], None]) -> None:
        self._queue: asyncio.Queue[dict[str, object] | None] = asyncio.Queue()
        self._limit = limit
        self._on_close = on_close
        self._closed = False
        self.lost = False

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> dict[str, object]:
        item = None if self._closed and self._queue.empty() else await self._queue.get()
        if item is None:
            raise StopAsyncIteration
        return item

    def offer(self, item: dict[str, object]) -> None:
        """Hand over one decision; never blocks."""
        if self._closed:
            return
        if self._queue.qsize() >= self._limit:
            self.lost = True
            while not self._queue.empty():
                self._queue.get_nowait()
            self.close()
        else:
            self._queue.put_nowait(item)

    def close(self) -> None:
        """Listen no longer."""
        if not self._closed:
            self._closed = True
            self._on_close(self)
            self._queue.put_nowait(None)


class Journal:
    """The last `capacity` decisions, with ids that only rise."""

    def __init__(self, capacity: int = CAPACITY, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._entries: deque[Decision] = deque(maxlen=capacity)
        self._now = now
        self._next_id = 1
        self._listeners: set[Subscription] = set()

    def append(self, decision: Decision) -> Decision:
        """Give the decision its id and date, keep it, log it, tell the listeners. Returns it as it is kept."""
        kept = replace(decision, id=self._next_id, at=decision.at or self._now())
        self._next_id += 1
        self._entries.append(kept)
        fields = kept.as_dict()
        level = log.warning if kept.rung_after > kept.rung_before else log.info
        level("decision", **fields)
        self._tell(fields)
        return kept

    def update(self, id: int, outcome: str) -> None:
        """Fill in what came of a decision; listeners get it again, under its id. Forgotten ones are left alone."""
        place = id - self._next_id + len(self._entries)
        if not 0 <= place < len(self._entries):
            return
        kept = self._entries[place] = replace(self._entries[place], outcome=outcome)
        log.info("decision_outcome", id=id, action=str(kept.action), target=kept.target, outcome=outcome)
        self._tell(kept.as_dict())

    def last(self, n: int) -> list[Decision]:
        """The newest `n` decisions, oldest first."""
        size = len(self._entries)
        return [self._entries[place] for place in range(max(0, size - n), size)]

    def subscribe(self, limit: int = BACKLOG) -> Subscription:
        """Listen from now on."""
        subscription = Subscription(limit, self._listeners.discard)
        self._listeners.add(subscription)
        return subscription

    def _tell(self, fields: dict[str, object]) -> None:
        for listener in tuple(self._listeners):
            listener.offer(fields)
