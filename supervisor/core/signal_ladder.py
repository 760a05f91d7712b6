"""One signal, or one GPU's memory, on the ladder: which rung, since when, and why it moves.

Owns the rung of that signal and everything the next move depends on. Only `assess` moves it, at most once on one
sample: several rungs up, or one down. What the rungs do to the host is not known here.
"""

from supervisor.core.assessment import SignalState, Transition
from supervisor.core.exhaustion import LOOK, Exhaustion
from supervisor.core.hysteresis import (
    BLIND_AFTER,
    EPSILON,
    FILLING_ENTRY,
    FLAT_RECENT,
    FLAT_RISE,
    FLAT_SPAN,
    FULL_IN,
    GATHERING,
    QUIET,
    SPARED_ENTRY,
    FlatPause,
    Restlessness,
    Standing,
    below,
    blind_rung,
    entry_time,
    leave_level,
)
from supervisor.core.model import Known, Missing, Reading, Rung, Signal
from supervisor.core.policy import Thresholds
from supervisor.core.signals import SignalTrack

FILLS = frozenset({Signal.MEMORY, Signal.GPU_MEMORY})
STILL = "the sensor stands still"
# An excess of CPU is ours if this share of the reading is. (Simulated beside others that come and go every 5 to 24 s:
# by "without us it would not be one" the ladder moved 16 times a minute, as both share the CPU while they overlap.)
OURS = 0.5
# CPU that still stands at pause this long after our last part has ended is not ours either: the reading's span and half
# a second. (Simulated without it, both saturating: 11 moves a minute.)
OUTLASTS = 1.5


