"""Who calls: the name behind an API key, and the address behind proxies that are trusted.

Owns who is let in, and by what clients are told apart in the queue and in the log. Reads no file.
"""

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import structlog
from aiohttp import web

from supervisor.proxy.refusals import Reason, Refusal

log = structlog.get_logger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

# Strangers are told in the log, but must not fill it.
_TELL_EVERY: Final = 60.0
# A chain of proxies has a few hops; what is longer was written by somebody who wants it to be read.
_MOST_HOPS: Final = 32


class Headers(Protocol):
    """The headers of a request, found by their names in lower case."""

    def get(self, name: str, /) -> str | None: ...


class Credential(str):
    """What a client sent as its key: no dump and no log shows it by accident."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "***"


class Caller(NamedTuple):
    """`client` tells clients apart: the name of their key, a hash of what they sent as one, or their `address`.

    `credential` is what an Infinity may be shown that asks its clients for keys: none where the proxy asks for its own.
    """

    client: str
    address: str
    credential: Credential | None = None
    trusted: bool = False  # it is a proxy of ours that speaks for the client


class Callers:
    """Tells callers by their keys, where some were set, and `trusted` networks, which speak for others."""

    def __init__(self) -> None:
        self._keys: Mapping[bytes, str] | None = None
        self.trusted: Sequence[Network] = ()
        self._strangers = 0
        self._tell_at = 0.0

    def set_keys(self, keys: Mapping[bytes, str] | None) -> None:
        """From now on these are let in, names by the SHA-256 of keys; None: everybody is."""
        self._keys = keys

    def of(self, request: web.BaseRequest) -> Caller:
        """Who sent a request. A header that comes twice is one list (HAProxy adds a line of its own).

        Raises:
            Refusal: it needs a key and has none that is known.
        """
        headers = request.headers
        return self.identify(headers, request.remote, ",".join(headers.getall("X-Forwarded-For", ())))

    def identify(self, headers: Headers, peer: str | None, forwarded: str | None) -> Caller:
        """The same by its headers, the address of the connection's other end, and all of `X-Forwarded-For`."""
        peer = peer or ""
        address, trusted = peer, False
        if self.trusted and (trusted := self._trusts(_ip(peer))) and forwarded:
            address = self._client_behind(forwarded) or peer
        credential = headers.get("authorization")
        if self._keys is not None:
            return Caller(self._name(credential, address), address, trusted=trusted)
        if credential is None:
            return Caller(address, address, trusted=trusted)
        client = hashlib.blake2b(credential.encode(errors="surrogateescape"), digest_size=8).hexdigest()
        return Caller(client, address, Credential(credential), trusted)

    # -- keys -------------------------------------------------------------------------------------------------------

    def _name(self, credential: str | None, address: str) -> str:
        """The name of a key, compared with every one there is: how long that takes tells nothing."""
        assert self._keys is not None
        scheme, _, key = (credential or "").partition(" ")
        sent = hashlib.sha256(key.strip().encode(errors="surrogateescape")).digest()
        name = ""
        for digest, its_name in self._keys.items():
            if hmac.compare_digest(digest, sent):
                name = its_name
        if not name or scheme.lower() != "bearer":
            self._tell(address)
            text = "No valid API key. Send one as `Authorization: Bearer KEY`; the operator hands them out."
            raise Refusal(Reason.UNAUTHORIZED, text)
        return name

    def _tell(self, address: str) -> None:
        self._strangers += 1
        now = time.monotonic()
        if now >= self._tell_at:
            log.warning("unauthorized", requests=self._strangers, last_from=address)
            self._strangers, self._tell_at = 0, now + _TELL_EVERY

    # -- addresses --------------------------------------------------------------------------------------------------

    def _trusts(self, ip: _Ip | None) -> bool:
        return ip is not None and any(ip in network for network in self.trusted)

    def _client_behind(self, forwarded: str) -> str | None:
        """The last hop, from the right, that is none of the trusted proxies: each appends whom it was called by.

        What stands left of it was written by the client itself, who can write anything. Nor does anything count beyond
        what is no address. None where no hop is one; the first of all where they are all trusted.
        """
        found = None
        for hop in reversed(forwarded.rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
            ip = _ip(_without_port(hop.strip()))
            if ip is None:
                break
            found = str(ip)
            if not self._trusts(ip):
                break
        return found


def _ip(text: str) -> _Ip | None:
    """An address; one of IPv4 that an IPv6 socket shows is one of IPv4."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


def _without_port(hop: str) -> str:
    """`1.2.3.4:5`, `[::1]:5` and `[::1]` as some proxies write them."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
