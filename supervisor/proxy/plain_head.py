"""Heads of plain requests: a POST to an inference endpoint over HTTP/1.1 that says how long its body is.

Owns what counts as plain. A client sends the same head again and again, so each is parsed once and remembered. The
parser is llhttp (`httptools`), as in aiohttp; whatever it or this finds unusual is for aiohttp's server to judge. Above
all nothing is plain that aiohttp refuses: it is stricter than llhttp.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import httptools

from supervisor.core.payload import Inference

# Longer heads are aiohttp's to judge; it refuses lines beyond 8,190 bytes.
LONGEST: Final = 8190
# Remembered at most; clients that send an id of their own with each request have a new head each time.
REMEMBERED: Final = 1024
END: Final = b"\r\n\r\n"


def paths(kind: Inference) -> tuple[str, ...]:
    """The paths under which an endpoint is served: Infinity's, and OpenAI's for clients that bring it."""
    return kind.path, f"/v1{kind.path}"


_ENDPOINTS: Final = {path.encode(): kind for kind in Inference for path in paths(kind)}
# With one of these a request is more than head and body; the last one aiohttp refuses.
_UNUSUAL: Final = frozenset({"expect", "transfer-encoding", "upgrade", "sec-websocket-key1"})
# aiohttp refuses more headers than that; and what is remembered stays small.
_MOST: Final = 128
# No zero in front: a request without a body ends with its head, and llhttp forgets there what that said of the
# connection; and thousands of zeros are a number for llhttp, but none for Python.
_LENGTH: Final = re.compile("[1-9][0-9]*")


class PlainHead(NamedTuple):
    """What the head of a plain request says: `length` of its body in bytes, `headers` by their names in lower case."""

    endpoint: Inference
    length: int
    headers: Mapping[str, str]


class PlainHeads:
    """Those that were parsed of late."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, PlainHead] = {}

    def read(self, head: bytes) -> PlainHead | None:
        """What `head` says, its bytes up to the empty line; None unless it is plain."""
        found = self._known.get(head)
        if found is None and len(head) <= LONGEST:
            found = _Parser().read(head)
            if found is not None:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[head] = found
        return found


class _Parser:
    """Takes one head apart."""

    def __init__(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._repeats = False
        self._complete = False

    def read(self, head: bytes) -> PlainHead | None:
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(head + END)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        endpoint = _ENDPOINTS.get(self._url)
        length = self._headers.get("content-length", "")
        if (
            not self._complete
            or endpoint is None
            or parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
            or not _LENGTH.fullmatch(length)
            or "host" not in self._headers
            or self._repeats
            or len(self._headers) > _MOST
            or not _UNUSUAL.isdisjoint(self._headers)
        ):
            return None
        return PlainHead(endpoint, int(length), self._headers)

    # -- what the parser tells --------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One that comes twice is aiohttp's to judge: most it takes, some it refuses (two `Host`, two types)."""
        key = name.decode("ascii").lower()
        self._repeats = self._repeats or key in self._headers
        # llhttp leaves the white space behind a value.
        self._headers[key] = value.rstrip(b" \t").decode("utf-8", "surrogateescape")

    def on_headers_complete(self) -> None:
        self._complete = True
