"""Whether there is to be a warm spare: an Infinity that has imported everything, without a model.

It saves the next load its longest part and costs memory that nobody needs now, so it is the coldest thing there is: it
goes before any model does, and whatever decides about models takes its memory for free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from supervisor.core.model import ModelState, ModelView, Rung, WorkerUse
from supervisor.core.reservation import HOST, Pressure, bytes_text
from supervisor.core.residency import ModelMemoryManager, Recycle, Step

# The spare's name among the workers' process groups: no model has it.
SPARE = ""
# What one takes before any was seen (bytes): 315 MiB with torch's build for the CPU.
FIRST_NEED = 400 * 2**20
# After one had to go the next comes no sooner (s): it costs 16 to 20 s of a core.
PEACE = 60.0


class SpareState(StrEnum):
    """Where the spare is in its life."""

    OFF = "off"  # not wanted, or impossible
    ABSENT = "absent"
    WARMING = "warming"
    WARM = "warm"
    BACKOFF = "backoff"  # the last one failed


@dataclass(frozen=True, slots=True)
class SpareView:
    """The spare as it is now. `fits`: the models that could be started from it; `reason`: why there is none."""

    state: SpareState = SpareState.OFF
    pid: int | None = None
    pgid: int | None = None
    reason: str | None = None
    fits: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class MakeSpare:
    """A spare is to be made; `why` has the figures."""

    why: str


@dataclass(frozen=True, slots=True)
class DropSpare:
    """The spare is to go; `why` has the figures."""

    why: str


class SpareRule:
    """Decides from the world as it is; remembers what a spare takes, and when one last had to go for memory."""

    def __init__(self) -> None:
        self._need = FIRST_NEED
        self._went_at = float("-inf")

    def steps(
        self,
        spare: SpareView,
        use: WorkerUse | None,
        residency: ModelMemoryManager,
        models: Sequence[ModelView],
        pressure: Pressure,
        now: float,
    ) -> Sequence[Step | Recycle | MakeSpare | DropSpare]:
        """What is to be done about models and spare, one kind of thing at a time.

        1. The spare goes, if it has to: what that brings is seen before any model is touched.
        2. The models' steps.
        3. Where there are none, a spare is made if nobody would notice.

        Args:
            spare: as it is.
            use: of its process, as last read; None = not read yet.
            residency: decides about the models.
            models: every configured model.
            pressure: `memory_used` is without the spare's.
            now: on the clock.
        """
        why = self._why_drop(spare, use, models, pressure, residency.reserved(HOST))
        if why is not None:  # 1
            self._went_at = now
            return [DropSpare(why)]
        steps = residency.steps(models, pressure, now)  # 2
        if not steps and spare.state is SpareState.ABSENT and not residency.busy and self._fits(pressure, now):  # 3
            return [MakeSpare(f"nothing loads, and there is room for about {bytes_text(self._need)}")]
        return steps

    def _why_drop(
        self,
        spare: SpareView,
        use: WorkerUse | None,
        models: Sequence[ModelView],
        pressure: Pressure,
        reserved: int,
    ) -> str | None:
        """Why the spare has to go; None = it may stay.

        1. Memory is at shrink or above.
        2. Together with what loads under way still take, it would bring memory there.
        3. Models are at rest, and none of them could be started from it.
        """
        if spare.pid is None:
            return None
        held = use.memory_bytes if use is not None else 0
        self._need = max(self._need, held)
        limit = pressure.room(HOST).limit(only=False)
        if pressure.memory >= Rung.SHRINK:  # 1
            return f"memory is at {pressure.memory.label}; it holds {bytes_text(held)}"
        if limit is not None and pressure.memory_used + held + reserved > limit:  # 2
            return f"it holds {bytes_text(held)}, and models that load take {bytes_text(reserved)} more"
        resting = {model.name for model in models if model.managed and model.state is ModelState.STOPPED}
        return "no model at rest has its settings" if resting and not resting & spare.fits else None  # 3

    def _fits(self, pressure: Pressure, now: float) -> bool:
        """Whether there is room for a spare, and enough of it that it would stay."""
        limit = pressure.room(HOST).limit(only=False)
        room = limit is None or pressure.memory_used + self._need <= limit
        quiet = pressure.memory < Rung.WARN and pressure.cpu < Rung.SHRINK
        return room and quiet and now - self._went_at >= PEACE
