"""The routes of the control plane and their answers: JSON in the contract's shape, errors with a reason for programs.

Asks `Control` for everything. A fault of the client is answered precisely, one of ours with 500 and a line in the log.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
import structlog
from aiohttp import web

from supervisor.admin import body, guard, page
from supervisor.admin.control import Control, Json
from supervisor.admin.events import EventStreams
from supervisor.errors import NotInTime, SupervisorError, UnknownModel
from supervisor.metrics import CONTENT_TYPE, Metrics

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HTTP_REASONS = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 503: "too_many_streams"}
_MODELS = "/api/v1/models/"


class Api:
    """The handlers of one listener."""

    def __init__(
        self, control: Control, metrics: Metrics, streams: EventStreams, listen_host: str, token: str | None = None
    ) -> None:
        self.token = token
        self._control = control
        self._metrics = metrics
        self._streams = streams
        self._listen_host = listen_host

    def application(self) -> web.Application:
        """The routes, behind the guard and the one place where errors become answers."""
        app = web.Application(middlewares=[errors_as_json, self._guarded], client_max_size=body.MAX_BYTES)
        app.add_routes(
            [
                web.get("/healthz", self.healthz),
                web.get("/readyz", self.readyz),
                web.get("/metrics", self.metrics),
                web.get("/", self.page),
                web.get("/api/v1/status", self.status),
                web.get("/api/v1/history", self.history),
                web.get("/api/v1/decisions", self.decisions),
                web.get("/api/v1/config", self.config),
                web.get("/api/v1/events", self._streams.serve, allow_head=False),
                web.post("/api/v1/pause", self.pause),
                web.post("/api/v1/resume", self.resume),
                web.post("/api/v1/drill", self.drill),
                web.post("/api/v1/reload", self.reload),
                web.get(_MODELS + r"{name:[\s\S]+}/logs", self.logs),
                # A name may hold anything, line ends included; the handler reads it from the raw path.
                web.post(_MODELS + r"{name:[\s\S]+}/{action:load|unload|restart}", self.model),
            ]
        )
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = guard.refusal(request.method, request.path, request.headers, self._listen_host, self.token)
        if refused is not None:
            return problem(*refused, {"WWW-Authenticate": "Bearer"} if refused[0] == 401 else None)
        return await handler(request)

    # -- looks -------------------------------------------------------------------------------------------------------

    async def healthz(self, _: web.Request) -> web.Response:
        """200 while the control loop ticks."""
        return _probe(*self._control.alive(), reason="not_ticking")

    async def readyz(self, _: web.Request) -> web.Response:
        """200 while requests are accepted, held ones included."""
        return _probe(*self._control.accepting(), reason="not_accepting")

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus' text format."""
        self._metrics.observe_status(self._control.status())
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def page(self, _: web.Request) -> web.Response:
        """The status for eyes."""
        text = page.render(self._control.status(), self._control.decisions(page.DECISIONS))
        return web.Response(text=text, content_type="text/html", headers=page.HEADERS)

    async def status(self, _: web.Request) -> web.Response:
        """The status document."""
        return answer(self._control.status())

    async def history(self, _: web.Request) -> web.Response:
        """One row a tick, oldest first."""
        return answer(self._control.history())

    async def decisions(self, request: web.Request) -> web.Response:
        """The last `?n=` decisions, oldest first."""
        return answer(self._control.decisions(body.decision_count(request.query)))

    async def config(self, _: web.Request) -> web.Response:
        """The effective configuration, without secrets."""
        return answer(self._control.config())

    async def logs(self, request: web.Request) -> web.Response:
        """The last `?n=` lines of a model's worker, or with `?after=POSITION` what it wrote since."""
        count, after = body.lines_wanted(request.query)
        name = model_name(request.raw_path, "logs")
        return answer(await asyncio.to_thread(self._control.logs, name, count, after))

    # -- acts --------------------------------------------------------------------------------------------------------

    async def model(self, request: web.Request) -> web.Response:
        """Load, unload or restart one model."""
        await body.read_object(request, ())
        action = request.match_info["action"]
        name = model_name(request.raw_path, action)
        acts = {"load": self._control.load, "unload": self._control.unload, "restart": self._control.restart}
        outcome = await acts[action](name)
        others = outcome.get("together_with")
        also = f", together with {', '.join(others)}" if others else ""
        return answer({"text": f"{name} is {outcome.get('state', 'as asked')}{also}", **outcome})

    async def pause(self, request: web.Request) -> web.Response:
        """Close the gate, for a time or until resumed."""
        seconds = body.pause_seconds(await body.read_object(request, ("seconds",)))
        outcome = await self._control.pause(seconds)
        limit = "until resumed" if seconds is None else f"for {seconds:g} s"
        return answer({"text": f"paused {limit}: requests are held", **outcome})

    async def resume(self, request: web.Request) -> web.Response:
        """End the operator's pause."""
        await body.read_object(request, ())
        outcome = await self._control.resume()
        still = f"the operator's pause is over; still paused: {outcome.get('reason')}"
        return answer({"text": still if outcome.get("paused") else "requests flow", **outcome})

    async def drill(self, request: web.Request) -> web.Response:
        """Replace readings for a time."""
        signals, seconds = body.drill(await body.read_object(request, ("signals", "seconds")))
        outcome = await self._control.drill(signals, seconds)
        readings = ", ".join(f"{name} reads {percent:g} %" for name, percent in signals.items())
        text = f"{readings} for {seconds:g} s; all else is real" if seconds else "no drill: all readings are real"
        return answer({"text": text, **outcome})

    async def reload(self, request: web.Request) -> web.Response:
        """Read the configuration file again."""
        await body.read_object(request, ())
        outcome = await self._control.reload()
        return answer({"text": "configuration reloaded", **outcome})


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error becomes `{"error": {"message", "reason"}}` with the status that the contract gives it."""
    try:
        return await handler(request)
    except body.BadRequest as error:
        return problem(400, "bad_request", str(error))
    except body.BodyTooSlow as error:
        return problem(408, "body_timeout", str(error))
    except UnknownModel as error:
        return problem(404, "unknown_model", str(error))
    except NotInTime as error:
        return problem(504, "not_in_time", str(error))
    except SupervisorError as error:
        faults = getattr(error, "faults", None)
        if faults is None:
            return problem(409, "refused", str(error))
        text = f"the configuration was refused and nothing changed; faults: {len(faults)}"
        return problem(409, "bad_config", text, faults=[str(fault) for fault in faults])
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        text = f"{request.method} is not possible here; allowed: {allowed}"
        return problem(405, "method_not_allowed", text, {"Allow": allowed})
    except web.HTTPException as error:
        reason = _HTTP_REASONS.get(error.status, "bad_request")
        texts = {404: f"there is nothing at {request.path}", 413: f"the body is larger than {body.MAX_BYTES} bytes"}
        return problem(error.status, reason, texts.get(error.status) or error.text or error.reason)
    except ConnectionError:
        raise  # the client left while it was answered: nobody to tell
    except Exception:  # the edge: whatever goes wrong here is told, logged and harms nobody else
        log.exception("admin_request_failed", method=request.method, path=request.path)
        return problem(500, "internal", "this went wrong inside the supervisor; its log has the details")


def model_name(raw_path: str, action: str) -> str:
    """The name in `/api/v1/models/NAME/ACTION`, byte for byte as the client wrote it, slashes raw or as %2F.

    From the raw path, as a parsed one would have `%25` or dots in a name changed. Raises UnknownModel for what is not
    UTF-8.
    """
    path = raw_path.partition("?")[0]
    quoted = path[path.index(_MODELS) + len(_MODELS) : -len(action) - 1]
    try:
        return unquote_to_bytes(quoted.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError as error:
        raise UnknownModel(f"no model is named {quoted!r}: that is not UTF-8") from error


def answer(data: Json | Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    text = orjson.dumps(data, default=str, option=orjson.OPT_NON_STR_KEYS)
    return web.Response(
        body=text,
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})},
    )


def problem(
    status: int, reason: str, message: str, headers: Mapping[str, str] | None = None, **more: object
) -> web.Response:
    """An error: `reason` for programs, `message` for people."""
    return answer({"error": {"message": message, "reason": reason, **more}}, status, headers)


def _probe(good: bool, why: str, *, reason: str) -> web.Response:
    return answer({"status": "ok", "text": why}) if good else problem(503, reason, why)
