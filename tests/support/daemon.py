"""The whole daemon as a process of its own, for tests: write a config, start it, talk to it, stop it.

with daemon.running(tmp_path, {"models": [daemon.debug_model("a")]}) as d:
    d.wait_ready("a")
    d.post(d.proxy + "/embeddings", {"model": "a", "input": "x"})
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.support import infinity

ROOT = Path(__file__).resolve().parent.parent.parent


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def debug_model(name: str, **more: Any) -> dict[str, Any]:
    """A model of the debug engine: the real server, no weights."""
    return {"name": name, "model_id": infinity.minilm(), "engine": "debugengine", "device": "cpu", **more}


def minilm_model(name: str, **more: Any) -> dict[str, Any]:
    """MiniLM on the CPU: real answers."""
    args = ["--no-bettertransformer", "--no-model-warmup"]
    return {"name": name, "model_id": infinity.minilm(), "engine": "torch", "device": "cpu", "args": args, **more}


# The CPU of a machine that runs tests is full of tests: its ladder is off unless a test asks for it.
CPU_OFF = {f"cpu_{rung}_threshold": None for rung in ("warning", "shrink", "pause", "unload")}
CPU_ON = {f"cpu_{rung}_threshold": at for rung, at in (("warning", 80), ("shrink", 85), ("pause", 90), ("unload", 95))}


def config(folder: Path, more: dict[str, Any]) -> dict[str, Any]:
    """A whole config: the template's Infinity, free ports, state in `folder`; `more` wins, one level deep."""
    base: dict[str, Any] = {
        "infinity": {"env": dict(infinity.ENV)},
        "proxy": {"listen": f"127.0.0.1:{free_port()}"},
        "admin": {"listen": f"127.0.0.1:{free_port()}"},
        "state_dir": str(folder / "state"),
        "resource_monitor": CPU_OFF,
    }
    for key, value in more.items():
        base[key] = {**base[key], **value} if isinstance(value, dict) and key in base else value
    if "command" not in base["infinity"]:  # only now: the template takes seconds, and a test may have one of its own
        base["infinity"]["command"] = infinity.template().command()
    return base


