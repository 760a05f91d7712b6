"""Fifty clients while an operator does everything an operator can do, with real Infinities: nobody sees any of it."""

import asyncio
import copy
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import daemon as daemons
from tests.support.daemon import Daemon
from tests.support.length_client import LengthClient, plain_session

MODELS = "abc"
CLIENTS, REQUESTS = 50, 20
MOST_ROWS = 5
ALIAS, FLEETING = "org/b-v1", "org/b-v2"  # the second comes and goes

Settings = dict[str, Any]


def drain_sooner(settings: Settings) -> None:
    """Another time-out: nothing restarts."""
    settings["infinity"]["drain_timeout"] = 20


def smaller_batches(settings: Settings) -> None:
    """Another batch size: nothing restarts."""
    settings["batch_controller"] = {"max_batch_size": 8, "initial_batch_size": 4}


def one_more_alias(settings: Settings) -> None:
    """Another name for b."""
    settings["models"][1]["aliases"] = [ALIAS, FLEETING]


def other_launch(settings: Settings) -> None:
    """c has to be started anew."""
    settings["models"][2]["env"] = {"INFINITY_CHURN": "1"}


def all_of_it(settings: Settings) -> None:
    """Everything at once, and the models in another order."""
    for change in (drain_sooner, smaller_batches, one_more_alias, other_launch):
        change(settings)
    settings["models"].reverse()


# What the operator does, in order, each when the one before is done: (command, model), or what a new config changes of
# the first one, so that what the last one had changed goes back.
ACTS: list[tuple[str, str] | Callable[[Settings], None]] = [
    ("unload", "a"),
    ("restart", "b"),
    one_more_alias,
    ("load", "a"),
    ("unload", "c"),
    other_launch,
    ("restart", "a"),
    ("unload", "b"),
    smaller_batches,
    ("load", "c"),
    ("restart", "c"),
    other_launch,
    ("unload", "a"),
    ("unload", "b"),
    all_of_it,
    ("load", "b"),
    drain_sooner,
    ("restart", "b"),
    ("unload", "c"),
    ("restart", "a"),
]
NAMING = (one_more_alias, all_of_it)
assert len(ACTS) == REQUESTS


class Operator:
    """Does the acts one after the other; `begun` counts them, for clients that want to be there."""

    def __init__(self, d: Daemon) -> None:
        self.d = d
        self.first = copy.deepcopy(d.settings)
        self.begun = 0
        self._changed = asyncio.Condition()

    async def work(self) -> None:
        """All acts; every one succeeds."""
        for act in ACTS:
            async with self._changed:
                self.begun += 1
                self._changed.notify_all()
            if callable(act):
                await self._reload(act)
            else:
                model, command = act[1], act[0]
                await asyncio.to_thread(self.d.api, f"models/{model}/{command}")

    async def _reload(self, change: Callable[[Settings], None]) -> None:
        settings = copy.deepcopy(self.first)
        change(settings)
        self.d.write(settings)
        outcome = await asyncio.to_thread(self.d.api, "reload")
        assert not outcome["needs_restart"]
        if change in NAMING:
            assert await asyncio.to_thread(self.d.embed, FLEETING, "four") == [[4.0] * 13]

    async def has_begun(self, number: int) -> None:
        """Wait until that act has begun."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.begun >= number)


async def be_there(client: LengthClient, number: int, operator: Operator) -> None:
    """Ask in the course of each act once, at a moment of one's own; a late answer makes the next question late.

    No two inputs of the test have one length.
    """
    chance = random.Random(number)
    for turn in range(REQUESTS):
        await operator.has_begun(turn + 1)
        await asyncio.sleep(chance.uniform(0.0, 0.5))
        first = (number * REQUESTS + turn) * MOST_ROWS + 1
        lengths = range(first, first + chance.randint(1, MOST_ROWS))
        name = chance.choice([*MODELS, ALIAS])
        await client.ask(name, lengths, "b" if name == ALIAS else name)


def counted(d: Daemon, name: str, **labels: str) -> float:
    """The sum of a counter's samples with these labels."""
    families = text_string_to_metric_families(d.get(d.admin + "/metrics")[1])
    samples = [s for f in families for s in f.samples if s.name == f"infinity_supervisor_{name}"]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


@pytest.mark.timeout(240)
async def test_nobody_sees_an_operator_at_work(tmp_path: Path) -> None:
    """50 clients x 20 requests while models are loaded, unloaded, restarted and the config reloaded.

    0 errors, 0 lost, 0 doubled: each request gets one answer, its own, and each row is computed once.
    """
    models = [daemons.debug_model(name, aliases=[ALIAS] if name == "b" else []) for name in MODELS]
    with daemons.running(tmp_path, {"models": models}) as d:
        d.wait_ready(*MODELS)
        operator = Operator(d)
        async with plain_session() as session, asyncio.timeout(150), asyncio.TaskGroup() as group:
            clients = [LengthClient(session, d.proxy) for _ in range(CLIENTS)]
            group.create_task(operator.work())
            for number, client in enumerate(clients):
                group.create_task(be_there(client, number, operator))
        assert list(itertools.chain.from_iterable(client.wrong for client in clients)) == []
        operators = sum(act in NAMING for act in ACTS)  # requests of its own, of one row each
        assert sum(client.good for client in clients) == CLIENTS * REQUESTS
        assert (
            counted(d, "requests_total", code="200") == counted(d, "requests_total") == CLIENTS * REQUESTS + operators
        )
        assert counted(d, "inputs_total") == sum(client.rows for client in clients) + operators
        assert not d.events("part_lost")
        assert counted(d, "worker_restarts_total", cause="crash") == 0
        assert d.status()["queue"]["requests"] == 0
        assert sum(m["unloads"] + m["restarts"] for m in d.status()["models"]) >= 8
        processes = [p.pid for worker in d.workers() for p in (worker, *worker.children(recursive=True))]
        assert d.stop() == 0
        assert not [pid for pid in processes if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
