"""A "supervisor" that a test may kill: a pool of scripted workers and its records. Its own program.

`python -m tests.support.pool_driver FOLDER SCRIPT…`: one worker per SCRIPT (JSON for `Script`), named w0, w1 …; prints
one JSON line {name: pid} when all are ready, then goes on until it is killed.
"""

import asyncio
import json
import sys
from pathlib import Path

from supervisor.workers.records import Records
from tests.support.fake_lanes import Bench, scripted


async def main() -> None:
    """Bring the workers up and wait for the end."""
    folder = Path(sys.argv[1])
    specs = [scripted(f"w{number}", **json.loads(text)) for number, text in enumerate(sys.argv[2:])]
    it = Bench(folder, specs, Records(folder / "workers.json"))
    await it.pool.start()
    await asyncio.gather(*(it.pool.ensure_ready(spec.name) for spec in specs))
    sys.stderr.write(json.dumps({name: view.pid for name, view in it.pool.views().items()}) + "\n")
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main())
