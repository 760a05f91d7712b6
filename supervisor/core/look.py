"""One look at all models and the memory they share: who holds a place, what is reserved, what is missing for a load.

Lives for one call of the `ModelMemoryManager`. What is asked during the call counts at once, so that two loads of the
same call are not both given the same free memory.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from supervisor.core.model import ModelState, ModelView
from supervisor.core.policy import Eviction, ResidencyPolicy
from supervisor.core.reservation import Pressure
from supervisor.core.resident import Resident
from supervisor.core.settling import Settling, is_foreign

# No load is quicker (s).
QUICKEST_LOAD = 0.1


class Look:
    """What every rule about models in memory reads."""

    def __init__(
        self,
        models: Sequence[ModelView],
        residents: Mapping[str, Resident],
        pressure: Pressure,
        policy: ResidencyPolicy,
        settling: Settling,
        now: float,
    ) -> None:
        self.residents = [residents[model.name] for model in models]
        """All models in the order in which they are configured."""
        self.models = models
        self.pressure = pressure
        self.policy = policy
        self.settling = settling
        self.now = now

    @property
    def holders(self) -> list[Resident]:
        """The models that hold a place in memory."""
        return [resident for resident in self.residents if resident.holds_place]

    @property
    def places_held(self) -> int:
        """How many places those take."""
        return sum(resident.view.places for resident in self.holders)

    @property
    def ready(self) -> int:
        """How many processes of ours can serve and are not on their way out."""
        return sum(r.view.state is ModelState.READY and r.view.managed and not r.leaves for r in self.residents)

    @property
    def act_is_open(self) -> bool:
        """Whether a model is on its way out, or the memory of one that has gone is not back yet."""
        return self.settling.is_open or any(resident.leaves for resident in self.residents)

    def movable(self, waiter: Resident) -> list[Resident]:
        """The models that could make room for a waiter sooner or later: all that hold a place and are not pinned."""
        return [resident for resident in self.holders if resident is not waiter and not resident.view.pinned]

    def shortage(self, resident: Resident, without: Collection[Resident] = ()) -> int:
        """The bytes by which a load would overfill its room, were the models in `without` gone; 0 = it fits.

        In use + reserved for loads under way (what they are going to take, less what they have) + what it needs itself.
        """
        device = resident.view.device
        others = [r for r in self.holders if r is not resident and r not in without]
        room = self.pressure.room(device)
        limit = room.limit(only=not others)
        if limit is None:
            return 0
        gone = sum(r.held for r in without if r.view.device == device)
        return max(0, room.used - gone + reserved(others, device) + resident.need - limit)

    def fits_beside(self, resident: Resident) -> bool:
        """Whether a second process of a model may come up while the first one serves."""
        device = resident.view.device
        room = self.pressure.room(device)
        limit = room.limit(only=False)
        return limit is None or room.used + reserved(self.holders, device) + resident.need <= limit

    def places_missing(self, resident: Resident, without: Collection[Resident] = (), claimed: int = 0) -> int:
        """How many places must become free before this one may be loaded.

        Args:
            resident: what is to be loaded, a model or a group of them.
            without: models that are taken to be gone.
            claimed: places that are free and kept for models that come first.
        """
        held = sum(other.view.places for other in self.holders if other not in without)
        return max(0, held + claimed + resident.view.places - self.policy.max_models)

    def external(self, device: str) -> bool:
        """Whether unloading cannot relieve this room: what fills it is not ours."""
        room = self.pressure.room(device)
        return self.settling.without_effect(device) or is_foreign(device, room, self.models)

    def coldest_first(self, residents: Iterable[Resident]) -> list[Resident]:
        """Longest idle first; of equals the less used, then the one configured later (the first matters most)."""
        order = {resident: index for index, resident in enumerate(self.residents)}
        return sorted(residents, key=lambda r: (-r.idle, r.view.uses, -order[r]))

    def dispensable_first(self, residents: Iterable[Resident]) -> list[Resident]:
        """In the order in which they make room for others, by the operator's choice; of equals the coldest first.

        `cost` (behaviour.md 6): idle seconds x bytes / seconds to load it again, the highest first.
        """
        coldest = self.coldest_first(residents)
        match self.policy.eviction:
            case Eviction.LRU:
                return coldest
            case Eviction.LFU:
                return sorted(coldest, key=lambda r: r.view.uses)
            case Eviction.COST:
                longest = max((r.view.load_seconds or 0.0 for r in self.residents), default=0.0)

                def load_seconds(resident: Resident) -> float:
                    """Of one that was adopted nobody knows: then as long as any."""
                    return max(resident.view.load_seconds or longest, QUICKEST_LOAD)

                return sorted(coldest, key=lambda r: -r.idle * r.held / load_seconds(r))


def reserved(residents: Iterable[Resident], device: str) -> int:
    """The bytes of a room that loads under way are still going to take."""
    return sum(_outstanding(residents, device))


def _outstanding(residents: Iterable[Resident], device: str) -> Iterator[int]:
    for resident in residents:
        if resident.view.device != device:
            continue
        if resident.is_loading:
            yield max(0, resident.need - resident.held)
        elif resident.view.successor_bytes is not None:
            yield max(0, resident.need - resident.view.successor_bytes)
