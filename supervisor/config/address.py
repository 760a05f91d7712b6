"""Addresses to listen on, as `HOST:PORT`, and of servers, as `http://HOST:PORT`. Resolves no names."""

import ipaddress
import re
from dataclasses import dataclass

from supervisor.config.faults import shortened

_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$)(?!(.*\.)?[0-9]+$)({_LABEL}\.)*{_LABEL}")  # no number behind the last dot
ALLOWED_URL = "allowed: http://HOST:PORT, as in http://127.0.0.1:8000"
ALLOWED = "allowed: HOST:PORT, as in 127.0.0.1:7997, 0.0.0.0:7997 (all addresses) or [::1]:7997"


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name or IP address, without brackets) and a TCP port; port 0 stands for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Only this machine can reach it. A name other than localhost may be anything, so it does not count."""
        ip = _ip(self.host)
        return ip.is_loopback if ip else self.host.lower() == "localhost"

    @property
    def every_host(self) -> bool:
        """It listens on all addresses of the machine."""
        ip = _ip(self.host)
        return bool(ip and ip.is_unspecified)

    def clashes_with(self, other: "Address") -> bool:
        """Both cannot be listened on at once."""
        if self.port == 0 or self.port != other.port:
            return False
        same = _canonical(self.host) == _canonical(other.host)
        return same or self.every_host or other.every_host


def parse_address(text: str) -> Address:
    """The address in `text`; ValueError, fit for a user, when it is none."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"{shortened(repr(text))} is no address; {ALLOWED}")
    host = match["v6"] or match["host"]
    ip = _ip(host)
    if match["v6"]:
        valid = ip is not None and ip.version == 6
    else:
        valid = ip is not None or _HOST_NAME.fullmatch(host) is not None
    if not valid:
        raise ValueError(f"{shortened(repr(host))} is no IP address or host name; {ALLOWED}")
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"port {port} does not exist; allowed: 1 to 65535, or 0 for any free port")
    return Address(host, port)


def parse_url(text: str) -> Address:
    """Host and port of `http://HOST:PORT`; ValueError, fit for a user, when it is anything else.

    What it was is not repeated: a URL may have a password in it.
    """
    scheme, found, rest = text.partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        raise ValueError(f"no URL; {ALLOWED_URL}")
    if scheme.lower() == "https":
        raise ValueError(f"https is not spoken to workers; {ALLOWED_URL}")
    rest = rest.removesuffix("/")
    if any(mark in rest for mark in "@/?#"):
        raise ValueError(f"has more in it than host and port; {ALLOWED_URL}")
    try:
        address = parse_address(rest)
    except ValueError:
        raise ValueError(f"{shortened(repr(rest))} is no host and port; {ALLOWED_URL}") from None
    if address.port == 0 or address.every_host:
        raise ValueError(f"nobody can be asked at {address}; {ALLOWED_URL}")
    return address


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _canonical(host: str) -> str:
    host = host.lower()
    return "127.0.0.1" if host == "localhost" else str(_ip(host) or host)
