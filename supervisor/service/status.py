"""One line about how we are, for `systemctl status`. Reads; decides nothing."""

from collections.abc import Mapping
from typing import Any

from supervisor.controller import Controller
from supervisor.core.model import Rung


def status_line(controller: Controller, last_reload: Mapping[str, Any] | None, stopping: bool) -> str:
    """Rung and why, batch size, queue; and that the last reload was refused, until one is not."""
    assessment, orders = controller.assessment, controller.orders
    rung = (assessment.rung if assessment else Rung.NORMAL).label
    why = f" ({orders.reason})" if orders.reason else ""
    queued = sum(demand.queued_requests for demand in controller.lanes.demand().values())
    line = f"rung {rung}{why}, batch {controller.batch_in_use}, queue {queued}"
    if stopping:
        line = f"stopping: {line}"
    faults = last_reload.get("faults") if last_reload else None
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        line += f"; last reload refused: {faults[0]}{more}"
    return line
