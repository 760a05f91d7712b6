"""One row of the history, which the API shows: what was measured, and what was done about it, once a decision."""

from collections.abc import Iterable
from datetime import UTC, datetime

from supervisor.core.assessment import Assessment
from supervisor.core.model import Signal
from supervisor.log import utc_stamp
from supervisor.ports import Demand


def row(assessment: Assessment, batch: int, demand: Iterable[Demand]) -> dict[str, object]:
    """The contract's fields, ready for JSON; `batch` is the part size in use, `demand` that of every model."""
    states = assessment.signals
    demand = list(demand)
    return {
        "at": utc_stamp(datetime.now(UTC)),
        **{signal.value: states[signal].percent if signal in states else None for signal in Signal},
        "rung": assessment.rung.label,
        "batch": batch,
        "queue": sum(d.queued_requests for d in demand),
        "inflight": sum(d.inflight_inputs for d in demand),
    }
