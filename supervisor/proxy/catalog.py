"""`/models` and `/health`: answered here, so that asking never wakes a model and never waits for one.

Owns the shape of both, which is Infinity's; `state` is all that is added.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from supervisor.core.model import ModelState
from supervisor.proxy.lanes import Demand


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A configured model as its owner shows it; `capabilities` are those of its last load, empty before the first."""

    name: str
    state: ModelState
    engine: str
    batch_size: int
    capabilities: Collection[str] = ()


def models(entries: Sequence[ModelEntry], demand: Mapping[str, Demand], max_requests: int) -> bytes:
    """The body of `/models`. Infinity's queue figures are those of our queue: its own is kept almost empty."""
    created = int(datetime.now(UTC).timestamp())
    return orjson.dumps(
        {"data": [_model(entry, demand.get(entry.name), max_requests, created) for entry in entries], "object": "list"}
    )


def _model(entry: ModelEntry, demand: Demand | None, max_requests: int, created: int) -> dict[str, Any]:
    return {
        "id": entry.name,
        "stats": {
            "queue_fraction": demand.queued_requests / max_requests if demand and max_requests else 0.0,
            "queue_absolute": demand.queued_inputs if demand else 0,
            "results_pending": demand.inflight_inputs if demand else 0,
            "batch_size": entry.batch_size,
        },
        "object": "model",
        "owned_by": "infinity",
        "created": created,
        "backend": entry.engine,
        "capabilities": sorted(entry.capabilities),
        "state": str(entry.state),
    }


def health() -> bytes:
    """The body of `/health`."""
    return orjson.dumps({"unix": datetime.now(UTC).timestamp()})
