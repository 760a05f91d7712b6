"""Who is compared: each brings up a real Infinity of its own, and what stands in front of it.

Only one of them gets load at a time, so an idle Infinity of another takes nothing from it.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from supervisor.config import json_schema
from tests.bench import children
from tests.bench.memory_group import MemoryGroup
from tests.support import infinity
from tests.support.daemon import CPU_OFF, ROOT, free_port

MODEL = "m"
BATCH = 32
START_LIMIT = 240.0


@dataclass(frozen=True)
class Setup:
    """What is served, and how the supervisor is configured.

    `cpu_limits`: the CPU ladder and hold at their defaults, and the naive pause on; otherwise none of them, since the
    load generator shares the cores. `written`: whatever else the supervisor's config says.
    """

    engine: str = "debugengine"
    cpu_limits: bool = False
    written: dict[str, Any] = field(default_factory=dict)
    memory_limit: int | None = None
    """Bytes of a memory cgroup in which each contestant lives."""
    make_model: Callable[[Path], str] = lambda _: infinity.minilm()
    """The model's folder; makes it in the folder it is given, if need be."""
    models: tuple[str, ...] = (MODEL,)
    """Names under which it is served, each by an Infinity of its own."""
    room: int | None = None
    """How many of them may be in memory; None: all."""

    @property
    def torch_args(self) -> list[str]:
        """No conversion and no warm-up of Infinity's own: the first slice is not counted anyway."""
        return ["--no-bettertransformer", "--no-model-warmup"] if self.engine == "torch" else []


@dataclass(frozen=True)
class Place:
    """Where contestants live and what of."""

    folder: Path
    command: Sequence[str]
    """How Infinity is started."""
    model_id: str
    group: MemoryGroup | None = None


