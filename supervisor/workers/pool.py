"""All workers, each of one model or of a group. Takes orders by name, carries a reload through, ends everything.

A name is a model's or a group's: what is ordered for one of a group is ordered for all of it. Owns which models there
are; each worker's task owns its state.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp

from supervisor.core.model import LIVE_STATES, ModelState
from supervisor.core.spare import SpareView
from supervisor.errors import UnknownModel, WorkerError
from supervisor.workers.cgroup import Subtree
from supervisor.workers.lane import LaneControl
from supervisor.workers.launch import WorkerSpec
from supervisor.workers.records import Records, sweep
from supervisor.workers.spare import SpareKeeper
from supervisor.workers.surroundings import Hooks, Surroundings, WorkerView
from supervisor.workers.worker import Worker

__all__ = ["Hooks", "LaneControl", "WorkerPool", "WorkerSpec", "WorkerView"]


class WorkerPool:
    """The worker processes of one supervisor.

    Made inside a running event loop; `start` it before giving orders, `shutdown` leaves no process behind.
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        *,
        log_dir: Path,
        dispatcher: LaneControl,
        hooks: Hooks,
        on_change: Callable[[], None] = lambda: None,
        records: Records | None = None,
        environ: Mapping[str, str] | None = None,
        subtree: Subtree | None = None,
    ) -> None:
        self._session: aiohttp.ClientSession | None = None
        environ, subtree = os.environ if environ is None else environ, subtree or Subtree("nobody asked for one")
        self._spare = SpareKeeper(environ, log_dir, subtree, on_change)
        self._around = Surroundings(
            log_dir=log_dir,
            environ=environ,
            lanes=dispatcher,
            hooks=hooks,
            on_change=on_change,
            session=self._http,
            records=records,
            taken=set(),
            subtree=subtree,
            spare=self._spare,
        )
        self._workers = {spec.name: Worker(spec, self._around) for spec in specs}
        self._by_name: dict[str, Worker] = {}
        self._index()
        self._retired: dict[str, Worker] = {}  # removed by a reload, still ending
        self._applying = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin: take over what a killed predecessor left, or end it, then follow orders. Starts no worker.

        What is not taken over is ended first: its memory is needed. Its own model is started again when asked for.
        """
        records = self._around.records
        found = sorted(records.read(), key=lambda r: not r.ready) if records is not None else []  # not a successor
        left = [r for r in found if r.model not in self._workers or not self._workers[r.model].adopt(r)]
        if records is not None:
            records.keep(found)
        if left:
            await sweep(left, max((worker.spec.stop_timeout for worker in self._workers.values()), default=10.0))
        if records is not None:
            for record in left:
                records.remove(record.pid)
        self._spare.configure([worker.spec for worker in self._workers.values()])
        for worker in self._workers.values():
            worker.start()

    def views(self) -> Mapping[str, WorkerView]:
        """Every model's worker as it is now, in configured order, groups together; none that a reload removed."""
        return {name: view for worker in self._workers.values() for name, view in worker.views().items()}

    @property
    def spare(self) -> SpareView:
        """The warm spare as it is now."""
        return self._spare.view()

    # -- orders: fire and forget, idempotent ------------------------------------------------------------------------

    def request_ready(self, name: str) -> None:
        """Have a model's worker run. A failed one stays failed; one that is stopping is started again after."""
        self._worker(name).want_ready()

    def request_stop(self, name: str, cause: str) -> None:
        """Have a model's worker drained and stopped."""
        self._worker(name).want_stopped(cause)

    def request_restart(self, name: str, cause: str, beside: bool) -> None:
        """Have a model's worker, if it runs, started anew; see `restart`."""
        worker = self._worker(name)
        if not (beside and worker.want_successor(cause)):
            worker.want_restart(cause)

    def hold_back(self, reasons: Mapping[str, str]) -> None:
        """Start these, where they crashed, only when they are not named here any more, each with why."""
        for name, worker in self._workers.items():
            worker.hold_back(reasons.get(name))

    def forgive(self, name: str) -> None:
        """Forget a model's crashes: it is no longer failed, and not in back-off, when this returns."""
        self._worker(name).forgive()

    def request_spare(self) -> None:
        """Have a warm spare made, rather for a model at rest than for one that runs."""
        self._spare.make(sorted(self._workers, key=lambda name: self._workers[name].state in LIVE_STATES))

    def drop_spare(self, why: str) -> None:
        """Have the warm spare killed, if there is one."""
        self._spare.drop(why)

    # -- outcomes ---------------------------------------------------------------------------------------------------

    async def ensure_ready(self, name: str) -> None:
        """Have it run, whatever happened before, and wait until it is ready.

        WorkerError when it fails for good or somebody stops it meanwhile.
        """
        worker = self._worker(name)
        worker.forgive()
        worker.want_ready()
        await worker.ready()

    async def ensure_stopped(self, name: str, cause: str) -> None:
        """Have it drained and stopped and wait until nothing of it is alive.

        WorkerError when somebody else's could not be stopped: it goes on, and is only let go.
        """
        worker = self._worker(name)
        worker.want_stopped(cause)
        await worker.gone()
        if worker.not_ended is not None:
            raise WorkerError(worker.not_ended)

    async def restart(self, name: str, cause: str, beside: bool = False) -> None:
        """Have it started anew (or just started), and wait until it is ready; else WorkerError.

        `beside`: while it serves, it goes on until the next process is ready. Else it is drained and stopped first.
        """
        worker = self._worker(name)
        worker.forgive()
        if beside and worker.want_successor(cause):
            await worker.succeeded()
            return
        worker.want_restart(cause)
        worker.want_ready()
        await worker.ready()

    async def apply(self, specs: Sequence[WorkerSpec]) -> None:
        """Take other settings into use, from a reload.

        1. A model that is new has a worker, at rest; one that is gone is drained and stopped.
        2. A worker whose launch settings are unchanged runs on; others are drained and started anew if they ran.
        3. A group that has other models now is a new worker, and so is a model that has left one or come to one. It
           begins when the old ones have ended, for no model is to be in two processes.

        The new set is in force at once; returns when nothing that ran with old settings is alive any more.
        """
        if self._closing is not None:
            return
        async with self._applying:
            wanted = {spec.name: spec for spec in specs}
            kept = {name: w for name, w in self._workers.items() if name in wanted and _same(w.spec, wanted[name])}
            removed = [worker for name, worker in self._workers.items() if name not in kept]
            self._workers = {name: kept.get(name) or Worker(spec, self._around) for name, spec in wanted.items()}
            self._index()
            self._retired = {worker.name: worker for worker in removed}
            self._spare.configure(specs)
            waiting = []
            for worker in (worker for name, worker in self._workers.items() if name not in kept):
                before = [old for old in removed if _in_the_way(old.spec, worker.spec)]
                if any(old.state in (ModelState.STARTING, ModelState.READY) for old in before):
                    worker.want_ready()
                if before:
                    waiting.append(worker)  # 3
                else:
                    worker.start()
            changed = [worker for worker in kept.values() if worker.respec(wanted[worker.name])]
            await asyncio.gather(*(w.retire("removed") for w in removed), *(w.gone() for w in changed))
            self._retired = {}
            for worker in waiting:
                worker.start()

    async def end_spare(self) -> None:
        """End the warm spare for good: what runs in our place next could not reap it."""
        await self._spare.close()

    async def shutdown(self) -> None:
        """Drain and stop every worker, side by side; nothing is left when this returns. Called again: hurries."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        else:
            self.hurry()
        await asyncio.shield(self._closing)

    def hurry(self) -> None:
        """Cut short what stops are waiting for: the drains first; called again, the patience after SIGTERM."""
        for worker in self._all():
            worker.hurry()

    async def _close(self) -> None:
        await asyncio.gather(self._spare.close(), *(worker.retire("shutdown") for worker in self._all()))
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _all(self) -> list[Worker]:
        return [*self._workers.values(), *self._retired.values()]

    def _index(self) -> None:
        self._by_name = {name: w for w in self._workers.values() for name in (w.name, *w.spec.models)}

    def _worker(self, name: str) -> Worker:
        try:
            return self._by_name[name]
        except KeyError:
            raise UnknownModel(f"no model named {name!r}") from None

    def _http(self) -> aiohttp.ClientSession:
        """The session for questions to workers: no proxy, no cookies, no connection kept."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


def _same(before: WorkerSpec, after: WorkerSpec) -> bool:
    """Whether both are for the same models, however each is written now."""
    return set(before.models) == set(after.models) and bool(before.group) == bool(after.group)


def _in_the_way(old: WorkerSpec, new: WorkerSpec) -> bool:
    """Whether the new one can't run beside the old one: they have a model, or the name, in common."""
    return old.name == new.name or not set(old.models).isdisjoint(new.models)
