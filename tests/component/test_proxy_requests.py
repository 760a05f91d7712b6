"""The proxy over loopback: what reaches a worker, what comes back, and what is answered without one."""

import asyncio
import gzip
from collections.abc import AsyncIterator

import orjson
import pytest
from aiohttp import web

from supervisor.core.model import ModelState
from supervisor.errors import StartError
from supervisor.proxy.dispatcher import Dispatcher, QueueLimits, ServedModel
from supervisor.proxy.server import ModelEntry, ProxyServer
from tests.support.proxying import eventually, expected, proxied

TWO = (ServedModel("m"), ServedModel("other"))


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize(
    ("endpoint", "request_"),
    [
        ("embeddings", {"model": "m", "input": [f"text {i}" for i in range(100)]}),
        ("embeddings", {"model": "m", "input": "one", "encoding_format": "base64"}),
        ("rerank", {"model": "m", "query": "q", "documents": [f"d{i}" for i in range(50)], "top_n": 9}),
        ("classify", {"model": "m", "input": ["a", "b"] * 20}),
    ],
)
async def test_answers_are_the_workers(prefix: str, endpoint: str, request_: dict[str, object]) -> None:
    """With and without /v1, split or not, byte for byte, with a length that is right."""
    async with proxied() as p:
        answer = await p.request("POST", f"{prefix}/{endpoint}", request_)
        assert answer.status == 200
        assert answer.body == expected(endpoint, request_)
        assert int(answer.headers["content-length"]) == len(answer.body)
        assert answer.headers["content-type"] == "application/json"
        assert {seen.path for seen in p.fake.seen} == {f"/{endpoint}"}
        assert p.counter.done == [(endpoint, "m", 200)]


async def test_a_small_request_reaches_the_worker_as_it_was_written() -> None:
    """Same bytes, our key instead of the client's, no length of ours but the right one."""
    async with proxied() as p:
        body = b'{ "input" : ["a"],\n "model":"m", "extra": 1.0 }'
        answer = await p.request("POST", "/embeddings?x=1", body, Authorization="Bearer client", Cookie="a=b")
        assert answer.status == 200
        (seen,) = p.fake.seen
        assert seen.body == body
        assert seen.headers["authorization"] == "Bearer worker-key"
        assert "cookie" not in seen.headers
        assert seen.headers["content-length"] == str(len(body))


async def test_an_alias_is_served() -> None:
    """The worker hears the canonical name."""
    async with proxied() as p:
        assert (await p.request("POST", "/embeddings", {"model": "nick", "input": "a"})).status == 200
        assert orjson.loads(p.fake.seen[0].body)["model"] == "m"
        assert p.counter.done == [("embeddings", "m", 200)]


async def test_what_cant_be_parsed_goes_whole_and_unchanged() -> None:
    """A compressed body stays compressed, NaN stays NaN, an empty body stays empty; the refusal is the worker's."""
    async with proxied() as p:
        bodies = [gzip.compress(b'{"input": "a"}'), b'{"model": "m", "input": ["a"], "x": NaN}', b"", b"hello", b"[]"]
        statuses = [(await p.request("POST", "/embeddings", body)).status for body in bodies]
        assert statuses == [422, 200, 422, 422, 422]
        assert [seen.body for seen in p.fake.seen] == bodies
        await p.request("POST", "/embeddings", bodies[0], Content_Encoding="gzip")
        assert p.fake.seen[-1].body == bodies[0]


