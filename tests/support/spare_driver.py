"""A "supervisor" with a warm spare that a test may kill. Its own program.

`python -m tests.support.spare_driver FOLDER INFINITY True|False`: INFINITY is a `ScriptedInfinity`'s folder. With True
a worker is started from a first spare and the second one is warm, with False the first one imports. Prints one JSON
line {"spare": pid, "worker": pid}, then goes on until it is killed.
"""

import asyncio
import json
import sys
from pathlib import Path

from supervisor.core.spare import SpareState
from tests.support.fake_lanes import Bench
from tests.support.scripted_infinity import ScriptedInfinity


async def main() -> None:
    """Bring up what is asked for and wait for the end."""
    folder = Path(sys.argv[1])
    infinity = ScriptedInfinity(Path(sys.argv[2]))
    it = Bench(folder, [infinity.spec("m")])
    await it.pool.start()
    pids: dict[str, int | None] = {}
    it.pool.request_spare()
    if sys.argv[3] == "True":
        await it.until(lambda: it.pool.spare.state is SpareState.WARM)
        await it.pool.ensure_ready("m")
        pids["worker"] = it.view("m").pid
        it.pool.request_spare()
        await it.until(lambda: it.pool.spare.state is SpareState.WARM)
    else:
        await it.until(lambda: bool(infinity.imports()))
    sys.stderr.write(json.dumps({**pids, "spare": it.pool.spare.pid}) + "\n")
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main())
