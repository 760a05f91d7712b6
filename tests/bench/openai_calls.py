"""Stock openai clients, one a thread, at their default settings: how many HTTP requests they send for each call.

Run as `python -m tests.bench.openai_calls URL MODEL THREADS SECONDS`: says `ready` once it has imported everything,
begins when its stdin is closed, and prints `{"calls", "requests", "failed"}` at the end.
"""

import json
import sys
import threading
import time
from dataclasses import dataclass

import openai
from openai import DefaultHttpxClient, OpenAI


@dataclass
class Counts:
    """What all threads together did."""

    calls: int = 0
    requests: int = 0
    failed: int = 0


def call_until(end: float, url: str, model: str, number: int, counts: Counts, lock: threading.Lock) -> None:
    """One client: call after call, counting requests at its transport."""

    def sent(_: object) -> None:
        with lock:
            counts.requests += 1

    with OpenAI(
        base_url=url, api_key=f"openai-{number}", http_client=DefaultHttpxClient(event_hooks={"request": [sent]})
    ) as client:
        calls = 0
        while time.monotonic() < end:
            calls += 1
            failed = False
            try:
                client.embeddings.create(model=model, input=f"call {calls} of client {number} about rivers and bridges")
            except openai.OpenAIError:
                failed = True
            with lock:
                counts.calls += 1
                counts.failed += failed


def main() -> None:
    """Run the threads and print the counts."""
    url, model, threads, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    print("ready", flush=True)
    sys.stdin.read()
    end = time.monotonic() + seconds
    counts, lock = Counts(), threading.Lock()
    running = [threading.Thread(target=call_until, args=(end, url, model, i, counts, lock)) for i in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(json.dumps({"calls": counts.calls, "requests": counts.requests, "failed": counts.failed}))


if __name__ == "__main__":
    main()
