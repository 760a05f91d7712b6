"""A real systemd with an installed supervisor in it, for tests: boot it, give it a config, talk to both.

    with private_systemd.booted() as host:
        host.configure({"models": [host.model("m")]})
        host.systemctl("start", UNIT)
        host.post("/embeddings", {"model": "m", "input": "x"})

It has a network of its own, so ports are those of the shipped files; what connects does so from a thread that has
entered it. `tests/support/private_systemd` is the program behind it.
"""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.support import infinity
from tests.support.daemon import CPU_OFF
from tests.support.scripted_worker import script

T = TypeVar("T")

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parent.parent
UNITS = ROOT / "deploy/systemd"
SERVICE, SOCKET = "infinity-supervisor.service", "infinity-supervisor.socket"
INSTALLED = Path("/opt/infinity-supervisor")
CONFIG = Path("/etc/infinity-supervisor/supervisor.yaml")
PROXY, ADMIN = "http://127.0.0.1:7997", "http://127.0.0.1:7998"
_CLONE_NEWNET = 0x40000000


class Host:
    """One booted systemd; `pid1` is its number out here."""

    def __init__(self, pid1: int) -> None:
        self.pid1 = pid1
        self.root = Path(f"/proc/{pid1}/root")
        self._network = os.open(f"/proc/{pid1}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._inside = ThreadPoolExecutor(64, initializer=self._enter)

    def close(self) -> None:
        """End the threads that talk to it."""
        self._inside.shutdown()
        os.close(self._network)

    def _enter(self) -> None:
        if ctypes.CDLL(None, use_errno=True).setns(self._network, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    # -- files and programs -----------------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A program in there, as root."""
        words = ["nsenter", "-t", str(self.pid1), *("-m", "-p", "-C", "-i", "-u", "-n"), "--", *command]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False, cwd="/"
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.tail()}")
        return done

    def systemctl(self, *words: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """`systemctl` in there."""
        return self.run("systemctl", *words, check=check, timeout=timeout)

    def show(self, name: str, unit: str = SERVICE) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--property", name, "--value", unit).stdout.strip()

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The journal's entries that match, oldest first, with all their fields."""
        lines = self.run("journalctl", "--no-pager", "-o", "json", "--all", *matches).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def tail(self) -> str:
        """The journal's last lines, for a test that failed."""
        done = self.run("journalctl", "--no-pager", "-o", "short-precise", "-n", "60", check=False)
        return done.stdout

    def write(self, path: Path | str, text: str) -> None:
        """A file in there, whole or not at all."""
        file = self.root / str(path).lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(file.name + ".new")
        new.write_text(text)
        new.replace(file)

    def drop_in(self, text: str, unit: str = SERVICE) -> None:
        """More settings for a unit, in place of those of earlier calls."""
        self.write(f"/run/systemd/system/{unit}.d/test.conf", text)
        self.systemctl("daemon-reload")

    def processes(self) -> list[int]:
        """The processes in the service's cgroups, as numbered in there."""
        found = self.run(
            "sh", "-c", f"cat $(find /sys/fs/cgroup/system.slice/{SERVICE} -name cgroup.procs)", check=False
        )
        return [int(word) for word in found.stdout.split()]

    def listeners(self) -> list[str]:
        """What listens in there, by TCP: addresses as the kernel writes them."""
        rows = [line.split() for line in Path(f"/proc/{self.pid1}/net/tcp").read_text().splitlines()[1:]]
        return [row[1] for row in rows if row[3] == "0A"]

    # -- the supervisor ---------------------------------------------------------------------------------------------

    @staticmethod
    def model(name: str, **settings: Any) -> dict[str, Any]:
        """A model that the scripted worker serves, which behaves as `settings` say."""
        return {"name": name, "model_id": "nobody/nothing", "env": script(**settings)}

    def configure(self, more: dict[str, Any]) -> None:
        """Write its config: the scripted worker for Infinity, no CPU limits; `more` wins, one level deep."""
        python, checkout = str(INSTALLED / "venv/bin/python"), INSTALLED / "checkout"
        command = [python, "-ES", str(checkout / "tests/support/scripted_worker.py"), "v2"]
        base: dict[str, Any] = {"infinity": {"command": command, "stop_timeout": 3}, "resource_monitor": CPU_OFF}
        for key, value in more.items():
            base[key] = {**base[key], **value} if isinstance(value, dict) and key in base else value
        self.write(CONFIG, yaml.safe_dump(base, sort_keys=False))

    def start(self, *units: str) -> None:
        """Start these units (the service), anew if they ran; no earlier test's failures count."""
        units = units or (SERVICE,)
        self.stop()
        self.systemctl("start", *units)

    def stop(self) -> None:
        """Stop all there is and forget its failures."""
        units = [unit for unit in (SOCKET, SERVICE) if (self.root / "run/systemd/system" / unit).exists()]
        self.systemctl("stop", *units, check=False)
        self.systemctl("reset-failed", check=False)

    def main_pid(self) -> int:
        """The supervisor's number in there, 0 while there is none."""
        return int(self.show("MainPID"))

    # -- talking to it ----------------------------------------------------------------------------------------------

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns when it is called in a thread that is in its network."""
        return self._inside.submit(function, *arguments).result()

    def submit(self, function: Callable[..., T], *arguments: Any) -> "Any":
        """The same, not waited for: a future."""
        return self._inside.submit(function, *arguments)

    def get(self, url: str) -> tuple[int, Any]:
        """Status and JSON (or text) of a GET."""
        return self.call(exchange, url)

    def post(self, url: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON of a POST."""
        return self.call(exchange, url, json.dumps(body or {}).encode())

    def embed(self, model: str, text: str = "hello") -> int:
        """The status of a request for an embedding."""
        return self.post(PROXY + "/embeddings", {"model": model, "input": text})[0]

    def status(self) -> dict[str, Any]:
        """The status document."""
        code, document = self.get(ADMIN + "/api/v1/status")
        assert code == 200, document
        assert isinstance(document, dict)
        return document

    def worker(self, name: str) -> dict[str, Any]:
        """One model of it."""
        found: dict[str, Any] = next(model for model in self.status()["models"] if model["name"] == name)
        return found

    def wait_ready(self, name: str, timeout: float = 60) -> dict[str, Any]:
        """Wait until a model is ready."""

        def ready() -> bool:
            with contextlib.suppress(OSError):
                return bool(self.worker(name)["state"] == "ready")
            return False

        self.until(ready, timeout, f"{name} is not ready")
        return self.worker(name)

    def until(self, condition: Callable[[], bool], timeout: float = 60, what: str = "it did not happen") -> None:
        """Wait for something; the journal's end is told when it does not come."""
        until = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > until:
                raise AssertionError(f"{what} within {timeout} s:\n{self.tail()}")
            time.sleep(0.05)


def exchange(url: str, data: bytes | None = None, timeout: float = 60) -> tuple[int, Any]:
    """Status and JSON (or text) of one request on a connection of its own."""
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as answer:
            code, raw = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            code, raw = error.code, error.read()
    try:
        return code, json.loads(raw)
    except ValueError:
        return code, raw.decode(errors="replace")


@contextlib.contextmanager
def booted() -> Iterator[Host]:
    """A systemd that has the shipped units; the test fails where none can be had, and is skipped without root."""
    if os.geteuid() != 0:
        pytest.skip("a systemd of its own takes root")
    if shutil.which("systemctl") is None:
        pytest.fail("systemd is not installed: tests/run gets it, or apt-get install systemd")
    command = [SUPPORT / "private_systemd", Path(sys.prefix), infinity.HOME.resolve()]
    units = sorted(path for path in UNITS.iterdir() if path.suffix in (".service", ".socket"))
    process = subprocess.Popen(
        [*command, *units], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        word = process.stdout.readline().strip()
        if not word:
            pytest.fail(process.stderr.read())
        host = Host(int(word))
        try:
            yield host
        finally:
            host.close()
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
        process.stderr.close()
