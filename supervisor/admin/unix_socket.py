"""The admin API's unix socket: made with its mode from the first moment, and only where nobody listens.

Owns the file: one that a killed supervisor left is replaced, one that somebody listens on, or that is no socket, stays.
"""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.errors import StartError

# Whoever may write to it may give orders: its owner, and those whom the operator has put into its group.
MODE: Final = 0o660


class UnixSocket:
    """A socket that listens at `path`; StartError where none can be made."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _make_way(path)
            # Linux gives the file the mode of the open socket, less the umask: at no moment can more users write to it.
            os.fchmod(self.listener.fileno(), MODE)
            self.listener.bind(path)
            os.chmod(path, MODE)
            self._file = _identity(path)
        except OSError as error:
            self.listener.close()
            raise StartError(f"admin.socket {path}: {error.strerror or error}") from error

    def remove(self) -> None:
        """Take the file away, unless another supervisor has put its own there."""
        with suppress(OSError):
            if _identity(self.path) == self._file:
                Path(self.path).unlink()


def _make_way(path: str) -> None:
    """Remove a socket that nobody listens on."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError("it is there and is no socket: remove it, or set another admin.socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError("somebody listens there: stop that, or set another admin.socket")


def _identity(path: str) -> tuple[int, int, int]:
    """Its number alone is not enough: the next file may be given that of one that was removed."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns
