"""The inference endpoints over HTTP: from a request's head to the last byte of its answer.

Owns the order in which one request is handled, and the headers that are added to its answer.
"""

import asyncio
import random
from typing import Final

from aiohttp import web

from supervisor.core.payload import Inference, read_body
from supervisor.proxy import reading
from supervisor.proxy.answers import Answer
from supervisor.proxy.dispatcher import Dispatcher
from supervisor.proxy.jobs import Reply
from supervisor.proxy.observer import ProxyObserver
from supervisor.proxy.refusals import Refusal

SERVER: Final = "infinity-supervisor"
JSON: Final = "application/json"
# nginx's code for a client that left before its answer was written.
CLIENT_GONE: Final = 499


class InferenceHandler:
    """Handles requests that run a model; `max_body_bytes` may change at any time."""

    def __init__(self, dispatcher: Dispatcher, observer: ProxyObserver, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self._dispatcher = dispatcher
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._jitter = random.Random()

    async def __call__(self, request: web.BaseRequest, endpoint: Inference, request_id: str) -> web.StreamResponse:
        """Answer one request.

        1. A place in the queue, before any of the body is read: a refusal must be cheap.
        2. The body, then its job.
        3. The outcome, written here to the last byte, since the request holds its worker until then.

        When the client leaves, aiohttp cancels this wherever it is: what of it waits is dropped.
        """
        arrived = self._loop.time()
        place = job = model = None
        code = CLIENT_GONE
        try:
            try:
                asker = reading.asker(request, arrived)
                place = self._dispatcher.admit(reading.declared_size(request, self.max_body_bytes), asker)  # 1
                raw = await reading.body(request, place, self.max_body_bytes, asker.deadline)  # 2
                body = read_body(raw, request.headers.get("Content-Type"))
                job = self._dispatcher.submit(endpoint, body, place, arrived=arrived, asker=asker)
                del raw
                model = self._dispatcher.model_of(job)
                outcome = await job.outcome
                if isinstance(outcome, Refusal):
                    raise outcome
                response = answer(outcome, request_id)
                if self._dispatcher.draining:
                    response.force_close()
            except Refusal as refusal:
                model = model or refusal.model
                response = self.refuse(request, refusal, request_id)
            if job is not None and job.first_sent is not None:
                response.fields["x-supervisor-queue-ms"] = f"{(job.first_sent - arrived) * 1000:.1f}"
            await response.prepare(request)  # 3
            code = response.status
            return response
        finally:
            if place is not None:
                self._dispatcher.end(place, job)
            self._observer.request_done(endpoint.value, model, code, self._loop.time() - arrived)

    def refuse(self, request: web.BaseRequest, refusal: Refusal, request_id: str) -> Answer:
        """The answer to a request that the supervisor refuses."""
        self._observer.refused(str(refusal.reason))
        headers = {"Content-Type": JSON, "Server": SERVER, "x-request-id": request_id}
        headers.update(refusal.headers(self._jitter))
        response = Answer(refusal.status, refusal.body(), headers)
        if not request.content.is_eof() or self._dispatcher.draining:
            response.force_close()  # the rest of the body would be taken for the next request
        return response


def answer(reply: Reply, request_id: str) -> Answer:
    """A worker's answer for the client."""
    return Answer(reply.status, reply.body, {"Server": SERVER, "x-request-id": request_id, **reply.headers})
