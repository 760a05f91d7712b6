"""The rows of one model that were at a worker when it went down: how they travel on, and who is to blame.

Owns the accusation that was not judged yet, and the memory of guilty inputs. The rules are `core.suspicion`'s.

A broken connection comes before the news that the process has ended, and only that tells how it ended. So a death is
counted at once and judged later: when the worker is gone, or, if it lives on, when its lane goes on.
"""

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final, NamedTuple

from supervisor.core.payload import Inference
from supervisor.core.suspicion import Guilty, after_death, is_guilty
from supervisor.proxy.jobs import Job, Part, Slice

# How many of those that wait are looked at for others of the same suspicion: twice what was at the worker, at most.
LOOK_BEHIND: Final = 256


class Blame(NamedTuple):
    """A request with a guilty input: where it stands in it (None: it can't be told apart), and how often it was."""

    job: Job
    at: int | None
    deaths: int


class Suspects:
    """Those of one lane. `guilty` are the inputs that were found guilty, by kind of work; empty as a rule."""

    __slots__ = ("_alone", "_open", "guilty")

    def __init__(self) -> None:
        self._open = False  # somebody went down since the last judgement
        self._alone: Slice | None = None  # who did so alone and can't be divided
        self.guilty: dict[Inference, Guilty] = {}

    def accuse(self, parts: Collection[Part], others: int) -> None:
        """The worker went down with these parts, and with so many others that are still there."""
        if not parts:
            return
        alone = len(parts) == 1 and not others and not self._open
        self._open, self._alone = True, None
        for part in parts:
            for piece in part.slices:
                piece.suspicion = after_death(piece.suspicion, part.inputs)
            if alone and part.atomic:
                self._alone = part.slices[0]

    def judge(self, killed_by_others: bool, now: float) -> Blame | None:
        """Who is to blame for the deaths since the last judgement, if that is clear; it is remembered."""
        self._open, piece, self._alone = False, self._alone, None
        if piece is None or piece.suspicion is None or not is_guilty(piece.suspicion, killed_by_others):
            return None
        job = piece.job
        self.guilty.setdefault(job.endpoint, Guilty()).remember(job.plan.text(piece.start), now)
        return Blame(job, _index(job, piece.start), piece.suspicion.deaths)

    def guilty_index(self, job: Job, now: float) -> int | None:
        """The index of an input of this request that took a worker down in the last hour; None: none did."""
        guilty = self.guilty.get(job.endpoint)
        if not guilty:
            return None
        plan = job.plan
        positions = range(plan.inputs) if plan.divisible else (0,)
        return next((_index(job, at) or 0 for at in positions if guilty.knows(plan.text(at), now)), None)


def company(first: Job, queue: Iterable[Job], most: int) -> list[tuple[Job, int]]:
    """Who leaves together with this suspect, itself first: those under the same suspicion, and how many rows of each.

    So the rows of a part that went down leave together again, and then in halves of it.
    """
    suspicion = first.waiting[0].suspicion
    assert suspicion is not None, "asked for suspects only"
    left, together = min(most, suspicion.most), []
    others = (job for job in islice(queue, LOOK_BEHIND) if job is not first and _may_share(job, first))
    for job in (first, *others):
        if left > 0 and job.waiting[0].suspicion == suspicion:
            rows = min(left, job.waiting[0].rows)
            together.append((job, rows))
            left -= rows
    return together


def _may_share(one: Job, other: Job) -> bool:
    return one.key is not None and other.key is not None and one.key.kind == other.key.kind


def _index(job: Job, position: int) -> int | None:
    if not job.plan.divisible:
        return None
    order = getattr(job.plan, "order", None)
    return position if order is None else order[position]
