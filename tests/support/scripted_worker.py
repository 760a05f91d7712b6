"""A stand-in for `infinity_emb v2` that misbehaves on demand; stdlib only, up in 0.1 s. Its own program.

Takes Infinity's arguments and settings as far as they matter (`--served-model-name`, `--port`, INFINITY_API_KEY) and
answers in Infinity's shape; `tests/infinity/test_worker_double.py` holds it against the real one. What it does wrong
stands in the environment variable SCRIPT as JSON, see `Script`. In inputs, the text `HANG` is never answered, `DIE`
ends the process, and after `ZOMBIE` its model answers nothing any more.

    WorkerSpec(name="m", model_id="x", command=scripted_command(), env=script(start_seconds=1.0))
"""

import argparse
import asyncio
import base64
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def scripted_command() -> tuple[str, ...]:
    """What to write as `infinity.command`."""
    return (sys.executable, "-ES", str(Path(__file__).resolve()), "v2")


def script(**settings: Any) -> dict[str, str]:
    """The environment that makes it behave so; the names are those of `Script`."""
    Script(**settings)  # a typing error shows here, not as a worker that behaves well
    return {"SCRIPT": json.dumps(settings)}


@dataclass
class Script:
    """What it does, in order of its life; the defaults behave well."""

    start_seconds: float = 0.0
    """Sleeps this long before it listens; silent and idle unless told otherwise."""
    start_busy: bool = False
    """Uses a core meanwhile."""
    start_lines: int = 0
    """Writes this many lines meanwhile, evenly spread."""
    start_bars: int = 0
    """Draws this many states of one download's progress bar meanwhile, as tqdm does: over one another, no line ends."""
    start_bytes: int = 0
    """Writes this many bytes to a file each half second meanwhile, silently."""
    fail_starts: int = 0
    """So many of the first starts end with `exit_status`; counted in `count_file`."""
    exit_status: int = 1
    last_words: str = ""
    """Written to stderr before it ends by itself."""
    count_file: str = ""
    """One line is appended per start: its pid."""
    flood_lines: int = 0
    """Lines written at once before it listens, each with `flood_text` and a number."""
    flood_text: str = "line"
    grandchild: bool = False
    """Starts a child that ignores SIGTERM and holds stdout, stderr and the listening port."""
    never_listens: bool = False
    version: str = ""
    """What /openapi.json says of it; without one there is no such page."""
    lists: str | None = None
    """The model that /models names instead of its own."""
    capabilities: tuple[str, ...] = ("embed",)
    numbers: str = "right"
    """"right", "nan", "null", "short" (the second row is), "none" (500), "shapeless"."""
    answer_seconds: float = 0.0
    """Each POST takes this long."""
    dies_after: int = 0
    """POSTs after which it ends with `exit_status`."""
    ignores_sigterm: bool = False
    term_seconds: float = 0.0
    """From SIGTERM to its end."""