class SignalLadder:
    """The rung of one signal; with `device`, of that GPU's memory."""

    def __init__(self, signal: Signal, thresholds: Thresholds, device: str | None = None) -> None:
        self.signal = signal
        self.device = device
        self.set_thresholds(thresholds)
        self.track = SignalTrack(signal)
        self._rung = Rung.NORMAL
        self._moved_at = float("-inf")
        self._paused_since: float | None = None
        self._unseen = False
        self._over = Standing()
        self._filling = Standing()
        self._exhaustion = Exhaustion()
        self._restless = Restlessness()
        self._flat = FlatPause()
        self._spared = False  # restless by others' doing, while a hold keeps us out of their way: no need to pause

    @property
    def rung(self) -> Rung | None:
        """The rung, None for a signal that never was read and that no drill stands in for."""
        unknown = not self.track.known_ever and (self.track.missing is not None or self.track.newest is None)
        return None if unknown and self._rung is Rung.NORMAL else self._rung

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Go on under other thresholds; the rung and all clocks are kept."""
        self.thresholds = thresholds
        entries = [(rung, thresholds.enter(rung)) for rung in sorted(Rung, reverse=True)]
        self._entries = {rung: level for rung, level in entries if level is not None}  # the highest rung first

    def observe(
        self, reading: Reading, drilled: bool, now: float, loading: float = 0.0, confirmed: bool = False
    ) -> None:
        """Take a raw reading; `loading` percent of a memory belong to workers that are starting.

        `confirmed`: the kernel says by itself that this memory is short.
        """
        if self.track.drilled and not drilled and self._paused_since is not None:
            self._paused_since = now  # what a drill paused has not paused anything for long
        self.track.add(reading, drilled)
        self._unseen = True
        current = self.track.reading(now)
        if isinstance(reading, Missing) or isinstance(current, Missing):
            return
        self._over.note([rung for rung, level in self._entries.items() if current.value >= level], current.at)
        left = None
        if self.signal in FILLS and not drilled:
            self._exhaustion.add(reading.at, reading.value, loading, confirmed)
            left = self._exhaustion.seconds_left()
        self._filling.note(
            [] if left is None else [rung for rung, limit in FULL_IN.items() if left < limit], current.at
        )

    @property
    def look_interval(self) -> float:
        """Seconds until this signal should be looked at again; a GPU's sensor has a pace of its own."""
        fills = self.signal is Signal.MEMORY and self.track.missing is None and not self.track.drilled
        return self._exhaustion.look_interval(self.thresholds.warning) if fills else LOOK

    def due(self, now: float, longest_part: float) -> bool:
        """Whether a sample that was not assessed yet completes an entry time."""
        return self._unseen and not self._blind(now) and self._entered(longest_part) is not None

    def assess(self, now: float, longest_part: float, own_cpu: float, held: bool = False) -> Transition | None:
        """The move that the newest sample gives, if any; made when this returns.

        1. Without a new sample, nothing: never twice on one.
        2. Never read for real, and no drill any more: down a rung per quiet time, then unknown.
        3. No new value for 3 s: the rung declared for that. Missing for less: the rung is held.
        4. Up to the highest rung whose entry is complete. A CPU that others make restless, while a hold keeps our use
           out of their way, is slow to pause, and free to leave pause.
        5. Down one, if the rung's condition is not met, the margin is kept over the quiet time and the signal is not
           restless; from pause also when the level is flat below it. A pause that outlasts our parts is not of our
           making and counts as restless.
        """
        if not self._unseen:  # 1
            return None
        self._unseen = False
        newest, current = self.track.newest, self.track.reading(now)
        if newest is None:
            return None
        if isinstance(current, Missing) and not self.track.known_ever:  # 2
            return self._forgotten(newest, now)
        if self._blind(now):  # 3
            return self._blinded(newest, now)
        if isinstance(current, Missing):
            return None
        ours = own_cpu >= OURS * current.value or self.track.drilled
        self._spared = held and self.signal is Signal.CPU and not ours and self._restless.must_wait(now)
        up = self._entered(longest_part)
        if up is not None:  # 4
            return self._risen(up, current, longest_part, own_cpu, now)
        if self._rung >= Rung.PAUSE and self._stands() and now - self._moved_at > longest_part + OUTLASTS:  # 5
            self._restless.not_ours(now, self.track.drilled)
        return self._recovered(now)

    def state(self, now: float) -> SignalState:
        """The signal as it is now."""
        current = self.track.reading(now)
        missing = current.reason if isinstance(current, Missing) else None
        if self._blind(now):
            missing = f"{missing or STILL} (blind for {self.track.blind_for(now):.0f} s)"
        return SignalState(
            signal=self.signal,
            percent=current.value if isinstance(current, Known) and missing is None else None,
            rung=self.rung,
            age_s=self.track.age(now),
            trend_per_min=self.track.trend_per_min(now),
            drilled=self.track.drilled and (missing is None or not self.track.known_ever),
            missing=missing,
            paused_since=self._paused_since,
            shrink_at=self.thresholds.shrink,
        )

    # -- the conditions ----------------------------------------------------------------------------------------------

    def _blind(self, now: float) -> bool:
        return self.track.blind_for(now) + EPSILON >= BLIND_AFTER

    def _entered(self, longest_part: float) -> Rung | None:
        """The highest rung above the present one whose entry is complete; None while a higher one is about to be."""
        newest = self.track.newest
        if newest is None or self.track.missing is not None:
            return None
        entry, filling_entry = entry_time(self.signal, longest_part), self._exhaustion.entry_time(FILLING_ENTRY)
        for rung in self._entries:
            if rung <= self._rung:
                return None
            if self._spared and rung >= Rung.PAUSE:
                entry = max(entry, SPARED_ENTRY)
            over = self._over.lasted(rung, newest.at)
            if over >= entry or self._filling.lasted(rung, newest.at) >= filling_entry:
                return rung
            if over >= 0 and over >= entry - GATHERING:
                return None
        return None

    def _stands(self) -> bool:
        """Whether the present rung's condition is met by the newest sample."""
        return self._rung in self._over or self._rung in self._filling

    # -- the moves ---------------------------------------------------------------------------------------------------

    def _forgotten(self, newest: Known, now: float) -> Transition | None:
        if self._rung is Rung.NORMAL or now - max(newest.at, self._moved_at) + EPSILON < QUIET:
            return None
        why = "the drill is over and there is no real reading"
        return self._move(below(self.thresholds, self._rung), newest.value, None, why, now)

    def _blinded(self, newest: Known, now: float) -> Transition | None:
        self._over.clear()
        self._filling.clear()
        rung = blind_rung(self.thresholds)
        if rung is self._rung:
            return None
        missing = self.track.missing
        reason = STILL if missing is None else missing.reason
        why = f"blind for {self.track.blind_for(now):.1f} s: {reason}"
        return self._move(rung, newest.value, self.thresholds.enter(rung), why, now)

    def _risen(self, rung: Rung, current: Known, longest_part: float, own_cpu: float, now: float) -> Transition:
        threshold = self._entries[rung]
        over = self._over.lasted(rung, current.at)
        if over >= entry_time(self.signal, longest_part):
            why = f"at or over {threshold:g} %" + (f" for {over:.1f} s" if over >= 0.05 else "")
        else:
            left = self._exhaustion.seconds_left() or 0.0
            why = f"{self.signal.value.replace('_', ' ')} full in {left:.0f} s at this rate"
        ours = self.signal is Signal.CPU and own_cpu >= OURS * current.value
        return self._move(rung, current.value, threshold, why, now, counts=not (ours or self.track.drilled))

    def _recovered(self, now: float) -> Transition | None:
        if self._rung is Rung.NORMAL:
            return None
        mean, pause = self.track.mean(QUIET), self.thresholds.pause
        flat = self._rung is Rung.PAUSE and mean is not None and pause is not None and mean < pause - EPSILON
        self._flat.note(flat, now)
        if mean is None or self._stands():
            return None
        if self._restless.must_wait(now) and not (self._spared and self._rung >= Rung.PAUSE):
            return None
        level = leave_level(self.thresholds, self._rung)
        if now - self._moved_at + EPSILON >= QUIET and (level is None or mean < level - EPSILON):
            why = "this rung is off" if level is None else f"mean of {QUIET:g} s below {level:g} %"
        elif flat and self._flat.over(now) and not self._rises():
            level, why = pause, f"below {pause:g} % and not rising for {self._flat.wait:g} s"
        else:
            return None
        return self._move(below(self.thresholds, self._rung), mean, level, why, now)

    def _rises(self) -> bool:
        recent, long = self.track.mean(FLAT_RECENT), self.track.mean(FLAT_SPAN)
        return recent is None or long is None or recent > long + FLAT_RISE

    def _move(
        self, rung: Rung, percent: float, threshold: float | None, why: str, now: float, counts: bool = True
    ) -> Transition:
        before, self._rung, self._moved_at = self._rung, rung, now
        if rung > before:
            self._restless.up(now, counts)
        else:
            self._restless.down(now)
        if before < Rung.PAUSE <= rung:
            self._paused_since = now
            self._flat.entered(now, counts)
        elif rung < Rung.PAUSE <= before:
            self._paused_since = None
            self._flat.left(now, self._restless.counting)
        return Transition(self.signal, self.device, before, rung, percent, threshold, self.track.age(now) or 0.0, why)
