"""Whether a worker that has been started gets on: new output, CPU time, or bytes read and written.

A first download takes minutes, a large model from a slow disk longer: a start may take any time as long as it moves.
"""

import asyncio
from collections.abc import Callable

from supervisor.workers.process import Activity

# Share of one core that counts as working: a process that only wakes up to look at its timers uses less.
_BUSY_SHARE = 0.01
# Bytes between two looks: a download at modem speed is more, timers and wake-up pipes are less.
_BUSY_BYTES = 1024
# Seconds between looks; a look walks /proc, so not often.
_INTERVAL = 2.0


class Progress:
    """Compares looks at a worker; pure."""

    def __init__(self, activity: Activity, written: int, now: float) -> None:
        self._activity, self._written, self._looked_at = activity, written, now
        self._moved_at = now

    def look(self, activity: Activity, written: int, now: float) -> None:
        """Take in what the worker has done so far: its CPU time and I/O, and how many bytes of output."""
        seconds = now - self._looked_at
        if seconds <= 0:
            return
        # A sum that falls has lost a member of the group: that is a move too.
        cpu = abs(activity.cpu_seconds - self._activity.cpu_seconds)
        io_bytes = abs(activity.io_bytes - self._activity.io_bytes)
        if written != self._written or cpu >= _BUSY_SHARE * seconds or io_bytes >= _BUSY_BYTES:
            self._moved_at = now
        self._activity, self._written, self._looked_at = activity, written, now

    def still_for(self, now: float) -> float:
        """Seconds since it last moved."""
        return now - self._moved_at


async def standstill(activity: Callable[[], Activity], written: Callable[[], int], limit: Callable[[], float]) -> float:
    """Return when there was no progress for `limit()` seconds, with how long that was."""
    loop = asyncio.get_running_loop()
    progress = Progress(activity(), written(), loop.time())
    while True:
        await asyncio.sleep(min(_INTERVAL, limit() / 4))
        progress.look(activity(), written(), loop.time())
        if (still := progress.still_for(loop.time())) >= limit():
            return still