async def test_a_body_without_json_type_goes_as_it_is() -> None:
    """Infinity judges content types; ours is not made up where the client gave none."""
    async with proxied() as p:
        await p.request("POST", "/embeddings", b'{"input": "a"}', Content_Type="text/plain")
        assert p.fake.seen[0].headers["content-type"] == "text/plain"
        async with p.raw() as (reader, writer):
            writer.write(b"POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            await reader.read()
        assert "content-type" not in p.fake.seen[1].headers


@pytest.mark.parametrize("models", [TWO[:1], TWO])
async def test_unknown_models_are_refused_in_infinitys_words(models: tuple[ServedModel, ...]) -> None:
    """400 with OpenAI's shape as Infinity writes it, and our reason in a header; no worker is asked."""
    async with proxied(models=models) as p:
        answer = await p.request("POST", "/embeddings", {"model": "zz", "input": "a"})
        assert answer.status == 400
        names = [model.name for model in models]
        message = f"Invalid model: Engine for model name `zz` not found. Available model names are {names}"
        assert answer.json == {"error": {"message": message, "type": None, "param": None, "code": 400}}
        assert answer.headers["x-supervisor-reason"] == "unknown_model"
        assert p.fake.seen == []
        assert p.counter.done == [("embeddings", None, 400)]
        assert p.counter.reasons == ["unknown_model"]


async def test_a_missing_model_means_the_only_one() -> None:
    """With one model it is that; with several, Infinity's 400."""
    async with proxied() as p:
        assert (await p.request("POST", "/rerank", {"query": "q", "documents": ["a"]})).status == 200
    async with proxied(models=TWO) as p:
        answer = await p.request("POST", "/rerank", {"query": "q", "documents": ["a"]})
        assert answer.status == 400
        assert "`default/not-specified` not found" in answer.json["error"]["message"]


async def test_request_ids_are_echoed_or_made() -> None:
    """A fit one comes back; a long, foreign or missing one is replaced."""
    async with proxied() as p:
        assert (await p.embed("a", x_request_id="abc-1/2")).headers["x-request-id"] == "abc-1/2"
        for bad in ("x" * 129, "a b", "ä", ""):
            made = (await p.embed("a", x_request_id=bad)).headers["x-request-id"]
            assert made != bad
            assert len(made) == 32
        assert (await p.request("GET", "/health", x_request_id="h")).headers["x-request-id"] == "h"
        assert (await p.request("GET", "/nope", x_request_id="n")).headers["x-request-id"] == "n"
        refused = await p.request("POST", "/embeddings", {"model": "zz"}, x_request_id="r")
        assert refused.headers["x-request-id"] == "r"


async def test_the_wait_is_told() -> None:
    """x-supervisor-queue-ms is how long the request was held."""
    async with proxied() as p:
        p.order(paused=True)
        task = asyncio.create_task(p.embed("a"))
        await eventually(lambda: p.dispatcher.totals.queued_requests == 1)
        await asyncio.sleep(0.2)
        p.order()
        assert float((await task).headers["x-supervisor-queue-ms"]) >= 190
        assert float((await p.embed("a")).headers["x-supervisor-queue-ms"]) < 190


@pytest.mark.parametrize("value", ["0", "-5", "soon", "nan", "1e12", "", "inf"])
async def test_a_bad_deadline_is_refused(value: str) -> None:
    """A time-out that can't be meant is not guessed."""
    async with proxied() as p:
        answer = await p.embed("a", x_request_timeout_ms=value)
        assert answer.status == 400
        assert answer.json["error"]["param"] == "x-request-timeout-ms"
        assert answer.headers["x-supervisor-reason"] == "bad_request"


async def test_the_clients_deadline_is_a_504() -> None:
    """While the worker computes on, the client is told that its time is over."""
    async with proxied() as p:
        p.fake.free.clear()
        answer = await p.embed("a", x_request_timeout_ms="150")
        assert answer.status == 504
        assert answer.json["error"]["code"] == "deadline_exceeded"
        assert "retry-after" not in answer.headers
        assert p.dispatcher.totals.inflight_parts == 1
        p.fake.free.set()
        await eventually(lambda: p.dispatcher.totals.inflight_parts == 0)
        assert (await p.embed("b")).status == 200


async def test_refusals_with_503_say_when_to_come_back() -> None:
    """A model that failed: the reason in words, OpenAI's shape, whole seconds with jitter."""
    async with proxied(attached=False) as p:
        p.dispatcher.unavailable("m", "no such folder", None)
        answers = [await p.embed("a") for _ in range(20)]
        assert {answer.status for answer in answers} == {503}
        assert set(answers[0].json["error"]) == {"message", "type", "param", "code"}
        assert "no such folder" in answers[0].json["error"]["message"]
        assert len({int(answer.headers["retry-after"]) for answer in answers}) > 1
        assert p.counter.done[0] == ("embeddings", "m", 503)


async def test_infinitys_refusal_of_a_part_is_the_answer() -> None:
    """Status, type and body of the worker's error, whatever of the request was done."""
    async with proxied() as p:
        p.order(batch=2, window=1)

        async def refuse(request: web.BaseRequest, body: bytes) -> web.Response | None:
            if b"t14" in body:  # t10 to t19 are longer and go first
                return web.Response(status=500, text="Internal Server Error")
            return None

        p.fake.special = refuse
        answer = await p.embed(*(f"t{i}" for i in range(20)))
        assert (answer.status, answer.body) == (500, b"Internal Server Error")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert "x-supervisor-reason" not in answer.headers
        assert len(p.fake.seen) == 3


async def test_cors_is_infinitys() -> None:
    """The origin reaches the worker, and what it allows reaches the browser."""
    async with proxied() as p:

        async def allow(request: web.BaseRequest, body: bytes) -> web.Response:
            return web.Response(body=b"{}", headers={"Access-Control-Allow-Origin": request.headers["Origin"]})

        p.fake.special = allow
        answer = await p.embed("a", Origin="https://x.example")
        assert answer.headers["access-control-allow-origin"] == "https://x.example"


# -- answered here --------------------------------------------------------------------------------------------------


async def test_models_and_health_ask_no_worker() -> None:
    """Both work without any worker, wake none, and look like Infinity's."""
    async with proxied(attached=False) as p:
        p.entries[0] = ModelEntry("m", ModelState.STOPPED, "torch", 32, frozenset({"rerank", "embed"}))
        health = await p.request("GET", "/health")
        assert health.status == 200
        assert isinstance(health.json["unix"], float)
        for path in ("/models", "/v1/models"):
            listed = (await p.request("GET", path)).json
            assert listed["object"] == "list"
            (entry,) = listed["data"]
            created = entry.pop("created")
            assert isinstance(created, int)
            assert entry == {
                "id": "m",
                "stats": {"queue_fraction": 0.0, "queue_absolute": 0, "results_pending": 0, "batch_size": 32},
                "object": "model",
                "owned_by": "infinity",
                "backend": "torch",
                "capabilities": ["embed", "rerank"],
                "state": "stopped",
            }
        assert p.demanded == []


@pytest.mark.parametrize("path", ["/health", "/models", "/v1/models"])
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
async def test_other_methods_there_are_refused_as_infinity_does(path: str, method: str) -> None:
    """405 with the method that is allowed."""
    async with proxied(attached=False) as p:
        answer = await p.request(method, path)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET"
        assert answer.body == (b"" if method == "HEAD" else b'{"detail":"Method Not Allowed"}')


async def test_draining_is_told_to_everybody() -> None:
    """503 for new requests and probes, connections are closed after it; those inside are answered."""
    async with proxied() as p:
        p.fake.free.clear()
        inside = asyncio.create_task(p.embed("a"))
        await eventually(lambda: p.fake.seen)
        p.dispatcher.begin_drain()
        for answer in (await p.embed("b"), await p.request("GET", "/health")):
            assert answer.status == 503
            assert answer.headers["x-supervisor-reason"] == "draining"
            assert answer.headers["connection"] == "close"
            assert int(answer.headers["retry-after"]) >= 1
        p.fake.free.set()
        assert (await inside).status == 200
        assert await p.dispatcher.finish(5)


async def test_a_port_in_use_is_one_clear_line() -> None:
    """The daemon must be able to say what is wrong."""
    async with proxied() as p:
        second = ProxyServer(Dispatcher((), QueueLimits(), print), f"127.0.0.1:{p.server.port}", 1, list)
        with pytest.raises(StartError, match=r"proxy.listen 127.0.0.1:\d+: .*in use"):
            await second.start()
        await second.close()


async def test_stop_accepting_lets_open_connections_go_on() -> None:
    """New connections are refused, the answer to a request that is in is written."""
    async with proxied() as p:
        p.fake.free.clear()
        inside = asyncio.create_task(p.embed("a"))
        await eventually(lambda: p.fake.seen)
        port = p.server.port
        await p.server.stop_accepting()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)
        p.fake.free.set()
        assert (await inside).status == 200


