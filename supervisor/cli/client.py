"""How a command reaches the daemon: where its admin listener is, one HTTP call, and errors in one line.

Standard library only and imported late: a look at the status must not wait for a web framework to load.
"""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlsplit

DEFAULT_ADDRESS = "http://127.0.0.1:7998"
DEFAULT_CONFIG = "/etc/infinity-supervisor/supervisor.yaml"
ENVIRONMENT = "INFINITY_SUPERVISOR_ADMIN"
TOKEN_FILE = "INFINITY_SUPERVISOR_TOKEN_FILE"
MOST_TOKEN_BYTES = 8192
LOOK_SECONDS = 10.0  # for what the daemon answers at once
# For what waits for an outcome. The daemon has limits of its own and says so; this one only ends a dead connection.
ACT_SECONDS = 3600.0


class CallFailed(Exception):
    """The daemon was not reached, or refused; the text is one line for the user."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon's admin listener is: a unix socket's path, or a host and a port."""

    text: str
    host: str = "localhost"
    port: int = 0
    path: str | None = None


def parse(text: str) -> Address:
    """`http://HOST:PORT` or `unix:PATH`. Raises ValueError, fit for a user, for anything else."""
    allowed = "allowed: http://HOST:PORT or unix:PATH"
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise ValueError(f"{text!r} names no path; {allowed}")
        return Address(text, path=path)
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; {allowed}") from error
    if url.scheme != "http" or not url.hostname or url.path not in ("", "/") or url.query or url.username:
        raise ValueError(f"{text!r} is no admin address; {allowed}")
    return Address(text.rstrip("/"), host=url.hostname, port=80 if port is None else port)


def default_address(config: str = DEFAULT_CONFIG) -> Address:
    """The admin address in the config at its default path, or the default one when there is none that can be read.

    A unix socket comes first where this user may write to it: no token is asked for there.
    """
    admin = _admin_section(config)
    path = admin.get("socket")
    if isinstance(path, str) and os.access(path, os.W_OK):
        return parse(f"unix:{path}")
    # What is wrong with that file, `check-config` tells; here it names no address.
    return _listener(admin) or parse(DEFAULT_ADDRESS)


def default_token_file(address: Address, config: str = DEFAULT_CONFIG) -> str | None:
    """`admin.token_file` of the config at its default path, for the very address it is for: no other is to see it.

    None where this user may not read it: what answers without a token still does.
    """
    admin = _admin_section(config)
    written, listener = admin.get("token_file"), _listener(admin) or parse(DEFAULT_ADDRESS)
    if not isinstance(written, str) or (_by_number(address.host), address.port) != (listener.host, listener.port):
        return None
    path = os.path.join(os.path.dirname(config), os.path.expanduser(written))
    return path if os.access(path, os.R_OK) else None


def read_token(path: str) -> str:
    """The token in a file; CallFailed when it can't be read."""
    try:
        with open(path, encoding="ascii") as file:
            token = file.read(MOST_TOKEN_BYTES).strip()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise CallFailed(f"the token in {path} can't be read: {reason}") from error
    if not token or not token.isprintable():
        raise CallFailed(f"there is no token of one line in {path}")
    return token


def _admin_section(config: str) -> Mapping[str, Any]:
    if not os.access(config, os.R_OK):
        return {}
    import yaml

    try:
        with open(config, "rb") as file:
            admin = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["admin"]
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return {}
    return admin if isinstance(admin, Mapping) else {}


def _listener(admin: Mapping[str, Any]) -> Address | None:
    """Where `admin.listen` can be reached from this machine; None where it is not written, or no address."""
    host, _, port = str(admin.get("listen", "")).rpartition(":")
    try:
        return parse(f"http://{_reachable(host)}:{int(port)}")
    except ValueError:
        return None


def _by_number(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def _reachable(host: str) -> str:
    """Where a listener on all addresses can be reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    """The daemon behind one address; every call is a connection of its own, and shows the token in `token_file`."""

    def __init__(self, address: Address, token_file: str | None = None) -> None:
        self.address = address
        self.token_file = token_file

    def get(self, path: str) -> Any:
        """A look; the parsed answer."""
        return self._call("GET", path, None, LOOK_SECONDS)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """An act; returns its outcome when that is known."""
        return self._call("POST", path, body, ACT_SECONDS)

    def act_on(self, model: str, action: str) -> Any:
        """Load, unload or restart a model, whatever is in its name."""
        return self.post(f"/api/v1/models/{quote(os.fsencode(model), safe='')}/{action}")

    def logs(self, model: str, count: int, after: int | None = None) -> tuple[list[str], int]:
        """The last lines of a model's worker, or what it wrote since the position `after`; and the next position."""
        query = f"n={count}" if after is None else f"after={after}"
        answer = self.get(f"/api/v1/models/{quote(os.fsencode(model), safe='')}/logs?{query}")
        return answer["lines"], answer["position"]

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> Any:
        address = self.address
        connection = (
            HTTPConnection(address.host, address.port, timeout=timeout)
            if address.path is None
            else _UnixConnection(address.path, timeout)
        )
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        if self.token_file is not None:
            headers["Authorization"] = f"Bearer {read_token(self.token_file)}"
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            status, raw = response.status, response.read()
        except TimeoutError as error:
            raise CallFailed(f"the daemon at {address.text} gave no answer in {timeout:g} s: see its log") from error
        except OSError as error:
            raise CallFailed(
                f"no daemon answers at {address.text} ({error.strerror or error}): start one with "
                f"`infinity-supervisor run -c FILE`, or name its address with --admin or {ENVIRONMENT}"
            ) from error
        except HTTPException as error:
            raise CallFailed(_stranger(address)) from error
        finally:
            connection.close()
        return _understood(status, raw, address)


def _understood(status: int, raw: bytes, address: Address) -> Any:
    try:
        answer = json.loads(raw)
        if status == 200:
            return answer
        message = answer["error"]["message"]
    except (ValueError, KeyError, TypeError) as error:
        raise CallFailed(_stranger(address)) from error
    if status == 401:
        raise CallFailed(
            f"the daemon at {address.text} asks for a token: name its file with --token-file or {TOKEN_FILE}"
        )
    raise CallFailed(str(message))


def _stranger(address: Address) -> str:
    return f"what answers at {address.text} is not the admin address of an infinity-supervisor"
