"""What callers must show, while the daemon runs: the keys of the proxy's clients, and the admin API's token.

Both files are read at the start and at each reload, that of the keys also when it has changed. One that is refused
changes nothing: what is in force stays, and the log says what is wrong.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import structlog

from supervisor.config.credentials import api_keys, token
from supervisor.errors import StartError

log = structlog.get_logger(__name__)

Keys = Mapping[bytes, str]
# Seconds between two looks whether the file is another one: a key that leaked is of no use so soon after its removal.
LOOK_EVERY: Final = 1.0


def admin_token(path: str | None, in_force: str | None = None) -> str | None:
    """The token in the file at `path`, or the one that is `in_force` where that is refused; StartError without one."""
    if path is None:
        return None
    try:
        return token(path)
    except ValueError as error:
        if in_force is None:
            raise StartError(f"admin.token_file: {error}") from error
        log.error("token_refused", reason=str(error), consequence="the token in force stays")
        return in_force


class ApiKeys:
    """Tells `use` the keys of the file at `path`; None, where there is no such file, lets everybody in."""

    def __init__(self, use: Callable[[Keys | None], None], path: str | None) -> None:
        self._use = use
        self._path = path
        self._in_force: Keys | None = None
        self._seen: tuple[int, ...] = ()
        self._fault = ""

    def start(self) -> None:
        """Read the file for the first time; StartError when it is refused."""
        try:
            self._read()
        except ValueError as error:
            raise StartError(f"proxy.api_keys_file: {error}") from error

    def set_path(self, path: str | None) -> None:
        """Another file, or the same one to be read again. Where no keys were asked for, a bad one lets nobody in."""
        self._path = path
        if not self._try() and self._in_force is None:
            self._take({})

    async def run(self) -> None:
        """Look at the file now and then, for ever; one that was refused is tried again, for the reason may pass."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._path is not None and (self._fault or await asyncio.to_thread(_marks, self._path) != self._seen):
                self._try()

    def _try(self) -> bool:
        try:
            self._read()
        except ValueError as error:
            if str(error) != self._fault:
                log.error("api_keys_refused", reason=str(error), consequence="the keys in force stay")
            self._fault = str(error)
            return False
        return True

    def _read(self) -> None:
        """What is seen before is of the file that is read then, or of an older one: a change is never missed."""
        self._seen = () if self._path is None else _marks(self._path)
        keys = None if self._path is None else api_keys(self._path)
        self._fault = ""
        self._take(keys)
        if keys is not None:
            log.info("api_keys_read", file=self._path, keys=len(keys), clients=len(set(keys.values())))

    def _take(self, keys: Keys | None) -> None:
        self._in_force = keys
        self._use(keys)


def _marks(path: str) -> tuple[int, ...]:
    """What changes with a file's content, whether it is written anew or replaced; () when it is not there."""
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return ()
