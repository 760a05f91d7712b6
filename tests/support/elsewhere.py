"""A scripted Infinity that the test runs and the supervisor does not: started, ended and started again at one address.

server = Elsewhere(tmp_path); server.start(); spec = server.spec(pid_file=str(server.pid_file))
"""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from supervisor.workers.launch import Elsewhere as Where
from supervisor.workers.launch import WorkerSpec
from tests.support.scripted_worker import script, scripted_command


class Elsewhere:
    """One server; at most one process of it at a time. `pid_file` names the one that was started last."""

    def __init__(self, folder: Path, name: str = "m", key: str = "") -> None:
        self.name, self.key = name, key
        self.pid_file = folder / "infinity.pid"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """What runs it."""
        return [*scripted_command(), "--served-model-name", self.name, "--port", str(self.port)]

    def environment(self, **settings: Any) -> dict[str, str]:
        """What it is run with; `settings` are `Script`'s."""
        return {"PATH": os.environ["PATH"], "INFINITY_API_KEY": self.key, **script(**settings)}

    def start(self, **settings: Any) -> int:
        """Run it, in the test's own process group; its process number."""
        self.end()
        self.process = subprocess.Popen(
            self.command(), env=self.environment(**settings), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        self.pid_file.write_text(f"{self.process.pid}\n")
        return self.process.pid

    def end(self) -> None:
        """Kill it, if it runs."""
        if self.process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    child.kill()
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def runs(self) -> bool:
        """Whether it is alive."""
        return self.process is not None and self.process.poll() is None

    def pause(self) -> None:
        """Have it answer nobody, and use nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def spec(
        self, *, start_timeout: float = 20.0, stop_timeout: float = 5.0, stall_timeout: float = 30.0, **hand: str
    ) -> WorkerSpec:
        """The worker that is attached to it; `hand` is what is known besides its address."""
        return WorkerSpec(
            name=self.name,
            model_id="",
            start_timeout=start_timeout,
            drain_timeout=5.0,
            stop_timeout=stop_timeout,
            stall_timeout=stall_timeout,
            elsewhere=Where("127.0.0.1", self.port, **hand),
        )


@contextlib.contextmanager
def elsewhere(folder: Path, name: str = "m", key: str = "") -> Iterator[Elsewhere]:
    """A server that does not run yet; ended at the end, whatever happened."""
    server = Elsewhere(folder, name, key)
    try:
        yield server
    finally:
        server.end()
