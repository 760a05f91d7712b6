"""The rows of one model that were at a worker when it went down: how they travel on, and who is to blame.

Owns the accusation that was not judged yet, and the memory of guilty inputs. The rules are `core.suspicion`'s.

A broken connection comes before the news that the process has ended, and only that tells how it ended. So a death is
counted at once and judged later: when the worker is gone, or, if it lives on, when its lane goes on.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from supervisor.core.payload import Inference
from supervisor.core.suspicion import REMEMBERED_FOR, Guilty, Suspicion, after_death, digest, is_guilty
from supervisor.proxy.jobs import Job, Slice
from supervisor.proxy.part import Part

# How many of those that wait are looked at for others of the same suspicion: twice what was at the worker, at most.
LOOK_BEHIND: Final = 256
# How many rows under suspicion are known after their clients have left: what was at a few workers that went down.
KNOWN: Final = 4096


class Blame(NamedTuple):
    """A request with a guilty input: where it stands in it (None: it can't be told apart), and how often it was."""

    job: Job
    at: int | None
    deaths: int


class Suspects:
    """Those of one lane. `guilty` are the inputs that were found guilty, `known` those under suspicion, both by kind of
    work, also when their clients have left: one that tries again and again must not be new each time."""

    __slots__ = ("_alone", "_known_until", "_open", "guilty", "known")

    def __init__(self) -> None:
        self._open = False  # somebody went down since the last judgement
        self._alone: Slice | None = None  # who did so alone and can't be divided
        self.guilty: dict[Inference, Guilty] = {}
        self.known: OrderedDict[bytes, Suspicion] = OrderedDict()
        self._known_until = 0.0

    def accuse(self, parts: Collection[Part], others: int, now: float) -> None:
        """The worker went down with these parts, and with so many others that are still there."""
        if not parts:
            return
        alone = len(parts) == 1 and not others and not self._open
        self._open, self._alone = True, None
        self._known_until = now + REMEMBERED_FOR
        for part in parts:
            for piece in part.slices:
                piece.suspicion = after_death(piece.suspicion, part.inputs)
                for name in _names(piece):
                    self.known[name] = piece.suspicion
                    self.known.move_to_end(name)
            if alone and part.atomic:
                self._alone = part.slices[0]
        while len(self.known) > KNOWN:
            self.known.popitem(last=False)

    def clear(self, part: Part) -> None:
        """A worker answered these rows and lives."""
        for piece in part.slices:
            for name in _names(piece):
                self.known.pop(name, None)

    def recognise(self, job: Job, now: float) -> None:
        """Put a new request under the suspicion that its rows are known by; nothing is known after an hour in peace."""
        if now >= self._known_until:
            self.known.clear()
            return
        (piece,) = job.waiting
        piece.suspicion = max((self.known[name] for name in _names(piece) if name in self.known), default=None)

    def judge(self, killed_by_others: bool, now: float) -> Blame | None:
        """Who is to blame for the deaths since the last judgement, if that is clear; it is remembered."""
        piece = self._alone
        self.acquit()
        if piece is None or piece.suspicion is None or not is_guilty(piece.suspicion, killed_by_others):
            return None
        job = piece.job
        self.guilty.setdefault(job.endpoint, Guilty()).remember(job.plan.text(piece.start), now)
        return Blame(job, _index(job, piece.start), piece.suspicion.deaths)

    def acquit(self) -> None:
        """The deaths since the last judgement were ours."""
        self._open, self._alone = False, None

    def guilty_index(self, job: Job, now: float) -> int | None:
        """The index of an input of this request that took a worker down in the last hour; None: none did."""
        guilty = self.guilty.get(job.endpoint)
        if not guilty:
            return None
        plan = job.plan
        positions = range(plan.inputs) if plan.divisible else (0,)
        return next((_index(job, at) or 0 for at in positions if guilty.knows(plan.text(at), now)), None)


def _names(piece: Slice) -> Iterator[bytes]:
    """What its rows are known by."""
    job = piece.job
    for at in range(piece.start, piece.stop) if job.plan.divisible else (piece.start,):
        yield digest(job.endpoint.value.encode() + b" " + job.plan.text(at))


def company(first: Job, queue: Iterable[Job], most: int) -> list[tuple[Job, int]]:
    """Who leaves together with this suspect, itself first: those under the same suspicion, and how many rows of each.

    So the rows of a part that went down leave together again, and then in halves of it. Rows longer than the first one
    do not join: what fits was asked for that one.
    """
    suspicion = first.waiting[0].suspicion
    assert suspicion is not None, "asked for suspects only"
    left, longest, together = min(most, suspicion.most), first.waiting[0].longest, []
    others = (job for job in islice(queue, LOOK_BEHIND) if job is not first and _may_share(job, first))
    for job in (first, *others):
        if left > 0 and job.waiting[0].suspicion == suspicion and job.waiting[0].longest <= longest:
            rows = min(left, job.waiting[0].rows)
            together.append((job, rows))
            left -= rows
    return together


def _may_share(one: Job, other: Job) -> bool:
    return one.kind is not None and one.kind == other.kind


def _index(job: Job, position: int) -> int | None:
    if not job.plan.divisible:
        return None
    order = getattr(job.plan, "order", None)
    return position if order is None else order[position]
