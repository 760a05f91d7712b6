"""An admin listener in the test's own event loop, the fake control behind it, and short ways to call it."""

import json

from supervisor.admin.server import AdminServer
from supervisor.metrics import Metrics
from tests.support.admin_client import Answer, call
from tests.support.fake_control import FakeControl


class Served:
    """A listener and the control behind it."""

    def __init__(self) -> None:
        self.control = FakeControl()
        self.metrics = Metrics(["minilm"])
        self.server = AdminServer(self.control, self.metrics, "127.0.0.1", 0)

    async def get(self, path: str, **headers: str | None) -> Answer:
        """GET."""
        return await call(self.server.port, "GET", path, headers=headers)

    async def post(self, path: str, body: object = None, **headers: str | None) -> Answer:
        """POST; a body that is not bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return await call(self.server.port, "POST", path, raw, headers)
