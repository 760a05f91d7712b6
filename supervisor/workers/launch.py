"""What an Infinity is started with: the operator's settings for its models, command line, environment, port.

Values only, besides looking for a free port; starts nothing.
"""

import hashlib
import random
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

HOST = "127.0.0.1"

# What the operator's shell or systemd told the supervisor about itself, and would mislead a worker: one that writes to
# NOTIFY_SOCKET speaks for the service, INFINITY_* would configure it behind the config file's back.
_OURS_ALONE = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "INFINITY_")

# Parts in flight at one worker never exceed this (the dispatcher's widest window).
_WIDEST_WINDOW = 4
# What Infinity takes in one request unless it is told otherwise; requests that can't be split go whole.
_MAX_CLIENT_BATCH = 2048

# libgomp's threads turn in a circle between two pieces of work before they sleep, by default about a millisecond. Under
# a CPU hold that is time taken from the work: MiniLM on two held cores, 2 rounds each: 35-42 inputs/s by default, 38-44
# with 20,000 turns, 39-46 with 2,000, 37-41 with none at all. Without a hold nothing is gained.
_SPIN_TURNS = "2000"
_SPIN_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

# huggingface_hub tells of a download only on a terminal, or where this position asks for it (its `is_tqdm_disabled`).
# tqdm would draw ten states a second, as wide as COLUMNS: 30 kB/s into a file that keeps 8 MiB.
_BARS = {"TQDM_POSITION": "-1", "TQDM_MININTERVAL": "1", "TQDM_NCOLS": "80"}

