"""Which input takes a worker down: rows under suspicion, from the first death to the blame (behaviour.md 4).

Pure. The rules:
1. Rows that were at a worker when it went down are suspects. The first time may be chance, so they leave once more as
   large as they were; but with nobody else at the worker, so that the next death says something.
2. From the second death on they leave in halves. What was too much together (memory) passes now, and nobody is blamed.
3. What goes down alone and can't be divided any more is guilty, of two deaths at least.
4. SIGKILL that is not ours comes from an operator or from the kernel for want of memory, so it takes more of those.

A guilty input is remembered for an hour, so that a client that tries again does not take the next worker down.
"""

from collections import OrderedDict
from hashlib import blake2b
from typing import Final, NamedTuple

# Deaths after which a single input is to blame.
DEATHS: Final = 2
# The same where somebody else killed the worker each time. (A worker that is killed at random every few seconds under a
# part of 10 ms: five times in a row alone at the worker by chance is once in about 10^12.)
DEATHS_BY_OTHERS: Final = 5
# How long a guilty input is remembered (s), and how many are: 16 bytes each.
REMEMBERED_FOR: Final = 3600.0
REMEMBERED: Final = 1024


class Suspicion(NamedTuple):
    """How often the rows were at a worker that went down, and how many of them may leave together now."""

    deaths: int
    most: int


def after_death(before: Suspicion | None, inputs: int) -> Suspicion:
    """What rows are suspected of after the death of a worker that had them in a part of so many inputs."""
    if before is None:
        return Suspicion(1, inputs)  # 1
    return Suspicion(before.deaths + 1, max(1, (inputs + 1) // 2))  # 2


def is_guilty(suspicion: Suspicion, killed_by_others: bool) -> bool:
    """Whether what went down alone, and can't be divided, is to blame for it."""
    return suspicion.deaths >= (DEATHS_BY_OTHERS if killed_by_others else DEATHS)  # 3, 4


class Guilty:
    """The inputs that were found guilty of late. False while there are none: then nobody needs to ask."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def remember(self, text: bytes, now: float) -> None:
        """This input took a worker down."""
        name = digest(text)
        self._until[name] = now + REMEMBERED_FOR
        self._until.move_to_end(name)
        while len(self._until) > REMEMBERED:
            self._until.popitem(last=False)

    def knows(self, text: bytes, now: float) -> bool:
        """Whether it did so in the last hour."""
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        return bool(self._until) and digest(text) in self._until


def digest(text: bytes) -> bytes:
    """What an input is remembered by: its text is nobody's to keep."""
    return blake2b(text, digest_size=16).digest()
