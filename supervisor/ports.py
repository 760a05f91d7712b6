"""What the controller needs of the rest of the house: small interfaces, implemented elsewhere, wired in `daemon`."""

from collections.abc import Mapping
from typing import Protocol

from supervisor.core.model import ModelState, Orders, Sample, WorkerUse


class Sampler(Protocol):
    """Readings of the host and of the workers' processes; never raises, never blocks."""

    def sample(self, now: float) -> Sample: ...
    def worker_use(self, pgids: Mapping[str, int], now: float) -> Mapping[str, WorkerUse]: ...


class Demand(Protocol):
    """What clients want of one model, and what is on its way."""

    queued_requests: int
    queued_inputs: int
    queued_bytes: int
    oldest_wait_s: float
    inflight_parts: int
    inflight_inputs: int
    leases: int
    uses: int


class Lanes(Protocol):
    """The data plane: one lane per model."""

    def set_orders(self, orders: Orders) -> None: ...
    def demand(self) -> Mapping[str, Demand]: ...
    def longest_part(self, now: float) -> float: ...
    def refuse_waiting(self, model: str, reason: str, retry_after: float) -> None: ...


class WorkerView(Protocol):
    """One model's worker as its owner shows it."""

    @property
    def state(self) -> ModelState: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def pgid(self) -> int | None: ...
    @property
    def port(self) -> int | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def ready_since(self) -> float | None: ...
    @property
    def load_seconds(self) -> float | None: ...
    @property
    def loads(self) -> int: ...
    @property
    def unloads(self) -> int: ...
    @property
    def restarts(self) -> int: ...


class Workers(Protocol):
    """The worker processes; both requests are idempotent and return at once."""

    def views(self) -> Mapping[str, WorkerView]: ...
    def request_ready(self, name: str) -> None: ...
    def request_stop(self, name: str, cause: str) -> None: ...


class Model(Protocol):
    """What the operator wrote about one model."""

    @property
    def name(self) -> str: ...
    @property
    def pinned(self) -> bool: ...
    @property
    def preload(self) -> bool: ...
    @property
    def on_gpu(self) -> bool | None: ...
    @property
    def device_id(self) -> int | str | None: ...
    @property
    def estimate(self) -> int | None: ...
