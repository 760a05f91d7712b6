"""A part: what goes to a worker as one request, made of slices of one job or of several."""

import asyncio
from dataclasses import dataclass, field

from supervisor.core.answer import Answer, cut
from supervisor.core.fair_queue import Priority
from supervisor.core.payload import Inference, Rows, merged_body
from supervisor.proxy.jobs import SHORTEST, Reply, Slice


@dataclass(slots=True, eq=False)
class Part:
    """What goes to a worker as one request: slices of one or more jobs for the same endpoint with the same options.

    `longest` in characters, `cost` as the queue counts it; `core_seconds` is what the CPU hold was charged for it.
    `trial`: only the first so many characters of one row go, to see what they take; the answer is nobody's.
    """

    slices: list[Slice]
    sent_at: float
    trial: int | None = None
    inputs: int = field(init=False)
    longest: int = field(init=False)
    cost: float = field(init=False)
    core_seconds: float = 0.0
    task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        inputs = longest = 0
        cost = 0.0
        for piece in self.slices:
            inputs += piece.rows
            cost += piece.cost
            if piece.longest > longest:
                longest = piece.longest
        self.inputs, self.longest, self.cost = inputs, longest, cost
        if self.trial is not None:
            self.longest, self.cost = self.trial, float(max(SHORTEST, self.trial))

    @property
    def endpoint(self) -> Inference:
        """The endpoint of all its requests."""
        return self.slices[0].job.endpoint

    @property
    def priority(self) -> Priority:
        """The class of all its requests."""
        return self.slices[0].job.priority

    @property
    def suspect(self) -> bool:
        """Whether a worker went down that had its rows: then it travels alone, so that the next death says something.

        Suspects are never mixed with others.
        """
        return self.slices[0].suspicion is not None

    @property
    def atomic(self) -> bool:
        """Whether it can't be divided any more."""
        return len(self.slices) == 1 and (self.inputs == 1 or not self.slices[0].job.plan.divisible)

    @property
    def shared(self) -> bool:
        """Whether it carries more than one request."""
        return len(self.slices) > 1

    @property
    def whole(self) -> bool:
        """Whether it is one whole request, whose answer needs no work."""
        return len(self.slices) == 1 and self.inputs == self.slices[0].job.plan.inputs

    def body(self, model: str) -> bytes:
        """The request body; `model` is the canonical name."""
        if self.shared:
            return merged_body([(_rows(piece), piece.start, piece.stop) for piece in self.slices], model)
        (piece,) = self.slices
        if self.trial is not None:
            return _rows(piece).beginning(self.endpoint, piece.start, self.trial)
        return piece.job.plan.part(piece.start, piece.stop)

    def answers(self, reply: Reply) -> list[Answer] | None:
        """The worker's answer, cut into one for each slice; None when it can't be told apart exactly."""
        shape = _rows(self.slices[0]).shape
        counts = [piece.rows for piece in self.slices]
        usage = [_rows(piece).usage(piece.start, piece.stop) for piece in self.slices] if self.shared else None
        return cut(shape, reply.body, counts, usage)


def _rows(piece: Slice) -> Rows:
    assert isinstance(piece.job.plan, Rows), "only rows are sent in several parts, or together"
    return piece.job.plan
