"""Every order at every step of a worker's life: its state stays truthful, nothing is left, everybody is answered.

The production code from the pool down to one instance, on a loop that runs one callback a step, with programs in
virtual time. A scenario is run once to count its steps, then once for each step and order, which is given just there.
"""

import asyncio
import contextlib
import inspect
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from supervisor.core.lifecycle import ALLOWED
from supervisor.core.model import ModelState
from supervisor.errors import SupervisorError
from supervisor.proxy.upstream import HttpWorker
from supervisor.workers.launch import WorkerSpec
from supervisor.workers.process import Process
from tests.support import virtual_loop
from tests.support.fake_lanes import Bench, bench, scripted
from tests.support.quiet_log import only_errors
from tests.support.simulated_program import Parts, Program, Programs, Questions, Script, SimulatedProcess
from tests.support.virtual_loop import VirtualLoop

S = ModelState
RESTING, SETTLED = (S.STOPPED, S.BACKOFF, S.FAILED), (S.READY, S.STOPPED, S.FAILED)
SPEC = scripted()
CHANGED = replace(SPEC, args=("--no-model-warmup",))
DRAIN = 0.3


@pytest.fixture(autouse=True)
def log() -> Iterator[list[dict[str, Any]]]:
    """What goes wrong is told; nothing else."""
    with only_errors() as seen:
        yield seen
    assert [event for event in seen if event["event"] in ("worker_task_failed", "worker_task_died")] == []


