"""A fork template of the real Infinity, for tests only: it has imported everything and forks servers in a second.

Run by Infinity's own interpreter as `python infinity_template.py SOCKET`. It imports `infinity_emb.cli` and all that
hangs below it once (most of a plain start), says `ready` on stdout, then serves `fast_infinity` programs on the unix
socket: each gets a forked child that throws Infinity's own modules away, imports them again with the environment it was
given (they read it at import; the heavy libraries stay) and runs the unchanged command line `infinity_emb.cli:cli`.

The life of everything here hangs on two pipes, so that nothing outlives the tests, however they end: end of file on
stdin ends the template and its children by SIGKILL; a `fast_infinity` that goes away takes its child along.

Wire: the client sends a 4 byte length and JSON {argv, env, cwd, pgid} with its stdin, stdout and stderr as SCM_RIGHTS;
the answers are lines: `joined PID` once the child is in the process group, then `exit STATUS` (negative: the signal).
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import selectors
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

# What Infinity loads only when a model of that kind is opened; a second of each start.
LAZY_IMPORTS = (
    "sentence_transformers",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "transformers.pipelines.text_classification",
    "transformers.models.clip.modeling_clip",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.lifespan.on",
    "prometheus_fastapi_instrumentator",
    "infinity_emb.fastapi_schemas.pymodels",
    "infinity_emb.cli",
)


M_MMAP_THRESHOLD = -3  # of <malloc.h>


def main() -> None:
    """Import, listen, fork; in a forked child: run Infinity's command line and never return."""
    path = sys.argv[1]
    for name in LAZY_IMPORTS:
        try:
            importlib.import_module(name)
        except ImportError:  # other versions of the libraries have other modules: they are loaded when needed
            if name.startswith("infinity_emb"):
                raise
    gc.collect()
    gc.freeze()  # keep the collector from touching, and so copying, the shared pages
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        request = Template(listener).serve()
    finally:
        with contextlib.suppress(FileNotFoundError):
            if os.getpid() == TEMPLATE_PID:
                os.unlink(path)
    if request is not None:
        become_infinity(request)


TEMPLATE_PID = os.getpid()


