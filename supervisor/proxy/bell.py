"""A bell for waiting until something about shared state is true: state changes ring it, waiters look again."""

import asyncio
from collections.abc import Callable


class Bell:
    """Ring it after every change that somebody may wait for; it costs nothing while nobody does."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Let all waiters look again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, true: Callable[[], bool], timeout: float) -> bool:
        """Wait until `true()`, at most `timeout` seconds; what it is in the end."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        timer = loop.call_later(timeout, self._time_is_up, over)
        try:
            # An event and not a look at the clock: a timer may fire a moment early (uvloop: half a millisecond).
            while not true() and not over.is_set():
                waiter: asyncio.Future[None] = loop.create_future()
                self._waiters.add(waiter)
                try:
                    await waiter
                finally:
                    self._waiters.discard(waiter)
        finally:
            timer.cancel()
        return true()

    def _time_is_up(self, over: asyncio.Event) -> None:
        over.set()
        self.ring()
