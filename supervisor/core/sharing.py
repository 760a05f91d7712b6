"""Models that share a process, as one: they are loaded, idle and unloaded together (behaviour.md 6, `group`).

Owns that view of them and no state. Decisions about memory are made for processes; what clients see, requests, gates
and parts, stays each model's own.
"""

from collections.abc import Sequence
from dataclasses import replace

from supervisor.core.model import ModelView


def by_process(models: Sequence[ModelView]) -> list[ModelView]:
    """One view for each process, in the order of their first models; a model without a group is its own.

    A group is named as such, holds what its members hold together, is in use while any is, pinned and wanted if any is.
    What its load takes is known if it is for all of them.
    """
    processes: dict[str, list[ModelView]] = {}
    for model in models:
        processes.setdefault(model.group or model.name, []).append(model)
    return [members[0] if members[0].group is None else _together(name, members) for name, members in processes.items()]


def _together(group: str, members: Sequence[ModelView]) -> ModelView:
    successors = [member.successor_bytes for member in members if member.successor_bytes is not None]
    estimates = [member.estimate for member in members if member.estimate is not None]
    return replace(
        members[0],
        name=group,
        members=tuple(member.name for member in members),
        pinned=any(member.pinned for member in members),
        memory_bytes=sum(member.memory_bytes for member in members),
        estimate=sum(estimates) if len(estimates) == len(members) else None,
        queued=sum(member.queued for member in members),
        inflight=sum(member.inflight for member in members),
        leases=sum(member.leases for member in members),
        oldest_wait=max(member.oldest_wait for member in members),
        uses=sum(member.uses for member in members),
        wanted=any(member.wanted for member in members),
        successor_bytes=sum(successors) if successors else None,
    )
