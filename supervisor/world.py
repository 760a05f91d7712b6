"""The world as the decisions see it: put together from the last sample, the workers, the lanes and what was written.

Reads and combines; decides and changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from supervisor.core.assessment import Assessment
from supervisor.core.model import ModelState, ModelView, Orders, Rung, Sample, Signal, WorkerUse
from supervisor.core.plan import signal_rung
from supervisor.core.policy import Policy
from supervisor.core.residency import Pressure
from supervisor.core.spare import SPARE, SpareView
from supervisor.ports import Demand, Model, Sampler, Workers, WorkerView

# A model on a GPU that NVML does not show (yet): no device's memory is known for it.
UNSEEN_GPU = "gpu"


def device_of(model: Model, sample: Sample | None) -> str:
    """The model's device as decisions name it: "cpu", its GPU's UUID, or "gpu" while NVML shows no such GPU.

    A model whose device Infinity chooses (`on_gpu` None) is on a GPU where there is one.
    """
    gpus = sample.devices if sample else ()
    if model.on_gpu is False or (model.on_gpu is None and not gpus):
        return "cpu"
    wanted = 0 if model.device_id is None else model.device_id
    for gpu in gpus:
        if wanted in (gpu.index, gpu.uuid, str(gpu.index)):
            return gpu.uuid
    return UNSEEN_GPU


def process_groups(workers: Mapping[str, WorkerView], spare: SpareView) -> Mapping[str, int]:
    """The process groups of all workers; of the spare and of successors under names that no model has."""
    groups = {SPARE: spare.pgid} | {name: view.pgid for name, view in workers.items()}
    groups |= {_successor(name): view.successor_pgid for name, view in workers.items()}
    return {name: pgid for name, pgid in groups.items() if pgid is not None}


def _successor(name: str) -> str:
    """No model is called so."""
    return f"{name}\0successor"


def model_views(
    models: Sequence[Model],
    workers: Mapping[str, WorkerView],
    demand: Mapping[str, Demand],
    use: Mapping[str, WorkerUse],
    sample: Sample | None,
    wanted: Mapping[str, float],
) -> list[ModelView]:
    """Every configured model with its worker, its memory and the requests for it, in configured order.

    `wanted` has the seconds since each model not yet loaded was asked for by an operator; 0 for a preload.
    """
    return [
        _view(model, workers[model.name], demand.get(model.name), use, sample, wanted.get(model.name))
        for model in models
        if model.name in workers
    ]


def _view(
    model: Model,
    worker: WorkerView,
    demand: Demand | None,
    use: Mapping[str, WorkerUse],
    sample: Sample | None,
    wanted: float | None,
) -> ModelView:
    device = device_of(model, sample)

    def held(name: str) -> int:
        used = use.get(name)
        return 0 if used is None else used.memory_bytes if device == "cpu" else used.gpu_memory_bytes

    return ModelView(
        name=model.name,
        state=worker.state,
        pinned=model.pinned,
        device=device,
        memory_bytes=held(model.name),
        estimate=model.estimate,
        queued=demand.queued_requests if demand else 0,
        inflight=demand.inflight_inputs if demand else 0,
        leases=demand.leases if demand else 0,
        oldest_wait=max(demand.oldest_wait_s if demand else 0.0, wanted or 0.0),
        uses=demand.uses if demand else 0,
        ready_since=worker.ready_since,
        load_seconds=worker.load_seconds,
        wanted=wanted is not None,
        successor_bytes=None if worker.successor_pgid is None else held(_successor(model.name)),
        managed=model.managed,
        group=worker.group,
    )


def worker_use(sampler: Sampler, workers: Workers, now: float) -> dict[str, WorkerUse]:
    """What each model's worker uses, as far as it can be read, the one that is to take its place, and the warm spare.

    Nobody can tell what of a process is whose: models that share one have equal shares, so that sums are right.
    """
    sharing: dict[int, list[str]] = {}
    for name, pgid in process_groups(workers.views(), workers.spare).items():
        sharing.setdefault(pgid, []).append(name)
    read = sampler.worker_use({names[0]: pgid for pgid, names in sharing.items()}, now)
    shares = {names[0]: _share(read[names[0]], len(names)) for names in sharing.values() if names[0] in read}
    return {name: shares[names[0]] for names in sharing.values() if names[0] in shares for name in names}


def _share(use: WorkerUse, models: int) -> WorkerUse:
    if models == 1:
        return use
    return replace(
        use,
        cpu_seconds=use.cpu_seconds / models,
        memory_bytes=use.memory_bytes // models,
        gpu_memory_bytes=use.gpu_memory_bytes // models,
    )


def together_with(name: str, workers: Mapping[str, WorkerView]) -> list[str]:
    """The other models of its group: what happens to its worker happens to theirs."""
    group = workers[name].group if name in workers else None
    return [other for other, view in workers.items() if group is not None and view.group == group and other != name]


def pressure(
    policy: Policy, assessment: Assessment, sample: Sample, orders: Orders, use: Mapping[str, WorkerUse]
) -> Pressure:
    """How memory presses on the models in it. What the warm spare holds is as good as free: it goes, or becomes one."""
    memory, gpu = policy.thresholds[Signal.MEMORY], policy.thresholds[Signal.GPU_MEMORY]
    return Pressure(
        memory_used=max(0, sample.memory_used - (use[SPARE].memory_bytes if SPARE in use else 0)),
        memory_limit=sample.memory_limit,
        fit_percent=memory.shrink,
        last_fit_percent=memory.unload,
        gpu_fit_percent=gpu.shrink,
        gpu_last_fit_percent=gpu.unload,
        cpu=signal_rung(assessment, Signal.CPU),
        memory=signal_rung(assessment, Signal.MEMORY),
        device_rungs=assessment.devices,
        device_memory={gpu.uuid: (gpu.memory_used, gpu.memory_total) for gpu in sample.devices},
        gate_closed=orders.paused,
        paused=frozenset(name for name, lane in orders.lanes.items() if not lane.open),
        ladder_quiet=assessment.rung < Rung.WARN,
        drilled=frozenset(state.signal for state in assessment.signals.values() if state.drilled),
    )


def loading_bytes(views: Sequence[ModelView]) -> Mapping[str, int]:
    """By device, what the workers that are starting hold so far: their growth is reserved, not a leak."""
    held: dict[str, int] = {}
    for view in views:
        starting = view.memory_bytes if view.state is ModelState.STARTING else view.successor_bytes
        if starting is not None:
            held[view.device] = held.get(view.device, 0) + starting
    return held


def own_cpu_percent(
    before: Mapping[str, WorkerUse], after: Mapping[str, WorkerUse], seconds: float, cores: float
) -> float:
    """What our workers took of the host's cores between two readings, in percent.

    A worker that is new counts from the next reading on.
    """
    if seconds <= 0 or cores <= 0:
        return 0.0
    used = sum(
        max(0.0, use.cpu_seconds - (before[name].cpu_seconds if name in before else use.cpu_seconds))
        for name, use in after.items()
    )
    return min(100.0, 100.0 * used / (seconds * cores))
