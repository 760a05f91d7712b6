"""A plain HTTP client for the admin API: sends a request line exactly as it is given."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.raw)

    @property
    def reason(self) -> str:
        """The error's reason, for programs."""
        return str(self.json["error"]["reason"])

    @property
    def message(self) -> str:
        """The error's text, for people."""
        return str(self.json["error"]["message"])


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that the other side does soon, without guessing how soon on a busy machine."""
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def call(
    port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str | None] | None = None
) -> Answer:
    """One request on a connection of its own; a header of value None is left out."""
    fields: dict[str, str | None] = {"Host": f"127.0.0.1:{port}", "Connection": "close", **(headers or {})}
    if body is not None:
        fields.setdefault("Content-Length", str(len(body)))
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items() if v is not None)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode("utf-8", "surrogateescape") + b"\r\n" + (body or b""))
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        received = dict(line.split(": ", 1) for line in lines[1:] if line)
        return Answer(int(lines[0].split()[1]), received, await reader.read())
    finally:
        writer.close()
