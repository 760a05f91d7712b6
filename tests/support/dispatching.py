"""A dispatcher in virtual time, with scripted workers and clients that are one line each.

    async with World() as world:
        world.up("a")                               # a worker that takes `seconds` for a part
        client = world.ask("a", 40)                 # a request for 40 rows
        assert (await client).status == 200

Every part that reaches a worker is checked against the invariants of `supervisor.proxy.lane`.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import orjson
import pytest

from supervisor.core.body import read_body
from supervisor.core.endpoint import Endpoint
from supervisor.core.lengths import length_class
from supervisor.core.model import LaneOrders, Orders
from supervisor.core.payload import Inference
from supervisor.proxy.dispatcher import Dispatcher, QueueLimits, ServedModel
from supervisor.proxy.jobs import Asker, Job, Key, Reply, WorkerLost
from supervisor.proxy.refusals import Refusal
from supervisor.proxy.worker_memory import Peaks
from tests.support import fake_infinity

_NAME = re.compile(rb'"id":"infinity-[0-9a-f-]*"')


@dataclass
class Sent:
    """A part as it reached a worker."""

    at: float
    rows: list[str]
    body: bytes
    endpoint: Inference = Inference.EMBEDDINGS


class Worker:
    """Answers every part after `seconds` (or what it `takes`), unless `script` raises or answers instead."""

    def __init__(self, world: "World", endpoint: Endpoint) -> None:
        self.world = world
        self.endpoint = endpoint
        self.seconds = 1.0
        self.script: Callable[[Sent], Reply | None] = lambda sent: None
        self.takes: Callable[[Sent], float] = lambda sent: self.seconds
        self.sent: list[Sent] = []
        self.running: list[int] = []
        self.closed = False

    async def send(self, endpoint: Inference, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Checks the invariants, waits, answers as Infinity does."""
        assert not self.closed, "a part was sent to a worker that is gone"
        request = orjson.loads(body)
        rows = request["documents" if endpoint is Inference.RERANK else "input"]
        sent = Sent(self.world.now, rows, body, endpoint)
        self.sent.append(sent)
        self.world.check_part(self, len(rows))
        self.running.append(len(rows))
        try:
            await asyncio.sleep(self.takes(sent))
            reply = self.script(sent)
        finally:
            self.running.remove(len(rows))
        if reply is not None:
            return reply
        status, content = fake_infinity.answer(endpoint.value, body, model=self.endpoint.model)
        return Reply(status, content, {"content-type": "application/json"})

    async def close(self) -> None:
        """Gone."""
        self.closed = True

    @property
    def order(self) -> list[str]:
        """The first row of each part, in the order in which they came."""
        return [sent.rows[0] for sent in self.sent]


@dataclass
class Client:
    """One request and what became of it."""

    name: str
    task: asyncio.Task[Reply | Refusal]
    job: Job | None = None
    answered_at: float | None = None
    expected: bytes = b""
    deadline: float | None = None
    told_at: float | None = None
    """When its outcome stood, before it was written."""

    @property
    def done(self) -> bool:
        """Whether it has its answer."""
        return self.task.done()

    def __await__(self):  # type: ignore[no-untyped-def]
        return self.task.__await__()

    def leave(self) -> None:
        """The client closes its connection."""
        self.task.cancel()

    @property
    def refusal(self) -> Refusal:
        """The refusal it got."""
        outcome = self.task.result()
        assert isinstance(outcome, Refusal), outcome
        return outcome

    @property
    def right(self) -> bool:
        """Whether it got exactly, but for the id, what a single worker would have answered to it alone."""
        outcome = self.task.result()
        if not isinstance(outcome, Reply) or outcome.status != 200:
            return False
        return _NAME.sub(b"", outcome.body, count=1) == _NAME.sub(b"", self.expected, count=1)


