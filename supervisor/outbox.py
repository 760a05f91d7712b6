"""What is to be handed to somebody who may keep us waiting: sent in order, on a thread of its own, bounded.

systemd's libraries block when PID 1 or the journal do not listen (a daemon-reload takes seconds on a large host, and a
socket holds ten messages where nobody raised that). The control loop and the requests must not stand still for it.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """Hands items to `send`, one after the other. Never raises, never waits but in `flush`.

    `limit` bounds the sizes of what waits, in whatever unit `put` is told them.
    """

    def __init__(self, send: Callable[[T], object], limit: int, name: str) -> None:
        self._send = send
        self._limit = limit
        self._name = name
        # A condition's lock is re-entrant: a destructor that the garbage collector runs in the middle of a `put` may
        # log, and so come here again.
        self._changed = threading.Condition()
        self._waiting: deque[tuple[T, int]] = deque()
        self._size = 0
        self._thread: threading.Thread | None = None

    def put(self, item: T, size: int = 1) -> bool:
        """Have it sent after what waits; False, and it is lost, when that is too much. Of size 0 it never is."""
        with self._changed:
            if self._waiting and size and self._size + size > self._limit:
                return False
            self._waiting.append((item, size))
            self._size += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return True

    def flush(self, wait: float) -> None:
        """Wait until all is sent, `wait` seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, wait)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                item, size = self._waiting[0]
            with suppress(Exception):  # nobody there, or not what the other end takes: nobody is left to tell
                self._send(item)
            with self._changed:
                self._waiting.popleft()
                self._size -= size
                if not self._waiting:
                    self._changed.notify_all()
