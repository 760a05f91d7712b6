"""Faults of the host under a real daemon with a real Infinity: what is said, what goes on, and how it is over.

Each ends with the same: the fault has gone, and everything is as before.
"""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.support import daemon as daemons
from tests.support import infinity
from tests.support.daemon import ROOT, Daemon, free_port
from tests.support.nvml_stub import NvmlStub, gpu

pytestmark = pytest.mark.timeout(180)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts take root")


@contextlib.contextmanager
def daemon(folder: Path, before: Sequence[str] = (), start: bool = True, **settings: object) -> Iterator[Daemon]:
    """A daemon with one model of the debug engine; `before` runs it."""
    d = Daemon(folder, daemons.config(folder, {"models": [daemons.debug_model("a")], **settings}))
    d.before = tuple(before)
    try:
        if start:
            d.start(40)
        yield d
    finally:
        d.kill_all()


def masked(*mounts: str) -> list[str]:
    """Words that run a program where some of the host's files are others: `shell` commands of `mount`."""
    return ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]


def serves(d: Daemon) -> None:
    """A request is answered, and the control loop ticks."""
    assert d.embed("a", "four") == [[4.0] * 13]
    assert d.get(d.admin + "/healthz")[0] == 200


def cli(d: Daemon, *words: str) -> list[str]:
    """The words of a command that asks this daemon."""
    return [sys.executable, "-m", "supervisor", *words, "--admin", d.admin]


# -- disks ------------------------------------------------------------------------------------------------------------


@needs_root
def test_a_full_disk(tmp_path: Path) -> None:
    """No state and no worker's output can be written: it is said once, requests go on, a crash is still mended."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=True)
    try:
        with daemon(tmp_path, state_dir=str(small)) as d:
            d.wait_ready("a")
            with contextlib.suppress(OSError), (small / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * 65536)
            serves(d)
            d.api("pause", {"seconds": None})
            assert "No space left" in d.events("pause_not_kept")[-1]["error"]
            d.api("resume")
            psutil.Process(d.model("a")["pid"]).kill()
            d.until(lambda: d.model("a")["restarts"] == 1, 30, "it was not started again")
            d.wait_ready("a")
            serves(d)
            assert d.events("worker_output_not_kept")
            assert "Application startup complete" in str(d.events("worker_output")[-8:]), "and yet it is seen"
            (small / "filler").unlink()
            d.api("pause", {"seconds": None})
            assert len(d.events("pause_not_kept")) == 1
            assert d.stop(signal.SIGTERM) == 0
            d.start()
            assert d.status()["reason"] == "operator", "the pause was kept this time"
            d.api("resume")
            d.wait_ready("a")
            serves(d)
            assert d.stop() == 0
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_state_folder_that_cannot_be_had(tmp_path: Path) -> None:
    """One line that names it, and status 1."""
    (tmp_path / "file").write_text("")
    with daemon(tmp_path, start=False, state_dir=str(tmp_path / "file/state")) as d:
        with pytest.raises(AssertionError, match="the daemon ended with 1"):
            d.start()
        (refused,) = d.events("start_failed")
        assert str(tmp_path / "file/state") in refused["reason"]


# -- what the host tells ----------------------------------------------------------------------------------------------


@needs_root
def test_proc_is_unreadable(tmp_path: Path) -> None:
    """CPU, memory and pressure can't be read: each is missing and says why, and requests are answered."""
    mounts = [f"mount --bind /dev/null /proc/{name}" for name in ("stat", "meminfo", "loadavg")]
    with daemon(tmp_path, masked(*mounts)) as d:
        d.wait_ready("a")
        serves(d)
        signals = d.status()["signals"]
        for name in ("cpu", "memory"):
            assert signals[name]["percent"] is None
            assert signals[name]["missing"], name
        assert d.stop() == 0


