"""Whether a worker gets on with what it was given (behaviour.md 7): slow is not dead, a zombie is.

Pure: the caller looks, asks the canary and kills. A worker whose model thread has died answers `/health` with 200 and
shows an empty queue (michaelfeil/infinity#242, #367, #609), so neither is asked: only finished work counts, and where
none was finished for long, a canary, and where that is late too, the CPU time used meanwhile.
"""

from dataclasses import dataclass
from enum import Enum, auto

# How long a canary may take. A zombie is killed within `stall_timeout` + 15 s: a look, this, and the kill.
CANARY_SECONDS = 10.0
# A worker whose canary is late but which used at least this share of one core meanwhile is busy, not dead.
BUSY_SHARE = 0.01
# How many times `stall_timeout` a busy worker gets to finish something: a batch of 5 minutes at the default of 30 s.
BUSY_FACTOR = 10.0
# A model that nobody asks for is asked by us this often (s). A zombie is then found before the next client finds it,
# and 7 ms of work in 5 minutes keep nobody awake.
IDLE_SECONDS = 300.0
# And is dead when so many canaries stay out in a row, `stall_timeout` apart: nobody waits for it meanwhile.
IDLE_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Work:
    """What the data plane knows of a worker's work.

    `sent_at` is when the oldest part that is there now was sent (None: it has none), `answered_at` when it last
    answered anything (None: never), `refused_at` when it last said 429 although all that it can be busy with is ours.
    """

    sent_at: float | None = None
    answered_at: float | None = None
    refused_at: float | None = None


class Doubt(Enum):
    """Why the canary is asked."""

    STALLED = auto()  # it has work and finished nothing for `stall_timeout`
    REFUSES = auto()  # it says that it has too much to do
    IDLE = auto()  # nobody has asked it anything for long


class Heard(Enum):
    """What became of a canary."""

    SOUND = auto()
    UNSOUND = auto()  # an answer, but none that a model in order gives: an error, or numbers that are not finite
    NOTHING = auto()


class Liveness:
    """Judges one worker from when it became ready. Times on the clock of `now`, `stall_timeout` in seconds."""

    def __init__(self, now: float) -> None:
        self._moved_at = now  # when it was last seen to do anything: an answer to a client or to a canary
        self._finished_at = now  # the same, answers to clients only
        self._refused_at = now
        self._silent = 0  # canaries to an idle worker that stayed out in a row

    def doubt(self, work: Work, stall_timeout: float, now: float) -> Doubt | None:
        """Why a canary is to be asked now, None while there is no need.

        1. What it answered shows that it lives.
        2. It has refused work that it can't be too busy for.
        3. It has had work for longer than `stall_timeout` and finished nothing in that time.
        4. It has had nothing to do for long.
        """
        if work.answered_at is not None:  # 1
            self._finished_at = max(self._finished_at, work.answered_at)
            self._moved_at = max(self._moved_at, work.answered_at)
        if work.refused_at is not None and work.refused_at > self._refused_at:  # 2
            self._refused_at = work.refused_at
            if work.refused_at > self._moved_at:
                return Doubt.REFUSES
        if work.sent_at is not None:  # 3
            return Doubt.STALLED if now - max(self._moved_at, work.sent_at) >= stall_timeout else None
        return Doubt.IDLE if now - self._moved_at >= IDLE_SECONDS else None  # 4

    def verdict(
        self, work: Work, stall_timeout: float, now: float, *, heard: Heard, took: float, core_seconds: float | None
    ) -> str | None:
        """What is wrong with it, by its canary; None: it lives, as far as is known.

        1. It answered a client meanwhile.
        2. Its answer to the canary is not sound.
        3. It answered the canary, or it did not but used CPU: it is busy. So it may be where its CPU can't be seen, as
           long as it has work. Dead all the same when it has finished nothing for `BUSY_FACTOR` x `stall_timeout`.
        4. It has nothing to do, and a saturated host may be late: dead when several canaries in a row stay out.

        Args:
            work: as it is after the canary.
            heard: what became of the canary, within `took` seconds.
            core_seconds: CPU that all its processes used meanwhile; None where nobody can tell.
        """
        if work.answered_at is not None and work.answered_at > self._finished_at:  # 1
            self._finished_at = self._moved_at = work.answered_at
            return None
        if heard is Heard.UNSOUND:  # 2
            return "its answer to a canary is not sound"
        busy = work.sent_at is not None if core_seconds is None else core_seconds >= BUSY_SHARE * took
        without = 0.0 if work.sent_at is None else now - max(self._finished_at, work.sent_at)
        if heard is Heard.SOUND or busy:  # 3
            self._moved_at, self._silent = now, 0
            if without < BUSY_FACTOR * stall_timeout:
                return None
            silent = "may be busy" if core_seconds is None else "uses CPU"
            what = "answers a canary" if heard is Heard.SOUND else silent
            return f"it {what}, but has finished nothing of what it was sent for {without:.0f} s"
        if work.sent_at is None and work.refused_at is None:  # 4
            self._silent += 1
            if self._silent < IDLE_FAILURES:
                self._moved_at = now - IDLE_SECONDS + stall_timeout
                return None
        cpu = "" if core_seconds is None else f", with {core_seconds:.2f} CPU seconds used"
        late = f"no answer to a canary in {took:.0f} s{cpu}"
        return f"nothing finished for {without:.0f} s; {late}" if work.sent_at is not None else late
