"""Small files of the kernel that are read many times a second: kept open, read from their start each time.

Owns file descriptors and the two shapes of text the kernel writes (`key value` lines, lists of CPU numbers). Knows
nothing of what the numbers mean. Opening a file costs three times what reading it does (20 against 6 µs measured).
"""

import os
from pathlib import Path

# What one read brings: /proc/stat of a host with 650 CPUs fits in front of its interrupt counters, which nobody needs.
READ_BYTES = 65536


class KernelFile:
    """One file below /proc or /sys/fs/cgroup; opened at the first read and again after a failed one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def read(self) -> bytes:
        """The file's text as it is now, up to `READ_BYTES`; raises OSError."""
        try:
            if self._fd is None:
                # Not blocking: a path that leads to a pipe by mistake must not stop the event loop.
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            return os.pread(self._fd, READ_BYTES, 0)
        except OSError:
            # A cgroup that was removed answers ENODEV for ever on the old descriptor.
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptor back; a later read opens the file again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def trouble(path: Path, error: OSError | ValueError) -> str:
    """Why a file gave no value, in the words of a `Missing`."""
    return f"{path}: {error.strerror or error if isinstance(error, OSError) else error}"


def whole(word: bytes) -> int:
    """A number as the kernel writes it; raises ValueError for anything else, signs and underscores too."""
    if not word.isdigit() or len(word) > 20:
        raise ValueError(f"{word[:20]!r} is no number")
    return int(word)


def number(data: bytes, key: bytes = b"") -> int:
    """The whole number that follows `key` at the start of a line; raises ValueError when there is none.

    `key` is given with what separates it from its number (`b"MemTotal:"`, `b"usage_usec "`).
    """
    start = 0 if data.startswith(key) else data.find(b"\n" + key) + 1
    if start == 0 and not data.startswith(key):
        raise ValueError(f"no {key.decode().strip(' :')} in it")
    words = data[start + len(key) :].split(b"\n", 1)[0].split()
    return whole(words[0] if words else b"")


def cpu_list(data: bytes) -> frozenset[int]:
    """The CPU numbers in the kernel's list format (`0-3,8`); raises ValueError."""
    cpus: set[int] = set()
    for part in data.strip().split(b","):
        first, dash, last = part.partition(b"-")
        if not part:
            continue
        low = whole(first)
        high = whole(last) if dash else low
        if not low <= high < 65536:
            raise ValueError("no list of CPUs")
        cpus.update(range(low, high + 1))
    return frozenset(cpus)
