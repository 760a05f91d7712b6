"""Minutes of kills, of loads and unloads, under traffic, with real Infinities: no answer is lost, nothing is left."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.support import daemon as daemons
from tests.support import infinity
from tests.support.daemon import Daemon
from tests.support.fake_lanes import group
from tests.support.length_client import LengthClient, plain_session

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

MODELS = "abc"
CLIENTS = 20
KILLING = 300.0  # s
ROUNDS = 100


class Supervision:
    """When there was a supervisor that lived; `down` has the times without one."""

    def __init__(self) -> None:
        self.down: list[list[float]] = []

    def ended(self) -> None:
        """It was killed just now."""
        self.down.append([time.monotonic(), float("inf")])

    def listens(self) -> None:
        """The next one listens."""
        self.down[-1][1] = time.monotonic()

    def excuses(self, sent: float, failed: float) -> bool:
        """Whether it was killed, or was not there, while this request was under way."""
        return any(sent <= listened and failed >= killed for killed, listened in self.down)


async def ask_on(
    client: LengthClient, number: int, stop: asyncio.Event, supervision: Supervision, broken: list[str]
) -> None:
    """Ask until it is time to stop, and on after a broken connection; tell what broke without an excuse."""
    chance = random.Random(number)
    for turn in itertools.count():
        if stop.is_set():
            return
        first = number * 200 + turn % 48 * 4 + 1
        sent = time.monotonic()
        try:
            await client.ask(chance.choice(MODELS), range(first, first + chance.randint(1, 3)))
        except (aiohttp.ClientError, OSError) as error:
            if not supervision.excuses(sent, time.monotonic()):
                broken.append(f"at {time.monotonic():.2f} after {time.monotonic() - sent:.2f} s: {error!r}")
            await asyncio.sleep(0.05)
        await asyncio.sleep(chance.choice([0.0, 0.02, 0.1]))


class Killer:
    """`kill -9` of a worker, of the supervisor, or of both, at moments that only the seed knows."""

    def __init__(self, d: Daemon, seed: int, supervision: Supervision) -> None:
        self.d, self.chance, self.supervision = d, random.Random(seed), supervision
        self.done: Counter[str] = Counter()
        self._unready: Counter[str] = Counter()  # kills of each model since it was seen ready

    async def work(self) -> None:
        """Kill until the time is over; the next supervisor starts after a moment."""
        end = time.monotonic() + KILLING
        while time.monotonic() < end:
            await asyncio.sleep(self.chance.choice([0.01, 0.3, 1.0, 2.0, 4.0]))
            what = self.chance.choice(["worker"] * 6 + ["supervisor"] * 2 + ["both"])
            self.done[what] += 1
            await asyncio.to_thread(self._kill, what)

    def _kill(self, what: str) -> None:
        victims = [] if what == "supervisor" else self._victims()
        if what == "worker":
            for pid in victims:
                self._shoot(pid)
            return
        process = self.d.process
        assert process is not None
        self.supervision.ended()
        process.kill()
        for pid in victims:
            self._shoot(pid)
        process.wait()
        time.sleep(self.chance.choice([0.0, 0.3, 1.0]))
        self.d.start()
        self.supervision.listens()
        self._unready.clear()

    def _victims(self) -> list[int]:
        """The pids of one worker that lives: its leader, the server itself, or all of it.

        A model that is killed three times before it is ever ready is given up, as it should be: that is not meant here.
        """
        for model in self.d.status()["models"]:
            if model["state"] == "ready":
                self._unready[model["name"]] = 0
        living = [m for m in self.d.status()["models"] if m["pid"] and self._unready[m["name"]] < 2]
        if not living:
            return []
        model = self.chance.choice(living)
        self._unready[model["name"]] += 1
        members = group(model["pid"])
        return self.chance.choice([[model["pid"]], members[-1:], members])

    @staticmethod
    def _shoot(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def leaders() -> list[int]:
    """Every living process that leads a worker of this test run; the server itself is forked from the template."""
    command, found = infinity.template().command(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.cmdline()[: len(command)] == command:
                found.append(process.pid)
    return sorted(found)


def servers(others: Sequence[int]) -> list[psutil.Process]:
    """What the template has forked, but for those of `others`."""
    found = psutil.Process(infinity.template().pid).children()
    return [server for server in found if os.getpgid(server.pid) not in others]


def check_processes(d: Daemon, others: Sequence[int]) -> None:
    """One process for each model that is loaded, with one server, and no zombie below the daemon or the template.

    `others` were there before: servers that other tests share.
    """
    d.wait_ready(*MODELS)
    assert d.process is not None
    pids = sorted(model["pid"] for model in d.status()["models"])
    d.until(lambda: leaders() == sorted([*pids, *others]), 15, "there are other workers")
    forked = servers(others)
    assert sorted(os.getpgid(server.pid) for server in forked) == pids
    mine = [*forked, *psutil.Process(d.process.pid).children(recursive=True)]
    assert [p for p in mine if p.status() == psutil.STATUS_ZOMBIE] == []


def check_nothing_left(d: Daemon, others: Sequence[int]) -> None:
    """A stop ends it all."""
    assert d.stop() == 0
    d.until(lambda: leaders() == others, 10, "workers are left")
    assert servers(others) == []


async def test_kills_at_random_for_five_minutes(tmp_path: Path) -> None:
    """20 clients: nobody loses an answer while a supervisor lives; where it dies, only what was in flight breaks off.

    In the end there is exactly one process for each model, and after a stop none.
    """
    others = leaders()
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    settings = {"models": [daemons.debug_model(name) for name in MODELS], "proxy": {"queue": {"max_wait": 120}}}
    settings["proxy"]["listen"] = f"127.0.0.1:{daemons.free_port()}"
    with daemons.running(tmp_path, settings) as d:
        d.wait_ready(*MODELS)
        supervision, stop, broken = Supervision(), asyncio.Event(), []
        killer = Killer(d, seed, supervision)
        async with plain_session() as session, asyncio.timeout(KILLING + 300), asyncio.TaskGroup() as tasks:
            clients = [LengthClient(session, d.proxy) for _ in range(CLIENTS)]
            for number, client in enumerate(clients):
                tasks.create_task(ask_on(client, number, stop, supervision, broken))
            await killer.work()
            good = [client.good for client in clients]
            while any(client.good < before + 2 for client, before in zip(clients, good, strict=True)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            stop.set()
        print(f"{sum(client.good for client in clients)} answers, kills: {dict(killer.done)}")
        assert [wrong for client in clients for wrong in client.wrong] == []
        assert broken == []
        assert min(killer.done[what] for what in ("worker", "supervisor", "both")) >= 2
        check_processes(d, others)
        check_nothing_left(d, others)


async def test_a_hundred_rounds_of_loads_and_unloads(tmp_path: Path) -> None:
    """Three operators, one for each model, unload, load and restart it over and over under 20 clients: 0 errors."""
    others = leaders()
    with daemons.running(tmp_path, {"models": [daemons.debug_model(name) for name in MODELS]}) as d:
        d.wait_ready(*MODELS)
        nobody, stop, broken = Supervision(), asyncio.Event(), []

        async def operate(model: str) -> None:
            for _ in range(ROUNDS):
                for command in ("unload", "load", "restart"):
                    await asyncio.to_thread(d.api, f"models/{model}/{command}")

        async with plain_session() as session, asyncio.timeout(1200), asyncio.TaskGroup() as tasks:
            clients = [LengthClient(session, d.proxy) for _ in range(CLIENTS)]
            for number, client in enumerate(clients):
                tasks.create_task(ask_on(client, number, stop, nobody, broken))
            await asyncio.gather(*(operate(model) for model in MODELS))
            stop.set()
        print(f"{sum(client.good for client in clients)} answers")
        assert [wrong for client in clients for wrong in client.wrong] == []
        assert broken == []
        assert not d.events("part_lost")
        assert [m["restarts"] >= ROUNDS for m in d.status()["models"]] == [True] * len(MODELS)
        check_processes(d, others)
        check_nothing_left(d, others)
