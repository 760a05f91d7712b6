"""A bench for worker pools: a data plane that only remembers what it was told and drains as slowly as a test wants."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from supervisor.core.endpoint import Endpoint
from supervisor.core.liveness import Work
from supervisor.core.model import ModelState
from supervisor.workers.launch import Member, WorkerSpec
from supervisor.workers.pool import WorkerPool
from supervisor.workers.records import Records
from supervisor.workers.surroundings import WorkerView
from tests.support.scripted_worker import script, scripted_command


class FakeLanes:
    """`told` is every call in order: ("attach", model), ("drain", model), ("detach", model), ("unavailable", …)."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.endpoints: dict[str, Endpoint] = {}
        self.drained = asyncio.Event()  # parts in flight are answered; cleared by a test that wants a long drain
        self.drained.set()
        self.now = Work()  # what `work` tells
        self.works: dict[str, Work] = {}  # what it tells of one model
        self.killed = False  # whether the last worker that was detached had been killed by others

    def attach(self, endpoint: Endpoint) -> None:
        self.told.append(("attach", endpoint.model))
        self.endpoints[endpoint.model] = endpoint

    async def drain(self, model: str, timeout: float) -> bool:
        self.told.append(("drain", model))
        try:
            async with asyncio.timeout(timeout):
                await self.drained.wait()
        except TimeoutError:
            return False
        return True

    def detach(self, model: str, killed: bool = False) -> None:
        self.told.append(("detach", model))
        self.killed = killed
        self.endpoints.pop(model, None)

    def work(self, model: str) -> Work:
        return self.works.get(model, self.now)

    def unavailable(self, model: str, reason: str, retry_after: float | None) -> None:
        self.told.append(("unavailable", model, reason, retry_after))

    def available(self, model: str) -> None:
        self.told.append(("available", model))

    def calls(self, model: str = "m") -> list[str]:
        """What was said of one model, by name only."""
        return [call[0] for call in self.told if call[1] == model]


class FakeHooks:
    """Counts what the metrics would."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, ...]] = Counter()

    def on_load(self, model: str, seconds: float) -> None:
        assert seconds > 0
        self.seen["load", model] += 1

    def on_unload(self, model: str, cause: str) -> None:
        self.seen["unload", model, cause] += 1

    def on_restart(self, model: str, cause: str) -> None:
        self.seen["restart", model, cause] += 1


class Bench:
    """A pool of scripted workers with fake surroundings."""

    def __init__(self, folder: Path, specs: Sequence[WorkerSpec], records: Records | None = None) -> None:
        self.folder = folder
        self.lanes, self.hooks = FakeLanes(), FakeHooks()
        self.states: list[tuple[str, ModelState]] = []  # every state as it was entered
        self.pool = WorkerPool(
            specs, log_dir=folder, dispatcher=self.lanes, hooks=self.hooks, on_change=self._changed, records=records
        )
        self._last: dict[str, ModelState] = {}

    def _changed(self) -> None:
        for name, view in self.pool.views().items():
            if self._last.get(name) is not view.state:
                self._last[name] = view.state
                self.states.append((name, view.state))

    def view(self, name: str = "m") -> WorkerView:
        return self.pool.views()[name]

    def way(self, name: str = "m") -> list[str]:
        """The states one worker went through."""
        return [state.value for model, state in self.states if model == name]

    async def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait for something to be seen."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for may be another process: it sets no event
                await asyncio.sleep(0.01)

    async def until_state(self, state: ModelState, name: str = "m", seconds: float = 20.0) -> None:
        await self.until(lambda: self.view(name).state is state, seconds)


def scripted(name: str = "m", *, start_timeout: float = 20.0, stop_timeout: float = 5.0, **settings: Any) -> WorkerSpec:
    """The spec of a scripted worker; `settings` are `Script`'s."""
    return WorkerSpec(
        name=name,
        model_id="/any",
        engine="debugengine",
        device="cpu",
        command=scripted_command(),
        env=script(**settings),
        start_timeout=start_timeout,
        drain_timeout=5.0,
        stop_timeout=stop_timeout,
    )


def grouped(name: str, *models: str, **settings: Any) -> WorkerSpec:
    """The spec of a scripted worker with several models."""
    return replace(scripted(name, **settings), group=tuple(Member(m, "/any", "debugengine") for m in models))


@asynccontextmanager
async def bench(folder: Path, *specs: WorkerSpec, records: Records | None = None) -> AsyncIterator[Bench]:
    """A started pool, shut down at the end."""
    it = Bench(folder, specs, records)
    await it.pool.start()
    try:
        yield it
    finally:
        it.pool.hurry()
        it.pool.hurry()
        await it.pool.shutdown()


class FakeLog:
    """Stands in for a module's structlog logger: remembers (level, event, fields)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **fields: self.lines.append((level, event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The fields of every line of one event."""
        return [fields for _, name, fields in self.lines if name == event]


def group(pgid: int) -> list[int]:
    """The living processes of a group, found without the code under test."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == pgid and fields[0] not in "ZX":
            members.append(int(stat.parent.name))
    return members
