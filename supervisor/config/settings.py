"""The settings as an operator writes them: names, types, bounds and defaults of every key of the YAML.

Values only: relations between keys are `rules`', what follows from what is written is `derive`'s, files are `load`'s.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from supervisor.config.address import Address, parse_address
from supervisor.config.resource_monitor import ResourceMonitorSettings
from supervisor.config.section import Lists, Mappings, Section, Texts
from supervisor.core.model import Signal
from supervisor.core.policy import BatchPolicy, Eviction, Policy, ResidencyPolicy

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Environment = Annotated[Mapping[str, str], Mappings]
FileName = Annotated[str, Field(min_length=1)]
GpuUuid = Annotated[
    str, Field(pattern=r"^(GPU|MIG)-[0-9A-Za-z/-]+$", examples=["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"])
]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
UNIT_NAME = r"^[A-Za-z0-9:_.\\][A-Za-z0-9:_.\\@-]*\.service$"  # begins in no way that systemctl takes for an option


class BatchControllerSettings(Section):
    """How the batch size follows the load (seed section 3)."""

    min_batch_size: BatchSize = 1
    """Inputs in a batch at the least. Default 1."""

    max_batch_size: BatchSize = 32
    """Inputs in a batch at the most; workers are started with it. Default 32, Infinity's own; profiles: small 8,
    medium 16, large 32, gpu 64."""

    initial_batch_size: BatchSize = 16
    """Inputs in a batch at the start and after a reset. Unwritten: half of `max_batch_size`. Default 16."""

    increase_threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Ratio 0 to 1 of CPU and memory below which batches may grow. Default 0.7."""

    decrease_threshold: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Ratio 0 to 1 of memory above which batches shrink. Must be above `increase_threshold`. Default 0.85."""

    adjustment_step: BatchSize = 2
    """Inputs by which the batch size changes at a time. Default 2."""

    adjustment_cooldown: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds between two changes, so that the effect of one is seen before the next. Default 5.0."""


class ModelMemoryManagerSettings(Section):
    """Which models stay in memory (seed section 4)."""

    max_models_in_memory: Annotated[int, Field(ge=1, le=1000)] = 3
    """How many models are loaded at once at the most. Default 3; profiles: small 1, medium 2, large 3, gpu 4."""

    inactive_timeout: Annotated[float, Field(ge=0, le=31_536_000)] = 300.0
    """Seconds without a request after which a model is unloaded; 0: never. Default 300."""

    cleanup_interval: Annotated[float, Field(ge=0.1, le=3600)] = 60.0
    """Seconds between two looks for such models. Default 60."""

    eviction: Literal["lru", "lfu", "cost"] = "lru"
    """Which model that nobody uses makes room for one that is asked for: the least recently used, the least often used,
    or the cheapest to lose (idle seconds x bytes / seconds to load it). Default lru."""

    recycle_growth_gb: Annotated[float, Field(gt=0, le=100_000)] | None = None
    """GiB above its level after loading at which a worker is replaced by a new process, off the peak and without losing
    a request: torch gives memory back at no other time. Default null: only when memory is short."""

    recycle_slope_gb_per_hour: Annotated[float, Field(gt=0, le=100_000)] | None = None
    """GiB by which a worker may grow in an hour, measured over half an hour at least; one that grows faster is replaced
    likewise. Default null: only when memory is short."""


class InfinitySettings(Section):
    """How an unmodified Infinity is run."""

    command: Annotated[tuple[str, ...], Field(min_length=1), Lists] = ("infinity_emb", "v2")
    """The program and its first arguments: an unmodified Infinity, or a wrapper that runs one. Options are added to it.
    A program without a slash is looked up in PATH; a relative path counts from this file's folder."""

    env: Environment = Field(default_factory=dict, repr=False)
    """Environment variables for all workers (HF_HOME, HF_TOKEN, OMP_NUM_THREADS …), besides the supervisor's own
    environment. Values are text: write numbers in quotes. GOMP_SPINCOUNT is 2000 for workers that start under a CPU
    hold unless it or OMP_WAIT_POLICY is set: threads that spin while they wait would use it up. Default: none."""

    start_timeout: Seconds = 300.0
    """Seconds without progress after which a starting worker is given up. Default 300: large model, slow disk."""

    drain_timeout: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    """Seconds that work in flight gets to end before its worker is stopped. Default 30."""

    stop_timeout: Seconds = 10.0
    """Seconds from SIGTERM to SIGKILL. Default 10: a healthy Infinity ends in 1 to 2."""

    stall_timeout: Seconds = 30.0
    """Seconds in which a worker that has work finishes nothing, until it is asked a canary; a dead one is killed and
    restarted within 15 more, a busy one gets 10 times as long. Default 30."""

    warm_spare: bool = False
    """Keep one Infinity that has imported everything and has no model: the next load begins with it and takes a second
    or two, not 20. It costs the memory of the imports, and goes first when memory is short. Only where `command` names
    Infinity's own script, not a wrapper. Default false."""


