"""Ten thousand requests held during a pause: what they cost in memory, and that each gets its answer afterwards."""

import asyncio
import random
import time
from dataclasses import dataclass

import psutil

from tests.bench.client import HUNG, Address, Connection, Reply, connect, under_load
from tests.bench.contestants import MODEL, Contestant, Setup, Supervisor
from tests.bench.figures import Figure, Of, Target, Values
from tests.bench.scenario import Scenario
from tests.bench.texts import WORDS, request

COUNT = 10_000
SIZE = 1024
"""Bytes of a request's body."""
MAX_WAIT = 120
AT_ONCE = 100
"""Connections made side by side: the listener's backlog."""


@dataclass(frozen=True)
class Held(Scenario):
    """A pause, so many requests on as many connections, and the pause's end."""

    def slice(self, contestant: Contestant, seconds: float) -> Values:
        """Growth of the daemon's resident memory, and what became of the requests."""
        assert isinstance(contestant, Supervisor)
        return under_load(self._hold(contestant, seconds))

    async def _hold(self, supervisor: Supervisor, seconds: float) -> Values:
        address = Address.of(supervisor.url)
        before = supervisor.daemon.memory_info().rss
        await asyncio.to_thread(supervisor.order, "pause")
        connections, replies = await _send_all(address)
        waiting = await _queued(supervisor)
        await asyncio.sleep(seconds)
        held = supervisor.daemon.memory_info().rss
        resumed = time.monotonic()
        await asyncio.to_thread(supervisor.order, "resume")
        most = held
        while len(replies) < COUNT and time.monotonic() < resumed + MAX_WAIT + 5:
            most = max(most, _rss(supervisor.daemon))
            await asyncio.sleep(0.1)
        drained = time.monotonic() - resumed
        for connection in connections:
            connection.close()
        statuses = [reply.status for reply in replies]
        return {
            "held": waiting,
            "rss_mb": (most - before) / 1e6,
            "rss_held_mb": (held - before) / 1e6,
            "answered": statuses.count(200),
            "refused": sum(status >= 400 for status in statuses),
            "hung": COUNT - len(replies) + statuses.count(HUNG),
            "lost": statuses.count(0),
            "drain_s": drained,
        }


async def _send_all(address: Address) -> tuple[list[Connection], list[Reply]]:
    rng = random.Random(3)
    replies: list[Reply] = []
    connections: list[Connection] = []
    for first in range(0, COUNT, AT_ONCE):
        made = await asyncio.gather(*(connect(address) for _ in range(AT_ONCE)))
        for number, connection in enumerate(made, first):
            text = f"{number} {' '.join(rng.choices(WORDS, k=200))}"
            body = len(request(MODEL, [""]).partition(b"\r\n\r\n")[2])
            connection.send(request(MODEL, [text[: SIZE - body]]), lambda _, reply: replies.append(reply))
        connections += made
    return connections, replies


async def _queued(supervisor: Supervisor) -> int:
    """How many requests the supervisor says it holds, once that no longer grows."""
    last = -1
    while (now := (await asyncio.to_thread(supervisor.status))["queue"]["requests"]) != last and now < COUNT:
        last = now
        await asyncio.sleep(1)
    return int(now)


def _rss(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def shown(key: str, title: str, target: Target | None = None) -> Figure:
    """A figure that is not compared: the others hold nothing."""
    return Figure(key, title, target, shown=(Of.VALUE,))


SCENARIOS = (
    Held(
        name="held",
        title=f"debug engine, {COUNT:,} requests of 1 KB held during a pause",
        figures=(
            shown("held", "held", Target(at_least=COUNT, worst=True)),
            shown("rss_mb", "growth of the daemon's memory in MB", Target(at_most=250)),
            shown("rss_held_mb", "of that, before the pause ends"),
            shown("answered", "answered"),
            shown("refused", "refused"),
            shown("hung", "hung", Target(at_most=0, worst=True)),
            shown("lost", "connections lost", Target(at_most=0, worst=True)),
            shown("drain_s", "all answered after, in s"),
        ),
        setup=Setup(written={"proxy": {"queue": {"max_requests": 2 * COUNT, "max_wait": MAX_WAIT}}}),
        seconds=2,
        contestants=("supervisor",),
        fresh=True,
    ),
)
