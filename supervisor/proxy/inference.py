"""The inference endpoints over HTTP: from a request's head to the last byte of its answer.

Owns the order in which one request is handled, and the headers that are added to its answer. A request comes here from
aiohttp's server, or, if it came whole and plain, from its connection (`client_connection`): both walk the same steps.
"""

import asyncio
import random
from typing import Final

from aiohttp import web

from supervisor.core.body import read_body
from supervisor.core.payload import Inference
from supervisor.proxy import reading
from supervisor.proxy.admission import Place
from supervisor.proxy.answers import JSON, SERVER, Answer
from supervisor.proxy.callers import Callers
from supervisor.proxy.dispatcher import Dispatcher
from supervisor.proxy.jobs import Asker, Job, Reply
from supervisor.proxy.observer import ProxyObserver
from supervisor.proxy.plain_head import PlainHead
from supervisor.proxy.refusals import Refusal
from supervisor.proxy.refused_lately import RefusedLately

# nginx's code for a client that left before its answer was written.
CLIENT_GONE: Final = 499


class Visit:
    """One request on its way through: what it holds, what is told of it in the end. `arrived` on the loop's clock."""

    __slots__ = ("arrived", "endpoint", "job", "model", "place", "request_id")

    def __init__(self, endpoint: Inference, request_id: str, arrived: float) -> None:
        self.endpoint = endpoint
        self.request_id = request_id
        self.arrived = arrived
        self.place: Place | None = None
        self.job: Job | None = None
        self.model: str | None = None


class InferenceHandler:
    """Handles requests that run a model; `max_body_bytes` may change at any time."""

    def __init__(self, dispatcher: Dispatcher, observer: ProxyObserver, max_body_bytes: int, callers: Callers) -> None:
        self.max_body_bytes = max_body_bytes
        self.callers = callers
        self._dispatcher = dispatcher
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._jitter = random.Random()
        self._lately = RefusedLately()

    async def __call__(self, request: web.BaseRequest, endpoint: Inference, request_id: str) -> web.StreamResponse:
        """Answer one request.

        1. A place in the queue, before any of the body is read: a refusal must be cheap.
        2. The body, then its job.
        3. The outcome, written here to the last byte, since the request holds its worker until then.

        When the client leaves, aiohttp cancels this wherever it is: what of it waits is dropped.
        """
        visit = Visit(endpoint, request_id, self._loop.time())
        code = CLIENT_GONE
        try:
            try:
                asker = reading.asker(request.headers, self.callers.of(request), visit.arrived)
                place = self.admit(visit, reading.declared_size(request, self.max_body_bytes), asker)  # 1
                raw = await reading.body(request, place, self.max_body_bytes, asker.deadline)  # 2
                job = self.submit(visit, raw, request.headers.get("Content-Type"), asker)
                del raw
                response = self.answer(visit, await job.outcome)
            except Refusal as refusal:
                response = self.refuse(visit, refusal, unread=not request.content.is_eof())
            await response.prepare(request)  # 3
            code = response.status
            return response
        finally:
            self.end(visit, code)

    # -- its steps --------------------------------------------------------------------------------------------------

    def admit(self, visit: Visit, size: int, asker: Asker) -> Place:
        """A place in the queue for a body of `size` bytes; raises Refusal."""
        place = visit.place = self._dispatcher.admit(size, asker)
        return place

    def submit(self, visit: Visit, raw: bytes, content_type: str | None, asker: Asker) -> Job:
        """The request waits for its turn; raises Refusal."""
        assert visit.place is not None, "it was admitted"
        body = read_body(raw, content_type)
        job = self._dispatcher.submit(visit.endpoint, body, visit.place, arrived=visit.arrived, asker=asker)
        visit.job, visit.model = job, self._dispatcher.model_of(job)
        return job

    def answer(self, visit: Visit, outcome: Reply | Refusal) -> Answer:
        """What its client gets."""
        if isinstance(outcome, Refusal):
            return self.refuse(visit, outcome)
        fields = {"Server": SERVER, "x-request-id": visit.request_id, **outcome.headers}
        return self._finished(visit, Answer(outcome.status, outcome.body, fields))

    def refuse(self, visit: Visit, refusal: Refusal, *, unread: bool = False) -> Answer:
        """The answer to a request that the supervisor refuses; `unread`: some of its body has not come."""
        visit.model = visit.model or refusal.model
        return self._finished(visit, self.refusal(refusal, visit.request_id, unread=unread))

    def refusal(self, refusal: Refusal, request_id: str, *, unread: bool) -> Answer:
        """The answer to any request that the supervisor refuses."""
        self._observer.refused(str(refusal.reason))
        fields = {"Content-Type": JSON, "Server": SERVER, "x-request-id": request_id}
        fields.update(refusal.headers(self._jitter))
        response = Answer(refusal.status, refusal.body(), fields)
        if unread or self._dispatcher.leaving:
            response.force_close()  # the rest of the body would be taken for the next request
        return response

    def refused_lately(self, head: PlainHead, peer: str, now: float) -> bytes | None:
        """The whole answer to a request of which only the head was looked at, if its client was refused just now."""
        told = self._lately.told(head, peer, now)
        if told is None or self._dispatcher.leaving:
            return None
        self._observer.refused(str(told.reason))
        self._observer.request_done(head.endpoint.value, None, told.status, 0.0)
        return told.answer(reading.request_id(head.headers), self._jitter)

    def told(self, head: PlainHead, peer: str, visit: Visit, refusal: Refusal) -> None:
        """A client was refused by its head alone."""
        if visit.place is None:
            self._lately.tell(head, peer, refusal, self._loop.time())

    def end(self, visit: Visit, code: int) -> None:
        """Its answer is written to the last byte, or its client has left (CLIENT_GONE)."""
        if visit.place is not None:
            self._dispatcher.end(visit.place, visit.job)
        self._observer.request_done(visit.endpoint.value, visit.model, code, self._loop.time() - visit.arrived)

    def _finished(self, visit: Visit, response: Answer) -> Answer:
        if visit.job is not None and visit.job.first_sent is not None:
            response.fields["x-supervisor-queue-ms"] = f"{(visit.job.first_sent - visit.arrived) * 1000:.1f}"
        if self._dispatcher.leaving:
            response.force_close()
        return response
