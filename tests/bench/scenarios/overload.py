"""Ten times more than it can do: what is still done in time, and how fast the rest is told no."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench import texts
from tests.bench.arithmetic import quantile, ratio, work_within
from tests.bench.client import HUNG, LOST, Address, OpenLoop, Reply, closed_loop, under_load
from tests.bench.contestants import MODEL, Contestant
from tests.bench.figures import Figure, Of, Target, Values
from tests.bench.scenario import Scenario
from tests.bench.scenarios.small import MINILM_SETUP
from tests.support.daemon import ROOT

TIMES = 10
DEADLINE = 2.0
"""Seconds that each request of the flood allows."""
CLIENTS = 16
PEAK_CONNECTIONS = 64
"""Enough that whole batches wait; with fewer the peak would be too low a measure of what it can do."""
WORDS = (40, 80)
"""Words of a text: a passage, of which two cores embed about 90 a second. Of one-line queries they do 400, and refusing
4,000 a second would take as many cores as embedding does."""
RAMP = 2.0
"""Seconds at the beginning of each part that do not count. Until the queue is as long as it stays, what is done is not
yet what is answered; and the worker first ends what the load before it left there (0.45 s without a single answer)."""
OPENAI_THREADS = 4
REFUSED = (429, 503)
EXPIRED = 504


@dataclass(frozen=True)
class Overload(Scenario):
    """The peak in a closed loop, an open loop at ten times that, the peak again, the open loop with openai beside it.

    The peak is the mean of both, for on a shared host it drifts (from 88 to 62 answers/s within a minute).
    """

    def slice(self, contestant: Contestant, seconds: float) -> Values:
        """Goodput over the same run's peak, latencies of the accepted and the refused, requests a call."""
        address = Address.of(contestant.url)
        before = answers_a_second(address, seconds / 2)
        alone = OpenLoop(address, flood(), TIMES * before)
        under_load(alone.run(RAMP + seconds, limit=30))
        peak = (before + answers_a_second(address, seconds / 2)) / 2
        beside = OpenLoop(address, flood(), TIMES * before)
        calls = openai_beside(contestant.url, beside, seconds)
        return judged(alone.replies, seconds, peak) | {
            "peak_s": peak,
            "lag_p99_ms": 1000 * quantile(alone.lags, 0.99),
            "requests_per_call": ratio(calls["requests"], calls["calls"]),
            "calls": calls["calls"],
            "calls_failed": calls["failed"],
        }


def answers_a_second(address: Address, seconds: float) -> float:
    """The most it does: each of many clients sends its next passage when it has the answer."""
    feeds = [
        texts.endless(MODEL, inputs=1, words=WORDS, seed=i, headers=texts.client(f"c{i % CLIENTS}"))
        for i in range(PEAK_CONNECTIONS)
    ]
    replies = under_load(closed_loop(address, feeds, RAMP + seconds, limit=60))
    begin = min(reply.sent for reply in replies) + RAMP
    return work_within([r.span(1) for r in replies if r.status == 200], begin, begin + seconds) / seconds


def flood() -> Iterator[bytes]:
    """Passages of many clients, each with a deadline."""
    rng = random.Random(7)
    deadline = f"x-request-timeout-ms: {DEADLINE * 1000:.0f}\r\n"
    built = [
        texts.request(MODEL, [texts.text(rng, rng.randint(*WORDS))], texts.client(f"flood-{i % CLIENTS}") + deadline)
        for i in range(1024)
    ]
    while True:
        yield from built


def judged(replies: list[Reply], seconds: float, peak: float) -> Values:
    """The flood's outcome over its `seconds` after the ramp; `peak` in answers a second."""
    begin = min(reply.sent for reply in replies) + RAMP
    accepted = [reply for reply in replies if reply.status == 200]
    refused = [reply for reply in replies if reply.status in REFUSED]
    # Late answers are no use to anybody; those after the flood's end came when it had become easy.
    good = [r for r in accepted if r.seconds <= DEADLINE and begin <= r.ended <= begin + seconds]
    known = (200, EXPIRED, HUNG, *REFUSED)
    return {
        "offered_s": len(replies) / (RAMP + seconds),
        "goodput": ratio(len(good) / seconds, peak),
        "accepted_p99_ms": 1000 * quantile([reply.seconds for reply in accepted], 0.99),
        "refused": len(refused) / len(replies),
        "refusal_p50_ms": 1000 * quantile([reply.seconds for reply in refused], 0.50),
        "refusal_p99_ms": 1000 * quantile([reply.seconds for reply in refused], 0.99),
        "expired": sum(reply.status == EXPIRED for reply in replies) / len(replies),
        "hung": sum(reply.status == HUNG for reply in replies),
        "failed": sum(reply.status == LOST or reply.status not in known for reply in replies),
    }


def openai_beside(url: str, flooding: OpenLoop, seconds: float) -> dict[str, int]:
    """What openai's own client counts while the flood is on."""
    program = [sys.executable, "-m", "tests.bench.openai_calls", url, MODEL, str(OPENAI_THREADS), str(seconds)]
    with subprocess.Popen(
        program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the openai clients did not start")
            process.stdin.close()
            under_load(flooding.run(seconds, limit=30))
            # A call without a deadline of its own may wait for as long as the queue lets it.
            line = process.stdout.readline()
        finally:
            process.kill()
    counts: dict[str, int] = json.loads(line)
    return counts


def shown(key: str, title: str, target: Target | None = None) -> Figure:
    """A figure that is not compared: only the supervisor refuses."""
    return Figure(key, title, target, shown=(Of.VALUE,))


SCENARIOS = (
    Overload(
        name="overload",
        title=f"MiniLM on the CPU, {TIMES} x its capacity of single passages offered, each with {DEADLINE:g} s to live",
        figures=(
            shown("goodput", "goodput, of the peak", Target(at_least=0.95)),
            shown("accepted_p99_ms", "accepted p99 in ms", Target(at_most=DEADLINE * 1000)),
            shown("refusal_p99_ms", "refusal p99 in ms", Target(at_most=10)),
            shown("requests_per_call", "openai: requests a call", Target(at_most=1.2)),
            shown("peak_s", "peak, answers/s"),
            shown("offered_s", "offered, requests/s"),
            shown("refused", "refused, of all"),
            shown("expired", "expired (504), of all"),
            shown("hung", "hung", Target(at_most=0, worst=True)),
            shown("failed", "failed requests", Target(at_most=0, worst=True)),
        ),
        setup=MINILM_SETUP,
        contestants=("supervisor",),
    ),
)
