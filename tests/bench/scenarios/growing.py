"""Inputs that grow until Infinity needs more memory than there is: who dies, and who leaves a client waiting."""

import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.client import LOST, Address, Reply, connect, under_load
from tests.bench.contestants import BATCH, MODEL, Contestant, Setup
from tests.bench.figures import Figure, Of, Target, Values
from tests.bench.scenario import Scenario, since, supervised
from tests.bench.texts import request, text
from tests.support import infinity

LIMIT_BYTES = 1536 << 20
"""Infinity alone takes about 600 MB; the longest row of the model below about 500 MB more, 32 of them 17 GB."""
POSITIONS = 8192
LONGEST = 6000
"""Words of the longest text: a word is one or two tokens, and the model takes 8,192."""
GROWTH = 1.5
PATIENCE = 60.0
"""Seconds after which a request without an answer is hung."""


@dataclass(frozen=True)
class Growing(Scenario):
    """Requests of 32 texts, all longer than those of the request before; a slice ends when Infinity has died."""

    def slice(self, contestant: Contestant, seconds: float) -> Values:
        """Deaths, hung requests, and how long the texts were when a bare Infinity died."""
        assert contestant.group is not None
        before = supervised(contestant)
        kills = contestant.group.oom_kills()
        replies: list[Reply] = []
        died_at = 0
        for words in sizes():
            replies.append(under_load(_ask(Address.of(contestant.url), words)))
            if contestant.died() or (not before and replies[-1].status != 200):
                died_at = words
                break
        counted = since(before, contestant) if before and not contestant.died() else {"deaths": float(died_at > 0)}
        return {
            "words": died_at or words,
            "deaths": max(counted["deaths"], contestant.group.oom_kills() - kills),
            "hung": sum(reply.status == LOST and reply.seconds >= PATIENCE for reply in replies),
            "answered": sum(reply.status == 200 for reply in replies),
            "refused": sum(reply.status >= 400 for reply in replies),
        }


def sizes() -> Iterator[int]:
    """Words of each text, request by request."""
    words = 16.0
    while words < LONGEST:
        yield int(words)
        words *= GROWTH
    yield LONGEST


async def _ask(address: Address, words: int) -> Reply:
    """One request; it hangs up after `PATIENCE` seconds, which reads as a lost connection."""
    rng = random.Random(words)
    try:
        connection = await connect(address)
    except OSError:
        now = time.monotonic()
        return Reply(now, now, LOST)
    hang_up = connection.loop.call_later(PATIENCE, connection.close)
    try:
        return await connection.ask(request(MODEL, [text(rng, words) for _ in range(BATCH)]))
    finally:
        hang_up.cancel()
        connection.close()


def wide_model(folder: Path) -> str:
    """A tiny model whose memory grows with rows x longest row, made by Infinity's own libraries."""
    made = folder / "wide-model"
    program = Path(__file__).resolve().parent.parent / "wide_model.py"
    command = [str(infinity.PYTHON), str(program), infinity.minilm(), str(made), str(POSITIONS)]
    subprocess.run(command, check=True, env={**infinity.clean_environment(), **infinity.ENV}, stdout=subprocess.DEVNULL)
    return str(made)


SCENARIOS = (
    Growing(
        name="growing",
        title=f"inputs that grow, 32 a request, in a memory cgroup of {LIMIT_BYTES >> 20} MB",
        figures=(
            Figure("deaths", "deaths", Target(at_most=0, worst=True), shown=(Of.VALUE,)),
            Figure("hung", "hung requests", Target(at_most=0, worst=True), shown=(Of.VALUE,)),
            Figure("words", "words of each text, in the end", shown=(Of.VALUE,)),
            Figure("answered", "answered", shown=(Of.VALUE,)),
            Figure("refused", "refused", shown=(Of.VALUE,)),
        ),
        setup=Setup(engine="torch", memory_limit=LIMIT_BYTES, make_model=wide_model),
        contestants=("bare", "supervisor"),
        runs=10,
        warm_up=0,
        fresh=True,
    ),
)