# Used when the kernel tells no range of its own for outgoing connections, and to begin ours.
_EPHEMERAL_FROM = 32768
_PORTS_FROM = 20000
_PORT_TRIES = 200


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where an Infinity listens that something else runs, and what gives us a hand on it: at most one of the two.

    `api_key_file` has its key, `pid_file` its process number, `systemd_unit` is the service that runs it.
    `clients_keys`: where it asks for keys, its clients have them, and we have none.
    """

    host: str
    port: int
    api_key_file: str | None = None
    pid_file: str | None = None
    systemd_unit: str | None = None
    clients_keys: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """One of the models of a process."""

    name: str
    model_id: str
    engine: str


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What the operator wrote about one worker. Times in seconds; `env` is infinity's with the model's on top.

    `device_id` picks the GPU (UUID or index in PCI order) unless the device is "cpu". `args` are passed as they are.
    `stall_timeout` is without any answer while it has work. `cpu_held`: a CPU hold counts what its threads use, waiting
    included. `warm_spare`: it may be started from a process that has imported everything (`workers.spare`). With
    `elsewhere` something else runs it: nothing is started, and only name and time-outs count besides.

    It has one model, named as it is itself; or those of a `group`: then `model_id` and `engine` are the first one's.
    """

    name: str
    model_id: str
    engine: str = "torch"
    device: str = "auto"
    device_id: str | int | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    command: tuple[str, ...] = ("infinity_emb", "v2")
    batch_size: int = 32
    cpu_held: bool = False
    start_timeout: float = 300.0
    drain_timeout: float = 30.0
    stop_timeout: float = 10.0
    stall_timeout: float = 30.0
    warm_spare: bool = False
    elsewhere: Elsewhere | None = None
    group: tuple[Member, ...] = ()

    @property
    def members(self) -> tuple[Member, ...]:
        """The models that it serves."""
        return self.group or (Member(self.name, self.model_id, self.engine),)

    @property
    def models(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(member.name for member in self.members)

    def launch_key(self) -> tuple[object, ...]:
        """What must be equal for a running worker to be kept on a reload: not time-outs, batch size, CPU hold, spare.

        The dispatcher bounds parts by the batch size in force, so a worker started with another one serves as well; so
        does one whose threads wait as they would without a hold.
        """
        if self.elsewhere is not None:
            return (self.name, self.elsewhere)
        served: tuple[object, ...] = (self.name, self.model_id, self.engine)
        if self.group:  # in any order
            served = (self.name, *sorted((m.name, m.model_id, m.engine) for m in self.group))
        return (*served, self.device, self.device_id, self.args, tuple(sorted(self.env.items())), self.command)

    @property
    def fingerprint(self) -> str:
        """The launch key as something to be written down: it may hold secrets (`env`)."""
        return hashlib.sha256(repr(self.launch_key()).encode("utf-8", "surrogateescape")).hexdigest()


def command_line(spec: WorkerSpec, port: int) -> list[str]:
    """The program and its arguments. Everybody on the host can read them, so the API key is not among them.

    Of several models each has its own value of a repeated option, in their order; what is there once goes for all.
    """
    members = spec.members
    return [
        *spec.command,
        *(word for member in members for word in ("--model-id", member.model_id)),
        *(word for member in members for word in ("--served-model-name", member.name)),
        *(word for member in members for word in ("--engine", member.engine)),
        *("--device", spec.device),
        *("--batch-size", str(spec.batch_size)),
        *("--host", HOST),
        *("--port", str(port)),
        *spec.args,
    ]


def environment(spec: WorkerSpec, ours: Mapping[str, str], api_key: str, home: Path) -> dict[str, str]:
    """The worker's environment: `ours` less what is the supervisor's alone, Infinity's settings, then the config's.

    `home` is a folder Infinity may write its cache folder to; without it that is the working directory, which under
    systemd is `/`.
    """
    kept = {name: value for name, value in ours.items() if not name.startswith(_OURS_ALONE)}
    settings = {
        "INFINITY_HOME": str(home),
        "INFINITY_QUEUE_SIZE": str(_queue_size(spec)),
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "DO_NOT_TRACK": "1",
        "COLUMNS": "1000",  # its log wraps at 80 columns where it finds no terminal, and would split messages
        "PYTHONUNBUFFERED": "1",  # last words must reach the log before the process is killed
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order NVML has too
        **_BARS,
    }
    if spec.cpu_held and not any(name in kept or name in spec.env for name in _SPIN_SETTINGS):
        settings["GOMP_SPINCOUNT"] = _SPIN_TURNS
    if spec.device != "cpu" and spec.device_id is not None:
        settings["CUDA_VISIBLE_DEVICES"] = str(spec.device_id)
    return {**kept, **settings, **spec.env, "INFINITY_API_KEY": api_key}


def _queue_size(spec: WorkerSpec) -> int:
    """INFINITY_QUEUE_SIZE: Infinity answers 429 to a request that comes while more inputs than this are queued.

    What is queued then is ours, so it is set to what our widest window can hold, each part being one request that could
    not be split: our own requests never meet a 429, and a worker that stands still says so after 8,192 inputs, not
    32,000 (its default).
    """
    try:
        whole = int(spec.env.get("INFINITY_MAX_CLIENT_BATCH_SIZE", _MAX_CLIENT_BATCH))
    except ValueError:  # Infinity will refuse it with better words
        whole = _MAX_CLIENT_BATCH
    return _WIDEST_WINDOW * max(whole, spec.batch_size)


def free_port(taken: Collection[int] = ()) -> int:
    """A loopback port that nothing listens on now and none of `taken`; OSError when there is none.

    Infinity opens its port only after it has loaded the model, half a minute later. So the port is taken from below the
    range the kernel gives to outgoing connections, where nothing comes to sit on it meanwhile by chance.
    """
    first = _ephemeral_from()
    below = range(_PORTS_FROM, first) if first - _PORTS_FROM >= 1000 else range(1024, max(first, 1025))
    for _ in range(_PORT_TRIES):
        port = random.choice(below)
        if port not in taken and is_free(port):
            return port
    while True:  # a host full of listeners: let the kernel find one
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now; False also when that can't be found out."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does: TIME_WAIT is no obstacle
            probe.bind((HOST, port))
            probe.listen(1)
    except OSError:
        return False
    return True


def _ephemeral_from() -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return _EPHEMERAL_FROM