class Worker:
    """The server of one process."""

    def __init__(self, script: Script, names: list[str]) -> None:
        self.script, self.names = script, names
        self.dead: set[str] = set()
        self.key = os.environ.get("INFINITY_API_KEY", "")
        self.posts = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one connection, one after the other."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                method, path, _ = lines[0].split()
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, answer = await self.answer(method, path, headers, body)
                data = json.dumps(answer).encode()
                close = headers.get("connection") == "close"
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
                    f"connection: {'close' if close else 'keep-alive'}\r\n\r\n".encode()
                    + data
                )
                await writer.drain()
                if close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        """Status and JSON, as Infinity answers."""
        if path == "/health":
            return 200, {"unix": time.monotonic()}
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return 401, {"detail": "Unauthorized"}
        if path == "/models":
            return 200, self.models()
        if path == "/openapi.json" and self.script.version:
            return 200, {"openapi": "3.1.0", "info": {"title": "scripted", "version": self.script.version}}
        if method != "POST" or path not in ("/embeddings", "/rerank", "/classify"):
            return 404, {"detail": "Not Found"}
        self.posts += 1
        if b"DIE" in body or (self.script.dies_after and self.posts > self.script.dies_after):
            die(self.script)
        model = json.loads(body).get("model")
        if b"ZOMBIE" in body:
            self.dead.add(model)
        if b"HANG" in body or model in self.dead:
            await asyncio.sleep(3600)
        await asyncio.sleep(self.script.answer_seconds)
        if self.script.numbers == "none":
            return 500, {"error": {"message": "InternalServerError: no numbers today", "code": 500}}
        if self.script.numbers == "shapeless":
            return 200, {"surprise": True}
        return 200, self.compute(path, json.loads(body))

    def models(self) -> dict[str, Any]:
        """The answer to GET /models."""
        stats = {"queue_fraction": 0.0, "queue_absolute": 0, "results_pending": 0, "batch_size": 32}
        names = self.names if self.script.lists is None else [self.script.lists]
        model = {
            "stats": stats,
            "object": "model",
            "owned_by": "infinity",
            "created": 0,
            "backend": "scripted",
            "capabilities": list(self.script.capabilities),
        }
        return {"data": [{"id": name, **model} for name in names], "object": "list"}

    def compute(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        """Numbers that tell inputs of different lengths apart, as the debug engine's do."""
        given = request["documents"] if path == "/rerank" else request["input"]
        texts = [given] if isinstance(given, str) else given
        characters = sum(map(len, texts))
        answer: dict[str, Any] = {"model": request.get("model", self.names[0]), "id": "infinity-scripted", "created": 0}
        answer["usage"] = {"prompt_tokens": characters, "total_tokens": characters}
        if path == "/rerank":
            scores = sorted(((self.number(t, i), i) for i, t in enumerate(texts)), key=str, reverse=True)
            results = [{"relevance_score": score, "index": i, "document": None} for score, i in scores]
            return {"object": "rerank", "results": results, **answer}
        if path == "/classify":
            rows = [[{"score": self.number(t, i), "label": "LENGTH"}] for i, t in enumerate(texts)]
            return {"object": "classify", "data": rows, **answer}
        data = [self.embedding(text, i, request.get("encoding_format")) for i, text in enumerate(texts)]
        return {"object": "list", "data": data, **answer}

    def embedding(self, text: str, index: int, encoding: str | None) -> dict[str, Any]:
        """13 numbers, all of them the text's length."""
        row = [self.number(text, index)] * (7 if self.script.numbers == "short" and index else 13)
        encoded = base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode() if encoding == "base64" else row
        return {"object": "embedding", "embedding": encoded, "index": index}

    def number(self, text: str, index: int) -> Any:
        """The number for one input."""
        return {"nan": float("nan"), "null": None}.get(self.script.numbers, float(len(text)))


def die(script: Script) -> None:
    """End by itself."""
    sys.stderr.write(script.last_words + "\n")
    sys.stderr.flush()
    os._exit(script.exit_status)


def begin(script: Script) -> None:
    """What comes before the port opens."""
    if script.ignores_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in range(script.flood_lines):
        sys.stdout.write(f"{script.flood_text} {number}\n")
    sys.stdout.flush()
    until = time.monotonic() + script.start_seconds
    steps = max(script.start_lines, script.start_bars, 1)
    for number in range(steps):
        due = until - script.start_seconds * (1 - (number + 1) / steps)
        while (left := due - time.monotonic()) > 0:
            if not script.start_busy:
                time.sleep(min(left, 0.5))
            if script.start_bytes:
                with tempfile.TemporaryFile() as file:
                    file.write(b"x" * script.start_bytes)
        if script.start_lines:
            sys.stdout.write(f"loading, step {number}\n")
            sys.stdout.flush()
        if script.start_bars:
            share = number / script.start_bars
            bar = "█" * int(share * 10) + " " * (10 - int(share * 10))
            sys.stderr.write(
                f"\rmodel.safetensors: {share:4.0%}|{bar}| {share * 90.9:.1f}M/90.9M [00:03<00:06, 9.5MB/s]"
            )
            sys.stderr.flush()
    if script.count_file:
        with Path(script.count_file).open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(Path(script.count_file).read_text().split()) <= script.fail_starts:
            die(script)


def bear_a_grandchild(sockets: list[int]) -> None:
    """A child that ignores SIGTERM and holds what this process has open."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    subprocess.Popen([sys.executable, "-ESc", code], pass_fds=sockets)


async def serve(script: Script, names: list[str], port: int) -> None:
    """Answer until SIGTERM, then end by it as uvicorn does."""
    worker = Worker(script, names)
    if script.never_listens:
        await asyncio.sleep(3600)
    server = await asyncio.start_server(worker.connection, "127.0.0.1", port)
    if script.grandchild:
        bear_a_grandchild([sock.fileno() for sock in server.sockets])
    sys.stdout.write(f"Uvicorn running on http://127.0.0.1:{port}\n")
    sys.stdout.flush()
    if script.ignores_sigterm:
        await asyncio.sleep(3600)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()
    await asyncio.sleep(script.term_seconds)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Parse what `infinity_emb v2` would, as far as it matters here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--served-model-name", required=True, action="append")
    parser.add_argument("--port", type=int, required=True)
    known, _ = parser.parse_known_args(sys.argv[2:])
    settings = Script(**json.loads(os.environ.get("SCRIPT", "{}")))
    begin(settings)
    asyncio.run(serve(settings, known.served_model_name, known.port))


if __name__ == "__main__":
    main()
