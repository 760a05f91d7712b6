"""A scripted GPU driver: `nvml_stub.c` built with the C compiler, and a process in which the real binding talks to it.

    stub = NvmlStub.built(tmp_path).script(gpu("GPU-a", used=4, total=16))
    with stub.watch() as watch:
        look = watch.until(lambda look: look["gpu_memory"]["value"] == 25)
        stub.script("hang nvmlDeviceGetMemoryInfo")

The library has to be on the loader's path when a process starts, hence a process of its own for each test.
"""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from supervisor.sense.nvml import LIBRARY

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parent.parent

# Prints a look twenty times a second until its input ends, then how long ending took.
PROGRAM = """
import dataclasses, json, sys, threading, time
from supervisor.core.model import Known
from supervisor.sense.monitor import Monitor

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
monitor = Monitor("host")
monitor.start()
longest = 0.0
while not over.wait(0.05):
    began = time.monotonic()
    sample = monitor.sample(began)
    uses = monitor.worker_use({"me": int(sys.argv[1])}, began)
    longest = max(longest, time.monotonic() - began)
    look = {name: dataclasses.asdict(getattr(sample, name)) for name in ("gpu", "gpu_memory")}
    look |= {"devices": [dataclasses.asdict(device) for device in sample.devices], "longest": longest, "now": began}
    look |= {"uses": {name: use.gpu_memory_bytes for name, use in uses.items()}, "pynvml": "pynvml" in sys.modules}
    print(json.dumps(look), flush=True)
began = time.monotonic()
monitor.close()
print(json.dumps({"closed_in": time.monotonic() - began}), flush=True)
"""

Look = dict[str, Any]


def gpu(uuid: str, *, used: int = 4, total: int = 16, utilisation: int = 10, bus: int = 1, name: str = "Stub") -> str:
    """One line of the script: a device."""
    return f"gpu {bus} {uuid} {utilisation} {used} {total} {name}"


def process(uuid: str, pid: int, used: int | None, kind: str = "compute") -> str:
    """One line of the script: a process on a device, None for a figure the driver does not tell."""
    return f"process {uuid} {kind} {pid} {'none' if used is None else used}"


@dataclass
class NvmlStub:
    """The script of a driver, and the folder with the library that follows it."""

    folder: Path
    file: Path

    @classmethod
    def built(cls, folder: Path) -> "NvmlStub":
        """The library, compiled into `folder`, with an empty script."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise RuntimeError("no C compiler: apt-get install gcc libc6-dev")
        command = [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([*command, "-o", folder / LIBRARY, SUPPORT / "nvml_stub.c"], check=True)
        return cls(folder, folder / "script").script()

    def script(self, *lines: str) -> Self:
        """What the driver does from now on."""
        draft = self.file.with_suffix(".new")
        draft.write_text("".join(f"{line}\n" for line in lines))
        draft.replace(self.file)
        return self

    @property
    def opened(self) -> int:
        """How often the library was opened, or tried to be, since `built`."""
        log = self.file.with_suffix(".opened")
        return len(log.read_text().splitlines()) if log.exists() else 0

    @property
    def env(self) -> dict[str, str]:
        """An environment in which the library is found."""
        cache = str(self.file.parent / "pycache")  # the binding takes most of a second to compile
        return os.environ | {
            "LD_LIBRARY_PATH": str(self.folder),
            "NVML_STUB": str(self.file),
            "PYTHONPATH": str(ROOT),
            "PYTHONPYCACHEPREFIX": cache,
            "PYTHONDONTWRITEBYTECODE": "",
        }

    @contextmanager
    def watch(self, pgid: int = 0) -> Iterator["Watch"]:
        """A process that samples all the while; `pgid` is a process group whose use it tells."""
        command = [sys.executable, "-c", PROGRAM, str(pgid)]
        with subprocess.Popen(
            command, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        ) as running:
            try:
                yield Watch(running)
            finally:
                running.kill()


class Watch:
    """The looks of a running process, as they come."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self.running = running
        self.seen: list[Look] = []
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.running.stdout is not None
        for line in self.running.stdout:
            self._lines.put(line)

    def until(self, wanted: Callable[[Look], bool], timeout: float = 20.0) -> Look:
        """The next look that fulfils `wanted`; those before it are in `seen`."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                look: Look = json.loads(self._lines.get(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                break
            self.seen.append(look)
            if wanted(look):
                return look
        raise AssertionError(f"not seen in {timeout} s; last: {self.seen[-1:]}, exit status {self.running.poll()}")

    def close(self) -> float:
        """End the process the ordinary way; how long that took."""
        assert self.running.stdin is not None
        began = time.monotonic()
        self.running.stdin.close()
        self.running.wait(20)
        return time.monotonic() - began
