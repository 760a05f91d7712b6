"""The CPU hold at the data plane: before a part leaves, the bucket is asked; lanes that it makes wait take turns.

Owns the one bucket (`supervisor.core.cpu_hold`), the order of the lanes that wait for it, and its ticks, which run only
while one does.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from supervisor.core.cpu_hold import CpuHold
from supervisor.proxy.lane import Lane
from supervisor.proxy.part import Part

TICK: Final = 0.05  # s (behaviour.md 5)


class Throttle:
    """Lets parts leave as the bucket allows. `own_cpu` counts our workers' core-seconds; `run` sends for a lane."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, own_cpu: Callable[[], float], run: Callable[[Lane], None]
    ) -> None:
        self.hold = CpuHold()
        self._loop = loop
        self._own_cpu = own_cpu
        self._run = run
        self._on = False
        self._waiting: OrderedDict[Lane, None] = OrderedDict()
        self._turn: Lane | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = float("-inf")
        # Parts at the workers by lane; our workers' core-seconds when the oldest of them was begun; the only lane that
        # had parts since then.
        self._running: Counter[Lane] = Counter()
        self._used = 0.0
        self._alone: Lane | None = None
        self._charged: set[Part] = set()  # the bucket knows of these: it forgets them when the hold ends

    def set_target(self, percent: float | None, cores: float) -> None:
        """Hold the CPU at this percentage of its cores from now on; None lets everything pass."""
        self._on = percent is not None
        self.hold.set_target(percent, cores)
        if not self._on:
            self._charged.clear()
            self.release()

    def observe(self, busy: float, now: float) -> None:
        """All that runs on the host used `busy` cores of late."""
        if self._on:
            self.hold.observe(busy, self._own_cpu(), now)

    @property
    def external_load(self) -> bool:
        """Whether others alone use more than the hold aims at."""
        return self._on and self.hold.external_load

    def permits(self, lane: Lane, now: float) -> bool:
        """Whether a part of this lane may leave; if not, the lane is run again when it is its turn."""
        if not self._on:
            return True
        mine, self._turn = self._turn is lane, None
        if mine or not self._waiting:
            self._tick(now)
            if self.hold.allows(now):
                return True
        self._waiting[lane] = None
        if mine:
            self._waiting.move_to_end(lane, last=False)  # its turn is yet to come
        if self._timer is None:
            self._timer = self._loop.call_later(TICK, self._timer_rang)
        return False

    def sent(self, lane: Lane, part: Part) -> None:
        """A part of this lane left."""
        part.core_seconds = lane.sizing.core_seconds(part)
        if self._on:
            self._charged.add(part)
            self.hold.sent(part.core_seconds, part.sent_at)
        if self._on and not self._running:
            self._used, self._alone = self._own_cpu(), lane
        elif self._alone is not lane:
            self._alone = None
        self._running[lane] += 1

    def ended(self, lane: Lane, part: Part, now: float) -> float | None:
        """It was answered, or lost. The core-seconds it used; None where several models ran, or nothing is held."""
        self._running[lane] -= 1
        if not self._running[lane]:
            del self._running[lane]
        if not self._on:
            self._alone = None
            return None
        if part in self._charged:
            self._charged.remove(part)
            self.hold.ended(part.core_seconds, now)
        counted = self._own_cpu()
        used, self._used = counted - self._used, counted
        alone, self._alone = self._alone, next(iter(self._running)) if len(self._running) == 1 else None
        return used if alone is lane else None

    def release(self) -> None:
        """Give turns to the lanes that wait, as long as the bucket allows."""
        for _ in range(len(self._waiting)):
            lane, _ = self._waiting.popitem(last=False)
            self._turn = lane
            self._run(lane)
            if next(iter(self._waiting), lane) is lane:
                break
        self._turn = None

    def forget(self, lane: Lane) -> None:
        """The lane is no more."""
        self._waiting.pop(lane, None)

    def close(self) -> None:
        """No more turns."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, now: float) -> None:
        if now - self._ticked_at >= TICK:
            self._ticked_at = now
            self.hold.tick(self._own_cpu(), now)

    def _timer_rang(self) -> None:
        self._timer = None
        self._tick(self._loop.time())
        self.release()
        if self._waiting and self._timer is None:
            self._timer = self._loop.call_later(TICK, self._timer_rang)
