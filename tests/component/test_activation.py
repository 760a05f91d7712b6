"""Sockets that systemd holds for us: which is the public port, by real descriptors in a process of its own."""

import json
import os
import socket
import subprocess
import sys

import pytest

from supervisor.service.activation import port_is_kept

# Takes the sockets on its descriptors from 3 on as systemd passes them, and tells what became of them.
PROGRAM = """
import json, os, sys
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2], LISTEN_FDNAMES=sys.argv[3])
from supervisor.errors import StartError
from supervisor.service.activation import activated
try:
    told = [list(found.getsockname()[:2]) for found in activated(sys.argv[1])]
except StartError as error:
    told = str(error)
print(json.dumps([told, sorted(name for name in os.environ if name.startswith("LISTEN_"))]))
"""


def passed(listen: str, *sockets: socket.socket) -> tuple[object, list[str]]:
    """What a daemon with this `proxy.listen` makes of these sockets: addresses or a refusal; the variables left."""
    pytest.importorskip("systemd.daemon", reason="systemd-python is not installed: tests/run gets it")
    saved = [os.dup(each.fileno()) for each in sockets]
    shuffle = "".join(f"os.dup2({fd}, {100 + n}); " for n, fd in enumerate(saved))
    shuffle += "".join(f"os.dup2({100 + n}, {3 + n}); " for n in range(len(saved)))
    names = ":".join(f"s{n}" for n in range(len(saved)))
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import os; {shuffle}\n{PROGRAM}", listen, str(len(saved)), names],
            pass_fds=saved,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        for fd in saved:
            os.close(fd)
    told, left = json.loads(done.stdout)
    return told, left


def listener(host: str = "127.0.0.1", family: int = socket.AF_INET) -> socket.socket:
    """A socket that listens on a free port."""
    found = socket.socket(family, socket.SOCK_STREAM)
    found.bind((host, 0))
    found.listen()
    return found


def test_the_one_at_our_address_is_taken() -> None:
    """By its address, also written as a name; afterwards only the names are left to be read."""
    with listener() as found:
        host, port = found.getsockname()
        assert passed(f"127.0.0.1:{port}", found) == ([[host, port]], ["LISTEN_FDNAMES"])
        assert passed(f"localhost:{port}", found)[0] == [[host, port]]


def test_all_addresses_may_be_those_of_ipv6() -> None:
    """`ListenStream=PORT` is a socket of IPv6 that serves both."""
    with listener("::", socket.AF_INET6) as found:
        port = found.getsockname()[1]
        assert passed(f"0.0.0.0:{port}", found)[0] == [["::", port]]
        assert passed(f"[::]:{port}", found)[0] == [["::", port]]
        assert "but proxy.listen is 127.0.0.1" in str(passed(f"127.0.0.1:{port}", found)[0])


def test_any_other_is_refused() -> None:
    """Another port, a socket that does not listen: whoever connects would wait for ever."""
    with listener() as found, listener() as other, socket.socket() as deaf:
        port = found.getsockname()[1]
        refused = str(passed(f"127.0.0.1:{port}", found, other)[0])
        assert f"systemd listens at 127.0.0.1:{other.getsockname()[1]} (s1)" in refused
        assert "ListenStream= of infinity-supervisor.socket" in refused
        deaf.bind(("127.0.0.1", 0))
        assert "make ListenStream=" in str(passed(f"127.0.0.1:{deaf.getsockname()[1]}", deaf)[0])


def test_the_names_tell_that_the_port_is_kept() -> None:
    """They are there for as long as the process is, upgrades in place included."""
    assert port_is_kept({"LISTEN_FDNAMES": "infinity-supervisor.socket"})
    assert not port_is_kept({})
