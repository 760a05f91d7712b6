"""A host in simulated time that drives the real core: ladder, batch controller, planner and CPU hold, with feedback.

The plant is a crude one: cores shared fairly between others and the parts at our workers, memory in bytes, noise that
lasts. Every decision is the core's. Scenarios say what others do and what is asked of the models; `actors` may load and
unload models on what was assessed. One run is fixed by its seed.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from supervisor.core.assessment import Assessment, Transition
from supervisor.core.batch import BatchSizeController
from supervisor.core.cpu_hold import CpuHold
from supervisor.core.drill import Drills
from supervisor.core.ladder import Ladder, OwnUse
from supervisor.core.model import Known, LaneOrders, Missing, ModelState, ModelView, Orders, Rung, Sample, Signal
from supervisor.core.plan import Planner
from supervisor.core.policy import BatchPolicy
from tests.support.simulated_worker import SimModel
from tests.support.timeline import DEFAULTS, GIB

__all__ = ["SimModel", "SimulatedHost"]

STEP = 0.025  # s of the plant; the hold ticks every second step, a raw sample is every fourth
CHECK_INTERVAL = 1.0


class SimulatedHost:
    """A host with others on it.

    Args:
        foreign: the share of the CPU in percent that others want, over time.
        foreign_memory: the bytes that others hold, over time.
        noise: standard deviation of what others want in points, with a memory of 0.3 s.
        hold: the target of the CPU hold in percent. None: our workers take what they can.
        actors: called after each decision; may call `load` and `unload`.
    """

    def __init__(
        self,
        cores: int = 8,
        *,
        models: Sequence[SimModel] = (),
        foreign: Callable[[float], float] = lambda t: 2.0,
        foreign_memory: Callable[[float], float] = lambda t: 4.0 * GIB,
        memory: int = 16 * GIB,
        noise: float = 1.5,
        memory_noise: float = 0.0,
        hold: float | None = None,
        batch: BatchPolicy | None = None,
        actors: Sequence[Callable[["SimulatedHost", Assessment], None]] = (),
        seed: int = 1,
    ) -> None:
        self.cores, self.memory_limit, self.noise, self.memory_noise = cores, memory, noise, memory_noise
        self.models = {model.name: model for model in models}
        self.foreign, self.foreign_memory, self.actors = foreign, foreign_memory, actors
        self.policy = batch or BatchPolicy()
        self.ladder, self.batch, self.planner = Ladder(DEFAULTS), BatchSizeController(self.policy), Planner()
        self.drills, self.orders = Drills(), Orders()
        self.random = random.Random(seed)
        self.now = 0.0
        self.assessment: Assessment | None = None
        self.moves: list[tuple[float, Rung, Rung]] = []
        self.transitions: list[tuple[float, Transition]] = []
        self.rung_seconds = dict.fromkeys(Rung, 0.0)
        self.batches: list[int] = []
        self.rows_at: list[tuple[float, int]] = []  # when how many rows were done
        self.used_in: list[float] = []  # the busy share of the cores in each step, by everyone
        self.longest_stall = 0.0  # seconds in which work waited before an open gate and no worker did anything
        self.hold, self.bucket = hold, CpuHold()
        self.bucket.set_target(hold, cores)
        self._stalled = 0.0
        self._used = 0.0
        self._turn = 0
        self._step = 0
        self._drift = 0.0
        self._busy = self._own = self._own_second = 0.0
        self._own_use = OwnUse()
        self._used_at = self._assessed_at = 0.0
        self._ended: deque[tuple[float, float]] = deque()
        self._trickle = False

    # -- what scenarios ask -----------------------------------------------------------------------------------------

    def run(self, seconds: float) -> "SimulatedHost":
        """Let time pass."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self._step += 1
            self.now = self._step * STEP
            self._plant()
            if self._step % 2 == 0:
                self.bucket.tick(self._used, self.now)
            if self._step % 4 == 0:
                self._look()
            self._dispatch()
        return self

    def load(self, name: str) -> None:
        """Start a model's worker."""
        model = self.models[name]
        if model.state is ModelState.STOPPED:
            model.state, model.since = ModelState.STARTING, self.now

    def unload(self, name: str) -> None:
        """End a model's worker; its memory is back at once."""
        model = self.models[name]
        model.state, model.since = ModelState.STOPPED, self.now
        model.parts.clear()

    def views(self) -> list[ModelView]:
        """The models as decisions see them."""
        return [model.view(self.now) for model in self.models.values()]

    def rung(self) -> Rung:
        """Where the host stands."""
        return self.assessment.rung if self.assessment else Rung.NORMAL

    def rows(self, start: float = 0.0, end: float = math.inf) -> int:
        """Rows done between two moments."""
        return sum(rows for at, rows in self.rows_at if start <= at < end)

    def busy_windows(self, start: float = 0.0, end: float = math.inf, over: float = 90.0) -> float:
        """The share of all windows of 1 s in which everyone together used more than `over` percent of the cores."""
        width = round(1 / STEP)
        steps = self.used_in[round(start / STEP) : None if end == math.inf else round(end / STEP)]
        sums = [0.0, *accumulate(steps)]
        windows = [(b - a) / width for a, b in zip(sums, sums[width:], strict=False)]
        return sum(1 for share in windows if share > over / 100) / len(windows)

    def mean_busy(self, start: float = 0.0, end: float = math.inf) -> float:
        """The percentage of the cores that everyone together used."""
        steps = self.used_in[round(start / STEP) : None if end == math.inf else round(end / STEP)]
        return 100 * sum(steps) / len(steps)

    def longest_gap(self, start: float, end: float) -> float:
        """The longest time without a row done."""
        moments = [start, *(at for at, _ in self.rows_at if start <= at < end), end]
        return max(b - a for a, b in pairwise(moments))

    def most_moves_in_a_minute(self, signal: Signal | None = None) -> int:
        """The most moves of the host, or of one signal, in any 60 s."""
        moments = [at for at, move in self.transitions if signal is None or move.signal is signal]
        return max((sum(1 for at in moments if start <= at < start + 60) for start in moments), default=0)

    def below_after(self, moment: float, rung: Rung, signal: Signal) -> float:
        """Seconds from a moment until a signal is below a rung for good; infinity if it is not."""
        moves = [(at, move) for at, move in self.transitions if move.signal is signal and at > moment]
        if (self.assessment.signals[signal].rung or Rung.NORMAL if self.assessment else Rung.NORMAL) >= rung:
            return math.inf
        return max([at - moment for at, move in moves if move.before >= rung], default=0.0)

    # -- the plant --------------------------------------------------------------------------------------------------

    def used(self) -> float:
        """Bytes of memory in use."""
        noise = self.random.gauss(0.0, self.memory_noise) / 100 * self.memory_limit if self.memory_noise else 0.0
        ours = sum(model.memory(self.now) for model in self.models.values())
        return max(0.0, min(float(self.memory_limit), self.foreign_memory(self.now) + ours + noise))

    def _plant(self) -> None:
        remember = math.exp(-STEP / 0.3)
        self._drift = self._drift * remember + self.random.gauss(0, self.noise) * math.sqrt(1 - remember**2)
        others = max(0.0, min(1.0, (self.foreign(self.now) + self._drift) / 100)) * self.cores
        running = [model for model in self.models.values() if model.parts]
        wanted = others + self.cores * len(running)
        scale = min(1.0, self.cores / wanted) if wanted else 1.0
        own = sum(self._work(model, self.cores * scale * STEP) for model in running)
        used = min(others * scale * STEP + own, self.cores * STEP)
        self._busy += used
        self.used_in.append(used / (self.cores * STEP))
        waits = (
            self.assessment is not None
            and self.assessment.rung < Rung.PAUSE
            and any(model.state is ModelState.READY and model.wanted(self.now) for model in self.models.values())
        )
        self._stalled = self._stalled + STEP if waits and not own else 0.0
        self.longest_stall = max(self.longest_stall, self._stalled)
        for model in self.models.values():
            if model.state is ModelState.STARTING and self.now - model.since >= model.load_seconds:
                model.state, model.since = ModelState.READY, self.now

    def _work(self, model: SimModel, core_seconds: float) -> float:
        """Let a worker use this much CPU on its parts; what it used."""
        used, ended = model.works(core_seconds, self.now)
        for part in ended:
            self.rows_at.append((self.now, part.rows))
            self._ended.append((self.now, self.now - part.sent))
            self.bucket.ended(part.predicted, self.now)
        self._own += used
        self._used += used
        return used

    def _look(self) -> None:
        ticks = math.floor(self._busy * 100)  # /proc/stat counts in hundredths of a second; the rest comes next time
        self._busy -= ticks / 100
        busy = ticks / 100 / (self.cores * 4 * STEP)
        self.bucket.observe(busy * self.cores, self._used, self.now)
        used = self.used()
        none = Missing("no NVML", self.now)
        sample = Sample(
            at=self.now,
            cpu=Known(100 * min(1.0, busy), self.now),
            memory=Known(100 * used / self.memory_limit, self.now),
            gpu=none,
            gpu_memory=none,
            memory_used=int(used),
            memory_limit=self.memory_limit,
            cores=float(self.cores),
        )
        sample, drilled = self.drills.apply(sample, self.now)
        self.ladder.observe(sample, drilled, self.now)
        due = self.ladder.due(self.now, self.longest_part())
        if due or self.now - self._assessed_at >= CHECK_INTERVAL - STEP:
            self._decide()
        self.rung_seconds[self.rung()] += 4 * STEP

    def longest_part(self) -> float:
        """The age of the oldest part at a worker, or the longest that ended in the last 2 s."""
        while self._ended and self._ended[0][0] < self.now - 2.0:
            self._ended.popleft()
        running = [self.now - part.sent for model in self.models.values() for part in model.parts]
        return max(running + [seconds for _, seconds in self._ended], default=0.0)

    def _decide(self) -> None:
        self._assessed_at = self.now
        if self.now - self._used_at >= 1.0 - STEP:
            share = 100 * self._own / self.cores / (self.now - self._used_at)
            starting = [model for model in self.models.values() if model.state is ModelState.STARTING]
            self._own_use = OwnUse(
                share, {"cpu": sum(model.memory(self.now) for model in starting)}, self.hold is not None
            )
            self._own, self._used_at = 0.0, self.now
        seen = self.assessment = self.ladder.assess(self.now, self.longest_part(), self._own_use)
        self.transitions += [(self.now, move) for move in seen.transitions]
        if seen.rung is not seen.rung_before:
            self.moves.append((self.now, seen.rung_before, seen.rung))
        self.batch.adjust(seen, self.orders.paused, self.now)
        self.batches.append(self.batch.size)
        self.orders = self.planner.orders(
            seen,
            self.views(),
            self.policy,
            self.batch.size,
            operator_paused=False,
            now=self.now,
            cpu_hold=self.hold,
            longest_part=self.longest_part(),
        )
        self.bucket.set_target(self.orders.cpu_hold, self.cores)
        self._trickle = self.orders.trickle
        for actor in self.actors:
            actor(self, seen)

    def _dispatch(self) -> None:
        """Each model in turn sends a part while it has room and the hold allows; or all gates' one that trickles."""
        models = list(self.models.values())
        models = models[self._turn :] + models[: self._turn]
        for number, model in enumerate(models, self._turn + 1):
            lane = self.orders.lanes.get(model.name)
            if lane is None or model.state is not ModelState.READY:
                continue
            while lane.open and model.wanted(self.now) and model.has_room(lane, self.now):
                if not self.bucket.allows(self.now):
                    break
                self._send(model, lane)
                self._turn = number % len(models)
            if self._trickle and not lane.open and not model.parts and model.wanted(self.now):
                self._trickle = False
                self._send(model, LaneOrders(batch_size=self.orders.trickle_size))

    def _send(self, model: SimModel, lane: LaneOrders) -> None:
        self.bucket.sent(model.part(lane, self.cores, self.now, self.random).predicted, self.now)
