"""How much may wait: requests and bytes, reserved before a body is read.

Owns the counters. A check and its reservation are one step without an await, so a burst can't slip past the limit
(edge-cases.md 24); nothing is parsed, so a refusal is cheap however large the request.
"""

from collections.abc import Callable
from dataclasses import dataclass

from supervisor.proxy.arrivals import Arrivals
from supervisor.proxy.refusals import Reason, Refusal


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What the operator allows to wait, and for how long (seconds).

    `max_wait` bounds the wait for a model that is ready, until the first part leaves. `start_timeout` is how long a
    worker may start without progress; see `pump.SLEEP_FACTOR` for what follows from it. `hold`: at a closed gate
    requests wait; else they are refused.
    """

    max_requests: int = 2048
    max_bytes: int = 256 * 1024 * 1024
    max_wait: float = 60.0
    start_timeout: float = 300.0
    hold: bool = True


class Place:
    """One request's room in the queue, held from before its body is read until the last of it has left.

    Giving it back twice is harmless: whoever ends a request may do so without asking who ended it before.
    """

    __slots__ = ("_admission", "_held", "bytes")

    def __init__(self, admission: "Admission", size: int) -> None:
        self._admission = admission
        self.bytes = size
        self._held = True

    def grow(self, size: int) -> None:
        """Reserve `size` bytes more, for a body that did not say how long it is; raises Refusal `queue_full`."""
        self._admission.check_bytes(size)
        if not self._held:  # its body came too slowly, and was given up to make room just now
            return
        self.bytes += size
        self._admission.bytes += size

    @property
    def held(self) -> bool:
        """Whether it is still the request's."""
        return self._held

    @property
    def arrivals(self) -> Arrivals:
        """Where its body is waited for."""
        return self._admission.arrivals

    def give_back(self) -> None:
        """Nothing of the request waits any more."""
        if self._held:
            self._held = False
            self._admission.requests -= 1
            self._admission.bytes -= self.bytes

    def take_again(self) -> None:
        """A part came back from a worker that was lost: it waits again, limits or not, for it was admitted once."""
        if not self._held:
            self._held = True
            self._admission.requests += 1
            self._admission.bytes += self.bytes


class Admission:
    """The counters behind all places: `requests` and `bytes` are what is reserved now.

    `drain_estimate` says in how many seconds the queue will be empty: what a refused client is told to wait.
    """

    __slots__ = ("_drain_estimate", "_limits", "arrivals", "bytes", "requests")

    def __init__(self, limits: QueueLimits, drain_estimate: Callable[[], float]) -> None:
        self.requests = 0
        self.bytes = 0
        self.arrivals = Arrivals()
        self._limits = limits
        self._drain_estimate = drain_estimate

    def set_limits(self, limits: QueueLimits) -> None:
        """What is admitted stays admitted; the new limits hold for the next one."""
        self._limits = limits

    def reserve(self, size: int) -> Place:
        """Room for one request of `size` bytes.

        Raises:
            Refusal: `queue_full`, or `too_large` when it would not fit into an empty queue either.
        """
        if self.requests >= self._limits.max_requests:
            self.arrivals.make_room()
        if self.requests >= self._limits.max_requests:
            raise self._full(f"{self.requests} requests wait already (queue.max_requests)")
        self.check_bytes(size)
        self.requests += 1
        self.bytes += size
        return Place(self, size)

    def check_bytes(self, size: int) -> None:
        """Raises Refusal when `size` bytes more are too many."""
        limit = self._limits.max_bytes
        if size > limit:
            raise Refusal(
                Reason.TOO_LARGE, f"The body is too large: {limit} bytes fit into the queue (queue.max_bytes)."
            )
        if self.bytes + size > limit:
            self.arrivals.make_room()
        if self.bytes + size > limit:
            raise self._full(f"{self.bytes + size} bytes would wait, {limit} may (queue.max_bytes)")

    def _full(self, why: str) -> Refusal:
        text = f"The queue is full: {why}. Try again later."
        return Refusal(Reason.QUEUE_FULL, text, retry_after=self._drain_estimate())
