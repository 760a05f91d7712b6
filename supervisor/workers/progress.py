"""Whether a worker that has been started gets on: new output, CPU time, or bytes read and written.

A first download takes minutes, a large model from a slow disk longer: a start may take any time as long as it moves.
"""

import asyncio
from collections.abc import Callable

from supervisor.core.display import byte_size
from supervisor.workers.process import Activity

# Share of one core that counts as working: a process that only wakes up to look at its timers uses less.
_BUSY_SHARE = 0.01
# Bytes between two looks: a download at modem speed is more, timers and wake-up pipes are less.
_BUSY_BYTES = 1024
# Seconds between looks; a look walks /proc, so not often.
_INTERVAL = 2.0
# Seconds without a move that are worth a word: imports and loads rest for less.
_TOLD_STILL = 10.0


class Progress:
    """Compares looks at a worker; pure."""

    def __init__(self, activity: Activity, written: int, now: float) -> None:
        self._activity, self._written, self._looked_at = activity, written, now
        self._moved_at = now
        self._pace = ""  # in words, once two looks were compared

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
        self._pace = f"{cpu / seconds:.1f} cores, {byte_size(io_bytes / seconds)}/s read and written"
        self._activity, self._written, self._looked_at = activity, written, now

    def still_for(self, now: float) -> float:
        """Seconds since it last moved."""
        return now - self._moved_at

    def in_words(self, now: float, doing: str = "") -> str:
        """What it does: `doing`, if it says so itself, and whether it moves; "" as long as nothing was seen."""
        still = self.still_for(now)
        if still >= _TOLD_STILL:
            seen = f"nothing has moved for {still:.0f} s"
            return f"{doing}, {seen}" if doing else seen
        return doing or self._pace


async def standstill(
    activity: Callable[[], Activity],
    written: Callable[[], int],
    limit: Callable[[], float],
    show: Callable[[Progress], None] = lambda _: None,
) -> float:
    """Return when there was no progress for `limit()` seconds, with how long that was; `show` is given the progress."""
    loop = asyncio.get_running_loop()
    progress = Progress(activity(), written(), loop.time())
    show(progress)
    while True:
        await asyncio.sleep(min(_INTERVAL, limit() / 4))
        progress.look(activity(), written(), loop.time())
        if (still := progress.still_for(loop.time())) >= limit():
            return still
