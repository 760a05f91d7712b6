"""Many connections with short inputs, by wrk: how many requests a second, how long the slowest wait."""

from dataclasses import dataclass

from tests.bench import wrk
from tests.bench.arithmetic import work_within
from tests.bench.client import Address, closed_loop, under_load
from tests.bench.contestants import BATCH, MODEL, Contestant, Setup
from tests.bench.figures import Figure, Of, Target, Values
from tests.bench.scenario import FAILED, Scenario
from tests.bench.texts import client, endless

BATCH_32 = {"batch_controller": {"initial_batch_size": BATCH, "max_batch_size": BATCH}}
DEBUG_SETUP = Setup(written=BATCH_32)
MINILM_SETUP = Setup(engine="torch", written=BATCH_32)


@dataclass(frozen=True)
class Small(Scenario):
    """`connections` that each send requests of `inputs` short inputs, one after the other."""

    connections: int = 1
    inputs: int = 1

    def slice(self, contestant: Contestant, seconds: float) -> Values:
        """wrk's figures."""
        return wrk.run(contestant.url, MODEL, connections=self.connections, inputs=self.inputs, seconds=seconds)


@dataclass(frozen=True)
class SlowMulti(Small):
    """The same where an answer takes seconds, so that whole answers are too coarse a count and wrk does not fit."""

    def slice(self, contestant: Contestant, seconds: float) -> Values:
        """Inputs per second, with requests that straddle the end counted by their share in time."""
        feeds = [
            endless(MODEL, inputs=self.inputs, words=(8, 12), seed=i, headers=client(f"c{i}"), distinct=8)
            for i in range(self.connections)
        ]
        replies = under_load(closed_loop(Address.of(contestant.url), feeds, seconds, limit=120))
        begin = min(reply.sent for reply in replies)
        good = [reply.span(self.inputs) for reply in replies if reply.status == 200]
        return {
            "inputs_s": work_within(good, begin, begin + seconds) / seconds,
            "failed": len(replies) - len(good),
        }


def faster(least: float) -> Figure:
    """Requests a second, at least so many times bare Infinity's."""
    return Figure("requests_s", "requests/s", Target(Of.RATIO, at_least=least))


def inputs(least: float) -> Figure:
    """Inputs a second, at least so many times bare Infinity's."""
    return Figure("inputs_s", "inputs/s", Target(Of.RATIO, at_least=least))


def p99(most: float | None) -> Figure:
    """The slowest of a hundred, at most so many times bare Infinity's."""
    return Figure("p99_ms", "p99 in ms", None if most is None else Target(Of.RATIO, at_most=most))


P50 = Figure("p50_ms", "p50 in ms", shown=(Of.VALUE,))
ADDED_P50 = Figure("p50_ms", "p50 in ms", Target(Of.DIFFERENCE, at_most=1.0), shown=(Of.VALUE, Of.DIFFERENCE))

DEBUG = (
    Small(
        name="single-128",
        title="debug engine, one short input a request, 128 connections",
        figures=(faster(5), p99(0.5), P50, FAILED),
        setup=DEBUG_SETUP,
        connections=128,
    ),
    Small(
        name="single-32",
        title="debug engine, one short input a request, 32 connections",
        figures=(faster(1.3), p99(0.2), P50, FAILED),
        setup=DEBUG_SETUP,
        connections=32,
    ),
    Small(
        name="single-1",
        title="debug engine, one short input a request, 1 connection",
        figures=(ADDED_P50, p99(None), FAILED),
        setup=DEBUG_SETUP,
        slices=5,
    ),
    Small(
        name="multi-16",
        title="debug engine, 32 short inputs a request, 16 connections",
        figures=(inputs(0.95), p99(None), FAILED),
        setup=DEBUG_SETUP,
        connections=16,
        inputs=32,
    ),
)
DEFAULTS = (
    Small(
        name="defaults-128",
        title="debug engine, one short input a request, 128 connections, all settings at their defaults",
        figures=(faster(4), p99(None), P50, FAILED),
        setup=Setup(cpu_limits=True),
        connections=128,
    ),
)
MINILM = (
    Small(
        name="minilm-single",
        title="MiniLM on the CPU, one short input a request, 16 connections",
        figures=(inputs(1.0), p99(None), FAILED),
        setup=MINILM_SETUP,
        connections=16,
    ),
    SlowMulti(
        name="minilm-multi",
        title="MiniLM on the CPU, 32 short inputs a request, 16 connections",
        figures=(inputs(1.0), FAILED),
        setup=MINILM_SETUP,
        seconds=20,
        connections=16,
        inputs=32,
    ),
)
