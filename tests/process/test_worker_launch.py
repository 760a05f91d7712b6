"""What a worker is started with, and that a start which fails half-way leaves nothing."""

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers import launch
from supervisor.workers.launch import Elsewhere, Member, WorkerSpec, command_line, environment, free_port, is_free
from supervisor.workers.process import Process, group_activity, start_ticks
from tests.support.fake_lanes import bench, group, scripted

SPEC = WorkerSpec(name="a/b", model_id="/models/x", engine="torch", device="cpu", batch_size=16)
HOME = Path("/state")


def test_the_command_line_is_infinitys_own() -> None:
    """Every option is one of `infinity_emb v2`, the operator's come last and as they are, and no key is among them."""
    spec = replace(SPEC, args=("--dtype", "float32", "--no-model-warmup"), command=("/opt/infinity_emb", "v2"))
    assert command_line(spec, 4711) == [
        *("/opt/infinity_emb", "v2", "--model-id", "/models/x", "--served-model-name", "a/b"),
        *("--engine", "torch", "--device", "cpu", "--batch-size", "16"),
        *("--host", "127.0.0.1", "--port", "4711", "--dtype", "float32", "--no-model-warmup"),
    ]


def test_the_environment_is_ours_less_what_is_ours_alone() -> None:
    """Sockets of the service manager and Infinity settings of the operator's shell do not reach a worker."""
    ours = {
        "PATH": "/bin",
        "HOME": "/root",
        "LD_LIBRARY_PATH": "/cuda",
        "NOTIFY_SOCKET": "/run/x",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "1",
        "LISTEN_FDS": "2",
        "INFINITY_PORT": "1",
        "INFINITY_SUPERVISOR_ADMIN": "http://x",
    }
    env = environment(replace(SPEC, env={"INFINITY_DTYPE": "int8", "X": "y"}), ours, "k", HOME)
    assert env == {
        "PATH": "/bin",
        "HOME": "/root",
        "LD_LIBRARY_PATH": "/cuda",
        "INFINITY_HOME": "/state",
        "INFINITY_API_KEY": "k",
        "INFINITY_QUEUE_SIZE": "8192",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "DO_NOT_TRACK": "1",
        "COLUMNS": "1000",
        "PYTHONUNBUFFERED": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "TQDM_POSITION": "-1",
        "TQDM_MININTERVAL": "1",
        "TQDM_NCOLS": "80",
        "INFINITY_DTYPE": "int8",
        "X": "y",
    }


def test_the_configs_environment_wins_but_for_the_key() -> None:
    """What the operator wrote overrides our settings; the key that keeps others out is always ours."""
    env = environment(replace(SPEC, env={"DO_NOT_TRACK": "0", "INFINITY_API_KEY": "theirs"}), {}, "k", HOME)
    assert env["DO_NOT_TRACK"] == "0"
    assert env["INFINITY_API_KEY"] == "k"


def test_threads_of_a_held_worker_do_not_turn_in_circles_while_they_wait() -> None:
    """Under a CPU hold waiting costs the work its CPU; what the operator wrote, here or in our environment, stays."""
    held = replace(SPEC, cpu_held=True)
    assert environment(held, {}, "k", HOME)["GOMP_SPINCOUNT"] == "2000"
    assert environment(held, {"GOMP_SPINCOUNT": "7"}, "k", HOME)["GOMP_SPINCOUNT"] == "7"
    assert environment(replace(held, env={"GOMP_SPINCOUNT": "8"}), {}, "k", HOME)["GOMP_SPINCOUNT"] == "8"
    assert "GOMP_SPINCOUNT" not in environment(held, {"OMP_WAIT_POLICY": "ACTIVE"}, "k", HOME)
    assert "GOMP_SPINCOUNT" not in environment(replace(held, env={"OMP_WAIT_POLICY": "PASSIVE"}), {}, "k", HOME)
    assert "GOMP_SPINCOUNT" not in environment(SPEC, {}, "k", HOME)


