"""aiohttp's runner with connections that are bounded: in number, and in what each may hold."""

from functools import partial
from typing import Any, Final, cast

from aiohttp import web

from supervisor.connections import Connections
from supervisor.http_connection import HttpConnection

# 32 event streams (`events.MAX_READERS`), and orders that wait for their outcome. Where more come, those that say
# nothing make room.
MOST_CONNECTIONS: Final = 128
# What answers may hold that wait for their readers; the largest, a whole history, has a few MB.
UNREAD_BYTES: Final = 64 * 1024 * 1024


class BoundedRunner(web.AppRunner):
    """For sites of any kind: all share one limit."""

    def __init__(self, app: web.Application, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._connections = Connections(MOST_CONNECTIONS, lambda: UNREAD_BYTES)

    @property
    def server(self) -> web.Server | None:
        """What sites call for each connection."""
        server = super().server
        return None if server is None else cast(web.Server, partial(HttpConnection, server, self._connections))
