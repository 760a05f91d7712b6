"""Refusals that hold for a moment: who was just told that the wait is too long is told so again, and cheaply.

Owns who was told of late, and what. To foretell a wait and to write an answer about it takes 42 us (this 12), and three
times that beside a worker that keeps the caches busy; torch wants all cores at once, so what refusing takes is lost on
each of them: at ten times the capacity that was a tenth of the goodput.
"""

import random
from math import ceil
from typing import Final

from supervisor.proxy.answers import JSON, SERVER, Answer
from supervisor.proxy.forecast import SMALL_BODY
from supervisor.proxy.plain_head import PlainHead
from supervisor.proxy.refusals import Reason, Refusal

# A refusal holds for a tenth of the wait that was foretold, by which that can have become shorter meanwhile; and no
# longer than this (s), in which a part leaves.
LONGEST: Final = 0.25
# Clients at most.
REMEMBERED: Final = 1024
# What of a head matters for the wait, besides the size.
_ASKS: Final = ("authorization", "x-forwarded-for", "x-priority", "x-request-timeout-ms")


class Told:
    """One refusal; it holds until `until` (loop's clock) for bodies from `size` bytes on."""

    __slots__ = ("_body", "_head", "_refusal", "reason", "size", "status", "until")

    def __init__(self, refusal: Refusal, size: int, until: float) -> None:
        self.reason = refusal.reason
        self.status = refusal.status
        self.size = size
        self.until = until
        self._refusal = refusal
        self._body = refusal.body()
        fields = {"Content-Type": JSON, "Server": SERVER, **refusal.fixed_headers()}
        self._head = Answer(self.status, self._body, fields).head(True, True).removesuffix(b"\r\n")

    def answer(self, request_id: str, jitter: random.Random) -> bytes:
        """All of it as it goes on the wire; when to come again is drawn anew for each request."""
        seconds = self._refusal.retry_seconds(jitter) or 0.0
        return b"%bx-request-id: %b\r\nRetry-After: %d\r\nretry-after-ms: %d\r\n\r\n%b" % (
            self._head,
            request_id.encode("ascii"),
            ceil(seconds),
            ceil(seconds * 1000),
            self._body,
        )


class RefusedLately:
    """Who was told of late."""

    def __init__(self) -> None:
        self._told: dict[tuple[str | None, ...], Told] = {}
        self._until = 0.0  # when the last of them ends

    def tell(self, head: PlainHead, peer: str, refusal: Refusal, now: float) -> None:
        """A request of this head, from this address, was refused before any of its body was looked at."""
        if refusal.reason is not Reason.PREDICTED_WAIT:
            return
        if len(self._told) >= REMEMBERED:
            self._told.clear()
        until = now + min(LONGEST, 0.1 * (refusal.retry_after or 0.0))
        # Small bodies are alike: each is one of many that wait.
        size = 0 if head.length <= SMALL_BODY else head.length
        self._told[_asker(head, peer)] = Told(refusal, size, until)
        self._until = max(self._until, until)

    def told(self, head: PlainHead, peer: str, now: float) -> Told | None:
        """What this client was told of late about a request that is not larger, if that still holds."""
        if now >= self._until:
            if self._told:
                self._told.clear()
            return None
        told = self._told.get(_asker(head, peer))
        return told if told is not None and now < told.until and head.length >= told.size else None


def _asker(head: PlainHead, peer: str) -> tuple[str | None, ...]:
    """What decides how long a request waits: its client, its class, its deadline."""
    headers = head.headers
    return peer, *[headers.get(name) for name in _ASKS], "small" if head.length <= SMALL_BODY else "large"