@pytest.mark.parametrize(
    ("device", "device_id", "visible"),
    [("cpu", 1, None), ("cuda", None, None), ("cuda", 1, "1"), ("auto", "GPU-5e1f", "GPU-5e1f"), ("cuda", 0, "0")],
)
def test_device_id_picks_the_gpu(device: str, device_id: int | str | None, visible: str | None) -> None:
    """A GPU worker sees the one GPU it was given, in NVML's order; a CPU worker is not concerned."""
    env = environment(replace(SPEC, device=device, device_id=device_id), {}, "k", HOME)
    assert env.get("CUDA_VISIBLE_DEVICES") == visible
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.parametrize(
    ("batch", "client_batch", "size"), [(32, None, 8192), (4096, None, 16384), (32, "5000", 20000), (32, "x", 8192)]
)
def test_our_own_requests_never_meet_a_429(batch: int, client_batch: str | None, size: int) -> None:
    """The queue holds the widest window of the largest requests that go whole."""
    env = {} if client_batch is None else {"INFINITY_MAX_CLIENT_BATCH_SIZE": client_batch}
    made = environment(replace(SPEC, batch_size=batch, env=env), {}, "k", HOME)
    assert made["INFINITY_QUEUE_SIZE"] == str(size)


def test_models_of_a_group_repeat_their_own_options() -> None:
    """Infinity takes these in the order of the models, and what is there once for all; which order says nothing."""
    first, second = Member("a", "/x", "torch"), Member("b", "/y", "optimum")
    spec = replace(SPEC, name="g", group=(first, second), args=("--dtype", "float16"))
    words = command_line(spec, 7)
    values = {w: [words[i + 1] for i, word in enumerate(words) if word == w] for w in words if w.startswith("--")}
    assert (values["--model-id"], values["--served-model-name"]) == (["/x", "/y"], ["a", "b"])
    assert (values["--engine"], values["--device"]) == (["torch", "optimum"], ["cpu"])
    assert (values["--batch-size"], values["--dtype"], values["--port"]) == (["16"], ["float16"], ["7"])
    assert replace(spec, group=(second, first)).fingerprint == spec.fingerprint


def test_only_some_settings_need_a_new_process() -> None:
    """Every field of a spec either changes the launch key, or is one of those a running worker can follow."""
    other = {
        "name": "c",
        "model_id": "/y",
        "engine": "optimum",
        "device": "cuda",
        "device_id": 3,
        "args": ("--x",),
        "env": {"A": "b"},
        "command": ("other",),
        "elsewhere": Elsewhere("127.0.0.1", 8000),
        "group": (Member("a", "/y", "torch"),),
    }
    live = {"batch_size": 5, "cpu_held": True, "warm_spare": True}
    live |= {f"{what}_timeout": 1.0 for what in ("start", "drain", "stop", "stall")}
    assert set(other) | set(live) == {field.name for field in fields(WorkerSpec)}
    for name, value in other.items():
        assert replace(SPEC, **{name: value}).launch_key() != SPEC.launch_key()  # type: ignore[arg-type]
    for name, value in live.items():
        assert replace(SPEC, **{name: value}).launch_key() == SPEC.launch_key()  # type: ignore[arg-type]
    assert hash(SPEC.launch_key())


def test_only_the_way_to_an_attached_one_needs_another_attachment() -> None:
    """Of a model that something else runs, what a process of ours would be started with does not count."""
    spec = replace(SPEC, elsewhere=Elsewhere("127.0.0.1", 8000))
    assert replace(spec, command=("other",), env={"A": "b"}).launch_key() == spec.launch_key()
    assert replace(spec, elsewhere=Elsewhere("127.0.0.1", 8001)).launch_key() != spec.launch_key()
    assert len(spec.fingerprint) == len(SPEC.fingerprint)


def test_ports_are_free_and_not_the_kernels_to_give_away() -> None:
    """A port is below the range of outgoing connections, and never one that is taken, by others or by us."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    taken: set[int] = set()
    for _ in range(50):
        port = free_port(taken)
        assert port not in taken
        assert 1024 <= port < first or first < 21000
        assert is_free(port)
        taken.add(port)


def test_a_port_in_use_is_seen() -> None:
    """On loopback or on all addresses: somebody who listens is in the way, a connection that ended is not."""
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.create_server((host, 0)) as server:
            port = server.getsockname()[1]
            assert not is_free(port)
        assert is_free(port)


def test_a_host_full_of_listeners_still_gives_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing is found by trying, the kernel is asked."""
    monkeypatch.setattr(launch, "_PORT_TRIES", 0)
    assert is_free(free_port())