class Life:
    """A pool with one model and what happens to it; `waiting` has everybody who waits for an outcome."""

    def __init__(self, folder: Path, programs: Programs) -> None:
        self.loop = asyncio.get_running_loop()
        self.programs = programs
        self.bench = Bench(folder, [SPEC])
        self.pool = self.bench.pool
        self.spec: WorkerSpec | None = SPEC
        self.waiting: list[asyncio.Task[None]] = []
        self.closed = False

    # -- orders, as a scenario or an interruption gives them ----------------------------------------------------------

    def wait_for(self, outcome: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have somebody wait for an outcome."""
        task = asyncio.create_task(outcome)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at, whoever looks later
        self.waiting.append(task)
        return task

    async def tried(self, outcome: Coroutine[Any, Any, None]) -> None:
        """Wait for an outcome, or for the word why it can't be."""
        with contextlib.suppress(SupervisorError):
            await self.wait_for(outcome)

    async def unload(self) -> None:
        """An operator's unload: when it returns, what ran is gone."""
        before = self._ran()
        await self.pool.ensure_stopped("m", "operator")
        assert not any(program.alive for program in before)

    async def restart(self) -> None:
        """An operator's restart: when it returns, what ran is gone."""
        before = self._ran()
        await self.pool.restart("m", "operator")
        assert not any(program.alive for program in before)

    async def replace(self) -> None:
        """A restart beside the process that serves: when it returns, another one does, and the old one is gone.

        Who asks for it while the old one ends already is told of that one.
        """
        process, self.programs.beside["m"] = self.process, 1
        joined = "m" in self.pool.views() and self.pool._workers["m"]._run.successor is not None
        await self.pool.restart("m", "operator", beside=True)
        assert process is None or joined or not process.alive

    async def reload(self, spec: WorkerSpec | None) -> None:
        """A reload: when it returns, nothing that ran with other settings is left."""
        before, different = self._ran(), spec is None or self.spec is None or spec.args != self.spec.args
        self.spec = spec
        await self.pool.apply([] if spec is None else [spec])
        assert not different or not any(program.alive for program in before) or self.closed

    async def shut_down(self) -> None:
        """The end of the service: when it returns, nothing is left."""
        self.closed = True
        await self.pool.shutdown()
        assert self.programs.alive() == []

    def _ran(self) -> list[Program]:
        """What an order to end means now: the process and its successor, but not one that stands in for it already."""
        return self.programs.alive() if self.process is not None else []

    def end_program(self, status: int) -> None:
        """The program ends by itself."""
        if self.process is not None:
            self.process.end(status)

    @property
    def process(self) -> Program | None:
        """The one that is the model's, if it lives; its successor is not meant."""
        worker = self.pool._workers.get("m") or self.pool._retired.get("m")
        process = worker._run.instance.process if worker and worker._run.instance else None
        return process.program if isinstance(process, SimulatedProcess) and process.program.alive else None

    def slow_drain(self) -> None:
        """Whatever is at the worker takes a while."""
        self.bench.lanes.drained.clear()
        self.loop.call_later(DRAIN, self.bench.lanes.drained.set)

    # -- what must hold -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Between any two steps: what is shown is so."""
        assert self.programs.faults == []
        worker = self.pool._workers.get("m")
        if worker is None:
            return
        view, run, alive = worker._standing.view, worker._run, self.programs.alive()
        if view.state in RESTING:
            # One that failed may have a successor, which stands in for it as soon as the task comes to that.
            beside = run.successor.instance if run.successor and worker._orders.wanted else None
            assert [each for each in alive if not beside or each.process is not beside.process] == [], view.state
            assert self.pool._around.taken == ({beside.port} if beside else set()), view.state
            assert (view.pid, view.pgid, view.port) == (None, None, None)
        if view.state in (S.READY, S.DRAINING):
            assert run.instance
            assert view.port == run.instance.port
        endpoint = self.bench.lanes.endpoints.get("m")
        if endpoint is None:
            assert view.state not in (S.READY, S.DRAINING), f"{view.state}, and the data plane knows nobody"
        else:
            assert view.state in (S.READY, S.DRAINING, S.STOPPING), f"{view.state}, and requests go there"
            assert endpoint.port == view.port
        assert (view.backoff_until is not None) == (view.state is S.BACKOFF)

    async def settled(self) -> None:
        """Wait until nobody waits and nothing moves; then the last order has been carried out."""
        async with asyncio.timeout(100):
            answers = await asyncio.gather(*self.waiting, return_exceptions=True)
            await asyncio.sleep(0.5)  # what was ordered just now shows
            while self._moves():  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.1)
        for answer in answers:
            assert answer is None or isinstance(answer, SupervisorError | asyncio.CancelledError), answer
        if view := self.pool.views().get("m"):
            assert (view.state is S.READY) == self.pool._workers["m"]._orders.wanted, "the last order was lost"
            assert self.programs.alive() == ([self.process] if view.state is S.READY else [])

    def _moves(self) -> bool:
        worker = self.pool._workers.get("m")
        return worker is not None and (worker.state not in SETTLED or len(self.programs.alive()) > 1)

    async def ends_well(self) -> None:
        """Whatever happened, a sound program can be loaded and stopped, and nothing is left in the end."""
        await self.settled()
        self.programs.script = lambda _, number: Script(start=QUICK)
        if not self.closed:
            async with asyncio.timeout(100):
                await self.reload(SPEC)
                await self.pool.ensure_ready("m")
                await self.settled()
                await self.shut_down()
        assert self.bench.view().state in (S.STOPPED, S.FAILED) if "m" in self.pool.views() else True
        assert self.pool._around.taken == set()
        assert asyncio.all_tasks() == {asyncio.current_task()}


# -- scenarios: together they go every way that the table of states allows --------------------------------------------


async def an_ordinary_life(life: Life) -> None:
    """Loaded, restarted after a while with work, stopped."""
    await life.tried(life.pool.ensure_ready("m"))
    life.slow_drain()
    await life.tried(life.restart())
    await life.tried(life.unload())


async def crashes(life: Life) -> None:
    """Restarted at once, then after a back-off; stopped in the next one. Then somebody wants it after all."""
    life.pool.request_ready("m")
    for seconds in (0.5, 0.5, 1.8):
        await asyncio.sleep(seconds)
        life.end_program(1)
    await asyncio.sleep(0.5)
    await life.tried(life.unload())
    await life.tried(life.pool.ensure_ready("m"))


async def given_up_and_forgiven(life: Life) -> None:
    """Three starts come to nothing, the last since there is no program; an operator has it tried once more."""
    life.pool.request_ready("m")
    await asyncio.sleep(4.0)
    await life.tried(life.pool.ensure_ready("m"))