class Template:
    """The accept loop; one thread, so that forking is safe."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.selector = selectors.DefaultSelector()
        self.children: dict[int, tuple[int, socket.socket]] = {}  # pid: (pidfd, connection)

    def serve(self) -> dict[str, Any] | None:
        """Fork for each connection; returns the request in the child, None in the template when its parent has gone."""
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self.selector.register(0, selectors.EVENT_READ, self._parent_gone)
        while True:
            for key, _ in self.selector.select():
                outcome: dict[str, Any] | str | None = key.data(key.fileobj)
                if outcome == "end":
                    return None
                if isinstance(outcome, dict):
                    return outcome

    def _accept(self, listener: socket.socket) -> dict[str, Any] | None:
        connection, _ = listener.accept()
        connection.settimeout(10)
        try:
            request, fds = receive(connection)
        except (OSError, ValueError):
            connection.close()
            return None
        pid = os.fork()
        if pid == 0:
            self._let_go()
            return {**request, "fds": fds, "connection": connection}
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        self.children[pid] = (pidfd, connection)
        self.selector.register(pidfd, selectors.EVENT_READ, lambda _: self._child_ended(pid))
        self.selector.register(connection, selectors.EVENT_READ, lambda _: self._client_gone(pid))
        return None

    def _let_go(self) -> None:
        """In a child: close what is the template's, so that ports, pipes and connections are not held by strangers."""
        self.selector.close()
        self.listener.close()
        for pidfd, connection in self.children.values():
            os.close(pidfd)
            connection.close()

    def _child_ended(self, pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        pidfd, connection = self.children.pop(pid)
        self.selector.unregister(pidfd)
        os.close(pidfd)
        with contextlib.suppress(KeyError):
            self.selector.unregister(connection)
        with contextlib.suppress(OSError):
            connection.sendall(f"exit {os.waitstatus_to_exitcode(status)}\n".encode())
        connection.close()

    def _client_gone(self, pid: int) -> None:
        _, connection = self.children[pid]
        self.selector.unregister(connection)
        os.kill(pid, signal.SIGKILL)

    def _parent_gone(self, stdin: int) -> str | None:
        if os.read(stdin, 1024):
            return None
        for pid in list(self.children):
            os.kill(pid, signal.SIGKILL)
            self._child_ended(pid)
        return "end"


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The request and the three files of a client."""
    first, fds, _, _ = socket.recv_fds(connection, 65536, 3)
    if len(fds) != 3 or len(first) < 4:
        for fd in fds:
            os.close(fd)
        raise ValueError("not a request")
    (length,) = struct.unpack("!I", first[:4])
    body = first[4:]
    while len(body) < length:
        more = connection.recv(65536)
        if not more:
            raise ValueError("half a request")
        body += more
    return json.loads(body), list(fds)


def become_infinity(request: dict[str, Any]) -> None:
    """Turn this forked child into what `infinity_emb ARGS` would be, as far as anyone can see."""
    connection: socket.socket = request["connection"]
    try:
        os.setpgid(0, request["pgid"])
    except OSError as error:
        connection.sendall(f"error cannot join process group {request['pgid']}: {error}\n".encode())
        os._exit(70)
    for number, fd in enumerate(request["fds"]):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    connection.sendall(f"joined {os.getpid()}\n".encode())
    connection.close()
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        sys.stderr.reconfigure(write_through=True)  # type: ignore[union-attr]
    for name in [name for name in sys.modules if name.split(".")[0] == "infinity_emb"]:
        del sys.modules[name]
    sys.argv = request["argv"]
    cli = importlib.import_module("infinity_emb.cli").cli
    if mark := os.environ.get("TEST_POISON"):
        poison(mark)
    if mark := os.environ.get("TEST_LEAK"):
        leak(mark)
    if left := os.environ.get("TEST_MEMORY_LEFT"):
        leave_memory(int(left))
    if left := os.environ.get("TEST_MEMORY_LEFT_ONCE_LOADED"):
        leave_memory_once_loaded(int(left))
    sys.exit(cli())


def poison(mark: str) -> None:
    """Have the debug engine's forward pass raise for texts with this mark: what follows is the true zombie."""
    module = importlib.import_module("infinity_emb.transformer.embedder.dummytransformer")
    encode = module.DummyTransformer.encode_core

    def encode_core(self: Any, features: Any) -> Any:
        if any(mark in text for text in features):
            raise RuntimeError("DefaultCPUAllocator: the forward pass failed for a test")
        return encode(self, features)

    module.DummyTransformer.encode_core = encode_core


def leak(mark: str) -> None:
    """Have the debug engine's forward pass keep 64 MB for each text with this mark."""
    module = importlib.import_module("infinity_emb.transformer.embedder.dummytransformer")
    encode = module.DummyTransformer.encode_core
    kept = []

    def encode_core(self: Any, features: Any) -> Any:
        kept.extend(bytearray(b"x") * (64 << 20) for text in features if mark in text)
        return encode(self, features)

    module.DummyTransformer.encode_core = encode_core


def leave_memory(left: int) -> None:
    """Let this process's address space grow by so many bytes and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + left
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def leave_memory_once_loaded(left: int) -> None:
    """The same from the second forward pass of a sentence transformer on, as `prlimit --as` would on a running worker.

    Then all threads are there, whose stacks count as well. What the libraries need for any row, they have from one that
    is run before; what is freed goes back at once, and what the heap has kept is taken. So the size of a batch decides.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 16)
    module = importlib.import_module("infinity_emb.transformer.embedder.sentence_transformer")
    encode = module.SentenceTransformerPatched.encode_core
    passes = 0

    def encode_core(self: Any, features: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes == 2:
            encode(self, {name: tensor[:1] for name, tensor in features.items()})
            leave_memory(2 << 20)
            while libc.malloc(1 << 20):
                pass
            leave_memory(left)
        return encode(self, features)

    module.SentenceTransformerPatched.encode_core = encode_core


if __name__ == "__main__":
    main()
