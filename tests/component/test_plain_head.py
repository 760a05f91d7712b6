"""Which heads are plain, held against aiohttp's own parser: whatever is plain here must be the same request there."""

from unittest.mock import Mock

import pytest
from aiohttp.http import HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.payload import Inference
from supervisor.proxy import plain_head
from supervisor.proxy.plain_head import END, LONGEST, REMEMBERED, PlainHead, PlainHeads, paths

FIRST = b"POST /embeddings HTTP/1.1"
PLAIN = b"POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 2"


def read(head: bytes) -> PlainHead | None:
    """What a head says that comes for the first time."""
    return PlainHeads().read(head)


# -- what is plain --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Inference)
@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_every_endpoint_has_plain_requests(kind: Inference, prefix: str) -> None:
    """Under both its paths."""
    head = read(f"POST {prefix}{kind.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 17".encode())
    assert head == PlainHead(kind, 17, {"host": "x", "content-length": "17"})


def test_headers_are_found_by_their_names_in_lower_case() -> None:
    """Their values are as aiohttp has them: no white space around them, bytes beyond ASCII kept."""
    more = b"\r\nX-PRIORITY:bulk\r\nx-empty:\r\norigin:  \t a b \t \r\nAuthorization: \xc3\xa9\xff"
    head = read(PLAIN + more)
    assert head is not None
    assert dict(head.headers) == {
        "host": "x",
        "content-length": "2",
        "x-priority": "bulk",
        "x-empty": "",
        "origin": "a b",
        "authorization": "é\udcff",
    }


@pytest.mark.parametrize("more", ["Connection: keep-alive", "Connection: Keep-Alive", "TE: trailers", "Cookie: a=b"])
def test_what_common_clients_send_is_plain(more: str) -> None:
    """Else the short way would be nobody's."""
    assert read(PLAIN + b"\r\n" + more.encode()) is not None