async def stopped_while_it_starts(life: Life) -> None:
    """Unloaded before it is ready, while somebody waits for it; wanted again before it has gone."""
    waiter = life.wait_for(life.pool.ensure_ready("m"))
    await asyncio.sleep(0.1)
    stop = life.wait_for(life.unload())
    await asyncio.sleep(0.05)
    life.pool.request_ready("m")
    await asyncio.wait([waiter, stop])
    await asyncio.sleep(1.0)


async def stubborn(life: Life) -> None:
    """It does not end by SIGTERM, its end is seen late, and its port is held for a while after that."""
    await life.tried(life.pool.ensure_ready("m"))
    await life.tried(life.reload(CHANGED))


Scenario = Callable[[Life], Awaitable[None]]


async def replaced(life: Life) -> None:
    """By a successor beside it; by one that does not come up; by one that has to stand in for it, for it dies."""
    await life.tried(life.pool.ensure_ready("m"))
    life.slow_drain()
    await life.tried(life.replace())
    await life.tried(life.replace())
    asked = life.wait_for(life.replace())
    await asyncio.sleep(0.1)
    life.end_program(1)
    await asyncio.wait([asked])
    await asyncio.sleep(1.0)


QUICK = 0.15  # s, so that few of the steps are knocks at a port that is not open yet
FAILS = Script(start=QUICK, fails=3)
STUBBORN = Script(start=QUICK, ignores_sigterm=True, seen=0.2, port_held=0.12)
SCENARIOS: dict[Scenario, list[Script]] = {
    an_ordinary_life: [],
    crashes: [],
    given_up_and_forgiven: [FAILS, FAILS, Script(missing=True)],
    stopped_while_it_starts: [],
    stubborn: [STUBBORN],
    replaced: [Script(start=QUICK), Script(start=QUICK), FAILS],
}

# -- interruptions ----------------------------------------------------------------------------------------------------


def leaves(life: Life) -> None:
    """Whoever waits leaves."""
    for task in life.waiting:
        task.cancel()


def hurries(life: Life) -> None:
    """The service ends, and is hurried twice."""
    life.wait_for(life.shut_down())
    life.loop.call_later(0.02, life.pool.hurry)
    life.loop.call_later(0.04, life.pool.hurry)


INTERRUPTIONS: dict[str, Callable[[Life], object]] = {
    "stop": lambda life: life.pool.request_stop("m", "idle") if "m" in life.pool.views() else None,
    "load": lambda life: life.wait_for(life.pool.ensure_ready("m")),
    "unload": lambda life: life.wait_for(life.unload()),
    "restart": lambda life: life.wait_for(life.restart()),
    "replace": lambda life: life.wait_for(life.replace()),
    "reload": lambda life: life.wait_for(life.reload(CHANGED)),
    "retire": lambda life: life.wait_for(life.reload(None)),
    "crash": lambda life: life.end_program(1),
    "leave": leaves,
    "shutdown": lambda life: life.wait_for(life.shut_down()),
    "hurry": hurries,
}


@contextlib.asynccontextmanager
async def lives(folder: Path, scenario: Scenario) -> AsyncIterator[Life]:
    """A life that is checked at every step."""
    loop, scripts = asyncio.get_running_loop(), SCENARIOS[scenario]
    assert isinstance(loop, VirtualLoop)
    with Programs(
        lambda _, number: scripts[number] if number < len(scripts) else Script(start=QUICK)
    ).installed() as programs:
        life = Life(folder, programs)
        await life.pool.start()
        loop.before_step = life.check
        try:
            yield life
        finally:
            loop.before_step = lambda: None