def test_nvml_hangs_and_comes_back(tmp_path: Path) -> None:
    """A driver that does not answer is missing with its reason; nothing waits for it, not even the end."""
    stub = NvmlStub.built(tmp_path).script(gpu("GPU-a", used=4, total=16))
    with daemon(tmp_path, start=False) as d:
        d.environ = {name: stub.env[name] for name in ("LD_LIBRARY_PATH", "NVML_STUB")}
        d.start()
        d.wait_ready("a")

        def gpu_memory() -> dict[str, object]:
            found: dict[str, object] = d.status()["signals"]["gpu_memory"]
            return found

        d.until(lambda: gpu_memory()["percent"] == 25, 20, "the stub is not read")
        stub.script(gpu("GPU-a", used=8, total=16), "hang nvmlDeviceGetMemoryInfo")
        d.until(lambda: gpu_memory()["percent"] is None, 30, "it is not missing")
        assert "answer" in str(gpu_memory()["missing"])
        serves(d)
        began = time.monotonic()
        assert d.stop() == 0
        assert time.monotonic() - began < 30


def test_the_clock_is_set(tmp_path: Path) -> None:
    """A day back and forth: requests, ticks and an operator's pause keep their own time; the journal its order."""
    shim, shift = tmp_path / "clock.so", tmp_path / "shift"
    source = Path(__file__).parent / "clock_shim.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, source], check=True)
    shift.write_text("0")
    with daemon(tmp_path, start=False) as d:
        d.environ = {"LD_PRELOAD": str(shim), "CLOCK_SHIM": str(shift)}
        d.start()
        d.wait_ready("a")
        d.api("pause", {"seconds": 4})
        shift.write_text(str(-86400))
        d.until(lambda: not d.status()["paused"], 30, "the pause did not end")
        serves(d)
        rows = d.decisions()
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
        assert rows[-1]["at"] < rows[0]["at"], "the shim did nothing"
        d.api("pause", {"seconds": 8})
        shift.write_text(str(-2 * 86400))
        assert d.stop() == 0
        d.start()  # by the date alone the pause would last for another day
        d.until(lambda: not d.status()["paused"], 45, "the pause did not end")
        shift.write_text("0")
        d.wait_ready("a")
        serves(d)
        assert d.stop() == 0


@needs_root
def test_dns_is_gone(tmp_path: Path) -> None:
    """Nothing of ours asks it: no name is resolved from start to end."""
    mounts = ["mount --bind /dev/null /etc/resolv.conf", "mount --bind /dev/null /etc/hosts"]
    with daemon(tmp_path, masked(*mounts)) as d:
        d.wait_ready("a")
        serves(d)
        assert d.stop() == 0


# -- what it needs to run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["proxy", "admin"])
def test_a_port_is_taken(tmp_path: Path, key: str) -> None:
    """One line that names the setting and the remedy, and status 1; with the port free it starts."""
    with socket.create_server(("127.0.0.1", 0)) as taken, daemon(tmp_path, start=False) as d:
        d.write({**d.settings, key: {"listen": f"127.0.0.1:{taken.getsockname()[1]}"}})
        with pytest.raises(AssertionError, match="the daemon ended with 1"):
            d.start()
        (refused,) = d.events("start_failed")
        assert f"{key}.listen" in refused["reason"]
        assert "stop what listens there" in refused["reason"]
        d.write({**d.settings, key: {"listen": f"127.0.0.1:{free_port()}"}})
        d.proxy, d.admin = ("http://" + d.settings[name]["listen"] for name in ("proxy", "admin"))
        d.start()
        d.wait_ready("a")
        serves(d)
        assert d.stop() == 0


def test_the_worker_program_vanishes_and_comes_back(tmp_path: Path) -> None:
    """As while Infinity is installed anew: the reason names the file; once it is there again, so is the model."""
    program = tmp_path / "infinity"
    words = " ".join(f"'{word}'" for word in infinity.template().command())
    text = f'#!/bin/sh\nexec {words} "$@"\n'
    program.write_text(text)
    program.chmod(0o755)
    with daemon(tmp_path, infinity={"command": [str(program)], "env": dict(infinity.ENV)}) as d:
        d.wait_ready("a")
        program.unlink()
        serves(d)
        psutil.Process(d.model("a")["pid"]).kill()
        d.until(lambda: d.model("a")["state"] == "backoff", 30, "nobody tries again")
        assert str(program) in d.model("a")["reason"]
        status, answer, headers = d.exchange(
            d.proxy + "/embeddings", {"model": "a", "input": "x"}, 30, {"x-request-timeout-ms": "100"}
        )
        assert status in (503, 504), answer
        assert headers["x-supervisor-reason"] in ("worker_unavailable", "deadline_exceeded")
        program.write_text(text)
        program.chmod(0o755)
        d.wait_ready("a")
        serves(d)
        assert d.stop() == 0