class Counter:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.reasons: list[str] = []
        self.inputs: dict[str, int] = {}

    def request_done(self, endpoint: str, model: str | None, code: int, seconds: float) -> None:
        """Not the dispatcher's to call."""

    def queue_waited(self, seconds: float) -> None:
        """Remembered."""
        self.waits.append(seconds)

    def refused(self, reason: str) -> None:
        """Remembered."""
        self.reasons.append(reason)

    def inputs_done(self, model: str, n: int) -> None:
        """Summed."""
        self.inputs[model] = self.inputs.get(model, 0) + n


@dataclass
class World:
    """A dispatcher, its workers and its clients."""

    models: tuple[ServedModel, ...] = (ServedModel("a"),)
    limits: QueueLimits = field(default_factory=QueueLimits)
    peaks: Peaks | None = None

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.demanded: list[str] = []
        self.counter = Counter()
        self.workers: list[Worker] = []
        self.loosened = False
        self.trickling = False
        self.own_cpu = 0.0
        self.dispatcher = Dispatcher(
            self.models,
            self.limits,
            self.demanded.append,
            self.counter,
            connect=self._connect,
            own_cpu=lambda: self.own_cpu,
            peaks=self.peaks,
        )
        self.order()
        self.loosened = False

    def _connect(self, endpoint: Endpoint) -> Worker:
        worker = Worker(self, endpoint)
        self.workers.append(worker)
        return worker

    @property
    def now(self) -> float:
        """The virtual time."""
        return self.loop.time()

    def order(
        self,
        batch: int = 16,
        window: int = 2,
        *,
        paused: bool = False,
        closed: str = "",
        trickle: int = 0,
        seconds: float | None = None,
        hold: float | None = None,
        room: int | None = None,
        last: int | None = None,
        ever: int | None = None,
    ) -> None:
        """New orders for all models; those named in `closed` (a letter each) have their own gate shut.

        `seconds` bounds the parts' length; None leaves the batch size alone in charge. `room`, `last` and `ever` bound
        their memory in bytes (None: nothing does); the pid of each model's worker is its place among the models, of a
        group the first one's.
        """
        self.loosened = True  # what is at a worker was sent under the orders before
        pids: dict[str, int] = {}
        lanes = {
            m.name: LaneOrders(
                m.name not in closed, batch, window, seconds, ever, pids.setdefault(m.group or m.name, place)
            )
            for place, m in enumerate(self.models, 1)
        }
        self.trickling = bool(trickle)
        self.orders = Orders(paused, None, lanes, self.trickling, trickle or 1, hold, room, last)
        self.dispatcher.set_orders(self.orders)

    def check_part(self, worker: Worker, rows: int) -> None:
        """A part that has just left must obey the orders of this moment."""
        orders = self.orders.lanes.get(worker.endpoint.model, LaneOrders())
        closed = self.orders.paused or not orders.open
        assert rows <= (max(orders.batch_size, self.orders.trickle_size) if self.trickling else orders.batch_size)
        assert not closed or self.trickling, "a part left through a closed gate"
        if not self.loosened:
            assert sum(worker.running) + rows <= orders.batch_size * orders.window
            assert len(worker.running) < orders.window

    def up(self, model: str = "a", seconds: float = 1.0) -> Worker:
        """A worker for this model is ready."""
        self.dispatcher.attach(Endpoint(model, "127.0.0.1", 1000 + len(self.workers), "key"))
        worker = self.workers[-1]
        worker.seconds = seconds
        return worker

    def ask(
        self,
        model: str | None = "a",
        rows: int = 1,
        *,
        name: str = "",
        within: float | None = None,
        endpoint: Inference = Inference.EMBEDDINGS,
        writing: float = 0.0,
        raw: bytes | None = None,
        client: str = "",
        priority: str | None = None,
        **options: object,
    ) -> Client:
        """A request for so many rows with a deadline `within` seconds; its answer takes `writing` s to write.

        It comes from `client`, with `priority` in its head.
        """
        texts = [f"{name or 'x'}{i}" for i in range(rows)]
        asked_for = {"query": "q", "documents": texts} if endpoint is Inference.RERANK else {"input": texts}
        body = raw or orjson.dumps({"model": model, **asked_for, **options})
        asker = Asker(client, priority, None if within is None else self.now + within)
        asked = Client(name, self.loop.create_task(self._request(endpoint, body, asker, writing, lambda: asked)))
        asked.deadline = asker.deadline
        asked.expected = fake_infinity.answer(endpoint.value, body, model=model or "")[1]
        return asked

    async def _request(
        self, endpoint: Inference, body: bytes, asker: Asker, writing: float, me: Callable[[], Client]
    ) -> Reply | Refusal:
        """What the HTTP side does for one request."""
        arrived = self.now
        place = None
        client = me()
        try:
            place = self.dispatcher.admit(len(body), asker)
            read = read_body(body, "application/json")
            client.job = self.dispatcher.submit(endpoint, read, place, arrived=arrived, asker=asker)
            outcome = await client.job.outcome
            client.told_at = self.now
            await asyncio.sleep(writing)
            return outcome
        except Refusal as refusal:
            return refusal
        finally:
            client.answered_at = self.now
            client.told_at = client.told_at or self.now
            if place is not None:
                self.dispatcher.end(place, client.job)

    async def settle(self) -> None:
        """Let everything happen that happens now, without time passing."""
        for _ in range(8):
            await asyncio.sleep(0)

    def check_lanes(self) -> None:
        """The order of each queue is sound, its sums are those of its jobs, and no worker idles while it need not."""
        for lane in self.dispatcher._lanes:
            lane.queue._fair.check_invariants()
            jobs = list(lane.queue)
            assert len(jobs) == len(lane.queue)
            assert lane.queue.inputs == sum(job.waiting_inputs for job in jobs)
            lengths: dict[Key, int] = {}
            for job in jobs:
                for piece in job.waiting if job.kind else ():
                    for at in range(piece.start, piece.stop):
                        key = Key(job.kind, length_class(job.plan.longest(at, at + 1)))
                        lengths[key] = lengths.get(key, 0) + 1
            assert {key: n for kind in lane.queue._lengths for key, n in lane.queue.nearest(Key(kind, 0))} == lengths
            assert lane.queue.bytes == sum(job.place.bytes for job in jobs)
            assert lane.queue.cost == pytest.approx(sum(job.cost for job in jobs))
            assert lane.inflight == sum(part.inputs for part in lane.parts)
            may_go = lane.ready and lane.open and not lane.suspended(self.now) and self.orders.cpu_hold is None
            assert not (may_go and jobs and not lane.parts), "work waits for nothing"
        hold = self.dispatcher._pump.throttle.hold
        assert hold._inflight <= self.dispatcher.totals.inflight_parts, "a part that ended is still paid for"

    def check_empty(self) -> None:
        """Nothing is left of any request."""
        total = self.dispatcher.totals
        assert (total.queued_requests, total.queued_inputs, total.queued_bytes) == (0, 0, 0)
        assert (total.inflight_parts, total.inflight_inputs, total.leases) == (0, 0, 0)
        assert self.dispatcher.reserved == (0, 0)
        hold = self.dispatcher._pump.throttle.hold
        assert (hold._inflight, hold._predicted, hold._reserved) == (0, 0, 0), "parts that ended are still paid for"


@contextlib.asynccontextmanager
async def world(*models: str, peaks: Peaks | None = None, **limits: float) -> AsyncIterator[World]:
    """A world with these models (default: one, "a") and limits, closed at the end."""
    made = World(
        tuple(ServedModel(name) for name in models) or (ServedModel("a"),),
        QueueLimits(**limits),  # type: ignore[arg-type]
        peaks,
    )
    try:
        yield made
    finally:
        await made.dispatcher.close()


async def all_of(*clients: Client) -> None:
    """Wait for their answers."""
    await asyncio.gather(*(client.task for client in clients))


def lost(sent: bool = True) -> Callable[[Sent], Reply | None]:
    """A script: every part is lost."""

    def script(_: Sent) -> Reply | None:
        raise WorkerLost("it is gone", sent=sent)

    return script