# -- passed through -------------------------------------------------------------------------------------------------


async def test_other_paths_go_through_as_they_are() -> None:
    """Method, path, query, body and headers; the worker's key; hop-by-hop headers stay on their hop."""
    async with proxied() as p:

        async def echo(request: web.BaseRequest, body: bytes) -> web.Response:
            headers = {"X-Own": "1", "Keep-Alive": "timeout=9"}
            return web.Response(status=418, reason="Short", body=body, headers=headers)

        p.fake.special = echo
        answer = await p.request(
            "PUT", "/v1/some%2Fpath?a=%20b", b"data", Authorization="Bearer c", Connection="x-hop", X_Hop="1", X_End="2"
        )
        assert (answer.status, answer.body) == (418, b"data")
        assert answer.headers["x-own"] == "1"
        assert "keep-alive" not in answer.headers
        (seen,) = p.fake.seen
        assert (seen.method, seen.path) == ("PUT", "/v1/some%2Fpath?a=%20b")
        assert seen.headers["authorization"] == "Bearer worker-key"
        assert seen.headers["x-end"] == "2"
        assert "x-hop" not in seen.headers
        assert seen.headers["host"] == f"127.0.0.1:{p.server.port}"
        assert p.counter.done == [("other", None, 418)]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
async def test_inference_paths_with_other_methods_go_through(method: str) -> None:
    """A CORS preflight, or Infinity's own 405."""
    async with proxied() as p:
        assert (await p.request(method, "/embeddings")).status == 404  # the fake's
        assert p.fake.seen[0].method == method