class ModelSettings(Section):
    """One model: what clients call it, and how its Infinity is started, or where it is."""

    model_config = ConfigDict(
        json_schema_extra={"if": {"not": {"required": ["url"]}}, "then": {"required": ["model_id"]}}
    )

    name: Name
    """What clients send as "model". Unique, upper and lower case counting as the same; slashes allowed. Required."""

    aliases: Annotated[tuple[Name, ...], Lists] = ()
    """Further names for it, as unique as names are. Default: none."""

    model_id: Annotated[str, Field(min_length=1)] | None = None
    """The model's folder (begins with /, ./, ../ or ~; relative ones count from this file's folder) or its id at the
    hub. Required, but for a model with a `url`."""

    engine: Literal["torch", "ctranslate2", "optimum", "neuron", "debugengine"] = "torch"
    """Infinity's engine. Default torch; debugengine answers lengths without a model, for tests."""

    device: Literal["cpu", "cuda", "mps", "tensorrt", "xla", "auto"] = "cpu"
    """Where it computes. Default cpu: nobody's GPU is taken unasked."""

    device_id: Annotated[int, Field(ge=0, le=1023)] | GpuUuid | None = None
    """Which GPU: its index in PCI order, as nvidia-smi lists them, or its UUID (GPU-…). Default null:
    Infinity's way, a copy of the model on every GPU there is."""

    args: Texts = ()
    """More options of `infinity_emb v2`, as they are, one list item a word. Those that the supervisor sets itself are
    refused. Default: none."""

    env: Environment = Field(default_factory=dict, repr=False)
    """Environment variables for this model's worker, over those of `infinity.env`. Default: none."""

    preload: bool = True
    """Load it at the start, in the order written, as far as `max_models_in_memory` allows; false: at its first request.
    Default true."""

    pinned: bool = False
    """Never unload it on the supervisor's own account. Default false."""

    group: Name | None = None
    """Models of one group share a process, and with it all that is the process's: they are loaded, unloaded and
    restarted together, take a place in memory each, and have the same `device`, `device_id`, `args` and `env`. A name
    that no model has. Default null: a process of its own."""

    memory_gb: Annotated[float, Field(gt=0, le=100_000)] | None = None
    """Memory that it needs once loaded, in GiB (1024³ bytes), on the device it computes on. Default null: learned."""

    url: Annotated[str, Field(min_length=1, examples=["http://127.0.0.1:8000"])] | None = None
    """http://HOST:PORT of an Infinity that something else runs and that lists the model under `name`: it is served as
    long as that one answers, and nothing is started for it. In place of `model_id`. Default null: we run it."""

    api_key_file: Annotated[str, Field(min_length=1)] | None = None
    """File with the API key of the Infinity at `url`, read whenever that one has come (back). Default null: no key of
    ours; it is shown its clients', unless `proxy.api_keys_file` asks for those itself."""

    systemd_unit: Annotated[str, Field(pattern=UNIT_NAME, examples=["infinity.service"])] | None = None
    """The service that runs the Infinity at `url`: it is stopped and started by systemctl like a model of our own.
    Default null: no control over it."""

    pid_file: Annotated[str, Field(min_length=1)] | None = None
    """File with the process number of the Infinity at `url`: an operator can have it stopped, but not started; a dead
    one is killed. Default null: no control over it."""

    @property
    def managed(self) -> bool:
        """Whether it can be both stopped and started: then it takes a place in memory, and may have to give it up."""
        return self.url is None or self.systemd_unit is not None

    @property
    def stoppable(self) -> bool:
        """Whether an operator can have it stopped."""
        return self.managed or self.pid_file is not None


class QueueSettings(Section):
    """Bounds of what waits in the supervisor; beyond them requests are refused with 429."""

    max_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 2048
    """Requests that may wait. Default 2048."""

    max_bytes: Annotated[int, Field(ge=1)] | None = None
    """Bytes of the bodies that may wait. Default null: the smaller of 256 MiB and 2 % of memory."""

    max_wait: Seconds = 60.0
    """Seconds that a request for a ready model may wait until its first part leaves. Default 60."""


class ProxySettings(Section):
    """The data plane, which clients talk to."""

    listen: Annotated[str, Field(examples=["127.0.0.1:7997"])] = "127.0.0.1:7997"
    """HOST:PORT; port 0 takes any free one. Default 127.0.0.1:7997: Infinity's own port, so clients need no change."""

    max_body_bytes: Annotated[int, Field(ge=1)] = 67_108_864
    """Bytes of a request's body at the most; larger ones get 413. Default 64 MiB."""

    queue: Annotated[QueueSettings, Mappings] = QueueSettings()
    """Bounds of what waits."""

    when_paused: Literal["hold", "refuse"] = "hold"
    """What becomes of requests while the gate is closed. `hold`, the default: they wait for it to open, up to
    `queue.max_wait`. `refuse`: they get 503 at once, for behind a balancer that has somewhere else to go."""

    trusted_proxies: Texts = ()
    """Networks of proxies in front, such as 10.0.0.0/8 or ::1: from there, X-Forwarded-For says who the client is, in
    the queue and in the log. From elsewhere it is not believed. Default: none."""

    api_keys_file: FileName | None = None
    """File with a line `NAME sha256:HEX` for each client: who has none of these keys gets 401, but at /health. Read
    again whenever it changes; the name tells clients apart. Default null: nobody needs a key."""

    @property
    def address(self) -> Address:
        """`listen`, parsed."""
        return parse_address(self.listen)


