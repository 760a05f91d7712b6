"""The proxy over loopback: whose turn it is by what a request's head says, what may share a part, what is foretold."""

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.support.proxying import Answer, Setup, eventually, expected, head, proxied


async def queued(p: Setup, *requests: Coroutine[Any, Any, Answer]) -> list[asyncio.Task[Answer]]:
    """These requests wait, in this order."""
    tasks = []
    for request in requests:
        waiting = p.dispatcher.totals.queued_requests
        tasks.append(asyncio.create_task(request))
        await eventually(lambda waiting=waiting: p.dispatcher.totals.queued_requests == waiting + 1)
    return tasks


async def order(p: Setup, *tasks: asyncio.Task[Answer]) -> list[str]:
    """The gate opens: the first inputs of the parts, one request at a time, once all are answered well."""
    p.order(batch=1, window=1)
    assert {answer.status for answer in await asyncio.gather(*tasks)} == {200}
    return [rows[0] for rows in p.rows]


# -- x-priority -----------------------------------------------------------------------------------------------------


async def test_the_priority_in_the_head_decides_the_turn() -> None:
    """Three single inputs of one client leave by their class and not as they came; case and spaces are nothing."""
    async with proxied() as p:
        p.order(paused=True)
        tasks = await queued(
            p,
            p.embed("bulk", x_priority="bulk"),
            p.embed("normal", x_priority=" Normal "),
            p.embed("interactive", x_priority="INTERACTIVE"),
        )
        assert await order(p, *tasks) == ["interactive", "normal", "bulk"]
        assert all("x-priority" not in seen.headers for seen in p.fake.seen), "it is not the worker's"


@pytest.mark.parametrize("word", ["", "urgent", "0", "interactive, bulk"])
async def test_a_priority_that_is_none_counts_as_not_given(word: str) -> None:
    """The size decides then, as without the header: nobody is refused for a word."""
    async with proxied() as p:
        p.order(paused=True)
        tasks = await queued(p, p.embed(*"12345", x_priority=word), p.embed("line", x_priority=word))
        assert await order(p, *tasks) == ["line", *"12345"]


# -- x-request-timeout-ms -------------------------------------------------------------------------------------------


async def test_a_deadline_that_passes_in_the_queue_is_a_504_and_costs_nothing() -> None:
    """The place is free again, and the worker never hears of the request."""
    async with proxied() as p:
        p.order(paused=True)
        answer = await p.embed("late", x_request_timeout_ms="60.5")
        assert answer.status == 504
        assert answer.headers["x-supervisor-reason"] == "deadline_exceeded"
        assert "retry-after-ms" not in answer.headers
        assert "x-supervisor-queue-ms" not in answer.headers, "it never left"
        assert p.dispatcher.reserved == (0, 0)
        p.order()
        assert (await p.embed("next")).status == 200
        assert p.rows == [["next"]]


async def test_one_deadline_in_a_shared_part_leaves_the_others_theirs() -> None:
    """Who left his time at the worker gets 504, those who were sent with him get their own answers."""
    async with proxied() as p:
        p.order(batch=8, window=1, paused=True)
        tasks = await queued(p, p.embed("a"), p.embed("hasty", x_request_timeout_ms="1000"), p.embed("b"))
        p.fake.free.clear()
        p.order(batch=8, window=1)
        assert (await tasks[1]).status == 504
        p.fake.free.set()
        for text, task in (("a", tasks[0]), ("b", tasks[2])):
            assert (await task).json["data"] == embedding(text)
        assert p.rows == [["a", "hasty", "b"]]


def embedding(text: str) -> Any:
    """The rows of the answer to this input alone."""
    return orjson.loads(expected("embeddings", {"model": "m", "input": [text]}))["data"]


# -- who asks -------------------------------------------------------------------------------------------------------


def post(text: str, **headers: str) -> bytes:
    """A request for one input on a connection of its own."""
    body = orjson.dumps({"model": "m", "input": [text]})
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    start = "POST /embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{start}{lines}Content-Length: {len(body)}\r\n\r\n".encode(errors="surrogateescape") + body


async def asks(p: Setup, text: str, address: str = "127.0.0.1", **headers: str) -> Answer:
    """One request from this address."""
    async with p.raw(address) as (reader, writer):
        writer.write(post(text, **headers))
        status, received = await head(reader)
        return Answer(status, received, await reader.read())


