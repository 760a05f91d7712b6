"""Bulk work that saturates the host and one-line queries beside it: how much CPU, how much work, who waits."""

import asyncio
import sys
import time
from dataclasses import dataclass

from tests.bench import children
from tests.bench.arithmetic import busy_percent, percent_above, quantile, windows, work_within
from tests.bench.client import Address, OpenLoop, Reply, closed_loop, under_load
from tests.bench.contestants import MODEL, Contestant, Setup
from tests.bench.figures import Figure, Of, Target, Values
from tests.bench.host import cpu_samples
from tests.bench.scenario import FAILED, Scenario, since, supervised
from tests.bench.texts import client, endless
from tests.support import infinity
from tests.support.daemon import ROOT

LIMIT = 90.0
"""Percent of CPU that a window must not exceed."""
BULK_CLIENTS = 4
BULK_INPUTS = 32
LONG = (60, 180)
"""Words of a long text."""
QUERIES_PER_SECOND = 4.0


@dataclass(frozen=True)
class Hold(Scenario):
    """Four clients with 32 long texts a request, and a query each 250 ms that waits for nobody."""

    foreign: bool = False
    """Whether a process that is not ours takes half a core after a third of the time."""

    def slice(self, contestant: Contestant, seconds: float) -> Values:
        """CPU over sliding windows of 1 s, work, and the queries' latency."""
        before = supervised(contestant)
        values = under_load(self._load(contestant, seconds))
        return values | since(before, contestant)

    async def _load(self, contestant: Contestant, seconds: float) -> Values:
        address = Address.of(contestant.url)
        bulk = [
            endless(MODEL, inputs=BULK_INPUTS, words=LONG, seed=i, headers=client(f"bulk-{i}"), distinct=16)
            for i in range(BULK_CLIENTS)
        ]
        queries = OpenLoop(
            address,
            endless(MODEL, inputs=1, words=(6, 10), seed=99, headers=client("queries"), distinct=256),
            QUERIES_PER_SECOND,
        )
        begin = time.monotonic()
        end = begin + seconds
        foreign_at = begin + seconds / 3
        with cpu_samples() as samples:
            others = asyncio.create_task(self._foreign(contestant, foreign_at, end))
            done, _, _ = await asyncio.gather(
                closed_loop(address, bulk, seconds, limit=120), queries.run(seconds, limit=60), others
            )
        # From rest to full load takes a moment, and so does noticing that somebody else has come.
        judged = foreign_at + 2 if self.foreign else begin + 1
        shares = windows(samples, 1.0, judged, end)
        good = [reply.span(BULK_INPUTS) for reply in done if reply.status == 200]
        return {
            "over": percent_above(shares, LIMIT),
            "cpu": busy_percent(samples, judged, end),
            "inputs_s": work_within(good, begin, end) / seconds,
            "query_p50_ms": 1000 * quantile([reply.seconds for reply in queries.replies], 0.50),
            "query_p95_ms": 1000 * quantile([reply.seconds for reply in queries.replies], 0.95),
            "failed": _failed(done) + _failed(queries.replies),
        }

    async def _foreign(self, contestant: Contestant, at: float, end: float) -> None:
        if not self.foreign:
            return
        await asyncio.sleep(at - time.monotonic())
        program = [sys.executable, "-m", "tests.bench.foreign", "0.5"]
        process = children.spawn(program, contestant.folder, "foreign", infinity.clean_environment(), ROOT)
        try:
            await asyncio.sleep(end - time.monotonic())
        finally:
            children.end(process, patience=0.5)


def _failed(replies: list[Reply]) -> int:
    return sum(reply.status != 200 for reply in replies)


SETUP = Setup(engine="torch", cpu_limits=True)
OVER = "1 s windows over 90 % CPU, in %"
NO_PAUSE = Figure("paused_s", "paused, in s", Target(at_most=0, worst=True), shown=(Of.VALUE,))
NO_UNLOAD = Figure("unloads", "unloads", Target(at_most=0, worst=True), shown=(Of.VALUE,))
MEAN_CPU = Figure("cpu", "mean CPU in %", Target(at_least=80, at_most=86), shown=(Of.VALUE,))
WORK = Figure("inputs_s", "bulk inputs/s", Target(Of.RATIO, at_least=0.92))
QUERY_P95 = Figure("query_p95_ms", "query p95 in ms", Target(Of.RATIO, at_most=0.1))
QUERY_P50 = Figure("query_p50_ms", "query p50 in ms")

SCENARIOS = (
    Hold(
        name="hold",
        title="MiniLM on the CPU, limits at their defaults: 4 clients x 32 long texts, and a query each 250 ms",
        figures=(
            Figure("over", OVER, Target(at_most=1), shown=(Of.VALUE,)),
            *(MEAN_CPU, WORK, QUERY_P95, QUERY_P50, NO_PAUSE, NO_UNLOAD, FAILED),
        ),
        setup=SETUP,
        seconds=60,
        warm_up=8,
    ),
    Hold(
        name="hold-foreign",
        title="the same, with a foreign process that takes half a core after a third of the time",
        figures=(
            Figure("over", f"{OVER}, from 2 s after it came", Target(at_most=3), shown=(Of.VALUE,)),
            Figure("cpu", "mean CPU in %, from then on", shown=(Of.VALUE,)),
            Figure("inputs_s", "bulk inputs/s"),
            Figure("query_p95_ms", "query p95 in ms"),
            *(NO_PAUSE, NO_UNLOAD, FAILED),
        ),
        setup=SETUP,
        seconds=60,
        warm_up=8,
        foreign=True,
    ),
)
