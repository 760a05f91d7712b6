"""What tests/process/test_cgroup_v2.py has done under a kernel of its own (`tests.support.uml`). Its own program.

Each scene runs in a process and a cgroup of its own and prints JSON: {"scene": NAME, …}. The groups are made as systemd
makes them (marked), or as the kernel's own documentation gives a subtree to a user (by ownership).
"""

import asyncio
import fcntl
import json
import os
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from supervisor.core.model import ModelState
from supervisor.workers.cgroup import Subtree
from supervisor.workers.launch import WorkerSpec
from supervisor.workers.pool import WorkerPool
from supervisor.workers.process import Process, group_activity
from tests.support.fake_lanes import FakeHooks, FakeLanes, scripted

TREE = Path("/sys/fs/cgroup")
NOBODY = 65534
# Leaves a child in a session of its own, out of reach of signals to the group.
RUNAWAY = "import subprocess, time; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True); "
# Takes memory, 4 MiB at a time, from the moment it is limited.
HUNGRY = """
import pathlib, time
group = pathlib.Path('/sys/fs/cgroup' + open('/proc/self/cgroup').read().split('::')[1].strip())
while (group / 'memory.max').read_text() == 'max\\n': time.sleep(0.02)
held = []
while True: held.append(b'x' * 4194304)
"""


class Scene:
    """One scene: its group, its folder, and what it tells."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.unit = TREE / f"{name}.service"
        self.folder = Path("/mnt") / name

    def tell(self, **values: Any) -> None:
        """One line for the test."""
        print(json.dumps({"scene": self.name, **values}), flush=True)

    def tree(self) -> list[str]:
        """Every group below the unit's, as a path from it."""
        return sorted(str(path.parent.relative_to(self.unit)) for path in self.unit.glob("*/**/cgroup.procs"))

    def read(self, file: str) -> str:
        """A file of the unit's group."""
        return (self.unit / file).read_text().strip()

    def own(self) -> str:
        """The group this process is in, as a path from the unit's."""
        path = Path("/proc/self/cgroup").read_text().split("::")[1].strip()
        return path.removeprefix(f"/{self.unit.name}").strip("/") or "."

    def pool(self, subtree: Subtree, *specs: WorkerSpec) -> WorkerPool:
        """The real pool, in front of a data plane that does nothing."""
        return WorkerPool(specs, log_dir=self.folder, dispatcher=FakeLanes(), hooks=FakeHooks(), subtree=subtree)


async def limits(scene: Scene) -> None:
    """Three workers, two of which take all the CPU they get, under one limit after the other."""
    subtree = Subtree.find()
    subtree.open()
    scene.tell(opened=True, own=scene.own(), controllers=scene.read("cgroup.subtree_control"))
    busy = [scripted(name, start_busy=True, start_seconds=3600) for name in ("org/busy model", "b")]
    pool = scene.pool(subtree, scripted("served", grandchild=True), *busy)
    await pool.start()
    subtree.set_limit(0.9)
    await pool.ensure_ready("served")
    for spec in busy:
        pool.request_ready(spec.name)
    while not all(view.pgid for view in pool.views().values()):  # noqa: ASYNC110 - the pool tells no event
        await asyncio.sleep(0.05)
    served = next(path for path in scene.unit.glob("workers/served-*"))
    scene.tell(running=True, tree=scene.tree(), served=len((served / "cgroup.procs").read_text().split()))
    for limit in (0.3, 0.6, None):
        subtree.set_limit(limit)
        await asyncio.sleep(0.3)
        before = subtree.cpu_seconds() or 0.0
        share = await used([view.pgid or 0 for view in pool.views().values()], 2.0)
        counted = round((subtree.cpu_seconds() or 0.0) - before, 3)
        scene.tell(limit=limit, cpu_max=scene.read("workers/cpu.max"), share=share, counted=counted)
    subtree.set_limit(0.5)
    await pool.ensure_stopped("b", "operator")
    scene.tell(stopped="b", tree=scene.tree())
    await pool.shutdown()
    await subtree.close()
    scene.tell(closed=True, own=scene.own(), tree=scene.tree(), controllers=scene.read("cgroup.subtree_control"))


async def used(pgids: list[int], seconds: float) -> float:
    """Core-seconds per second that these process groups use, by /proc."""
    loop = asyncio.get_running_loop()
    before, since = sum(group_activity(pgid).cpu_seconds for pgid in pgids), loop.time()
    await asyncio.sleep(seconds)
    after, until = sum(group_activity(pgid).cpu_seconds for pgid in pgids), loop.time()
    return round((after - before) / (until - since), 3)