async def run(folder: Path, scenario: Scenario, step: int, act: Callable[[Life], object]) -> int:
    """One life with `act` before that step; how many steps the scenario took."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    async with lives(folder, scenario) as life:
        began = loop.steps
        with virtual_loop.at_step(step, lambda: act(life)):
            playing = asyncio.create_task(scenario(life))
            await asyncio.wait([playing])
            steps = loop.steps - began
        with contextlib.suppress(SupervisorError, asyncio.CancelledError):
            playing.result()
        await life.ends_well()
    return steps


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("order", INTERRUPTIONS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_an_order_at_every_step(scenario: Scenario, order: str, stride: int, tmp_path: Path) -> None:
    """Whatever is ordered, at whatever step of whatever life: see `Life.check`, `settled` and `ends_well`.

    At every seventh step where time is short, each order at others than the one before it.
    """

    async def all_steps() -> None:
        steps = await run(tmp_path, scenario, -1, lambda _: None)
        assert steps > 50
        for step in range(list(INTERRUPTIONS).index(order) % stride, steps, stride):
            try:
                await run(tmp_path, scenario, step, INTERRUPTIONS[order])
            except BaseException as error:
                error.add_note(f"{order} before step {step} of {steps} of {scenario.__name__}")
                raise

    virtual_loop.run(all_steps())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_loop_ends_at_every_step(scenario: Scenario, tmp_path: Path) -> None:
    """All tasks are cancelled, as when the daemon goes down without a stop: no process, no port, no descriptor."""

    async def until(step: int) -> tuple[Life, bool]:
        async with lives(tmp_path, scenario) as life:
            over = asyncio.Event()
            with virtual_loop.at_step(step, over.set):
                playing = asyncio.create_task(scenario(life))
                stop = asyncio.create_task(over.wait())
                await asyncio.wait([playing, stop], return_when=asyncio.FIRST_COMPLETED)
            return life, playing.done() and not over.is_set()

    for step in itertools.count():
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            life, through = runner.run(until(step))
        assert life.programs.alive() == [], f"at step {step}"
        assert life.pool._around.taken == set(), f"at step {step}"
        assert life.programs.faults == []
        if through:
            break
    assert step > 50


def test_the_scenarios_go_every_way(tmp_path: Path) -> None:
    """Every step that the table of states allows is taken by one of them, so none can be added without one."""
    ways: set[tuple[str, str]] = set()

    async def play(scenario: Scenario) -> None:
        async with lives(tmp_path, scenario) as life:
            await scenario(life)
            await life.ends_well()
            ways.update(itertools.pairwise(["stopped", *life.bench.way()]))

    for scenario in SCENARIOS:
        virtual_loop.run(play(scenario))
    assert ways == {(before.value, after.value) for before, those in ALLOWED.items() for after in those}


# -- what stands for the real thing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("double", "real", "names"),
    [
        (SimulatedProcess, Process, [n for n, v in vars(Process).items() if callable(v) and not n.startswith("_")]),
        (Programs, Process, ["spawn"]),
        (Parts, HttpWorker, ["send", "close"]),
    ],
)
def test_the_doubles_are_called_as_the_real_ones(double: type, real: type, names: list[str]) -> None:
    """The same methods with the same arguments."""
    for name in names:
        mine, theirs = (inspect.signature(getattr(each, name)).parameters for each in (double, real))
        ours = [(p.name, p.kind, p.default) for p in mine.values() if p.name != "self"]
        assert ours == [(p.name, p.kind, p.default) for p in theirs.values() if p.name != "self"], name


def test_the_session_is_asked_as_the_real_one() -> None:
    """Every argument of a question is one that aiohttp takes."""
    real = inspect.signature(aiohttp.ClientSession._request).parameters
    assert set(inspect.signature(Questions.request).parameters) <= {*real, "url"}


def test_a_simulated_program_lives_as_a_real_one(tmp_path: Path) -> None:
    """Loaded, killed, stopped, restarted, unable to start: the same states and the same words to the data plane."""

    async def story(it: Bench, kill: Callable[[], None]) -> tuple[list[str], list[str]]:
        await it.pool.ensure_ready("m")
        kill()
        await it.until(lambda: it.view().loads == 2)
        await it.pool.restart("m", "operator")
        await it.pool.ensure_stopped("m", "operator")
        return it.way(), it.lanes.calls()

    async def real() -> tuple[list[str], list[str]]:
        async with bench(tmp_path, SPEC) as it:
            return await story(it, lambda: it.pool._workers["m"]._run.instance.process.signal_group(9))  # type: ignore[union-attr]

    async def simulated() -> tuple[list[str], list[str]]:
        with Programs().installed() as programs:
            async with bench(tmp_path, SPEC) as it:
                return await story(it, lambda: programs.alive()[0].process.signal_group(9))

    assert virtual_loop.run(simulated()) == asyncio.run(real())
