"""Keeps out who has no token, where one is asked for, and web pages: what a browser can be tricked into sending.

Two checks of pages. The Host must be this machine's own name for itself, else a page whose name was pointed at
127.0.0.1 (DNS rebinding) could read everything; a listener that asks for a token may have any name, for no page knows
the token. A call that changes something and names an Origin must name this very listener.
"""

import hmac
import ipaddress
from collections.abc import Mapping

# Probes come by whatever name the prober knows, and learn only yes or no.
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def refusal(
    method: str, path: str, headers: Mapping[str, str], listen_host: str, token: str | None = None
) -> tuple[int, str, str] | None:
    """(status, reason, message) when the call must not be answered, else None. `headers` don't mind upper case."""
    if path in OPEN_PATHS:
        return None
    host, origin = headers.get("Host"), headers.get("Origin")
    if token is not None and not has_token(headers.get("Authorization"), token):
        text = "no valid token: send `Authorization: Bearer TOKEN`, the one in admin.token_file"
        return 401, "unauthorized", text
    if token is None and host is not None and not host_allowed(host, listen_host):  # no browser leaves Host out
        text = f"the Host {host!r} is not an address of this listener: use localhost or {listen_host}"
        return 403, "forbidden_host", text
    if method not in SAFE_METHODS and origin is not None and not same_origin(origin, host):
        return 403, "forbidden_origin", f"a page from {origin!r} may not change anything here"
    return None


def has_token(authorization: str | None, token: str) -> bool:
    """Whether an Authorization header is `Bearer` and the token; how long that takes to tell says nothing."""
    scheme, _, sent = (authorization or "").partition(" ")
    same = hmac.compare_digest(sent.strip().encode(errors="surrogateescape"), token.encode())
    return same and scheme.lower() == "bearer"


def host_allowed(host: str, listen_host: str) -> bool:
    """Whether this Host header is a loopback name, or the address that is listened on.

    A listener on all addresses can't know its names; numeric ones are let in, as a rebound name is never numeric.
    """
    name = _without_port(host)
    if name in ("localhost", listen_host.strip("[]").lower()):
        return True
    try:
        address = ipaddress.ip_address(name)
        wildcard = ipaddress.ip_address(listen_host.strip("[]")).is_unspecified
    except ValueError:
        return False
    return address.is_loopback or wildcard


def same_origin(origin: str, host: str | None) -> bool:
    """Whether an Origin header names the host that was called."""
    _, separator, authority = origin.partition("://")
    return bool(separator) and host is not None and authority.lower() == host.lower()


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()