class Daemon:
    """One `infinity-supervisor run`, in pytest's session (the template needs that), in a process group of its own.

    `before` are the words of a program that runs it, in place of itself; `environ` is added to the environment.
    """

    before: tuple[str, ...] = ()

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.environ: dict[str, str] = {}
        self.folder = folder
        self.settings = settings
        self.path = folder / "supervisor.yaml"
        self.log = folder / "log"
        self.proxy = "http://" + settings["proxy"]["listen"]
        self.admin = "http://" + settings["admin"]["listen"]
        self.process: subprocess.Popen[bytes] | None = None
        self.write(settings)

    def write(self, settings: dict[str, Any]) -> None:
        """Write the config, whole or not at all."""
        self.settings = settings
        new = self.path.with_suffix(".new")
        new.write_text(yaml.safe_dump(settings, sort_keys=False))
        new.replace(self.path)

    def start(self, timeout: float = 20) -> None:
        """Start it and wait until it answers /healthz."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.before, sys.executable, "-m", "supervisor", "run", "-c", str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, "PYTHONWARNINGS": "error::ResourceWarning", **self.environ},
                process_group=0,
            )
        self.until(self._healthy, timeout, "the daemon does not answer /healthz")

    def _healthy(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.tail()}")
        with contextlib.suppress(OSError):
            return self.get(self.admin + "/healthz")[0] == 200
        return False

    def stop(self, sig: int = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal and wait for the end; the exit status. Nothing of it may be left."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon did not stop within {timeout} s:\n{self.tail()}") from None

    def kill_all(self) -> None:
        """The last resort: end the daemon and every worker it named."""
        pids = [m["pid"] for m in self._models_quietly() if m["pid"]]
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(15)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _models_quietly(self) -> list[dict[str, Any]]:
        try:
            models: list[dict[str, Any]] = self.status()["models"]
        except (OSError, ValueError, AssertionError):
            return []
        return models

    def tail(self, characters: int = 6000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:]

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """The log's JSON lines, those of one event if named."""
        rows = []
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and (event is None or row.get("event") == event):
                    rows.append(row)
        return rows

    # -- talking to it ----------------------------------------------------------------------------------------------

    def get(self, url: str, timeout: float = 30) -> tuple[int, Any]:
        """Status and JSON (or text) of a GET."""
        return _answer(urllib.request.Request(url), timeout)[:2]

    def post(self, url: str, body: object = None, timeout: float = 90) -> tuple[int, Any]:
        """Status and JSON of a POST of `body` as JSON."""
        return self.exchange(url, body, timeout)[:2]

    def exchange(
        self, url: str, body: object = None, timeout: float = 90, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of a POST."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            url, data, {"content-type": "application/json", **(headers or {})}, method="POST"
        )
        return _answer(request, timeout)

    def api(self, path: str, body: object = None, timeout: float = 90) -> Any:
        """POST to the admin API; the answer, which must be a 200."""
        status, answer = self.post(f"{self.admin}/api/v1/{path}", body, timeout)
        assert status == 200, (status, answer)
        return answer

    def status(self) -> dict[str, Any]:
        """The status document."""
        code, document = self.get(self.admin + "/api/v1/status")
        assert code == 200, document
        assert isinstance(document, dict)
        return document

    def model(self, name: str) -> dict[str, Any]:
        """One model's entry in status."""
        return next(m for m in self.status()["models"] if m["name"] == name)

    def decisions(self, n: int = 1000) -> list[dict[str, Any]]:
        """The journal, oldest first."""
        document = self.get(f"{self.admin}/api/v1/decisions?n={n}")[1]
        rows: list[dict[str, Any]] = document["decisions"] if isinstance(document, dict) else document
        return rows

    def drill(self, seconds: float, **signals: float) -> None:
        """Replace readings for a time; 0 seconds ends it."""
        self.api("drill", {"signals": signals, "seconds": seconds})

    def embed(self, model: str, *texts: str, timeout: float = 120) -> list[list[float]]:
        """Embeddings through the proxy, which must be answered."""
        status, answer = self.post(self.proxy + "/embeddings", {"model": model, "input": list(texts)}, timeout)
        assert status == 200, (status, answer)
        return [row["embedding"] for row in answer["data"]]

    def until(self, true: Callable[[], object], timeout: float, otherwise: str) -> None:
        """Wait until `true()`; AssertionError with `otherwise` and the log's end when it doesn't come."""
        end = time.monotonic() + timeout
        while not true():
            if time.monotonic() > end:
                raise AssertionError(f"{otherwise} within {timeout} s:\n{self.tail()}")
            time.sleep(0.05)

    def wait_ready(self, *names: str, timeout: float = 90) -> None:
        """Wait until these models are ready."""
        for name in names:
            self.until(lambda name=name: self.model(name)["state"] == "ready", timeout, f"{name} is not ready")

    def wait_rung(self, rung: str, timeout: float) -> None:
        """Wait until the host is at this rung."""
        self.until(lambda: self.status()["rung"] == rung, timeout, f"the rung is not {rung}")

    def workers(self) -> list[psutil.Process]:
        """The workers' processes as status names them."""
        return [psutil.Process(m["pid"]) for m in self.status()["models"] if m["pid"]]


def _answer(request: urllib.request.Request, timeout: float) -> tuple[int, Any, dict[str, str]]:
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, _parsed(response.read()), {k.lower(): v for k, v in response.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _parsed(error.read()), {k.lower(): v for k, v in error.headers.items()}


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


@contextlib.contextmanager
def running(folder: Path, more: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[Daemon]:
    """A running daemon; ended at the end, whatever happened, with all its workers."""
    daemon = Daemon(folder, config(folder, more))
    daemon.before = before
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.kill_all()