async def endings(scene: Scene) -> None:
    """A worker that leaves something behind, and one that is killed for want of memory."""
    subtree = Subtree.find()
    subtree.open()
    specs = [
        WorkerSpec("runaway", "x", command=(sys.executable, "-Sc", RUNAWAY + "time.sleep(600)")),
        WorkerSpec("hungry", "x", command=(sys.executable, "-Sc", HUNGRY)),
    ]
    pool = scene.pool(subtree, *specs)
    await pool.start()
    pool.request_ready("runaway")
    while not (lines := pool.views()["runaway"].log_tail):  # noqa: ASYNC110 - another process writes them
        await asyncio.sleep(0.05)
    pid = int(lines[0])
    where = Path(f"/proc/{pid}/cgroup").read_text().strip()
    await pool.ensure_stopped("runaway", "operator")
    for _ in range(50):
        if not Path(f"/proc/{pid}/exe").exists():  # dead; nobody need have reaped it
            break
        await asyncio.sleep(0.02)
    scene.tell(runaway=where, alive=Path(f"/proc/{pid}/exe").exists())
    pool.request_ready("hungry")
    while pool.views()["hungry"].pgid is None:  # noqa: ASYNC110 - the pool tells no event
        await asyncio.sleep(0.02)
    next(iter(scene.unit.glob("workers/hungry-*/memory.max"))).write_text("60M")
    while "SIGKILL" not in (reason := pool.views()["hungry"].reason or ""):  # noqa: ASYNC110 - the pool tells no event
        await asyncio.sleep(0.02)
    scene.tell(hungry=reason)
    await pool.shutdown()
    await subtree.close()
    scene.tell(closed=True, tree=scene.tree(), state=pool.views()["hungry"].state is ModelState.STOPPED)


async def predecessor(scene: Scene) -> None:
    """A supervisor that finds what a killed one left: itself in the leaf, groups with and without a process."""
    first = Subtree.find()
    first.open()
    first.set_limit(0.2)
    left, _ = first.worker_group("m"), first.worker_group("m")
    process = sleeper()
    left.place(process)
    second = Subtree.find()
    second.open()
    again = second.worker_group("m")
    scene.tell(
        own=scene.own(), tree=scene.tree(), again=again.path and again.path.name, cpu_max=scene.read("workers/cpu.max")
    )
    await process.kill_group(5)
    process.close()
    second.ended(again)
    await second.close()
    scene.tell(closed=True, own=scene.own(), tree=scene.tree())


async def by_owner(scene: Scene) -> None:
    """The subtree belongs to a user who is not root."""
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    subtree = Subtree.find()
    subtree.open()
    group = subtree.worker_group("m")
    process = sleeper()
    group.place(process)
    subtree.set_limit(0.5)
    where = Path(f"/proc/{process.pid}/cgroup").read_text().strip()
    scene.tell(own=scene.own(), worker=where, cpu_max=scene.read("workers/cpu.max"))
    await process.kill_group(5)
    process.close()
    subtree.ended(group)
    await subtree.close()
    scene.tell(closed=True, own=scene.own(), tree=scene.tree())


async def refusals(scene: Scene) -> None:
    """Groups that are not ours to arrange, and one we can't be alone in; `open` says why and changes nothing."""
    process = sleeper()
    for where, marked in ((TREE, False), (scene.unit, False), (scene.unit, True)):
        if marked:
            os.setxattr(scene.unit, "user.delegate", b"1")
        (where / "cgroup.procs").write_text(str(os.getpid()))
        (scene.unit / "cgroup.procs").write_text(str(process.pid))
        subtree = Subtree.find()
        subtree.open()
        scene.tell(
            where=str(where), reason=subtree.reason, tree=scene.tree(), group=bool(subtree.worker_group("m").path)
        )
    await process.kill_group(5)
    process.close()


def sleeper() -> Process:
    """A process that does nothing."""
    return Process.spawn(["sleep", "600"], {"PATH": os.environ["PATH"]}, sys.stdout.fileno())


def play(scene: Callable[[Scene], Coroutine[Any, Any, None]], *, mark: bool = True, owner: int = 0) -> None:
    """One scene in a process and a group of its own."""
    it = Scene(scene.__name__)
    it.unit.mkdir()
    it.folder.mkdir()
    if mark:
        os.setxattr(it.unit, "user.delegate", b"1")
    for file in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(it.unit / file, owner, owner)
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        (it.unit / "cgroup.procs").write_text("0")
        asyncio.run(asyncio.wait_for(scene(it), 30))
    except BaseException:  # noqa: BLE001 - told, whatever it is; the scenes after it are played
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(0)


def main() -> None:
    """Every scene."""
    with socket.socket() as probe:  # loopback is down on a machine that was just started
        fcntl.ioctl(probe, 0x8914, struct.pack("16sH14s", b"lo", 0x41, b""))  # SIOCSIFFLAGS: up, running
    (TREE / "cgroup.subtree_control").write_text("+cpu +memory")
    play(limits)
    play(endings)
    play(predecessor)
    play(by_owner, mark=False, owner=NOBODY)
    play(refusals, mark=False)
    print(json.dumps("done"), flush=True)


if __name__ == "__main__":
    main()
