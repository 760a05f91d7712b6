"""An event loop in virtual time whose every step can be counted, and stopped at.

`looptime` waits for other threads and sockets, which takes 42 rounds of the loop for each move of its clock. A thousand
stories can't wait that long, and need neither: here there is nothing but tasks and timers, so when none is left to run
the clock jumps to the next timer, and when there is no timer either, nothing will ever happen again.
"""

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class NothingLeft(AssertionError):
    """Everybody waits for somebody else: what a hang looks like without clocks."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs one callback a step. `before_step` is called before each, outside of every task; `steps` counts them.

    Sockets and threads are not looked at: a test that needs them waits for ever, and is told so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.before_step: Callable[[], None] = lambda: None
        self._now = 1000.0

    def time(self) -> float:
        """Seconds, as far as the timers have brought it."""
        return self._now

    def _run_once(self) -> None:
        timers = self._scheduled
        if not self._ready:
            while timers and timers[0]._cancelled:
                heapq.heappop(timers)._scheduled = False
            if not timers:
                raise NothingLeft(f"at {self._now - 1000:.3f} s: no callback, no timer: everybody waits")
            self._now = max(self._now, timers[0]._when)
        while timers and timers[0]._when <= self._now:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            self._ready.append(timer)
        handle = self._ready.popleft()
        if not handle._cancelled:
            self.before_step()
            self.steps += 1
            handle._run()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run it to its end in a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@contextlib.contextmanager
def at_step(number: int, act: Callable[[], None]) -> Iterator[None]:
    """In the running loop: do this once, before that step from now on."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    until, usual = loop.steps + number, loop.before_step

    def before_step() -> None:
        if loop.steps == until:
            loop.before_step = usual
            act()
        usual()

    loop.before_step = before_step
    try:
        yield
    finally:
        loop.before_step = usual
