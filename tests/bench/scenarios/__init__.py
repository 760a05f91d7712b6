"""All scenarios, in the order in which they run: those with the same set-up follow each other and share its start."""

from tests.bench.scenario import Scenario
from tests.bench.scenarios import big, growing, held, hold, leave, overload, rotation, small, spare

SCENARIOS: tuple[Scenario, ...] = (
    *small.DEBUG,
    *big.SCENARIOS,
    *small.DEFAULTS,
    *small.MINILM,
    *hold.SCENARIOS,
    *leave.SCENARIOS,
    *overload.SCENARIOS,
    *held.SCENARIOS,
    *growing.SCENARIOS,
    *spare.SCENARIOS,
    *rotation.SCENARIOS,
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
