"""The tick, in order: sense → assess → decide → act → report.

Owns the control loop and the state that decisions need between ticks. The outcome of an act is seen again only through
the next sample. An operator's pause and drills are inputs to a tick.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from supervisor import history, world
from supervisor.backstop import CpuBackstop
from supervisor.core.assessment import Assessment, Transition
from supervisor.core.batch import BatchSizeController
from supervisor.core.drill import Drills
from supervisor.core.headroom import Headroom
from supervisor.core.ladder import Ladder, OwnUse
from supervisor.core.model import Known, ModelState, ModelView, Orders, Rung, Sample, Signal, WorkerUse
from supervisor.core.plan import Planner, hands_off, host_rung
from supervisor.core.policy import Policy
from supervisor.core.residency import Cause, Load, ModelMemoryManager, Recycle, Refuse, Step, Unload
from supervisor.core.sentences import Action
from supervisor.core.spare import SPARE, DropSpare, MakeSpare, SpareRule, SpareView
from supervisor.journal import Decision, Journal
from supervisor.ports import Lanes, Model, Sampler, Workers

log = structlog.get_logger(__name__)

# How long the loop rests after a tick that failed, so that a lasting fault is told once a second (s).
FAILURE_PAUSE = 1.0
RAW_INTERVAL = 0.1  # s between raw samples (behaviour.md 1: 10 Hz)
IDLE_INTERVAL = 0.2  # the same while nobody asks for anything: half of an idle daemon's CPU is these looks
TIMER_SLACK = 0.005  # s by which a timer may fire early (uvloop counts whole milliseconds)
USE_INTERVAL = 1.0  # s between readings of the workers' processes, which cost more
# Causes of an unload that serve a request; in observe mode only these are carried out.
SERVING_CAUSES = frozenset({Cause.EVICTED, Cause.ROTATION})
# What a client whose model can never be loaded is told to wait: only a changed config helps.
REFUSED_RETRY = 60.0
OBSERVED = "observed only"
# A signal moved without moving the host: another one is higher.
SIGNAL = "signal"


class Controller:
    """Keeps the host under its limits, one tick after the other."""

    def __init__(
        self,
        policy: Policy,
        models: Sequence[Model],
        sampler: Sampler,
        lanes: Lanes,
        workers: Workers,
        journal: Journal,
        clock: Callable[[], float],
        on_tick: Callable[["Controller"], None] = lambda _: None,
        backstop: CpuBackstop | None = None,
    ) -> None:
        self.policy = policy
        self.models = tuple(models)
        self.sampler, self.lanes, self.workers, self.journal = sampler, lanes, workers, journal
        self.clock = clock
        self.on_tick = on_tick
        self.backstop = backstop or CpuBackstop()
        self.ladder = Ladder(policy.thresholds)
        self.batch = BatchSizeController(policy.batch)
        self.residency = ModelMemoryManager(policy.residency)
        self.spare = SpareRule()
        self.planner = Planner()
        self.headroom = Headroom()
        self.drills = Drills()
        self.history: deque[dict[str, object]] = deque(maxlen=policy.history_size)
        self.operator_pause: float | None = None  # until when, on the clock; inf = until resumed
        self.sample: Sample | None = None  # the last one, with a drill's readings in place
        self.assessment: Assessment | None = None
        self.orders = Orders()
        self.use: Mapping[str, WorkerUse] = {}
        self.refusals: dict[str, str] = {}  # why a load that an operator asked for can't be, by model
        self.ticked_at = clock()
        self._wanted: dict[str, float | None] = {}  # since when an operator asked, None for a preload
        self._used_at = float("-inf")
        self._own_cpu = 0.0
        self._drilled: frozenset[Signal] = frozenset()
        self._uses, self._working = 0, True
        self._poked = False
        self._woken = asyncio.Event()

    # -- inputs -----------------------------------------------------------------------------------------------------

    def poke(self) -> None:
        """Something changed that may need a load or an unload at once: a request came, a worker's state changed."""
        self._poked = True
        self._woken.set()

    def preload(self, names: Iterable[str]) -> None:
        """Have these models loaded as far as there is room; forgotten once they are ready or have failed."""
        self._wanted |= dict.fromkeys(names)
        self.poke()

    def want(self, name: str) -> None:
        """Have this model loaded as if a request waited for it, others evicted for it if need be."""
        self._wanted[name] = self.clock()
        self.poke()

    def unwant(self, name: str) -> None:
        """Nobody waits for this model any more but the requests queued for it."""
        self._wanted.pop(name, None)

    def pause(self, until: float) -> None:
        """An operator closes the gate until the clock shows `until` (inf: until resumed)."""
        self.operator_pause = until
        self.tick(self.clock())

    def resume(self) -> None:
        """End the operator's pause, and that one only."""
        self.operator_pause = None
        self.tick(self.clock())

    def drill(self, signals: Mapping[Signal, float], seconds: float) -> None:
        """Replace the readings of these signals for a time; in force when this returns. 0 seconds ends every drill."""
        now = self.clock()
        if seconds > 0:
            self.drills.set(signals, now + seconds)
        else:
            self.drills.clear()
        self.observe(now)
        self.tick(now)

    def set_policy(self, policy: Policy, models: Sequence[Model]) -> None:
        """Go on under another policy; what was measured and where the ladder stands is kept."""
        self.policy, self.models = policy, tuple(models)
        self.ladder.set_policy(policy.thresholds)
        self.batch.set_policy(policy.batch)
        self.residency.set_policy(policy.residency)
        self.history = deque(self.history, maxlen=policy.history_size)
        names = {model.name for model in models}
        self._wanted = {name: since for name, since in self._wanted.items() if name in names}
        self.tick(self.clock())

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Sample at 10 Hz, decide every check interval, or earlier when a raw sample completes an entry time."""
        self.observe(self.clock())
        self.tick(self.clock())
        loop = asyncio.get_running_loop()
        while True:
            interval = self.ladder.look_interval
            if not self._working and interval == RAW_INTERVAL:
                interval = IDLE_INTERVAL
            due = (self.sample.at if self.sample else self.clock()) + interval
            # A timer and no asyncio.timeout(): an exception for each look was a quarter of an idle daemon's CPU.
            timer = loop.call_later(max(0.0, due - self.clock()), self._woken.set)
            await self._woken.wait()
            timer.cancel()
            self._woken.clear()
            try:
                if self._poked:
                    self._poked = False
                    self.reconcile()
                if self.clock() >= due - TIMER_SLACK:
                    self.look()
            except Exception:  # one bad value must not take the data plane down: /healthz turns 503 while it lasts
                log.exception("tick_failed", consequence="the last orders stay in force")
                await asyncio.sleep(FAILURE_PAUSE)

    def look(self) -> None:
        """One raw sample, and a tick if it is time for one."""
        now = self.clock()
        self.observe(now)
        regular = now - self.ticked_at >= self.policy.check_interval - RAW_INTERVAL / 2
        if regular or self.ladder.due(now, self.lanes.longest_part(now)):
            self.tick(now)

    def observe(self, now: float) -> None:
        """Take one raw sample, hand its CPU to the data plane; put the drill's readings in place, tell the ladder."""
        sample = self.sampler.sample(now)
        busy = sample.cpu.value / 100 * sample.cores if isinstance(sample.cpu, Known) else None
        self.lanes.observe_cpu(busy, sample.cores, now)
        self.backstop.observe(busy, now)
        self.sample, self._drilled = self.drills.apply(sample, now)
        self.ladder.observe(self.sample, self._drilled, now)

    def tick(self, now: float) -> None:
        """Assess, decide, act, report: once, on the newest sample."""
        if self.sample is None:
            return
        if now - self._used_at >= USE_INTERVAL - RAW_INTERVAL / 2:
            use = world.worker_use(self.sampler, self.workers, now)
            self._own_cpu = world.own_cpu_percent(self.use, use, now - self._used_at, self.sample.cores)
            self.use, self._used_at = use, now
        if self.operator_pause is not None and now >= self.operator_pause:
            self.operator_pause = None
            self.decide(Action.RESUME, why="its time is over")
        views = self.model_views()
        own = OwnUse(self._own_cpu, world.loading_bytes(views), held=self.orders.cpu_hold is not None)
        self.assessment = self.ladder.assess(now, self.lanes.longest_part(now), own)
        self._tell_ladder(self.assessment)
        self._step_batch(self.assessment, now)
        self._give_orders(self.assessment, self.sample, views, now)
        pause = self.policy.thresholds[Signal.CPU].pause
        self.backstop.follow(self.sample.cores, pause, self.orders.cpu_hold, now)
        self.reconcile()
        self.history.append(history.row(self.assessment, self.batch_in_use, self.lanes.demand().values()))
        self.ticked_at = now
        self.on_tick(self)

    def reconcile(self) -> None:
        """Have models loaded that are asked for and unloaded that are cold; safe to call at any time."""
        if self.assessment is None or self.sample is None:
            return
        views = self.model_views()
        for view in views:
            if view.state in (ModelState.READY, ModelState.FAILED):
                self.unwant(view.name)
        pressure = world.pressure(self.policy, self.assessment, self.sample, self.orders, self.use)
        spare = SpareView() if self.policy.observe else self.workers.spare
        steps = self.spare.steps(spare, self.use.get(SPARE), self.residency, views, pressure, self.clock())
        self.workers.hold_back({} if self.policy.observe else self.residency.held_back)
        for step in steps:
            self._act(step)

    def model_views(self) -> list[ModelView]:
        """Every configured model as the decisions see it now."""
        now = self.clock()
        wanted = {name: 0.0 if since is None else max(now - since, 1e-3) for name, since in self._wanted.items()}
        return world.model_views(self.models, self.workers.views(), self.lanes.demand(), self.use, self.sample, wanted)

    @property
    def batch_in_use(self) -> int:
        """The part size that the dispatcher works with now: the largest of its lanes'."""
        return max((lane.batch_size for lane in self.orders.lanes.values()), default=self.batch.size)

    # -- decide and act, told in the journal ------------------------------------------------------------------------

    def decide(self, action: str, **fields: object) -> None:
        """Journal one decision; the host's rung is filled in where the caller has no other."""
        rung = self.assessment.rung if self.assessment else Rung.NORMAL
        fields = {"rung_before": rung, "rung_after": rung, **fields}
        self.journal.append(Decision(action, **fields))  # type: ignore[arg-type]

    def _tell_ladder(self, assessment: Assessment) -> None:
        deciding = assessment.deciding
        if assessment.rung is not assessment.rung_before:
            outcome = None
            if assessment.rung >= Rung.PAUSE > assessment.rung_before:
                held = sum(d.queued_requests for d in self.lanes.demand().values())
                outcome = OBSERVED if self.policy.observe else f"{held} requests held"
            self.decide(
                Action.RUNG, **{**_evidence(deciding), "rung_before": assessment.rung_before, "outcome": outcome}
            )
        for transition in assessment.transitions:
            if transition is not deciding:
                why = f"{transition.before.label} → {transition.after.label}"
                self.decide(SIGNAL, **{**_evidence(transition), "why": why})
        for reminder in assessment.reminders:
            self.decide(
                Action.STILL_WARN,
                signal=reminder.signal,
                percent=reminder.percent,
                threshold=reminder.threshold,
                age_s=reminder.age_s,
                why=f"for {reminder.lasted_s:.0f} s",
            )

    def _step_batch(self, assessment: Assessment, now: float) -> None:
        demand = self.lanes.demand().values()
        uses = sum(d.uses for d in demand)
        working = uses != self._uses or any(d.inflight_inputs or d.queued_requests for d in demand)
        self._uses, self._working = uses, working
        closed = self.operator_pause is not None or host_rung(assessment) >= Rung.PAUSE
        step = self.batch.adjust(assessment, closed, now, working)
        if step is not None:
            self.decide(
                Action.BATCH_DOWN if step.size_after < step.size_before else Action.BATCH_UP,
                target=str(step.size_after),
                signal=step.signal,
                percent=step.percent,
                threshold=step.threshold,
                outcome=OBSERVED if self.policy.observe else None,
            )

    def _give_orders(self, assessment: Assessment, sample: Sample, views: Sequence[ModelView], now: float) -> None:
        orders = self.planner.orders(
            assessment,
            views,
            self.policy.batch,
            self.batch.size,
            operator_paused=self.operator_pause is not None,
            now=now,
            cpu_hold=self.policy.cpu_hold,
            longest_part=self.lanes.longest_part(now),
        )
        if self.policy.observe:
            self.orders = hands_off(orders, self.policy.batch.maximum, self.operator_pause is not None)
        else:
            memory, drilled = self.policy.thresholds[Signal.MEMORY], Signal.MEMORY in self._drilled
            self.orders = self.headroom.put(orders, sample, memory, views, self.use, drilled)
        self.lanes.set_orders(self.orders)

    def _act(self, step: Step | Recycle | MakeSpare | DropSpare) -> None:
        match step:
            case Load(model, why):
                self.decide(Action.LOAD, target=model, why=why)
                self.workers.request_ready(model)
            case Unload(model, cause, why, signal):
                carried_out = not self.policy.observe or cause in SERVING_CAUSES
                outcome = None if carried_out else OBSERVED
                self.decide(Action.UNLOAD, target=model, why=why, outcome=outcome, **self._reading(signal))
                if carried_out:
                    self.workers.request_stop(model, cause)
            case Recycle(model, why, beside, signal):
                outcome = OBSERVED if self.policy.observe else "beside the old process" if beside else None
                self.decide(
                    Action.RECYCLE, target=model, why=why, outcome=outcome, **self._reading(signal, Rung.SHRINK)
                )
                if not self.policy.observe:
                    for name in self.residency.models_of(model) if signal is not None else ():
                        self.lanes.lower_cap(name)
                    self.workers.request_restart(model, "recycle", beside)
            case Refuse(model, why):
                self.decide(Action.REFUSE, target=model, why=why)
                self.refusals[model] = why
                self.lanes.refuse_waiting(model, why, REFUSED_RETRY)
            case MakeSpare(why):
                self.decide(Action.SPARE, why=why)
                self.workers.request_spare()
            case DropSpare(why):
                self.decide(Action.SPARE_DROPPED, why=why)
                self.workers.drop_spare(why)

    def _reading(self, signal: Signal | None, rung: Rung = Rung.UNLOAD) -> dict[str, object]:
        state = self.assessment.signals.get(signal) if self.assessment and signal else None
        if signal is None or state is None:
            return {}
        threshold = self.policy.thresholds[signal].enter(rung)
        return {"signal": signal, "percent": state.percent, "threshold": threshold, "age_s": state.age_s}


def _evidence(transition: Transition | None) -> dict[str, object]:
    """The reading behind a move on the ladder, as a decision's fields."""
    fields = ("signal", "percent", "threshold", "age_s", "why")
    return {} if transition is None else {name: getattr(transition, name) for name in fields}
