"""Small tools of a worker's task: others wait for an outcome, the task waits for whatever comes first."""

import asyncio
from collections.abc import Sequence
from typing import Any


class Waits:
    """Callers that wait for one outcome; each is told exactly once."""

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[None]] = set()

    def wait(self, over: bool = False) -> "asyncio.Future[None]":
        """The next outcome after this call, to be awaited; raises what `answer` is given. `over`: it has come already.

        Leaving early (a cancelled caller) harms nobody. It is no coroutine, for one begins to wait only when it is run:
        a reload that waited so for an end missed it, and for ever held up the next reload.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        future.add_done_callback(lambda done: self._futures.discard(done))
        if over:
            future.set_result(None)
        return future

    def answer(self, error: Exception | None = None) -> None:
        """Tell everybody who waits now: it has come, or what is in its way."""
        waiting, self._futures = self._futures, set()
        for future in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)


async def cancelled(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel what is not done and wait until it has ended, so that nothing of it goes on behind the caller's back."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
