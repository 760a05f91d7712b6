"""A scenario: what is served, what load it gets, what is measured, and what is to be reached."""

from dataclasses import dataclass, field

from tests.bench.contestants import Contestant, Setup, Supervisor
from tests.bench.figures import Figure, Of, Target, Values


@dataclass(frozen=True)
class Scenario:
    """One line of the table of targets, or a few that belong together; kinds of load derive from it."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    setup: Setup = field(default_factory=Setup)
    seconds: float = 10
    """Of load for each contestant in each run."""
    contestants: tuple[str, ...] = ("bare", "nginx", "naive", "supervisor")
    slices: int = 1
    """Into how many slices a contestant's time in a run is cut; each is a round of its own."""
    runs: int | None = None
    """How many runs, where that is not for the caller to choose."""
    warm_up: float = 2
    """Seconds of uncounted load once a contestant is up: connections, caches, learned costs."""
    fresh: bool = False
    """Start the contestant anew for each slice."""

    def slice(self, contestant: Contestant, seconds: float) -> Values:
        """Load this contestant and measure."""
        raise NotImplementedError


FAILED = Figure("failed", "failed requests", Target(at_most=0, worst=True), shown=(Of.VALUE,))


def supervised(contestant: Contestant) -> Values:
    """What the supervisor itself counts, for differences over a slice; nothing for the others."""
    if not isinstance(contestant, Supervisor):
        return {}
    return {
        "paused_s": contestant.metric("paused_seconds_total"),
        "unloads": contestant.metric("model_unloads_total"),
        "deaths": contestant.metric("worker_restarts_total"),
    }


def since(before: Values, contestant: Contestant) -> Values:
    """By how much those counts grew."""
    return {key: value - before[key] for key, value in supervised(contestant).items()}
