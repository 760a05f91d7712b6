"""What the data plane tells whoever counts: one small method for each thing that happens to a request."""

from typing import Protocol


class ProxyObserver(Protocol):
    """Implemented by the metrics. Called for every request: must be cheap and never raise."""

    def request_done(self, endpoint: str, model: str | None, code: int, seconds: float) -> None:
        """A request was answered with `code`, or its client left (499); None = no configured model was named."""

    def queue_waited(self, seconds: float) -> None:
        """A request's first part left after waiting this long."""

    def refused(self, reason: str) -> None:
        """The supervisor itself refused a request."""

    def inputs_done(self, model: str, n: int) -> None:
        """A worker answered `n` inputs."""


class NullObserver:
    """Counts nothing."""

    def request_done(self, endpoint: str, model: str | None, code: int, seconds: float) -> None:
        """Ignored."""

    def queue_waited(self, seconds: float) -> None:
        """Ignored."""

    def refused(self, reason: str) -> None:
        """Ignored."""

    def inputs_done(self, model: str, n: int) -> None:
        """Ignored."""
