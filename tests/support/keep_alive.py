"""Clients that ask one after the other on one connection, and check each answer of the debug engine."""

import threading
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import orjson


class KeepAlive(threading.Thread):
    """A client that keeps its connection as long as the server does, and counts what goes wrong."""

    def __init__(self, proxy: str, number: int, stop: threading.Event) -> None:
        super().__init__()
        url = urlsplit(proxy)
        self.connection = HTTPConnection(url.hostname or "", url.port, timeout=60)
        self.number, self.stop = number, stop
        self.answered = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            length = self.number * 50 + self.answered % 40 + 1
            body = orjson.dumps({"model": "a", "input": "x" * length})
            try:
                self.connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
                response = self.connection.getresponse()
                raw = response.read()
                if response.status != 200 or orjson.loads(raw)["data"][0]["embedding"] != [float(length)] * 13:
                    self.wrong.append(f"{response.status} {raw[:200]!r}")
            except (OSError, HTTPException) as error:
                self.wrong.append(repr(error))
                self.connection.close()
            self.answered += 1
        self.connection.close()
