"""Many bad clients at once, against a real daemon: bare sockets, and what the daemon holds meanwhile."""

import contextlib
import json
import re
import resource
import socket
from collections.abc import Iterator

import psutil

from tests.support.daemon import Daemon

MB = 1 << 20
BODY = json.dumps({"model": "a", "input": "abc"}).encode()
LENGTH = b"Content-Length: %d\r\n"
HEAD = b"POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
POST = HEAD + LENGTH % len(BODY) + b"\r\n" + BODY


def address(url: str) -> tuple[str, int]:
    """Host and port of a base URL."""
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def memory(daemon: Daemon) -> int:
    """Resident bytes of the daemon's own process."""
    assert daemon.process is not None
    return int(psutil.Process(daemon.process.pid).memory_info().rss)


def descriptors(daemon: Daemon) -> int:
    """How many it has open."""
    assert daemon.process is not None
    return int(psutil.Process(daemon.process.pid).num_fds())


@contextlib.contextmanager
def files(count: int) -> Iterator[None]:
    """This process may have so many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= count, f"raise the limit on open files to {count} (ulimit -Hn)"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def connected(url: str, count: int, says: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections on which each client has said so much."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.create_connection(address(url), timeout=20)))
            if says:
                opened[-1].sendall(says)
        yield opened


def exchange(url: str, *pieces: bytes, limit: float = 20) -> bytes:
    """The first answer to these pieces, each sent on its own; what there is of it when the daemon closes."""
    with socket.create_connection(address(url), timeout=limit) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                client.sendall(piece)
        return answer(client)


def answer(client: socket.socket) -> bytes:
    """The next answer on a connection, with its body where it has a length; what came of it before the end."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while not complete(got) and (piece := client.recv(65536)):
            got += piece
    return got


def complete(answer: bytes) -> bool:
    """Whether that is all of an answer whose length is known."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
    return bool(end) and length is not None and len(body) >= int(length[1])


def status(answer: bytes) -> int | None:
    """Its status; None where there is no answer."""
    line = re.match(rb"HTTP/1\.[01] (\d{3})[ \r]", answer)
    return int(line[1]) if line else None


def said(client: socket.socket) -> bytes:
    """What has come on a connection by now."""
    client.setblocking(False)
    got = b""
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while piece := client.recv(65536):
            got += piece
    return got


def gone(client: socket.socket) -> bool:
    """Whether the daemon has closed it; what it answered before is read and thrown away."""
    client.setblocking(False)
    while True:
        try:
            if client.recv(65536) == b"":
                return True
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
