"""Listening sockets that systemd holds for us (socket activation): which of them is the public port.

Owns the LISTEN_* variables of the environment: read once, and none of them is left to be read again after an upgrade in
place, but the names: they tell that the port is systemd's as well. A socket is known by its address; its name is only
told.
"""

import os
import socket
from collections.abc import Mapping, MutableMapping

from supervisor.errors import StartError
from supervisor.service.manager import REMEDY

_ONCE = ("LISTEN_FDS", "LISTEN_PID")
_NAMES = "LISTEN_FDNAMES"


def activated(listen: str, environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The sockets that systemd listens on at `listen` ("host:port"), none where it holds none.

    Raises:
        StartError: it holds one for another address: who connects there would wait for ever.
    """
    named = _passed() if "LISTEN_FDS" in environ else {}
    for name in _ONCE:
        environ.pop(name, None)
    sockets = []
    for descriptor, name in named.items():
        os.set_inheritable(descriptor, False)
        try:
            found = socket.socket(fileno=descriptor)
        except OSError:
            raise StartError(f"systemd passes {name!r}, which is no socket: see the Sockets= of the unit") from None
        address = found.getsockname()
        if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or not _is_at(found, listen):
            raise StartError(
                f"systemd listens at {_text(address)} ({name}), but proxy.listen is {listen}: make ListenStream= of "
                "infinity-supervisor.socket and proxy.listen the same"
            )
        sockets.append(found)
    return sockets


def port_is_kept(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd listens on the public port as well: who comes when we are gone waits for the next one."""
    return bool(environ.get(_NAMES))


def _passed() -> dict[int, str]:
    try:
        from systemd import daemon
    except ImportError:
        raise StartError(f"systemd passes us sockets (LISTEN_FDS), and systemd-python is missing: {REMEDY}") from None
    passed: dict[int, str] = daemon.listen_fds_with_names()
    return passed


def _is_at(found: socket.socket, listen: str) -> bool:
    """Whether a socket serves an address; one for all addresses of IPv6 serves those of IPv4 as well."""
    host, _, port = listen.rpartition(":")
    if found.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        found_there = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        return False
    wanted = {tuple(address[:2]) for *_, address in found_there}
    theirs = tuple(found.getsockname()[:2])
    if theirs[0] == "::" and not found.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        wanted |= {("::", number) for address, number in wanted if address == "0.0.0.0"}
    return theirs in wanted


def _text(address: object) -> str:
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address)