NOT_PLAIN = [
    # another request
    PLAIN.replace(b"POST", b"GET"),
    PLAIN.replace(b"POST", b"PUT"),
    PLAIN.replace(b"POST", b"post"),
    PLAIN.replace(b"/embeddings", b"/health"),
    PLAIN.replace(b"/embeddings", b"/embeddings/"),
    PLAIN.replace(b"/embeddings", b"//embeddings"),
    PLAIN.replace(b"/embeddings", b"/Embeddings"),
    PLAIN.replace(b"/embeddings", b"/embeddings?a=b"),
    PLAIN.replace(b"/embeddings", b"/embeddings#a"),
    PLAIN.replace(b"/embeddings", b"/embedding%73"),
    PLAIN.replace(b"/embeddings", b"http://x/embeddings"),
    PLAIN.replace(b"/embeddings", b"embeddings"),
    # another HTTP
    PLAIN.replace(b"1.1", b"1.0"),
    PLAIN.replace(b"1.1", b"1.0") + b"\r\nConnection: keep-alive",
    PLAIN.replace(b"1.1", b"2.0"),
    PLAIN.replace(b"1.1", b"1.2"),
    PLAIN.replace(b"HTTP/1.1", b""),
    b"",
    b"\r\n",
    FIRST,
    PLAIN.partition(b"\r\n")[2],
    # more than a head and a body that stay on an open connection
    PLAIN + b"\r\nConnection: close",
    PLAIN + b"\r\nConnection: keep-alive, Close",
    PLAIN + b"\r\nProxy-Connection: close",
    PLAIN + b"\r\nExpect: 100-continue",
    PLAIN + b"\r\neXPECT: 100-continue",
    PLAIN + b"\r\nExpect:",
    PLAIN + b"\r\nUpgrade: websocket",
    PLAIN + b"\r\nConnection: Upgrade\r\nUpgrade: h2c",
    FIRST + b"\r\nHost: x\r\nTransfer-Encoding: chunked",
    FIRST + b"\r\nHost: x\r\nTransfer-Encoding: identity",
    PLAIN + b"\r\nTransfer-Encoding: chunked",
    PLAIN + b"\r\nTransfer-Encoding: identity",
    # a length that is none, or one too many
    FIRST + b"\r\nHost: x",
    *[
        FIRST + b"\r\nHost: x\r\nContent-Length: " + length
        for length in (
            *(b"", b"+5", b"-5", b"0x5", b"5.0", b"5e1", b"1_0", b"5 5", b"5,5", b"5;", b'"5"', b"a"),
            *("٥".encode(), "²".encode(), b"\xb2", b"\xff"),
            *(b"0", b"00", b"05", b"0" * 5000 + b"5"),
            *(b"18446744073709551616", b"1" * 5000),
        )
    ],
    PLAIN + b"\r\nContent-Length: 2",
    PLAIN + b"\r\ncontent-length: 3",
    FIRST + b"\r\nHost: x\r\nContent-Length: 0\r\nConnection: close",
    # what aiohttp refuses, though llhttp does not
    FIRST + b"\r\nContent-Length: 2",
    PLAIN + b"\r\nhost: y",
    PLAIN + b"\r\nContent-Type: a/b\r\nContent-type: c/d",
    PLAIN + b"\r\nUser-Agent: a\r\nUser-Agent: a",
    PLAIN + b"\r\nSec-WebSocket-Key1: a",
    # of these the first counts for aiohttp
    PLAIN + b"\r\nAuthorization: a\r\nAuthorization: b",
    PLAIN + b"\r\nx-priority: a\r\nX-Priority: a",
    # broken heads
    PLAIN + b"\r\nx : y",
    PLAIN + b"\r\nx\t: y",
    PLAIN + b"\r\n: y",
    PLAIN + b"\r\nx",
    PLAIN + b"\r\n y: z",
    PLAIN + b"\r\nx: y\r\n z",
    PLAIN + b"\r\nx: y\r\n\tz",
    PLAIN + b"\nx: y",
    PLAIN + b"\n\nx: y",
    PLAIN + b"\n",
    PLAIN + b"\r",
    PLAIN + b"\r\nx: y\rz: a",
    PLAIN + b"\r\nx: y\x00",
    PLAIN + b"\r\nx: \x01",
    PLAIN + b"\r\nx: \x7f",
    PLAIN + b"\r\nx\x00: y",
    PLAIN + b"\r\n\xc3\xa9: y",
    PLAIN.replace(b"\r\n", b"\n"),
    PLAIN.replace(b"1.1\r\n", b"1.1\n"),
    PLAIN.replace(b"1.1\r\n", b"1.1 \r\n"),
    PLAIN.replace(b"1.1\r\n", b"1.1\r\n "),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]


@pytest.mark.parametrize("head", NOT_PLAIN)
def test_everything_else_is_aiohttps(head: bytes) -> None:
    """Whether it is refused in the end or not: that is not to be judged in two places."""
    assert read(PLAIN) is not None
    assert read(head) is None


def test_long_heads_are_aiohttps() -> None:
    """Up to its limit for one line a head may be one line or many."""
    exact = PLAIN + b"\r\nx: " + b"y" * (LONGEST - len(PLAIN) - 5)
    assert len(exact) == LONGEST
    assert read(exact) is not None
    assert read(exact + b"y") is None


def test_many_headers_are_aiohttps() -> None:
    """It refuses 129, and they would make what is remembered large."""
    most = PLAIN + b"".join(b"\r\nx%d: y" % number for number in range(126))
    assert read(most) is not None
    assert read(most + b"\r\nz: y") is None


# -- what is remembered ---------------------------------------------------------------------------------------------


