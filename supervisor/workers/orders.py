"""What is wanted of one worker: to run or to rest, and whether its present run has to end.

Orders are levels, not events: repeating one changes nothing, and the last one counts.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the present run has to end by our wish, and whether it is for a new one.

    Once ordered it is carried out, whatever is ordered after it: somebody may be waiting for it.
    """

    cause: str
    restart: bool


class Orders:
    """Left by anybody; only the worker's own task waits for them.

    `wanted`: it is to run. `retiring`: for good it is not. `held_back`: why a crashed one is not to be started again
    yet. `cut_drain` and `cut_stop` cut short what a stop waits for.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.retiring = False
        self.held_back: str | None = None
        self.ending: Ending | None = None
        self.cut_drain, self.cut_stop = asyncio.Event(), asyncio.Event()
        self._nudge = asyncio.Event()

    @property
    def run_is_over(self) -> bool:
        """Whether what runs has to stop."""
        return self.ending is not None or not self.wanted

    def run(self) -> None:
        """It is to run."""
        if not self.wanted and not self.retiring:
            self.wanted = True
            self.nudge()

    def end(self, ending: Ending) -> None:
        """What runs is to end; the first cause counts, but that of a rest more than that of a restart."""
        if self.ending is None or not ending.restart:
            self.ending = ending
            self.nudge()

    def hurry(self) -> None:
        """Cut short the drain; called again, also the patience after SIGTERM."""
        (self.cut_stop if self.cut_drain.is_set() else self.cut_drain).set()

    def nudge(self) -> None:
        """Something changed that the worker's task may wait for."""
        self._nudge.set()

    async def until(self, condition: Callable[[], bool], timeout: float | None = None) -> None:
        """Wait until the condition holds, as far as a nudge tells, for at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    self._nudge.clear()
                    await self._nudge.wait()
        except TimeoutError:
            pass