async def test_a_worker_inherits_nothing_of_ours(tmp_path: Path) -> None:
    """Its input is /dev/null, its output the log file, and no other descriptor, ours or of other workers, is open."""
    async with bench(tmp_path, scripted("a"), scripted("b")) as it:
        await it.pool.ensure_ready("a")
        inheritable = os.open(os.devnull, os.O_RDONLY)
        os.set_inheritable(inheritable, True)
        try:
            await it.pool.ensure_ready("b")
        finally:
            os.close(inheritable)
        folder = Path(f"/proc/{it.view('b').pid}/fd")
        files = {int(link.name): os.readlink(link) for link in folder.iterdir()}
        assert files[0] == "/dev/null"
        assert files[1] == files[2] == str(tmp_path / "b.log")
        assert all(target.startswith(("socket:", "anon_inode:")) for fd, target in files.items() if fd > 2)
        assert os.getsid(it.view("b").pid or 0) == os.getsid(0)
        assert os.getpgid(it.view("b").pid or 0) == it.view("b").pid


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """A limit on descriptors that the next few opens run into."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_start_without_descriptors_leaves_nothing(tmp_path: Path, few_descriptors: None) -> None:
    """Whichever open fails for want of descriptors, no process and no descriptor is left, and the reason is told."""
    async with bench(tmp_path, scripted()) as it:
        await it.pool.ensure_ready("m")  # modules are loaded, caches are warm
        await it.pool.ensure_stopped("m", "operator")
        before = sorted(os.listdir("/proc/self/fd"))
        highest = max(map(int, before))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        for more in range(6):
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + more, hard))
            try:
                it.pool.request_ready("m")
                await it.until(lambda: it.view().state is not ModelState.STOPPED)
                it.pool.request_stop("m", "operator")
                await asyncio.sleep(0.2)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 500, hard))
            it.pool.forgive("m")  # three failed starts in a row, of one round or of several, are given up
            await it.until_state(ModelState.STOPPED)  # where it had begun: a stop needs descriptors to see its end
            assert len(os.listdir("/proc/self/fd")) == len(before)
        await it.pool.ensure_ready("m")


async def test_a_stop_without_descriptors_gets_through(tmp_path: Path, few_descriptors: None) -> None:
    """A daemon whose descriptors are all taken by clients ends a worker all the same, once it can look again."""
    async with bench(tmp_path, scripted()) as it:
        await it.pool.ensure_ready("m")
        pgid = it.view().pgid or 0
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        stopping = asyncio.create_task(it.pool.ensure_stopped("m", "memory"))
        await asyncio.sleep(1)
        assert it.view().state is ModelState.STOPPING
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await stopping
        assert not group(pgid)
        assert it.view().reason == "stopped (memory)"


async def test_a_spawn_whose_watch_fails_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that can't be watched is killed and reaped before the error is told."""
    pids: list[int] = []

    def no_pidfd(pid: int) -> int:
        pids.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", no_pidfd)
    async with bench(tmp_path, scripted()) as it:
        with pytest.raises(WorkerError, match="Too many open files"):
            await it.pool.ensure_ready("m")
    assert len(pids) == 3
    assert not any(start_ticks(pid) or group(pid) for pid in pids)


async def test_a_process_tells_what_it_does(tmp_path: Path) -> None:
    """CPU time and I/O of the whole group are seen, an exit and its status are, and a closed one is quiet."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with (tmp_path / "out").open("wb") as out:
        process = Process.spawn([sys.executable, "-c", code], dict(os.environ), out.fileno())
    try:
        while process.activity().cpu_seconds < 0.2:
            assert not process.exited.is_set()
            await asyncio.sleep(0.05)
        assert process.activity().io_bytes > 0
        assert len(process.members()) == 2
        os.kill(process.pid, signal.SIGUSR1)
        await process.exited.wait()
        assert process.status == -signal.SIGUSR1
        assert len(process.members()) == 1  # the grandchild lives on
        assert await process.kill_group(10)
    finally:
        process.close()
        process.close()
    assert group_activity(process.pgid).cpu_seconds == 0
    process.signal_group(signal.SIGKILL)  # its number may be a stranger's now: nothing is sent
