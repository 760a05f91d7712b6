"""From settings to what each part is given: worker specs, served models, queue limits. Values in, values out."""

from dataclasses import dataclass
from ipaddress import ip_network
from types import MappingProxyType

from supervisor.config import ModelSettings, Settings, parse_url, queue_bytes
from supervisor.config.groups import processes
from supervisor.core.payload import DEFAULT_MAX_INPUTS
from supervisor.proxy.callers import Network
from supervisor.proxy.dispatcher import QueueLimits, ServedModel
from supervisor.workers.launch import Elsewhere, Member, WorkerSpec

GIB = 1024**3
# Devices with memory of their own; on the others (mps, xla) a model lives in the host's.
GPU_DEVICES = ("cuda", "tensorrt")


@dataclass(frozen=True, slots=True)
class ConfiguredModel:
    """What the controller needs of a model's settings; `estimate` in bytes, `on_gpu` None where Infinity chooses.

    `managed`: it can be both started and stopped; `stoppable`: at least stopped.
    A model is pinned, too, when another one of its group is.
    """

    name: str
    pinned: bool
    preload: bool
    on_gpu: bool | None
    device_id: int | str | None
    estimate: int | None
    managed: bool
    stoppable: bool


def configured_models(settings: Settings) -> tuple[ConfiguredModel, ...]:
    """The models as the controller takes them."""
    staying = {model.group or model.name for model in settings.models if model.pinned}
    return tuple(
        ConfiguredModel(
            name=model.name,
            pinned=(model.group or model.name) in staying,
            preload=model.preload,
            on_gpu=None if model.device == "auto" else model.device in GPU_DEVICES,
            device_id=model.device_id,
            estimate=None if model.memory_gb is None else int(model.memory_gb * GIB),
            managed=model.managed,
            stoppable=model.stoppable,
        )
        for model in settings.models
    )


def worker_specs(settings: Settings) -> tuple[WorkerSpec, ...]:
    """The models as the worker pool takes them: one for each process."""
    infinity = settings.infinity
    processes_of = {name: [settings.models[index] for index in found] for name, found in processes(settings).items()}
    return tuple(
        WorkerSpec(
            name=name,
            model_id=model.model_id or "",
            engine=model.engine,
            group=tuple(Member(m.name, m.model_id or "", m.engine) for m in (model, *others)) if model.group else (),
            device=model.device,
            device_id=model.device_id,
            args=tuple(model.args),
            env=MappingProxyType(dict(_environment(settings, model))),
            command=tuple(infinity.command),
            batch_size=settings.batch_controller.max_batch_size,
            cpu_held=settings.resource_monitor.cpu_hold_target is not None,
            start_timeout=infinity.start_timeout,
            drain_timeout=infinity.drain_timeout,
            stop_timeout=infinity.stop_timeout,
            stall_timeout=infinity.stall_timeout,
            warm_spare=infinity.warm_spare and model.url is None,
            elsewhere=_elsewhere(settings, model),
        )
        for name, (model, *others) in processes_of.items()
    )


def served_models(settings: Settings) -> tuple[ServedModel, ...]:
    """The models as the proxy takes them."""
    return tuple(
        ServedModel(
            name=model.name,
            aliases=tuple(model.aliases),
            max_inputs=_max_inputs(settings, model),
            batch_size=settings.batch_controller.max_batch_size,
            counts_characters=_counts_characters(settings, model),
            group=model.group,
            passes_keys=_passes_keys(settings, model),
        )
        for model in settings.models
    )


def queue_limits(settings: Settings, total_memory: int) -> QueueLimits:
    """What may wait in the proxy; `total_memory` in bytes."""
    queue = settings.proxy.queue
    return QueueLimits(
        max_requests=queue.max_requests,
        max_bytes=queue_bytes(settings, total_memory),
        max_wait=queue.max_wait,
        start_timeout=settings.infinity.start_timeout,
        hold=settings.proxy.when_paused == "hold",
    )


def trusted_proxies(settings: Settings) -> tuple[Network, ...]:
    """The networks of proxies that speak for the clients behind them."""
    return tuple(ip_network(text) for text in settings.proxy.trusted_proxies)


def names(settings: Settings) -> dict[str, str]:
    """Every name and alias, and the model's name behind it."""
    return {alias: model.name for model in settings.models for alias in (model.name, *model.aliases)}


def process_of(settings: Settings, name: str) -> str:
    """The name of the process that a model is in; its own while it is not configured."""
    return next((model.group for model in settings.models if model.name == name and model.group), name)


def _environment(settings: Settings, model: ModelSettings) -> dict[str, str]:
    return {**settings.infinity.env, **model.env}


def _elsewhere(settings: Settings, model: ModelSettings) -> Elsewhere | None:
    """Where the Infinity of a model runs that is not ours to run."""
    if model.url is None:
        return None
    address = parse_url(model.url)
    clients_keys = _passes_keys(settings, model)
    return Elsewhere(address.host, address.port, model.api_key_file, model.pid_file, model.systemd_unit, clients_keys)


def _passes_keys(settings: Settings, model: ModelSettings) -> bool:
    """Whether clients' keys are for this model's Infinity: for none of ours, and not where they are for the proxy."""
    return model.url is not None and model.api_key_file is None and settings.proxy.api_keys_file is None


def _max_inputs(settings: Settings, model: ModelSettings) -> int:
    """How many inputs this model's Infinity accepts in one request."""
    text = _environment(settings, model).get("INFINITY_MAX_CLIENT_BATCH_SIZE", "")
    return int(text) if text.isdecimal() and int(text) > 0 else DEFAULT_MAX_INPUTS


def _counts_characters(settings: Settings, model: ModelSettings) -> bool:
    """Whether this model's Infinity counts usage in characters: not with `lengths_via_tokenize`, in doubt not."""
    flags = [word for word in model.args if word in ("--lengths-via-tokenize", "--no-lengths-via-tokenize")]
    if flags:
        return set(flags) == {"--no-lengths-via-tokenize"}  # of a group, in turn for each of its models
    word = _environment(settings, model).get("INFINITY_LENGTHS_VIA_TOKENIZE", "")
    return word.strip().lower() in ("", "0", "false", "no", "off")
