"""A cold model's first answer: from a warm spare, against a plain start of Infinity."""

import time
from dataclasses import dataclass

from tests.bench.contestants import MODEL, Contestant, Setup, Supervisor
from tests.bench.figures import Figure, Of, Target, Values
from tests.bench.scenario import FAILED, Scenario
from tests.support import infinity

WARM_WITHIN = 120.0
MIB = 2**20


@dataclass(frozen=True)
class Spare(Scenario):
    """A slice is one start; a bare Infinity's begins with its command, the supervisor's with a request."""

    def slice(self, contestant: Contestant, seconds: float) -> Values:
        """Seconds from nothing to an answer, and what the spare holds."""
        if isinstance(contestant, Supervisor):
            return self._from_spare(contestant)
        contestant.stop()
        contestant.command = infinity.plain_command()
        began = time.monotonic()
        contestant.spawn()
        while not contestant.ready():
            time.sleep(0.05)
        return {"answer_s": time.monotonic() - began, "failed": 0}

    def _from_spare(self, contestant: Supervisor) -> Values:
        contestant.order("unload", MODEL)
        until = time.monotonic() + WARM_WITHIN
        while (spare := contestant.status()["spare"])["state"] != "warm" or spare["memory_bytes"] is None:
            if time.monotonic() > until:
                raise RuntimeError(f"no spare is warm: {spare}\n{contestant.tail()}")
            time.sleep(0.1)
        time.sleep(1)  # its memory is read once a second
        held = contestant.status()["spare"]["memory_bytes"]
        began = time.monotonic()
        status = contestant.embed("the first after a cold start", timeout=WARM_WITHIN)
        return {"answer_s": time.monotonic() - began, "failed": status != 200, "spare_mib": held / MIB}


SCENARIOS = (
    Spare(
        name="spare",
        title="MiniLM on the CPU, cold: from request to answer with a warm spare, against a plain start",
        figures=(
            Figure("answer_s", "first answer after, in s", Target(Of.RATIO, at_most=0.15)),
            Figure("spare_mib", "held by the spare, in MiB", shown=(Of.VALUE,)),
            FAILED,
        ),
        setup=Setup(engine="torch", written={"infinity": {"command": infinity.plain_command(), "warm_spare": True}}),
        contestants=("bare", "supervisor"),
        warm_up=0,
    ),
)
