"""The whole production code behind the proxy's HTTP, wired as the daemon wires it, in virtual time.

Dispatcher, pool, controller, control and the daemon's own reload and drain; what is simulated are the worker programs,
the readings of the host (always at ease), the clients and the clock. Run it on a `VirtualLoop`.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from supervisor import daemon as daemon_module
from supervisor import wiring
from supervisor.assembly import Assembly
from supervisor.config import Settings
from supervisor.control import Control
from supervisor.controller import Controller
from supervisor.core.body import read_body
from supervisor.core.model import Known, Missing, ModelState, Sample, WorkerUse
from supervisor.core.payload import Inference
from supervisor.daemon import Daemon
from supervisor.journal import Journal
from supervisor.metrics import Metrics
from supervisor.proxy.dispatcher import Dispatcher
from supervisor.proxy.jobs import Asker, Job, Reply
from supervisor.proxy.refusals import Refusal
from supervisor.state import OperatorPause
from supervisor.workers.pool import WorkerPool
from supervisor.workers.waits import cancelled
from tests.support import fake_infinity
from tests.support.simulated_program import Programs

GIB = 1024**3
_ID = re.compile(rb'"id":"infinity-[0-9a-f-]*"')


class Host:
    """A host at ease: a tenth of its CPU and a fifth of its memory are in use, and it has no GPU."""

    def sample(self, now: float) -> Sample:
        """One look."""
        none = Missing("no NVML library", now)
        memory = {"memory_used": 16 * GIB // 5, "memory_limit": 16 * GIB}
        return Sample(at=now, cpu=Known(10.0, now), memory=Known(20.0, now), gpu=none, gpu_memory=none, **memory)

    def worker_use(self, pgids: Mapping[str, int], now: float) -> Mapping[str, WorkerUse]:
        """Half a GiB each."""
        return {name: WorkerUse(0.0, GIB // 2) for name in pgids}

    def own_cpu(self) -> float:
        """They take no CPU."""
        return 0.0


@dataclass
class Client:
    """One request: what was asked, when, and what came of it."""

    model: str
    texts: list[str]
    arrived: float
    deadline: float | None
    task: "asyncio.Task[Reply | Refusal]"
    told_at: float | None = None

    @property
    def outcome(self) -> Reply | Refusal | None:
        """What it was answered; None when it left before."""
        return None if self.task.cancelled() else self.task.result()

    def right(self, model: str) -> bool:
        """Whether it got what an Infinity of this model would have answered to it alone."""
        body = orjson.dumps({"model": model, "input": self.texts})
        expected = fake_infinity.answer("embeddings", body, model=model)[1]
        outcome = self.outcome
        return isinstance(outcome, Reply) and outcome.status == 200 and _id_out(outcome.body) == _id_out(expected)


def _id_out(body: bytes) -> bytes:
    return _ID.sub(b"", body, count=1)


class House:
    """`states` and `names` tell what each model was, and which names were configured, from when on."""

    def __init__(self, folder: Path, settings: Settings, programs: Programs) -> None:
        self.loop = asyncio.get_running_loop()
        self.programs = programs
        self.next = settings
        self.states: dict[str, list[tuple[float, ModelState]]] = {}
        self.names: list[tuple[float, frozenset[str]]] = [(0.0, frozenset(wiring.names(settings)))]
        parts = Assembly.__new__(Assembly)  # the parts that a story is about, wired as they are there
        parts.settings = settings
        daemon = self.daemon = Daemon(folder / "supervisor.yaml", settings)
        daemon.parts = parts
        parts.metrics = Metrics(model.name for model in settings.models)
        parts.journal = Journal()
        parts.monitor = Host()  # type: ignore[assignment]
        parts.proxy = SimpleNamespace(set_max_body_bytes=lambda _: None)  # type: ignore[assignment]
        parts._let_in = lambda _: None  # type: ignore[method-assign]
        self.dispatcher = parts.dispatcher = Dispatcher(
            wiring.served_models(settings),
            wiring.queue_limits(settings, 16 * GIB),
            lambda _: self.controller.poke(),
            parts.metrics,
            connect=programs.connect,
        )
        self.pool = parts.pool = WorkerPool(
            wiring.worker_specs(settings),
            log_dir=folder / "logs",
            dispatcher=parts.dispatcher,
            on_change=self._changed,
            hooks=parts.metrics,
            environ={},
        )
        self.controller = parts.controller = Controller(
            settings.policy(),
            wiring.configured_models(settings),
            parts.monitor,
            parts.dispatcher,
            parts.pool,
            parts.journal,
            self.loop.time,
        )
        self.control = parts.control = Control(
            parts.controller,
            parts.pool,
            OperatorPause(folder / "pause.json"),
            names=lambda: wiring.names(parts.settings),
            reload=daemon.reload,
            effective=dict,
            accepting=lambda: True,
            holds=lambda: True,
            max_requests=lambda: 2048,
            load_timeout=lambda: parts.settings.infinity.start_timeout + parts.settings.infinity.drain_timeout,
            infinity=dict,
            logs=lambda name, count, after: ([], 0),
        )

    def _changed(self) -> None:
        for name, view in self.pool.views().items():
            states = self.states.setdefault(name, [(0.0, ModelState.STOPPED)])
            if states[-1][1] is not view.state:
                states.append((self.loop.time(), view.state))
        self.controller.poke()

    def read_config(self, _: Path) -> Settings:
        """What a reload finds in the file; from this moment on it is in force."""
        self.names.append((self.loop.time(), frozenset(wiring.names(self.next))))
        return self.next

    def ask(self, model: str, texts: list[str], *, within: float | None = None, writing: float = 0.0) -> Client:
        """A client's request, with its own deadline if it has one; its answer takes `writing` s to write."""
        now = self.loop.time()
        deadline = None if within is None else now + within
        task = self.loop.create_task(self._request(model, texts, Asker(deadline=deadline), writing, lambda: client))
        client = Client(model, texts, now, deadline, task)
        return client

    async def _request(
        self, model: str, texts: list[str], asker: Asker, writing: float, me: Callable[[], Client]
    ) -> Reply | Refusal:
        """The steps of `proxy.inference`."""
        body = orjson.dumps({"model": model, "input": texts})
        place, job, outcome = None, None, None
        try:
            place = self.dispatcher.admit(len(body), asker)
            read = read_body(body, "application/json")
            job = self._submit(read, place, asker)
            outcome = await job.outcome
            me().told_at = self.loop.time()
            await asyncio.sleep(writing)
        except Refusal as refusal:
            me().told_at = self.loop.time()
            return refusal
        finally:
            if place is not None:
                self.dispatcher.end(place, job)
        return outcome

    def _submit(self, body: Any, place: Any, asker: Asker) -> Job:
        return self.dispatcher.submit(Inference.EMBEDDINGS, body, place, arrived=self.loop.time(), asker=asker)

    def was(self, model: str, state: ModelState, since: float, until: float) -> bool:
        """Whether a model was in this state at some moment between."""
        entered = self.states.get(model, [])
        left = [*(at for at, _ in entered[1:]), float("inf")]
        return any(s is state and at <= until and end >= since for (at, s), end in zip(entered, left, strict=True))

    def load_failed(self, model: str, until: float) -> bool:
        """Whether a load of it had come to nothing by then."""
        states = [state for at, state in self.states.get(model, []) if at <= until]
        down = (ModelState.BACKOFF, ModelState.FAILED)
        return any(s is ModelState.STARTING and e in down for s, e in zip(states, states[2:], strict=False))

    def was_configured(self, name: str, since: float, until: float) -> bool:
        """Whether a name or alias was configured all the time between."""
        left = [*(at for at, _ in self.names[1:]), float("inf")]
        during = [names for (at, names), end in zip(self.names, left, strict=True) if at <= until and end >= since]
        return all(name in names for names in during)


@contextlib.asynccontextmanager
async def house(folder: Path, settings: Settings, programs: Programs) -> AsyncIterator[House]:
    """A house that runs, and is shut down at the end as a daemon is after SIGTERM."""

    async def to_thread(work: Callable[..., Any], *args: object) -> Any:
        await asyncio.sleep(0.005)
        return work(*args)

    with pytest.MonkeyPatch.context() as patch, programs.installed():
        it = House(folder, settings, programs)
        patch.setattr(daemon_module, "load_to_run", it.read_config)
        patch.setattr(asyncio, "to_thread", to_thread)
        await it.pool.start()
        ticking = asyncio.create_task(it.controller.run())
        it.controller.preload(model.name for model in settings.models if model.preload)
        try:
            yield it
            it.daemon._stop.set()
            await it.daemon._drain()
            await it.pool.shutdown()
        finally:
            await cancelled([ticking])
            await it.dispatcher.close()
