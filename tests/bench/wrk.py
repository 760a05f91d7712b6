"""wrk: the cheapest load where many connections ask the same kind of request in a closed loop.

`embed.lua` makes distinct requests ahead of time and prints the outcome as `key value` lines, which are read here.
"""

import math
import subprocess
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.figures import Values

SCRIPT = Path(__file__).resolve().parent / "embed.lua"
MARK = "bench "
KEYS = ("requests", "seconds", "failed", "p50_us", "p99_us")


def run(url: str, model: str, *, connections: int, inputs: int, seconds: float) -> Values:
    """Load `url` for about `seconds`: requests/s, inputs/s, latencies in ms, and how many answers were no 200.

    One thread: a second one would only take more of the cores it shares with what it measures. RuntimeError when wrk
    fails or says nothing.
    """
    command = [
        *("wrk", "-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s", "--timeout", "60s"),
        *("-s", str(SCRIPT), url, "--", urlsplit(url).netloc, model, str(inputs)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"wrk ended with {done.returncode}: {done.stderr or done.stdout}")
    return values(done.stdout.splitlines(), inputs)


def values(lines: Iterable[str], inputs: int) -> Values:
    """What wrk's output says, for requests of that many inputs; RuntimeError when something is missing."""
    words = [line.removeprefix(MARK).split() for line in lines if line.startswith(MARK)]
    said = {key: float(value) for key, value in words}
    missing = [key for key in KEYS if key not in said]
    if missing or said["seconds"] <= 0:
        raise RuntimeError(f"wrk did not say {', '.join(missing) or 'how long it took'}")
    # wrk says 0 where it has nothing to say.
    answered = said["requests"] > 0
    rate = (said["requests"] - said["failed"]) / said["seconds"]
    return {
        "requests_s": rate,
        "inputs_s": rate * inputs,
        "p50_ms": said["p50_us"] / 1000 if answered else math.nan,
        "p99_ms": said["p99_us"] / 1000 if answered else math.nan,
        "failed": said["failed"],
    }
