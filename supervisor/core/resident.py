"""What is remembered of one model from look to look: how long it was idle, what a load takes, what was asked of it.

Owns that memory and nothing else: it decides nothing. One `Resident` per configured model, fed with each `ModelView`.
"""

import math
from enum import StrEnum

from supervisor.core.model import LIVE_STATES, ModelState, ModelView

# The peak of a load is watched until this long after the model is ready: the first batches belong to it (edge 37).
LEARN_FOR = 10.0
# What was asked for and does not show after this time did not take, and is decided anew. A pool shows it at once.
ASK_AGAIN = 5.0
# An unload that does not take either when it is asked for again is asked for ever more rarely, down to this: whoever
# only observes has it in the journal, but not every few seconds.
ASK_SELDOM = 60.0
# A model that nobody asks for has lost its place in the line of waiters after this time; shorter gaps are clients with
# short deadlines that ask again.
PLACE_KEPT = 5.0


class Asked(StrEnum):
    """What was asked of the pool and has not shown in the world yet."""

    LOAD = "load"
    UNLOAD = "unload"


class Resident:
    """The memory of one model between two looks; times on the clock of `now`, sizes in bytes."""

    def __init__(self, view: ModelView, now: float) -> None:
        self.view = view
        self.idle = 0.0
        """Seconds since it was last used while ready, without those in which the gate was closed or requests waited."""
        self.in_use_at = now
        """The last look at which it was in use or not ready."""
        self.learned: int | None = None
        """The peak of its latest load, None before the first; a failed load can only raise it."""
        self.waits_since: float | None = None
        """Since when somebody has waited for it to be loaded, as long as it was out of memory; None = nobody does."""
        self.load_failed_at: float | None = None
        """When a load of it last ended without it becoming ready; None since it was ready, or somebody saw to it."""
        self.refused_at: float | None = None
        """When its waiters were last told that it can never be loaded; None = they were not."""
        self.passed_over = False
        """A preload that found every place taken: it is not loaded later, when nobody expects it any more."""
        self.last_whole: tuple[int, int] | None = None
        """(its bytes, what else was in use in its room), from the last look at which its process was whole."""
        self.relieves: str | None = None
        """The room for whose relief it was asked to leave, None when it was for another reason."""
        self.makes_room_for: str | None = None
        """The model that lacked memory and for which it was asked to leave, if any."""
        self._looked_at = now
        self._clock_stood = True
        self._peak = 0
        self._ready_at: float | None = None
        self._down_at: float | None = None
        self._started = False
        self._left_at = -math.inf
        self._demand_at = -math.inf
        self._was_demanded = False
        self._asked: Asked | None = None
        self._asked_at = now
        self._unheeded = 0
        self._rests_until = now
        self._remember_demand(now)
        self._remember_life(view, now)

    def look(self, view: ModelView, clock_stands: bool, now: float) -> bool:
        """Take the model in as it is now; True when its process has gone since the last look.

        Args:
            clock_stands: the gate is closed for it, so that nobody could have used it.
        """
        before, self.view = self.view, view
        self._count_idle(before, clock_stands, now)
        if _has_place(before) and not _has_place(view):
            self._left_at = now
        self._learn(before, now)
        self._remember_life(before, now)
        self._remember_demand(now)
        self._forget_what_was_asked(now)
        self._looked_at = now
        return before.state in LIVE_STATES and view.state not in LIVE_STATES

    def ask_to_load(self, now: float) -> None:
        """Remember that it is to be loaded, so that this is not asked for again while it is under way."""
        self._asked, self._asked_at = Asked.LOAD, now

    def ask_to_leave(self, now: float, *, relieves: str | None = None, makes_room_for: str | None = None) -> None:
        """Remember that it is to leave, and what its leaving is to prove."""
        self._asked, self._asked_at = Asked.UNLOAD, now
        self.relieves, self.makes_room_for = relieves, makes_room_for

    @property
    def holds_place(self) -> bool:
        """Whether it counts against `max_models`: it has a process, or will have one without being asked again."""
        return self.view.managed and (_has_place(self.view) or self.is_asked_for)

    @property
    def is_loading(self) -> bool:
        """Whether it is going to take memory that it does not have yet, and that is ours to give."""
        starts = self.view.state in (ModelState.STARTING, ModelState.BACKOFF)
        return self.view.managed and (starts or self.is_asked_for)

    @property
    def is_asked_for(self) -> bool:
        """Whether a load of it was asked for and does not show yet."""
        return self._asked is Asked.LOAD

    @property
    def leaves(self) -> bool:
        """Whether it is on its way out of memory."""
        return self.view.state in (ModelState.DRAINING, ModelState.STOPPING) or self._asked is Asked.UNLOAD

    @property
    def can_go(self) -> bool:
        """Whether it can be asked to give its place up: ready, or broken down; ours to move, and not on its way out."""
        settled = self.view.state in (ModelState.READY, ModelState.BACKOFF)
        return settled and self.view.managed and not self.view.pinned and self._looked_at >= self._rests_until

    @property
    def unused(self) -> bool:
        """Whether nobody would notice if it went: nothing queued, in flight or leased."""
        return self.can_go and not (self.view.queued or self.view.inflight or self.view.leases)

    @property
    def settled_since(self) -> float:
        """Since when it has had its turn: ready, or trying to get up again after a break-down."""
        since = self._ready_at if self.view.state is ModelState.READY else self._down_at
        return self._looked_at if since is None else since

    @property
    def waits(self) -> bool:
        """Whether somebody waits for it now; a preload nobody asked for does not count."""
        return self.view.queued > 0 or (self.view.wanted and self.view.oldest_wait > 0)

    @property
    def held(self) -> int:
        """The bytes that its process holds."""
        return self.view.memory_bytes if self.view.state in LIVE_STATES else 0

    @property
    def need(self) -> int:
        """The bytes that a load of it takes: the estimate it came with, else what earlier loads took, else 0."""
        if self.view.estimate is not None:
            return self.view.estimate
        return self.learned or 0

    def _count_idle(self, before: ModelView, clock_stands: bool, now: float) -> None:
        view = self.view
        ready = view.state is ModelState.READY and before.state is ModelState.READY
        held = view.inflight or view.leases or before.inflight or before.leases
        if not ready or held or view.uses != before.uses:
            self.idle = 0.0
            self.in_use_at = now
        elif view.queued or before.queued:
            self.in_use_at = now
        elif not self._clock_stood:
            self.idle += now - self._looked_at
        self._clock_stood = clock_stands

    def _learn(self, before: ModelView, now: float) -> None:
        """Watch the peak of a load; one that failed took at least what was seen of it."""
        state, seen = self.view.state, self.view.memory_bytes
        if state is ModelState.STARTING:
            self._peak = max(seen, self._peak if before.state is ModelState.STARTING else 0)
        elif state is ModelState.READY:
            fresh = before.state is not ModelState.READY or now - self.settled_since <= LEARN_FOR
            if fresh or self.learned is None:
                self._peak = max(self._peak, seen)
                self.learned = self._peak or None
        elif before.state is ModelState.STARTING:
            self.learned = max(self._peak, self.learned or 0) or None

    def _remember_life(self, before: ModelView, now: float) -> None:
        view = self.view
        if view.state is ModelState.STARTING:
            self._started = True
        elif view.state is ModelState.READY:
            self._started = False
            if view.ready_since is not None:
                self._ready_at = view.ready_since
            elif before.state is not ModelState.READY or self._ready_at is None:
                self._ready_at = now
            self._down_at = self.load_failed_at = None
            if self._asked is not Asked.UNLOAD:
                self.relieves = self.makes_room_for = None
        elif view.state is ModelState.BACKOFF:
            self._down_at = now if self._down_at is None else self._down_at
        elif view.state is ModelState.STOPPED:
            self._down_at = None
            self._started = False
            if before.state is ModelState.FAILED:  # given up it leaves by somebody's hand only: a load, a new config
                self.load_failed_at = None
        if self._started and view.state in (ModelState.BACKOFF, ModelState.FAILED):
            self._started = False
            self.load_failed_at = now

    def _remember_demand(self, now: float) -> None:
        view = self.view
        demand = view.queued > 0 or view.wanted
        if not demand:
            self.refused_at = None
            self.passed_over = False
        if demand or self._was_demanded:
            self._demand_at = now
        self._was_demanded = demand
        if _has_place(view):
            self.waits_since = None
        elif demand:
            if self.waits_since is None:
                # What it waited while it was in memory is no wait for memory: a model that just had its turn does not
                # come before the one that was waiting beside it.
                self.waits_since = max(now - view.oldest_wait, self._left_at)
        elif now - self._demand_at > PLACE_KEPT:
            self.waits_since = None

    def _forget_what_was_asked(self, now: float) -> None:
        """What shows in the world has taken; what does not in time has not, and may be asked for anew."""
        state = self.view.state
        can_leave = state in (ModelState.READY, ModelState.BACKOFF)
        late = now - self._asked_at >= ASK_AGAIN
        if not can_leave:
            self._unheeded, self._rests_until = 0, now
        elif late and self._asked is Asked.UNLOAD:
            self._rests_until = now + min(ASK_SELDOM, ASK_AGAIN * 2**self._unheeded if self._unheeded else 0.0)
            self._unheeded += 1
        still_to_show = state is ModelState.STOPPED if self._asked is Asked.LOAD else can_leave
        if late or not still_to_show:
            self._asked = None


def _has_place(view: ModelView) -> bool:
    """Whether it has a process, or will have one by itself as soon as its back-off ends."""
    return view.state in LIVE_STATES or view.state is ModelState.BACKOFF
