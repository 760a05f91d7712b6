"""One request with as many inputs as Infinity accepts: what splitting and putting together costs."""

from dataclasses import dataclass

from tests.bench.client import Address, Reply, connect, under_load
from tests.bench.contestants import MODEL, Contestant
from tests.bench.figures import Figure, Of, Target, Values
from tests.bench.scenario import FAILED, Scenario
from tests.bench.scenarios.small import DEBUG_SETUP
from tests.bench.texts import endless


@dataclass(frozen=True)
class Big(Scenario):
    """A slice is one request, so that contestants alternate as closely as they can."""

    inputs: int = 2048

    def slice(self, contestant: Contestant, seconds: float) -> Values:
        """How long it takes."""
        reply = under_load(self._ask(Address.of(contestant.url)))
        return {"time_ms": reply.seconds * 1000, "failed": reply.status != 200}

    async def _ask(self, address: Address) -> Reply:
        connection = await connect(address)
        try:
            return await connection.ask(next(endless(MODEL, inputs=self.inputs, words=(5, 15), seed=1, distinct=1)))
        finally:
            connection.close()


SCENARIOS = (
    Big(
        name="big-1",
        title="debug engine, one request of 2,048 inputs",
        figures=(Figure("time_ms", "time in ms", Target(Of.RATIO, at_most=1.05)), FAILED),
        setup=DEBUG_SETUP,
        slices=5,
    ),
)