async def test_a_stream_is_passed_while_it_comes() -> None:
    """Nothing is collected: the first half arrives while the second does not exist yet."""
    async with proxied() as p:
        go_on = asyncio.Event()

        async def halves(request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"first")
            await go_on.wait()
            await response.write(b"second")
            await response.write_eof()
            return response

        p.fake.special = halves
        async with p.session.get(p.url + "/stream") as response:
            async with asyncio.timeout(5):
                assert await response.content.readany() == b"first"
            go_on.set()
            assert await response.content.read() == b"second"


async def test_a_body_is_streamed_through_and_bounded() -> None:
    """In chunks, without a length; beyond max_body_bytes it is cut off."""
    async with proxied(max_body_bytes=1000) as p:

        async def chunks(n: int) -> AsyncIterator[bytes]:
            for _ in range(n):
                yield b"x" * 100

        assert (await p.request("POST", "/other", chunks(5))).status == 404
        assert p.fake.seen[0].body == b"x" * 500
        assert (await p.request("POST", "/other", b"x" * 1001)).status == 413
        assert (await p.request("POST", "/other", chunks(20))).status == 413


async def test_passing_through_never_wakes_a_model() -> None:
    """Without a worker it is 503; one that is starting is waited for."""
    async with proxied(attached=False) as p:
        answer = await p.request("GET", "/docs")
        assert answer.status == 503
        assert answer.headers["x-supervisor-reason"] == "worker_unavailable"
        assert p.demanded == []
        p.entries[0] = ModelEntry("m", ModelState.STARTING, "debugengine", 32)
        waiting = asyncio.create_task(p.request("GET", "/docs"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        p.attach()
        assert (await waiting).status == 404
        assert p.fake.seen[0].path == "/docs"


async def test_a_worker_lost_in_mid_stream_is_no_whole_answer() -> None:
    """The client must see that the body is not complete."""
    async with proxied() as p:

        async def half(request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"first")
            assert request.transport is not None
            request.transport.abort()
            return response

        p.fake.special = half
        async with p.raw() as (reader, writer):
            writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            try:
                async with asyncio.timeout(5):
                    while chunk := await reader.read(1000):
                        received += chunk
            except ConnectionError:
                pass
        assert not received.endswith(b"0\r\n\r\n")
        await p.fake.die()
        lost = await p.request("GET", "/stream")
        assert lost.status == 503
        await p.fake.start()
