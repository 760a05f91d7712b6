"""HAProxy's agent-check: whoever connects is told in one line how much may be sent here, and that is all.

Owns the listener. What the line says is `core.headroom_line`'s.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from supervisor.errors import StartError


class AgentServer:
    """Listens at `address` (host and port); nothing where there is none."""

    def __init__(self, line: Callable[[], str], address: tuple[str, int] | None) -> None:
        self._line = line
        self._address = address
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises StartError when the address can't be had."""
        if self._address is None:
            return
        host, port = self._address
        try:
            self._server = await asyncio.get_running_loop().create_server(lambda: _Answer(self._line), host, port)
        except OSError as error:
            raise StartError(
                f"admin.agent_listen {host}:{port}: {error.strerror or error}; "
                "stop what listens there, or set another admin.agent_listen"
            ) from error

    async def close(self) -> None:
        """Listen no longer."""
        if self._server is not None:
            self._server.close()


class _Answer(asyncio.Protocol):
    """One connection: what is sent on it (`agent-send`) is not read."""

    def __init__(self, line: Callable[[], str]) -> None:
        self._line = line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Told, and closed."""
        out = cast(asyncio.WriteTransport, transport)
        out.write(self._line().encode() + b"\n")
        out.close()