@pytest.mark.parametrize(
    ("crowd", "single", "apart"),
    [
        ({"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}, True),
        ({"Authorization": "Bearer one"}, {}, True),
        ({}, {"address": "127.0.0.2"}, True),
        ({"Authorization": "Bearer one"}, {"Authorization": "Bearer one", "address": "127.0.0.2"}, False),
        ({}, {}, False),
    ],
)
async def test_clients_are_told_apart_by_key_or_else_by_address(
    crowd: dict[str, str], single: dict[str, str], apart: bool
) -> None:
    """Another client's line leaves second, the same client's last: one key is one client, wherever it comes from."""
    async with proxied() as p:
        p.order(paused=True)
        tasks = await queued(p, *(asks(p, f"crowd{i}", **crowd) for i in range(5)), asks(p, "single", **single))
        assert (await order(p, *tasks)).index("single") == (1 if apart else 5)
        assert (len({asker.client for asker in p.dispatcher.askers}) == 2) is apart


async def test_of_a_key_only_a_hash_is_kept() -> None:
    """What tells clients apart is no secret, so it can stand in a dump."""
    async with proxied() as p:
        assert (await asks(p, "a", Authorization="Bearer secret-key")).status == 200
        (asker,) = p.dispatcher.askers
        assert "secret-key" not in repr(asker)
        assert len(bytes.fromhex(asker.client)) == 8


async def test_keys_that_are_no_text_are_keys() -> None:
    """Bytes that are no UTF-8 are a client like any other, and another for other bytes."""
    async with proxied() as p:
        for key in ("\udce4", "\udcff"):
            assert (await asks(p, "a", Authorization=key)).status == 200
        first, second = p.dispatcher.askers
        assert first.client != second.client


# -- what shares a part ---------------------------------------------------------------------------------------------


async def test_an_origin_or_another_content_type_shares_with_nobody() -> None:
    """Their answers may differ from their neighbours' by more than rows: they go alone, their headers with them."""
    async with proxied() as p:
        p.order(batch=16, window=1, paused=True)
        charset = "application/json; charset=utf-8"
        texts = ["a", "from a page", "b", "charset", "c"]
        heads = [{}, {"Origin": "https://x.example"}, {}, {"Content_Type": charset}, {}]
        tasks = await queued(p, *(p.embed(text, **h) for text, h in zip(texts, heads, strict=True)))
        p.order(batch=16, window=1)
        for text, task in zip(texts, tasks, strict=True):
            answer = await task
            assert answer.status == 200
            assert answer.json["data"] == embedding(text)
        seen = {tuple(rows): request.headers for rows, request in zip(p.rows, p.fake.seen, strict=True)}
        assert sorted(seen) == [("a", "b", "c"), ("charset",), ("from a page",)]
        assert {rows: headers.get("origin") for rows, headers in seen.items()} == {
            ("a", "b", "c"): None,
            ("charset",): None,
            ("from a page",): "https://x.example",
        }
        assert {rows: headers["content-type"] for rows, headers in seen.items()} == {
            ("a", "b", "c"): "application/json",
            ("charset",): charset,
            ("from a page",): "application/json",
        }


async def test_what_shares_a_part_is_alike_for_every_client() -> None:
    """Keys, ids and addresses keep nobody apart, and everybody gets his own id, rows and usage."""
    async with proxied() as p:
        p.order(batch=16, window=1, paused=True)
        tasks = await queued(
            p,
            *(p.embed(f"text {i}", Authorization=f"Bearer {i}", x_request_id=f"r{i}", X_Other="o") for i in range(4)),
            asks(p, "text 4", "127.0.0.3"),
        )
        p.order(batch=16, window=1)
        answers = await asyncio.gather(*tasks)
        assert sorted(map(len, p.rows)) == [5]
        assert [answer.headers["x-request-id"] for answer in answers[:4]] == [f"r{i}" for i in range(4)]
        assert [answer.json["data"] for answer in answers] == [embedding(f"text {i}") for i in range(5)]
        assert {answer.json["usage"]["total_tokens"] for answer in answers} == {len("text 0")}
        assert len({answer.json["id"] for answer in answers}) == 5


async def test_a_bad_neighbours_refusal_is_only_his() -> None:
    """A part that the worker refuses goes again, each request alone, and each gets what it would have got."""
    async with proxied() as p:
        p.order(batch=16, window=1, paused=True)

        async def refuse(request: web.BaseRequest, body: bytes) -> web.Response | None:
            return web.Response(status=400, text="bad: secret of mine") if b"bad" in body else None

        p.fake.special = refuse
        tasks = await queued(p, p.embed("a"), p.embed("bad"), p.embed("b"))
        p.order(batch=16, window=1)
        answers = await asyncio.gather(*tasks)
        assert [answer.status for answer in answers] == [200, 400, 200]
        assert answers[1].body == b"bad: secret of mine"
        assert [answers[i].body for i in (0, 2)] == [
            expected("embeddings", {"model": "m", "input": [text]}) for text in ("a", "b")
        ]


# -- foretold -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def behind_a_crowd(**limits: Any) -> AsyncIterator[Setup]:
    """A worker whose pace is known, at least 20 ms a part, and a queue of a dozen of them behind one that runs."""
    async with proxied(**limits) as p:

        async def slowly(request: web.BaseRequest, body: bytes) -> None:
            await asyncio.sleep(0.02)

        p.fake.special = slowly
        p.order(batch=1, window=1)
        for i in range(4):
            await p.embed(f"warm {i}")
        p.fake.free.clear()
        tasks = [asyncio.create_task(p.embed("running"))]
        await eventually(lambda: p.fake.running)
        tasks += await queued(p, *(p.embed(f"crowd {i}") for i in range(12)))
        yield p
        p.fake.free.set()
        assert {answer.status for answer in await asyncio.gather(*tasks)} == {200}


async def test_a_wait_that_is_foretold_is_refused_and_not_to_be_tried_again_at_once() -> None:
    """429 with the reason; the client's library is told to leave it to its caller."""
    async with behind_a_crowd() as p:
        answer = await p.embed("late", x_request_timeout_ms="100")
        assert answer.status == 429
        assert answer.headers["x-supervisor-reason"] == "predicted_wait"
        assert answer.headers["x-should-retry"] == "false"
        assert answer.json["error"]["type"] == "rate_limit_error"
        assert "x-request-timeout-ms leaves 0.1 s" in answer.json["error"]["message"]
        assert p.counter.reasons == ["predicted_wait"]
    assert ["late"] not in p.rows


async def test_other_refusals_may_be_tried_again() -> None:
    """A full queue is over in a moment: the client's library may come back by itself, after the time it is told."""
    async with proxied(max_requests=1) as p:
        p.order(paused=True)
        tasks = await queued(p, p.embed("a"))
        answer = await p.embed("b")
        assert answer.status == 429
        assert "x-should-retry" not in answer.headers
        assert int(answer.headers["retry-after-ms"]) >= 1000
        p.order()
        assert (await tasks[0]).status == 200


async def test_those_refused_together_do_not_come_back_together() -> None:
    """Retry-After in whole seconds, retry-after-ms to the millisecond: the same moment, and another for each."""
    async with behind_a_crowd() as p:
        answers = [await p.embed("late", x_request_timeout_ms="20") for _ in range(20)]
        assert {answer.headers["x-supervisor-reason"] for answer in answers} == {"predicted_wait"}
        waits = [int(answer.headers["retry-after-ms"]) for answer in answers]
        assert [math.ceil(wait / 1000) for wait in waits] == [int(a.headers["retry-after"]) for a in answers]
        assert len(set(waits)) > 15
        assert min(waits) >= 1000
        assert max(waits) - min(waits) > 100


async def test_a_wait_that_is_foretold_is_refused_before_any_byte_of_the_body() -> None:
    """The head alone is answered, nothing is reserved, and the connection ends, since the body is still to come."""
    async with behind_a_crowd() as p:
        before = p.dispatcher.reserved
        async with p.raw() as (reader, writer):
            whole = post("late", **{"x-request-timeout-ms": "20"})
            writer.write(whole[: whole.index(b"\r\n\r\n") + 4])
            status, headers = await head(reader)
        assert status == 429
        assert headers["x-supervisor-reason"] == "predicted_wait"
        assert headers["connection"] == "close"
        assert p.dispatcher.reserved == before


async def test_who_asks_first_is_refused_without_a_100() -> None:
    """Expect: 100-continue: the client never sends the body of a request that is refused by its head."""
    async with behind_a_crowd() as p, p.raw() as (reader, writer):
        whole = post("late", **{"x-request-timeout-ms": "20", "Expect": "100-continue"})
        writer.write(whole[: whole.index(b"\r\n\r\n") + 4])
        assert (await head(reader))[0] == 429


async def test_another_clients_line_is_not_refused_for_the_crowd() -> None:
    """The forecast knows the fair order: who has nothing waiting is soon served."""
    async with behind_a_crowd() as p:
        task = asyncio.create_task(p.embed("line", Authorization="Bearer other", x_request_timeout_ms="60000"))
        refused = await p.embed("crowd", x_request_timeout_ms="100")
        assert refused.headers["x-supervisor-reason"] == "predicted_wait"
        await eventually(lambda: p.dispatcher.totals.queued_requests == 13)
        p.fake.free.set()
        assert (await task).status == 200
    assert p.rows.index(["line"]) <= 7
