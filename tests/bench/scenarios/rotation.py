"""More models than there is room for, all of them asked for: how often they are loaded, how long the slow ones wait."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.arithmetic import quantile
from tests.bench.client import HUNG, Address, OpenLoop, under_load
from tests.bench.contestants import Contestant, Setup
from tests.bench.figures import Figure, Of, Target, Values
from tests.bench.scenario import FAILED, Scenario
from tests.bench.texts import request, text

MODELS = ("first", "second", "third", "fourth")
ROOM = 2
RATE = 2.0
"""Requests a second: so few that the wait is for loads, not for work, and that the rarer models are idle at times."""
PATIENCE = 180.0
"""Seconds after the end of the load in which an answer may come."""


@dataclass(frozen=True)
class Rotation(Scenario):
    """An open loop of one-line requests; the n-th model is asked for 1/n as often as the first."""

    def slice(self, contestant: Contestant, seconds: float) -> Values:
        """Loads a minute, and latencies of what was answered."""
        load = OpenLoop(Address.of(contestant.url), zipf(), RATE)
        before = contestant.loads()
        under_load(load.run(seconds, limit=PATIENCE))
        begin = min(reply.sent for reply in load.replies)
        took = max(reply.ended for reply in load.replies) - begin
        good = [reply.seconds for reply in load.replies if reply.status == 200]
        return {
            "loads_min": 60 * (contestant.loads() - before) / took,
            "p50_s": quantile(good, 0.50),
            "p95_s": quantile(good, 0.95),
            "asked": len(load.replies),
            "hung": sum(reply.status == HUNG for reply in load.replies),
            "failed": len(load.replies) - len(good),
        }


def zipf() -> Iterator[bytes]:
    """The same requests for every contestant."""
    rng = random.Random(11)
    weights = [1 / place for place in range(1, len(MODELS) + 1)]
    while True:
        (model,) = rng.choices(MODELS, weights)
        yield request(model, [text(rng, 10)])


def shown(key: str, title: str, target: Target | None = None) -> Figure:
    """A figure that is not compared: a bare Infinity does not take part."""
    return Figure(key, title, target, shown=(Of.VALUE,))


SCENARIOS = (
    Rotation(
        name="rotation",
        title=f"debug engine, {len(MODELS)} models with room for {ROOM}, Zipf traffic, {RATE:g} requests/s",
        figures=(
            shown("loads_min", "loads a minute"),
            shown("p50_s", "p50 in s"),
            shown("p95_s", "p95 in s"),
            shown("asked", "requests"),
            shown("hung", "hung", Target(at_most=0, worst=True)),
            FAILED,
        ),
        setup=Setup(models=MODELS, room=ROOM),
        seconds=120,
        contestants=("lru", "supervisor"),
        warm_up=0,
        fresh=True,
    ),
)
