"""What the supervisor itself answers instead of a worker: the reasons, their status codes, their words.

Owns the table; whoever refuses names a reason and says what happened and what to do about it.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final

import orjson

from supervisor.errors import SupervisorError


class Reason(StrEnum):
    """The value of `x-supervisor-reason`: scripts depend on these words."""

    QUEUE_FULL = "queue_full"
    PREDICTED_WAIT = "predicted_wait"
    PAUSED = "paused"
    DRAINING = "draining"
    WORKER_UNAVAILABLE = "worker_unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    TOO_LARGE = "too_large"
    UNKNOWN_MODEL = "unknown_model"
    UNAUTHORIZED = "unauthorized"
    BAD_REQUEST = "bad_request"  # the HTTP around the body is wrong; the body itself is Infinity's to judge
    SLOW_BODY = "slow_body"
    POISON_INPUT = "poison_input"  # an input takes workers down
    INTERNAL = "internal"  # a fault of ours


@dataclass(frozen=True, slots=True)
class Rule:
    """How a reason is answered; `retry_after` is the least number of seconds to name, None = no such header.

    `final`: the client's library is told not to try again by itself.
    """

    status: int
    type: str
    retry_after: float | None = None
    final: bool = False


RULES: Final = {
    Reason.QUEUE_FULL: Rule(429, "rate_limit_error", 1.0),
    # Under lasting overload each retry is one more request that is refused: whether to come again, the caller decides.
    Reason.PREDICTED_WAIT: Rule(429, "rate_limit_error", 1.0, final=True),
    # A pause that outlasted max_wait rarely ends within seconds: to leave it takes at least the ladder's quiet time.
    Reason.PAUSED: Rule(503, "server_error", 5.0),
    Reason.DRAINING: Rule(503, "server_error", 5.0),
    Reason.WORKER_UNAVAILABLE: Rule(503, "server_error", 5.0),
    Reason.DEADLINE_EXCEEDED: Rule(504, "server_error"),
    Reason.TOO_LARGE: Rule(413, "invalid_request_error"),
    Reason.UNKNOWN_MODEL: Rule(400, "invalid_request_error"),
    Reason.UNAUTHORIZED: Rule(401, "invalid_request_error"),
    Reason.BAD_REQUEST: Rule(400, "invalid_request_error"),
    Reason.SLOW_BODY: Rule(408, "invalid_request_error"),
    Reason.POISON_INPUT: Rule(500, "server_error", final=True),
    Reason.INTERNAL: Rule(500, "server_error"),
}
# The openai client obeys `Retry-After` up to 60 s and takes its own, shorter delay beyond that.
LONGEST_RETRY_AFTER: Final = 60.0


class Refusal(SupervisorError):
    """A request that gets no answer from a worker; the text says what the user can do.

    `retry_after` is in seconds; `model` the canonical name of the model it was for, where that is known. `final`: as a
    rule's, where it is more than the rule says.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        model: str | None = None,
        final: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.param = param
        self.retry_after = retry_after
        self.model = model
        self.final = final

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return RULES[self.reason].status

    def body(self) -> bytes:
        """An error in the shape of OpenAI's."""
        return _error(str(self), RULES[self.reason].type, self.param, str(self.reason))

    def headers(self, jitter: random.Random) -> dict[str, str]:
        """The headers that tell a program about it."""
        seconds = self.retry_seconds(jitter)
        if seconds is None:
            return self.fixed_headers()
        # The second one is openai's own: it spreads clients within a second.
        return self.fixed_headers() | {"Retry-After": str(ceil(seconds)), "retry-after-ms": str(ceil(seconds * 1000))}

    def fixed_headers(self) -> dict[str, str]:
        """Those that are the same whoever is refused, and when."""
        headers = {"x-supervisor-reason": str(self.reason)}
        if self.reason is Reason.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        if RULES[self.reason].final or self.final:
            headers["x-should-retry"] = "false"
        return headers

    def retry_seconds(self, jitter: random.Random) -> float | None:
        """In how many seconds to come again, None if coming again is no use.

        Drawn from the upper half above the estimate: a constant would bring all the clients that were refused together
        back together (envoy, openai-python: both obey it to the second).
        """
        least = RULES[self.reason].retry_after
        if least is None:
            return None
        return min(max(least, self.retry_after or 0.0) * jitter.uniform(1.0, 1.5), LONGEST_RETRY_AFTER)


class UnknownModelRefusal(Refusal):
    """No such model: in the words and the shape of an Infinity that serves these models."""

    def __init__(self, asked: str, available: list[str]) -> None:
        super().__init__(
            Reason.UNKNOWN_MODEL,
            f"Invalid model: Engine for model name `{asked}` not found. Available model names are {available}",
        )

    def body(self) -> bytes:
        """Infinity's own body for it (`errors.py`: no type, and the status as code)."""
        return _error(str(self), None, None, self.status)


def _error(message: str, type: str | None, param: str | None, code: str | int) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": type, "param": param, "code": code}})
