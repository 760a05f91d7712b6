"""Refusals that hold for a moment: whom they are told again, and for how long; nobody can tell them from others."""

import asyncio
import random

import pytest

from supervisor.core.payload import Inference
from supervisor.proxy.plain_head import PlainHead
from supervisor.proxy.refusals import Reason, Refusal
from supervisor.proxy.refused_lately import LONGEST, REMEMBERED, RefusedLately
from tests.component.test_proxy_turns import behind_a_crowd, post
from tests.support.proxying import Answer, eventually, head

HERE = "192.0.2.1"
SMALL, LARGE = 300, 100_000


def asking(length: int = SMALL, **headers: str) -> PlainHead:
    """The head of a request."""
    return PlainHead(Inference.EMBEDDINGS, length, {name.replace("_", "-"): value for name, value in headers.items()})


def foretold(seconds: float = 2.0, reason: Reason = Reason.PREDICTED_WAIT) -> Refusal:
    """A refusal because of a wait of so many seconds."""
    return Refusal(reason, "It would wait.", retry_after=seconds)


def refused(head: PlainHead, refusal: Refusal, now: float = 0.0) -> RefusedLately:
    """What is remembered once this was refused."""
    lately = RefusedLately()
    lately.tell(head, HERE, refusal, now)
    return lately


def kept(text: str, **headers: str) -> bytes:
    """A request whose connection stays open, so that it goes the short way."""
    return post(text, **headers).replace(b"Connection: close\r\n", b"")


async def answered(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> Answer:
    """The answer to one request on a bare connection."""
    reader, writer = streams
    writer.write(request)
    status, headers = await head(reader)
    return Answer(status, headers, await reader.readexactly(int(headers["content-length"])))


def test_it_holds_for_a_tenth_of_the_wait() -> None:
    """A forecast is of a moment: by a tenth it may be wrong, and never for longer than a part takes."""
    lately = refused(asking(), foretold(2.0))
    assert lately.told(asking(), HERE, 0.19) is not None
    assert lately.told(asking(), HERE, 0.21) is None
    lately = refused(asking(), foretold(60.0))
    assert lately.told(asking(), HERE, LONGEST - 0.01) is not None
    assert lately.told(asking(), HERE, LONGEST + 0.01) is None


@pytest.mark.parametrize(
    "other",
    [
        asking(authorization="Bearer b"),
        asking(authorization="Bearer a", x_forwarded_for="192.0.2.7"),
        asking(authorization="Bearer a", x_priority="interactive"),
        asking(authorization="Bearer a", x_request_timeout_ms="2000"),
        asking(authorization="Bearer a", length=LARGE),
    ],
)
def test_whoever_might_wait_less_is_asked_anew(other: PlainHead) -> None:
    """Another client, another class, more patience, another size: each has a forecast of its own."""
    lately = refused(asking(authorization="Bearer a"), foretold())
    assert lately.told(other, HERE, 0.1) is None
    assert lately.told(asking(authorization="Bearer a"), "192.0.2.2", 0.1) is None
    assert lately.told(asking(authorization="Bearer a"), HERE, 0.1) is not None


def test_small_bodies_are_alike_and_of_large_ones_the_larger_wait_as_long() -> None:
    """One line is one of many that wait; of lists of texts a shorter one may well be done in time."""
    small = refused(asking(400), foretold())
    assert small.told(asking(10), HERE, 0.1) is not None
    large = refused(asking(LARGE), foretold())
    assert large.told(asking(LARGE + 1), HERE, 0.1) is not None
    assert large.told(asking(LARGE - 1), HERE, 0.1) is None


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.PREDICTED_WAIT])
def test_nothing_but_a_foretold_wait_is_remembered(reason: Reason) -> None:
    """A full queue has room a moment later, a wrong key is right after a reload: nothing else holds."""
    assert refused(asking(), foretold(reason=reason)).told(asking(), HERE, 0.0) is None


def test_what_is_remembered_is_bounded_and_forgotten() -> None:
    """A flood of clients, each with a key of its own, does not grow it; and after the flood nothing is left."""
    lately = RefusedLately()
    for i in range(3 * REMEMBERED):
        lately.tell(asking(authorization=f"Bearer {i}"), HERE, foretold(), 0.0)
    assert 0 < len(lately._told) <= REMEMBERED
    assert lately.told(asking(), HERE, 1.0) is None
    assert not lately._told


def test_when_to_come_again_is_drawn_for_each_request() -> None:
    """Those refused together by one forecast must not come back together."""
    told = refused(asking(), foretold()).told(asking(), HERE, 0.0)
    assert told is not None
    jitter = random.Random(1)
    answers = {told.answer("id", jitter) for _ in range(50)}
    assert len(answers) > 40


async def test_nobody_can_tell_a_repeated_refusal_from_the_first() -> None:
    """Same status, headers and body, an id of its own; it is counted, and was not worked out again."""
    varying = ("x-request-id", "retry-after", "retry-after-ms", "date")
    async with behind_a_crowd() as p, p.raw() as streams:
        asked = len(p.dispatcher.askers)
        request = kept("late", **{"x-request-timeout-ms": "100"})
        named = request.replace(b"\r\n\r\n", b"\r\nx-request-id: mine\r\n\r\n", 1)
        first, *others = [await answered(streams, each) for each in (request, request, named)]
        assert len(p.dispatcher.askers) == asked + 1
        assert first.headers["x-supervisor-reason"] == "predicted_wait"
        for other in others:
            assert (other.status, other.body) == (first.status, first.body)
            assert other.headers.keys() == first.headers.keys()
            assert {k: v for k, v in other.headers.items() if k not in varying} == {
                k: v for k, v in first.headers.items() if k not in varying
            }
        assert others[0].headers["x-request-id"] != first.headers["x-request-id"]
        assert others[1].headers["x-request-id"] == "mine"
        assert p.counter.reasons == ["predicted_wait"] * 3
        assert [code for _, _, code in p.counter.done].count(429) == 3


async def test_once_the_crowd_has_gone_its_clients_are_served() -> None:
    """What was told holds for a moment only."""
    async with behind_a_crowd() as p, p.raw() as streams:
        request = kept("late", **{"x-request-timeout-ms": "200"})
        assert (await answered(streams, request)).status == 429
        p.fake.free.set()
        await eventually(lambda: p.dispatcher.totals.queued_requests == 0)
        await asyncio.sleep(LONGEST)
        assert (await answered(streams, request)).status == 200


async def test_a_supervisor_that_leaves_says_so_again() -> None:
    """Its answers close their connections, so that the next one gets what follows: a remembered one would not."""
    async with behind_a_crowd() as p, p.raw() as streams:
        request = kept("late", **{"x-request-timeout-ms": "100"})
        assert "connection" not in (await answered(streams, request)).headers
        p.dispatcher.leaving = True
        assert (await answered(streams, request)).headers["connection"] == "close"
        p.dispatcher.leaving = False