class Contestant:
    """One of them: `spawn`, wait until `ready`, load `url`, `stop`."""

    name = ""

    def __init__(self, setup: Setup, place: Place) -> None:
        self.setup = setup
        self.folder = place.folder / self.name
        self.folder.mkdir()
        self.command = list(place.command)
        self.model_id = place.model_id
        self.group = place.group
        self.processes: list[subprocess.Popen[bytes]] = []
        self.url = f"http://127.0.0.1:{free_port()}"

    def spawn(self) -> None:
        """Start everything; do not wait."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether requests are answered; RuntimeError when something has ended."""
        for process in self.processes:
            if process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {process.returncode}:\n{self.tail()}")
        with contextlib.suppress(OSError):
            return self.embed("is it ready?") == 200
        return False

    def stop(self) -> None:
        """End everything."""
        while self.processes:
            children.end(self.processes.pop(), patience=5)

    def died(self) -> bool:
        """Whether its Infinity has ended."""
        return self.processes[0].poll() is not None

    def embed(self, text: str, timeout: float = 60) -> int:
        """The status of one embedding; OSError when there is no answer."""
        body = json.dumps({"model": self.setup.models[0], "input": text}).encode()
        request = urllib.request.Request(f"{self.url}/embeddings", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def settle(self, limit: float) -> None:
        """Wait for whatever keeps it from starting afresh."""

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start one program of it."""
        env = {**infinity.clean_environment(), **infinity.ENV}
        inside = command if self.group is None else self.group.command(command)
        self.processes.append(children.spawn(inside, self.folder, name, env, ROOT))

    def start_infinity(self, port: int) -> None:
        """Start a real Infinity, without any supervisor."""
        self.start("infinity", [*self.infinity_command(), "--served-model-name", MODEL, "--port", str(port)])

    def infinity_command(self) -> list[str]:
        """A real Infinity, but for the name that it serves and its port."""
        model = ["--model-id", self.model_id, "--engine", self.setup.engine, "--device", "cpu"]
        return [*self.command, *model, "--batch-size", str(BATCH), *self.setup.torch_args, "--host", "127.0.0.1"]

    def loads(self) -> float:
        """How often models were loaded so far, where that is counted."""
        raise NotImplementedError

    def tail(self) -> str:
        """The last of what its programs said."""
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-2000:]}" for log in self.folder.glob("*.log"))

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self.url.rpartition(":")[2])


class Bare(Contestant):
    """Infinity, and clients connect to it."""

    name = "bare"

    def spawn(self) -> None:
        """Start it."""
        self.start_infinity(self.port)


NGINX = """\
daemon off;
{user}
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_max_body_size 64m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    upstream infinity {{
        server 127.0.0.1:{upstream};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://infinity;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


class Nginx(Contestant):
    """Debian's nginx in front, with connections to Infinity kept open."""

    name = "nginx"

    def spawn(self) -> None:
        """Start both."""
        upstream = free_port()
        self.start_infinity(upstream)
        user = "user root;" if os.getuid() == 0 else ""  # its folder is ours alone
        written = NGINX.format(user=user, folder=self.folder, upstream=upstream, port=self.port)
        config = self.folder / "nginx.conf"
        config.write_text(written)
        self.start("nginx", ["nginx", "-c", str(config), "-e", str(self.folder / "nginx.log")])


class Naive(Contestant):
    """A small proxy in front that pauses whole requests at 90 % CPU and goes on at 75 %."""

    name = "naive"

    def spawn(self) -> None:
        """Start both."""
        upstream = free_port()
        self.start_infinity(upstream)
        program = [sys.executable, "-m", "tests.bench.naive", str(self.port), f"http://127.0.0.1:{upstream}"]
        self.start("naive", program if self.setup.cpu_limits else [*program, "--never-pause"])


class PlainLru(Contestant):
    """A small proxy in front of as many as there is room for, which evicts the least recently used one on a miss."""

    name = "lru"

    def spawn(self) -> None:
        """Start the proxy, which starts the others."""
        room = self.setup.room or len(self.setup.models)
        program = [sys.executable, "-m", "tests.bench.plain_lru", str(self.port), str(room)]
        self.start("lru", [*program, *self.infinity_command()])

    def stop(self) -> None:
        """End the proxy, which ends the others."""
        while self.processes:
            children.end(self.processes.pop(), patience=30)

    def loads(self) -> float:
        """By its own count."""
        with urllib.request.urlopen(f"{self.url}/loads", timeout=30) as answer:
            return float(answer.read())


class Supervisor(Contestant):
    """The daemon of this checkout."""

    name = "supervisor"

    def __init__(self, setup: Setup, place: Place) -> None:
        super().__init__(setup, place)
        self.admin = f"http://127.0.0.1:{free_port()}"

    def config(self) -> dict[str, Any]:
        """What it is configured with."""
        model = {"model_id": self.model_id, "engine": self.setup.engine, "device": "cpu", "args": self.setup.torch_args}
        base: dict[str, Any] = {
            "infinity": {"command": self.command, "env": dict(infinity.ENV)},
            "models": [{"name": name, **model} for name in self.setup.models],
            "proxy": {"listen": f"127.0.0.1:{self.port}"},
            "admin": {"listen": self.admin.removeprefix("http://")},
            "state_dir": str(self.folder / "state"),
        }
        if not self.setup.cpu_limits:
            base["resource_monitor"] = {**CPU_OFF, **hold_off()}
        if self.setup.room is not None:
            base["model_memory_manager"] = {"max_models_in_memory": self.setup.room}
        for key, value in self.setup.written.items():
            base[key] = {**base.get(key, {}), **value}
        return base

    def spawn(self) -> None:
        """Start the daemon, which starts its worker."""
        path = self.folder / "supervisor.yaml"
        path.write_text(yaml.safe_dump(self.config(), sort_keys=False))
        self.start("supervisor", [sys.executable, "-m", "supervisor", "run", "-c", str(path)])

    def stop(self) -> None:
        """End the daemon and, where it could not, its worker."""
        daemon = self.processes.pop() if self.processes else None
        if daemon is not None:
            workers = psutil.Process(daemon.pid).children(recursive=True) if daemon.poll() is None else []
            children.end(daemon, patience=45)
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()

    def settle(self, limit: float) -> None:
        """Wait until the ladder has left what an earlier load brought it to."""
        until = time.monotonic() + limit
        while self.status()["rung"] not in ("normal", "warn") and time.monotonic() < until:
            time.sleep(0.2)

    def status(self) -> dict[str, Any]:
        """The status document."""
        with urllib.request.urlopen(f"{self.admin}/api/v1/status", timeout=30) as answer:
            document: dict[str, Any] = json.loads(answer.read())
        return document

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; `name` without the `infinity_supervisor_` before it."""
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=30) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [s for family in families for s in family.samples if s.name == f"infinity_supervisor_{name}"]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def order(self, *words: str) -> None:
        """Run an `infinity-supervisor` command against it; CalledProcessError when it fails."""
        command = [sys.executable, "-m", "supervisor", *words, "--admin", self.admin]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def loads(self) -> float:
        """By its own count."""
        return self.metric("model_loads_total")

    @property
    def daemon(self) -> psutil.Process:
        """The daemon's own process."""
        return psutil.Process(self.processes[0].pid)


def hold_off() -> dict[str, Any]:
    """What switches the CPU hold off, as far as this checkout has one."""
    known = json.dumps(json_schema())
    return {"cpu_hold_target": None} if '"cpu_hold_target"' in known else {}


ALL = {kind.name: kind for kind in (Bare, Nginx, Naive, PlainLru, Supervisor)}


@contextlib.contextmanager
def running(names: Sequence[str], setup: Setup, place: Place) -> Iterator[dict[str, Contestant]]:
    """These contestants, all answering; RuntimeError when one does not within `START_LIMIT` seconds."""
    contestants = {name: ALL[name](setup, place) for name in names}
    try:
        for contestant in contestants.values():
            contestant.spawn()
        until = time.monotonic() + START_LIMIT
        for contestant in contestants.values():
            while not contestant.ready():
                if time.monotonic() > until:
                    raise RuntimeError(f"{contestant.name} is not ready:\n{contestant.tail()}")
                time.sleep(0.2)
        yield contestants
    finally:
        for contestant in contestants.values():
            contestant.stop()