def test_a_head_that_comes_again_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that differs in a single byte is."""
    heads = PlainHeads()
    first = heads.read(PLAIN)
    monkeypatch.setattr(plain_head.httptools, "HttpRequestParser", Mock(side_effect=AssertionError("parsed")))
    assert heads.read(bytes(bytearray(PLAIN))) is first
    with pytest.raises(AssertionError, match="parsed"):
        heads.read(PLAIN + b" ")


def test_what_is_not_plain_is_not_remembered() -> None:
    """It would push out what is."""
    heads = PlainHeads()
    for head in NOT_PLAIN:
        heads.read(head)
    assert not heads._known


def test_what_is_remembered_is_bounded() -> None:
    """Clients that send an id of their own with each request have no end of heads; each gets its own reading."""
    heads = PlainHeads()
    for number in range(1, 2 * REMEMBERED + 10):
        head = heads.read(FIRST + b"\r\nHost: x\r\nContent-Length: %d\r\nx-request-id: %d" % (number, number))
        assert head is not None
        assert (head.length, head.headers["x-request-id"]) == (number, str(number))
        assert 0 < len(heads._known) <= REMEMBERED


# -- against aiohttp ------------------------------------------------------------------------------------------------

HARMLESS = [
    *(b"Content-Type: application/json", b"Content-Encoding: gzip\t", b"Connection: keep-alive", b"Keep-Alive: 5"),
    *(b"Authorization: Bearer k ", b"Origin:a", b"Cookie: a", b"user-agent: a", b"x-a:", b"x-b: \xff\xc3\xa9"),
]
LENGTHS = [
    b"Content-Length: 2",
    b"content-length: 2 ",
    b"CONTENT-LENGTH:\t2",
    b"Content-Length: 17",
    b"Content-Length: 02",
]
ODD = [
    *(b"Host: y", b"Content-Length: 2", b"content-type: a/b", b"USER-AGENT: b", b"x-a: b", b"ETag: a", b"Trailer: a"),
    *(b"Connection: close", b"Connection: upgrade", b"Proxy-Connection: close", b"Transfer-Encoding: chunked"),
    *(b"Upgrade: h2c", b"Expect: 100-continue", b"Sec-WebSocket-Key1: a"),
]
SPLINTERS = [
    *(b"\r", b"\n", b"\r\n", b"\r\n ", b" ", b"\t", b":", b",", b";", b'"', b"\x00", b"\x0b", b"\x7f", b"\x80", b"-"),
    *(b"0", b"2", b"close", b"HTTP/1.0", b"Host: y\r\n", b"\r\nContent-Length: 3"),
]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Mostly those of a plain request with something in it that is not; up to the first empty line."""
    lines = draw(st.lists(st.sampled_from(HARMLESS), unique=True, max_size=4))
    lines += draw(st.sampled_from([[b"Host: x"], [b"host:"], [b"Host: x"], []]))
    lines.append(draw(st.sampled_from(LENGTHS)))
    lines += draw(st.lists(st.sampled_from(ODD), max_size=1))
    first = draw(st.sampled_from([FIRST, FIRST, b"POST /v1/rerank HTTP/1.1"]))
    head = b"\r\n".join([first, *draw(st.permutations(lines))])
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        at = draw(st.integers(0, len(head)))
        splinter = draw(st.sampled_from(SPLINTERS) | st.binary(min_size=1, max_size=1))
        head = head[:at] + splinter + head[at + draw(st.integers(0, 2)) :]
    return (head + END).partition(END)[0]


def aiohttps(head: bytes, body: bytes) -> tuple[object, ...]:
    """Each request that its parser finds, as far as it matters here; raises what it refuses them with."""
    parser = HttpRequestParser(Mock(_reading_paused=False), Mock(), 2**16, max_headers=128, auto_decompress=False)
    found, _, _ = parser.feed_data(head + END + body)
    return tuple(
        (
            request.method,
            request.path,
            tuple(request.version),
            request.should_close or request.upgrade or request.chunked,
            {name.lower(): request.headers.getall(name) for name in request.headers},
            content.is_eof() and content.read_nowait(),
        )
        for request, content in found
    )


def test_aiohttp_finds_the_same_in_plain_heads() -> None:
    """It refuses none of them, and finds one request with the same endpoint, headers and body, that wants no more."""
    plain = other = 0

    @settings(max_examples=1000, deadline=None, derandomize=True)
    @given(heads())
    def alike(head: bytes) -> None:
        nonlocal plain, other
        found = read(head)
        if found is None:
            other += 1
            return
        plain += 1
        body = b"{" * found.length
        (request,) = aiohttps(head, body)
        method, path, version, more, headers, content = request
        assert (method, version, more, content) == ("POST", (1, 1), False, body)
        assert path in paths(found.endpoint)
        assert {name: [value] for name, value in found.headers.items()} == headers

    alike()
    assert plain > 150, "too few to mean anything"
    assert other > 150