def test_descriptors_run_out(tmp_path: Path) -> None:
    """More connections than there may be: the loop neither dies nor spins, and afterwards all is well."""
    limit = 160
    with daemon(tmp_path, ["prlimit", f"--nofile={limit}:{limit}"]) as d:
        d.wait_ready("a")
        host, port = d.settings["proxy"]["listen"].split(":")
        held = []
        with contextlib.suppress(OSError):
            held.extend(socket.create_connection((host, int(port)), 1) for _ in range(3 * limit))
        assert d.process is not None
        process = psutil.Process(d.process.pid)
        time.sleep(1)
        before = sum(process.cpu_times()[:2])
        time.sleep(4)
        used = (sum(process.cpu_times()[:2]) - before) / 4
        for connection in held:
            connection.close()
        assert used < 0.5, "the loop spins"
        d.until(lambda: d.get(d.admin + "/healthz")[0] == 200, 30, "it does not tick")
        serves(d)
        psutil.Process(d.model("a")["pid"]).kill()
        d.until(lambda: d.model("a")["restarts"] == 1, 30, "it was not started again")
        d.wait_ready("a")
        serves(d)
        assert d.stop() == 0


# -- readers that go away ---------------------------------------------------------------------------------------------


def test_nobody_reads_the_log(tmp_path: Path) -> None:
    """Standard output and error are a pipe whose reader has gone: everything goes on, and ends well."""
    with daemon(tmp_path, start=False) as d:
        reader, writer = os.pipe()
        os.close(reader)
        d.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor", "run", "-c", str(d.path)],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            cwd=ROOT,
            process_group=0,
        )
        os.close(writer)
        d.until(d._healthy, 30, "it does not answer")
        d.wait_ready("a")
        serves(d)
        psutil.Process(d.model("a")["pid"]).kill()
        d.until(lambda: d.model("a")["restarts"] == 1, 30, "it was not started again")
        d.wait_ready("a")
        assert d.stop() == 0


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("explain",), ("logs", "a"), ("logs", "a", "-f")])
def test_a_reader_of_a_command_goes_away(tmp_path_factory: pytest.TempPathFactory, words: tuple[str, ...]) -> None:
    """`… | head -1`: no traceback, and it ends."""
    d = shared(tmp_path_factory)
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -n 1', "bash", *cli(d, *words)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


_shared: list[Daemon] = []


def shared(factory: pytest.TempPathFactory) -> Daemon:
    """One daemon for the readers."""
    if not _shared:
        folder = factory.mktemp("shared")
        d = Daemon(folder, daemons.config(folder, {"models": [daemons.debug_model("a")]}))
        d.start()
        _shared.append(d)
        d.wait_ready("a")
    return _shared[0]


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """The shared one ends with the last test."""
    yield
    for d in _shared:
        d.kill_all()
    _shared.clear()


def test_a_client_goes_away_in_the_middle_of_its_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Again and again, at any point: nothing is left of it, and others are answered."""
    d = shared(tmp_path_factory)
    host, port = d.settings["proxy"]["listen"].split(":")
    body = b'{"model": "a", "input": [' + b",".join(b'"%s"' % (b"x" * n) for n in range(1, 1500)) + b"]}"
    head = b"POST /embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    for size in (0, 1, 100, 70_000):
        with socket.create_connection((host, int(port)), 10) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(head + body)
            while size > 0 and (got := client.recv(min(size, 65536))):
                size -= len(got)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    serves(d)
    d.until(
        lambda: d.status()["queue"]["requests"] == 0 and d.model("a")["inflight_inputs"] == 0, 30, "it is still there"
    )
    assert not d.events("request_failed")


def test_there_is_a_mount_tool() -> None:
    """What the tests above need is here, where it is needed."""
    assert os.geteuid() != 0 or shutil.which("unshare")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 160
