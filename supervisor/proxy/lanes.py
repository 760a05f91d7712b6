"""All lanes: which model each is for, by which names it is found, and the sums over them.

Owns the directory. The lane of a model that was removed from the configuration stays, under no name clients can use,
until its worker is gone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from supervisor.core.body import Body, Naming
from supervisor.proxy.lane import Lane
from supervisor.proxy.part_room import Rooms
from supervisor.proxy.refusals import Reason, Refusal, UnknownModelRefusal
from supervisor.proxy.served_model import ServedModel

# What Infinity calls a model that was not named.
UNNAMED: Final = "default/not-specified"


@dataclass(slots=True)
class Demand:
    """What clients want of one model and what is on its way; `last_used` is on the loop's clock."""

    queued_requests: int
    queued_inputs: int
    queued_bytes: int
    oldest_wait_s: float
    inflight_parts: int
    inflight_inputs: int
    leases: int
    uses: int
    last_used: float | None


class Lanes:
    """The lanes in the order of the configuration."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._lanes: dict[str, Lane] = {}
        self._names: dict[str, Lane] = {}

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def of(self, model: str) -> Lane | None:
        """The lane of a model by its canonical name; also one that was removed while its worker still runs."""
        return self._lanes.get(model)

    def configure(self, models: Sequence[ServedModel], now: float) -> list[Lane]:
        """Lanes for these models and no others: known ones stay as they are. Returns those that are in no use now."""
        before, self._lanes, self._names = self._lanes, {}, {}
        for model in models:
            lane = before.pop(model.name, None) or Lane(model, self._rooms, now)
            lane.model, lane.retired, lane.room.batch = model, False, model.batch_size
            self._lanes[model.name] = lane
            self._names.update(dict.fromkeys((model.name, *model.aliases), lane))
        for lane in self._lanes.values():
            group = lane.model.group
            members = (other for other in self._lanes.values() if group is not None and other.model.group == group)
            lane.siblings = tuple(other for other in members if other is not lane)
            lane.room.siblings = tuple(other.room for other in lane.siblings)
        for lane in before.values():
            lane.retired = True
            if lane.client is not None:
                self._lanes[lane.model.name] = lane
        return list(before.values())

    def remove(self, lane: Lane) -> None:
        """Forget a lane whose worker is gone."""
        del self._lanes[lane.model.name]

    def asked_for(self, body: Body) -> Lane:
        """The lane of the model that a body asks for.

        1. By its name or alias. An unknown name is refused even where one model is all there is: a bare Infinity would
           answer with that one, and vectors of the wrong model are worse than an error.
        2. Not named: the only model; of several, Infinity asks to choose.
        3. Infinity will refuse the body whatever the model: any worker that is ready, else the first model's.

        Raises:
            Refusal: no such model.
        """
        if body.naming is Naming.NAMED and (lane := self._names.get(body.model or "")) is not None:  # 1
            return lane
        if not self._names:
            raise Refusal(Reason.WORKER_UNAVAILABLE, "No models are configured.")
        configured = [lane for lane in self if not lane.retired]
        if body.naming is Naming.NAMED:  # 1
            raise UnknownModelRefusal(body.model or "", [lane.model.name for lane in configured])
        if body.naming is Naming.ABSENT and len(configured) > 1:  # 2
            raise UnknownModelRefusal(UNNAMED, [lane.model.name for lane in configured])
        return next((lane for lane in configured if lane.ready), configured[0])  # 2, 3

    def demand(self, now: float) -> dict[str, Demand]:
        """What is wanted of each model that is configured."""
        return {name: _demand(lane, now) for name, lane in self._lanes.items() if not lane.retired}

    def total(self, now: float) -> Demand:
        """The same, summed over all."""
        rows = [_demand(lane, now) for lane in self]
        return Demand(
            queued_requests=sum(row.queued_requests for row in rows),
            queued_inputs=sum(row.queued_inputs for row in rows),
            queued_bytes=sum(row.queued_bytes for row in rows),
            oldest_wait_s=max((row.oldest_wait_s for row in rows), default=0.0),
            inflight_parts=sum(row.inflight_parts for row in rows),
            inflight_inputs=sum(row.inflight_inputs for row in rows),
            leases=sum(row.leases for row in rows),
            uses=sum(row.uses for row in rows),
            last_used=max((row.last_used for row in rows if row.last_used is not None), default=None),
        )


def _demand(lane: Lane, now: float) -> Demand:
    oldest = next(iter(lane.queue), None)
    return Demand(
        queued_requests=len(lane.queue),
        queued_inputs=lane.queue.inputs,
        queued_bytes=lane.queue.bytes,
        oldest_wait_s=now - oldest.arrived if oldest is not None else 0.0,
        inflight_parts=len(lane.parts),
        inflight_inputs=lane.inflight,
        leases=lane.leases + len(lane.guests),
        uses=lane.uses,
        last_used=lane.last_used,
    )
