"""All clients leave under full load: how long the host still works for nobody."""

import asyncio
import time
from dataclasses import dataclass

from tests.bench.arithmetic import busy_percent, quiet_since
from tests.bench.client import Address, closed_loop, under_load
from tests.bench.contestants import MODEL, Contestant
from tests.bench.figures import Figure, Of, Target, Values
from tests.bench.host import cpu_samples
from tests.bench.scenario import Scenario
from tests.bench.scenarios.small import MINILM_SETUP
from tests.bench.texts import client, endless

CLIENTS, INPUTS = 32, 8
IDLE = 10.0
"""Percent of CPU below which the host counts as idle."""
QUIET = 0.5
"""Seconds for which it has to be."""
GIVEN_UP = 60.0


@dataclass(frozen=True)
class Leave(Scenario):
    """Many clients with medium texts, who all break their connections at once."""

    def slice(self, contestant: Contestant, seconds: float) -> Values:
        """Seconds from the last connection's end to an idle CPU; `GIVEN_UP` when it takes longer."""
        return under_load(self._leave(Address.of(contestant.url), seconds))

    async def _leave(self, address: Address, seconds: float) -> Values:
        feeds = [
            endless(MODEL, inputs=INPUTS, words=(60, 120), seed=i, headers=client(f"c{i}"), distinct=16)
            for i in range(CLIENTS)
        ]
        with cpu_samples(0.05) as samples:
            begin = time.monotonic()
            load = asyncio.create_task(closed_loop(address, feeds, seconds=3600, limit=0))
            await asyncio.sleep(seconds)
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            left = time.monotonic()
            idle = None
            while idle is None and time.monotonic() < left + GIVEN_UP:
                await asyncio.sleep(0.1)
                idle = quiet_since([sample for sample in samples if sample.at >= left], IDLE, QUIET)
        return {
            "idle_s": GIVEN_UP if idle is None else idle - left,
            "cpu_before": busy_percent(samples, begin + seconds / 2, left),
        }


SCENARIOS = (
    Leave(
        name="leave",
        title=f"MiniLM on the CPU, {CLIENTS} clients x {INPUTS} texts under full load leave all at once",
        figures=(
            Figure("idle_s", "idle after, in s", Target(at_most=1)),
            Figure("cpu_before", "CPU before, in %", shown=(Of.VALUE,)),
        ),
        setup=MINILM_SETUP,
        seconds=8,
    ),
)
