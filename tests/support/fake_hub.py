"""A hub on loopback that the real huggingface_hub downloads from: one folder as all its repositories, slowly if wanted.

with fake_hub(folder, {"org/model"}) as hub:
    env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
"""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Collection, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40
# What is asked for under this name is there, but not for us.
GATED = "org/gated"
_CHUNK = 64 * 1024
# A file of less is sent at once: it is the weights that take their time.
_SMALL = 1_000_000


class Hub(ThreadingHTTPServer):
    """What the handlers share; `pace` in bytes/s. While it is `down` it takes connections and drops them."""

    daemon_threads = True

    def __init__(self, folder: Path, repos: Collection[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.repos = folder, repos
        self.pace, self.down = 1e9, False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        """A file's size and version."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """A file, or what the API knows of the repository."""
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.server.down:
            self.close_connection = True
            return
        path = self.path.partition("?")[0]
        repo = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if repo == GATED:
            self._refuse(403, "GatedRepo")
        elif repo not in self.server.repos:
            self._refuse(401, "RepoNotFound")
        elif path in (f"/api/models/{repo}", f"/api/models/{repo}/revision/main"):
            files = [str(f.relative_to(self.server.folder)) for f in self.server.folder.rglob("*") if f.is_file()]
            info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], "tags": []}
            self._send(json.dumps(info).encode(), body)
        else:
            file = self.server.folder / path.removeprefix(f"/{repo}/resolve/").partition("/")[2]
            if file.is_file():
                self._send(file.read_bytes(), body)
            else:
                self._refuse(404, "EntryNotFound")

    def _send(self, data: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not body:
            return
        for begin in range(0, len(data), _CHUNK):
            self.wfile.write(data[begin : begin + _CHUNK])
            if len(data) > _SMALL:
                time.sleep(_CHUNK / self.server.pace)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@contextlib.contextmanager
def fake_hub(folder: Path, repos: Collection[str]) -> Iterator[Hub]:
    """A running hub."""
    hub = Hub(folder, repos)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
