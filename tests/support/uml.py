"""A Linux of our own for tests: user-mode-linux runs a kernel as a process, with the files of this host, read-only.

For what the host's kernel may not give: cgroup v2 with all its controllers. It is up in two seconds, has one CPU, no
network but loopback, no pressure stall information, and ends with its program. No rights are needed.

    lines = inside("tests.support.cgroup_guest")      # what the program printed as JSON, one value a line
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MISSING = "user-mode-linux is not installed: tests/run gets it, or apt-get install user-mode-linux"
# Where tests/run puts it, found also by a pytest that was started alone.
_TOOLS = ROOT / ".quickstart/tools/usr/bin"
# PID 1: mounts what a Linux has, runs the program, switches the machine off whatever became of it.
_INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=1777 tmpfs /mnt
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cd '{root}'
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 TMPDIR=/mnt
'{python}' -m {module} 2>&1
exec '{python}' -ESc 'import ctypes; ctypes.CDLL(None).reboot(0x4321fedc)'
"""


def inside(module: str, *, memory: str = "320M", seconds: float = 90.0) -> list[Any]:
    """Boot, run this module as root there, and give what it printed as JSON, a value a line.

    The test fails, with the last lines of the console, when it did not boot, or its program did not say "done".
    """
    program = shutil.which("linux.uml", path=f"{os.environ.get('PATH', '')}:{_TOOLS}")
    if platform.machine() != "x86_64":
        pytest.skip("user-mode-linux exists for x86 only")
    if program is None:
        pytest.fail(MISSING)
    with tempfile.TemporaryDirectory(prefix="uml-") as folder:
        init = Path(folder) / "init"
        init.write_text(_INIT.format(root=ROOT, python=sys.executable, module=module))
        init.chmod(0o755)
        options = ["rootfstype=hostfs", "rootflags=/", "ro", "quiet", f"mem={memory}", f"init={init}"]
        console = _console([program, *options, f"uml_dir={folder}/", "con=null", "con0=null,fd:1"], folder, seconds)
    values = [json.loads(line) for line in console if line.startswith(("{", '"'))]
    if "done" not in values and _unknown_to_it(console):
        pytest.skip("this CPU has AMX: user-mode-linux takes its registers for smaller than they are, and dies at once")
    if "done" not in values:
        pytest.fail("user-mode-linux did not get through; its last lines:\n" + "\n".join(console[-40:]))
    return [value for value in values if value != "done"]


def _unknown_to_it(console: list[str]) -> bool:
    """Whether it died of registers that it does not know: the host's kernel takes them all or none (PTRACE_SETREGSET).

    Up to 6.12 it has room for AVX-512 (2,696 bytes); with AMX they are 11,008.
    """
    amx = " amx_tile " in Path("/proc/cpuinfo").read_text()
    return amx and any("put_fp_registers" in line for line in console)


def _console(command: list[str], folder: str, seconds: float) -> list[str]:
    """Everything that was written to its console, when it has ended or had to be ended."""
    with (Path(folder) / "console").open("w+b") as console:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            env={**os.environ, "TMPDIR": folder},
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            console.write(f"\nended after {seconds} s".encode())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        console.seek(0)
        return [line.strip("\r") for line in console.read().decode(errors="replace").split("\n")]
