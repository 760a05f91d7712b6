"""The life of a worker as tables: which states follow which, what a request meets in each, when a crash is retried.

Pure: values and `now` in, values out. The processes are `supervisor.workers`'; the requests are the dispatcher's.

Every way out of `starting` and `ready` leads through `stopping`, in which the process group is ended: so in `stopped`,
`backoff` and `failed` nothing of the model is alive, and nothing of it holds memory or a port.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from supervisor.core.model import ModelState

ALLOWED: Mapping[ModelState, frozenset[ModelState]] = MappingProxyType(
    {
        ModelState.STOPPED: frozenset({ModelState.STARTING}),
        ModelState.STARTING: frozenset({ModelState.READY, ModelState.STOPPING}),
        ModelState.READY: frozenset({ModelState.DRAINING, ModelState.STOPPING}),
        ModelState.DRAINING: frozenset({ModelState.STOPPING}),
        ModelState.STOPPING: frozenset({ModelState.STOPPED, ModelState.BACKOFF, ModelState.FAILED}),
        ModelState.BACKOFF: frozenset({ModelState.STARTING, ModelState.STOPPED}),
        ModelState.FAILED: frozenset({ModelState.STOPPED}),
    }
)


class Meets(StrEnum):
    """What becomes of a request for a model in some state (behaviour.md 6)."""

    GOES = "goes"  # by gate, window and bucket
    WAITS = "waits"  # a worker is started, or started again, for it
    WAITS_IN_TIME = "waits_in_time"  # waits if the back-off ends before its deadline, else it is refused
    REFUSED = "refused"  # until an operator loads, restarts or reloads


MEETS: Mapping[ModelState, Meets] = MappingProxyType(
    {
        ModelState.STOPPED: Meets.WAITS,
        ModelState.STARTING: Meets.WAITS,
        ModelState.READY: Meets.GOES,
        ModelState.DRAINING: Meets.WAITS,
        ModelState.STOPPING: Meets.WAITS,
        ModelState.BACKOFF: Meets.WAITS_IN_TIME,
        ModelState.FAILED: Meets.REFUSED,
    }
)

# Seconds: restart at once, then 1, 2, 4 … up to this (behaviour.md 7).
LONGEST_BACK_OFF = 60.0
# A worker that was ready this long starts with a clean slate when it crashes: ten times the longest back-off, so that a
# model that crashes once a minute for ever stays at the longest one.
FORGOTTEN_AFTER = 600.0
# Starts in a row that ended before the worker was ever ready, after which the failure counts as deterministic. A start
# costs 20 s of every core, so more of them would harm the models that work.
STARTS_GIVEN_UP = 3


class Outlook(StrEnum):
    """What another start may be expected to do after one that came to nothing."""

    HOPELESS = "hopeless"  # the same, until somebody changes something
    OPEN = "open"  # nobody knows
    PASSING = "passing"  # to succeed, once the host or the network has what was missing


# How many of those starts a failed one counts for. A hopeless one for all: a mistyped path is none the better for two
# more starts, which only harm the models that work, and whoever mistyped it knows after one. One that lacked memory, a
# port or the network for none: what it lacked may come back in an hour, with nobody there to say so.
_COUNTS_FOR = {Outlook.HOPELESS: STARTS_GIVEN_UP, Outlook.OPEN: 1, Outlook.PASSING: 0}


class BackOff:
    """How long to wait before a crashed worker is started again, and when to give up.

    Only what a worker did by itself is told here: our own stop is never a crash.
    """

    def __init__(self) -> None:
        self._crashes = 0
        self._never_ready = 0  # what failed starts count for
        self._starts = 0
        self._ready_since: float | None = None

    @property
    def crashes(self) -> int:
        """Crashes in a row, as far as they are not forgotten."""
        return self._crashes

    @property
    def fruitless(self) -> int:
        """Starts in a row that came to nothing, since it was last ready or forgiven."""
        return self._starts

    @property
    def given_up(self) -> bool:
        """Whether the start fails so steadily that another one would tell nothing new."""
        return self._never_ready >= STARTS_GIVEN_UP

    @property
    def given_up_text(self) -> str:
        """After how many starts, in words."""
        return f"given up after {self.fruitless} start{'s' if self.fruitless > 1 else ''}"

    def ready(self, now: float) -> None:
        """The worker became ready."""
        self._ready_since = now
        self._never_ready = self._starts = 0

    def crashed(self, now: float, outlook: Outlook = Outlook.OPEN) -> float:
        """The worker ended by itself, or its start came to nothing; returns the seconds to wait before the next.

        `outlook` is of a start that came to nothing; one that was ready once may always be started again.
        """
        if self._ready_since is None:
            self._never_ready += _COUNTS_FOR[outlook]
            self._starts += 1
        elif now - self._ready_since >= FORGOTTEN_AFTER:
            self._crashes = 0
        self._ready_since = None
        self._crashes += 1
        return 0.0 if self._crashes == 1 else min(LONGEST_BACK_OFF, 2.0 ** (self._crashes - 2))

    def stopped(self) -> None:
        """We stopped the worker: neither a crash nor a sign of health."""
        self._ready_since = None

    def forgive(self) -> None:
        """An operator asked for it: start from a clean slate."""
        self._crashes = self._never_ready = self._starts = 0


def check_move(before: ModelState, after: ModelState) -> None:
    """ValueError when `after` may not follow `before`: a mistake in the code, never in the world."""
    if after not in ALLOWED[before]:
        raise ValueError(f"a worker cannot go from {before} to {after}")


# The signals that end processes, by Linux's numbers; others are shown by number.
SIGNAL_NAMES: Mapping[int, str] = MappingProxyType(
    {
        1: "SIGHUP",
        2: "SIGINT",
        3: "SIGQUIT",
        4: "SIGILL",
        6: "SIGABRT",
        7: "SIGBUS",
        8: "SIGFPE",
        9: "SIGKILL",
        11: "SIGSEGV",
        13: "SIGPIPE",
        15: "SIGTERM",
        24: "SIGXCPU",
        25: "SIGXFSZ",
        31: "SIGSYS",
    }
)


# How a process ends that got SIGKILL, and a shell whose child did.
KILLED = (-9, 128 + 9)


def exit_description(status: int | None) -> str:
    """How a process ended, in words: `status` as `subprocess` has it (negative: the signal), None = nobody knows.

    A shell or wrapper reports a signal as 128 + its number; both forms mean the same (Infinity stopped by SIGTERM is
    seen as -15 and as 143).
    """
    if status is None:
        return "exit status unknown"
    number = -status if status < 0 else status - 128
    if status >= 0 and number not in SIGNAL_NAMES:
        return f"exit status {status}"
    name = SIGNAL_NAMES.get(number, f"signal {number}")
    if name == "SIGKILL":
        return "killed by the kernel or somebody (SIGKILL)"
    return f"killed by {name}"