class AdminSettings(Section):
    """The control plane: status, metrics, orders."""

    listen: Annotated[str, Field(examples=["127.0.0.1:7998"])] = "127.0.0.1:7998"
    """HOST:PORT; port 0 takes any free one. Whoever reaches it may give orders, so beyond loopback it takes a
    `token_file`. Default 127.0.0.1:7998."""

    socket: FileName | None = None
    """Unix socket that is listened on besides, with mode 0660: who may write to it may give orders, without a token.
    Default null: none."""

    token_file: FileName | None = None
    """File with a token that callers of `listen` send as `Authorization: Bearer`; only /healthz and /readyz do without.
    Read at the start and at each reload. Default null: no token, on loopback only."""

    agent_listen: Annotated[str, Field(examples=["10.0.0.5:7999"])] | None = None
    """HOST:PORT for HAProxy's agent-check: whoever connects is told in one line how much this supervisor can take.
    Default null: nobody is told."""

    @property
    def agent_address(self) -> Address | None:
        """`agent_listen`, parsed."""
        return None if self.agent_listen is None else parse_address(self.agent_listen)

    @property
    def address(self) -> Address:
        """`listen`, parsed."""
        return parse_address(self.listen)


class LoggingSettings(Section):
    """The supervisor's own log, the workers' output included."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """The least that is logged. Default info."""

    format: Literal["auto", "json", "console", "journal"] = "auto"
    """`json`: an object a line; `console`: for people; `journal`: systemd's, a field for each of ours; `auto`, the
    default: console on a terminal, the journal where systemd leads stderr there, else json."""


class Settings(Section):
    """All settings of one supervisor."""

    profile: Literal["small", "medium", "large", "gpu"] | None = None
    """A set of defaults by the size of the host (seed section 7.2): small (2 cores, 4 GB), medium (4, 8), large (8, 16
    and more), gpu. A key that is written wins. Default null: as large."""

    resource_monitor: Annotated[ResourceMonitorSettings, Mappings] = ResourceMonitorSettings()
    """What is measured, and the limits."""

    batch_controller: Annotated[BatchControllerSettings, Mappings] = BatchControllerSettings()
    """How the batch size follows the load."""

    model_memory_manager: Annotated[ModelMemoryManagerSettings, Mappings] = ModelMemoryManagerSettings()
    """Which models stay in memory."""

    infinity: Annotated[InfinitySettings, Mappings] = InfinitySettings()
    """How Infinity is run."""

    models: Annotated[tuple[ModelSettings, ...], Lists] = ()
    """The models, in the order in which they are preloaded. `run` needs at least one."""

    proxy: Annotated[ProxySettings, Mappings] = ProxySettings()
    """The data plane."""

    admin: Annotated[AdminSettings, Mappings] = AdminSettings()
    """The control plane."""

    state_dir: Annotated[str, Field(min_length=1)] | None = None
    """Folder for what survives a restart; made if it is not there. Default null: $STATE_DIRECTORY (systemd), else the
    user's state folder. Each proxy address has a sub-folder of its own."""

    logging: Annotated[LoggingSettings, Mappings] = LoggingSettings()
    """The supervisor's own log."""

    mode: Literal["enforce", "observe"] = "enforce"
    """`observe` decides and logs everything and touches nothing, to try thresholds out. Default enforce."""

    def policy(self) -> Policy:
        """What the decisions depend on, as the core takes it."""
        batch, residency = self.batch_controller, self.model_memory_manager
        return Policy(
            thresholds={signal: self.resource_monitor.thresholds(signal) for signal in Signal},
            batch=BatchPolicy(
                minimum=batch.min_batch_size,
                maximum=batch.max_batch_size,
                initial=batch.initial_batch_size,
                increase_threshold=batch.increase_threshold,
                decrease_threshold=batch.decrease_threshold,
                step=batch.adjustment_step,
                cooldown=batch.adjustment_cooldown,
            ),
            residency=ResidencyPolicy(
                max_models=residency.max_models_in_memory,
                inactive_timeout=residency.inactive_timeout,
                cleanup_interval=residency.cleanup_interval,
                eviction=Eviction(residency.eviction),
                recycle_growth=_bytes(residency.recycle_growth_gb),
                recycle_slope=_bytes(residency.recycle_slope_gb_per_hour),
            ),
            check_interval=self.resource_monitor.check_interval,
            history_size=self.resource_monitor.history_size,
            observe=self.mode == "observe",
            cpu_hold=self.resource_monitor.cpu_hold_target,
        )


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 1024**3)


def queue_bytes(settings: Settings, total_memory: int) -> int:
    """The bound on bytes that wait: as written, else the smaller of 256 MiB and 2 % of `total_memory` (bytes)."""
    written = settings.proxy.queue.max_bytes
    return written if written is not None else min(256 * 1024**2, total_memory // 50)
