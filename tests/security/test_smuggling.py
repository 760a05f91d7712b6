"""Requests that two readers might take for different ones: ours must be one, or none, and never somebody else's.

The proxy reads heads in two ways (`plain_head`, aiohttp). Here each stream meets the whole server; what a worker got is
compared with what aiohttp's parser alone finds in the same bytes.
"""

import asyncio
import contextlib
import re
from unittest.mock import Mock

import pytest
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.proxying import Setup, proxied

BODY = b'{"model":"m","input":["real"]}'
INNER = b'{"model":"m","input":["SMUGGLED"]}'
SMUGGLED = b"POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(INNER),
    INNER,
)
FIRST = b"POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


LAST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
# Who still waits for some of a body says nothing; how long that is listened to decides nothing.
SILENCE = 0.3


async def exchanged(p: Setup, stream: bytes, silence: float = SILENCE) -> tuple[list[int], list[bytes]]:
    """The answers to a stream, with a last request behind it, and what of it reached the worker."""
    p.fake.seen.clear()
    answer = b""
    async with p.raw() as (reader, writer):
        writer.write(stream + LAST)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while True:
                async with asyncio.timeout(silence):
                    piece = await reader.read(65536)
                if not piece:
                    break
                answer += piece
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)], [seen.body for seen in p.fake.seen]


# Whoever reads these by the other rule finds a second request in the first one's body.
AMBIGUOUS = {
    "CL and TE": FIRST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE and CL": FIRST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + CHUNKED + SMUGGLED,
    "two lengths": FIRST + LENGTH + b"Content-Length: 0\r\n\r\n" + BODY + SMUGGLED,
    "two lengths in one": FIRST + b"Content-Length: %d, 0\r\n\r\n" % len(BODY) + BODY + SMUGGLED,
    "the same length twice": FIRST + LENGTH + LENGTH + b"\r\n" + BODY + SMUGGLED,
    "a signed length": FIRST + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY + SMUGGLED,
    "a hexadecimal length": FIRST + b"Content-Length: 0x1e\r\n\r\n" + BODY + SMUGGLED,
    "a length below nothing": FIRST + b"Content-Length: -1\r\n\r\n" + BODY + SMUGGLED,
    "a length with a space before the colon": FIRST + b"Content-Length : 0\r\n" + LENGTH + b"\r\n" + BODY + SMUGGLED,
    "a folded length": FIRST + b"Content-Length:\r\n 0\r\n" + LENGTH + b"\r\n" + BODY + SMUGGLED,
    "a folded header that hides TE": FIRST + LENGTH + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n" + BODY + SMUGGLED,
    "TE in odd spelling": FIRST + LENGTH + b"Transfer-Encoding: xchunked\r\n\r\n" + BODY + SMUGGLED,
    "TE twice": FIRST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNKED + SMUGGLED,
    "TE with chunked not last": FIRST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + CHUNKED + SMUGGLED,
    "TE with a vertical tab": FIRST + LENGTH + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + BODY + SMUGGLED,
    "TE behind a bare line feed": FIRST + LENGTH + b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE behind a bare return": FIRST + LENGTH + b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk of no size": FIRST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n" + BODY + b"\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk with a sign": FIRST + b"Transfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk of 0x": FIRST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk too long for its size": FIRST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk size beyond 64 bits": FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n" + SMUGGLED,
    "bare line feeds in chunks": FIRST + b"Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n" + SMUGGLED,
    "HTTP/1.0 with TE": FIRST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED + SMUGGLED,
    "no host": FIRST.replace(b"Host: x\r\n", b"") + LENGTH + b"\r\n" + BODY + SMUGGLED,
    "two hosts": FIRST + b"Host: y\r\n" + LENGTH + b"\r\n" + BODY + SMUGGLED,
    "a zero byte in a name": FIRST + b"X\x00: y\r\n" + LENGTH + b"\r\n" + BODY + SMUGGLED,
}


def found(stream: bytes) -> list[bytes]:
    """The bodies of the whole requests that aiohttp's parser finds in a stream, up to where it refuses it."""
    parser = HttpRequestParser(Mock(_reading_paused=False), Mock(), 2**16, max_headers=128, auto_decompress=False)
    bodies, rest = [], stream
    for end in range(len(rest)):  # byte by byte: what comes before a fault counts
        try:
            messages, _, _ = parser.feed_data(rest[end : end + 1])
        except (HttpProcessingError, ValueError):
            break
        bodies += [content for _, content in messages]
    return [content.read_nowait() for content in bodies if content.is_eof() and content.exception() is None]


@pytest.mark.parametrize("case", AMBIGUOUS)
async def test_an_ambiguous_request_is_refused_or_has_one_end(case: str) -> None:
    """Where it can be read in two ways nothing behind it is answered: it is refused and its connection closed."""
    async with proxied() as p:
        codes, bodies = await exchanged(p, AMBIGUOUS[case])
        assert INNER not in bodies, codes
        assert len(codes) <= 1
        assert codes in ([], [400]), "refused"


async def test_what_stands_behind_a_whole_request_is_the_next_one() -> None:
    """The same streams without their fault: two requests, two answers; so the test above can fail."""
    async with proxied() as p:
        for stream in (FIRST + LENGTH + b"\r\n" + BODY, FIRST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED):
            codes, bodies = await exchanged(p, stream + SMUGGLED, 20)
            assert (codes, bodies) == ([200, 200, 200], [BODY, INNER])


LINES = [
    *(LENGTH, b"Content-Length: 0\r\n", b"content-length:  %d \r\n" % len(BODY), b"Content-Length: 030\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"transfer-encoding: Chunked \r\n", b"Transfer-Encoding: identity\r\n"),
    *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", b"X: y\r\n"),
]
SPLINTERS = [
    *(b"\r", b"\n", b"\r\n", b"\r\n ", b" ", b"\t", b":", b",", b"\x00", b"\x0b", b"0", b"1", b"\x85"),
    SMUGGLED,
]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A request, mostly with something odd about its length, and another behind it."""
    framing, body = draw(st.sampled_from([(LENGTH, BODY), (b"Transfer-Encoding: chunked\r\n", CHUNKED)]))
    lines = [framing, *draw(st.lists(st.sampled_from(LINES), max_size=2))]
    stream = FIRST + b"".join(draw(st.permutations(lines))) + b"\r\n" + body
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        at = draw(st.integers(0, len(stream)))
        stream = stream[:at] + draw(st.sampled_from(SPLINTERS)) + stream[at + draw(st.integers(0, 1)) :]
    return stream + SMUGGLED


async def test_the_worker_gets_nothing_that_aiohttp_would_not_find() -> None:
    """Whatever the bytes are, each input that reaches the worker is in a request that its parser finds there."""
    answered = 0
    loop = asyncio.get_running_loop()

    async with proxied() as p:

        @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
        @given(streams())
        def alike(stream: bytes) -> None:
            nonlocal answered
            codes, bodies = asyncio.run_coroutine_threadsafe(exchanged(p, stream), loop).result(60)
            assert set(bodies) <= set(found(stream)), codes
            assert len(codes) >= len(bodies)
            answered += bool(bodies)

        await asyncio.to_thread(alike)
    assert answered > 20, "too few to mean anything"
