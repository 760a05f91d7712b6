"""The status document: what the controller knows, in the contract's shape. Reads; decides and changes nothing."""

from collections.abc import Mapping
from typing import Any

from supervisor import __version__, world
from supervisor.controller import Controller
from supervisor.core.model import GpuDevice, Known, LaneOrders, Missing, Reading, Rung, Signal
from supervisor.core.spare import SPARE
from supervisor.ports import Demand, Model, WorkerView


def status(
    controller: Controller, started_at: float, infinity: Mapping[str, Reading], notes: Mapping[str, Any]
) -> dict[str, Any]:
    """`GET /api/v1/status`: signals and rungs as of the last tick, queues and workers as of now.

    `infinity` has the inputs that wait in each Infinity by its own word; `notes` are further top-level entries (the
    last reload's outcome).
    """
    now = controller.clock()
    assessment = controller.assessment
    orders = controller.orders
    demand = controller.lanes.demand()
    batch = controller.policy.batch
    queued = [d for d in demand.values() if d.queued_requests]
    return {
        "version": __version__,
        "uptime_s": round(now - started_at, 3),
        "mode": "observe" if controller.policy.observe else "enforce",
        "rung": (assessment.rung if assessment else Rung.NORMAL).label,
        "paused": orders.paused,
        "reason": orders.reason,
        "external_pressure": controller.residency.external_pressure,
        "external_load": controller.lanes.external_load,
        "signals": signals(controller),
        "batch": {
            "size": controller.batch_in_use,
            "min": batch.minimum,
            "max": batch.maximum,
            "adjustments": controller.batch.adjustments,
        },
        "queue": {
            "requests": sum(d.queued_requests for d in demand.values()),
            "inputs": sum(d.queued_inputs for d in demand.values()),
            "bytes": sum(d.queued_bytes for d in demand.values()),
            "oldest_s": round(max((d.oldest_wait_s for d in queued), default=0.0), 3),
        },
        "models": models(controller, demand, infinity),
        "spare": spare(controller),
        **notes,
    }


def signals(controller: Controller) -> dict[str, Any]:
    """The four signals as status shows them: an unreadable one is `percent: null` with `missing: why`, never 0."""
    result: dict[str, Any] = {}
    for signal in Signal:
        state = controller.assessment.signals.get(signal) if controller.assessment else None
        if state is None:
            entry: dict[str, Any] = {"percent": None, "rung": None, "missing": "not read yet"}
        else:
            entry = {
                "percent": _round(state.percent),
                "rung": state.rung.label if state.rung is not None else None,
                "age_s": _round(state.age_s),
                "trend_per_min": _round(state.trend_per_min),
                "drill": state.drilled,
            }
            if state.missing is not None:
                entry["missing"] = state.missing
        if signal in (Signal.GPU, Signal.GPU_MEMORY):
            entry["devices"] = [device(d, controller) for d in (controller.sample.devices if controller.sample else ())]
        result[signal.value] = entry
    return result


def device(gpu: GpuDevice, controller: Controller) -> dict[str, Any]:
    """One GPU as status lists it."""
    rung = controller.assessment.devices.get(gpu.uuid) if controller.assessment else None
    return {
        "uuid": gpu.uuid,
        "index": gpu.index,
        "name": gpu.name,
        "utilisation_percent": _round(gpu.utilisation.value) if isinstance(gpu.utilisation, Known) else None,
        "memory_percent": _round(gpu.memory.value) if isinstance(gpu.memory, Known) else None,
        "memory_used_bytes": gpu.memory_used,
        "memory_total_bytes": gpu.memory_total,
        "rung": rung.label if rung is not None else None,
    }


def models(
    controller: Controller, demand: Mapping[str, Demand], infinity: Mapping[str, Reading]
) -> list[dict[str, Any]]:
    """Every configured model, loaded or not, in configured order."""
    views = controller.workers.views()
    return [
        _model(controller, model, views[model.name], demand.get(model.name)) | _own_word(infinity.get(model.name))
        for model in controller.models
        if model.name in views
    ]


def spare(controller: Controller) -> dict[str, Any]:
    """The warm spare: its process, what it holds, or why there is none."""
    view = controller.workers.spare
    use = controller.use.get(SPARE) if view.pid is not None else None
    return {
        "state": view.state.value,
        "pid": view.pid,
        "memory_bytes": use.memory_bytes if use else None,
        "reason": view.reason,
    }


def _own_word(reading: Reading | None) -> dict[str, Any]:
    """What the model's Infinity said of its queue; nothing while it is not ready or was not asked yet."""
    match reading:
        case Known(value, _):
            return {"infinity_queued_inputs": int(value)}
        case Missing(reason, _):
            return {"infinity_queued_inputs": None, "infinity_missing": reason}
    return {}


def _model(controller: Controller, model: Model, view: WorkerView, demand: Demand | None) -> dict[str, Any]:
    use = controller.use.get(model.name) if view.pid is not None else None
    lane = controller.orders.lanes.get(model.name, LaneOrders())
    entry: dict[str, Any] = {
        "name": model.name,
        "state": view.state.value,
        "pid": view.pid,
        "port": view.port,
        "memory_bytes": use.memory_bytes if use else None,
        "inflight_inputs": demand.inflight_inputs if demand else 0,
        "batch_size": lane.batch_size,
        "paused": not lane.open,
        "idle_s": _round(controller.residency.idle_seconds(model.name)),
        "uses": demand.uses if demand else 0,
        "loads": view.loads,
        "unloads": view.unloads,
        "restarts": view.restarts,
        "pinned": model.pinned,
        "reason": view.reason or controller.residency.waits_for(model.name),
        "queued_requests": demand.queued_requests if demand else 0,
        "device": world.device_of(model, controller.sample),
    }
    if view.group is not None:
        entry["group"] = view.group
    if use and use.gpu_memory_bytes:
        entry["gpu_memory_bytes"] = use.gpu_memory_bytes
    if use:
        entry["cpu_seconds"] = round(use.cpu_seconds, 2)
    return entry


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
