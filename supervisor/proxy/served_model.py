"""A model as clients know it, and what of its worker the data plane must know. Values only."""

from dataclasses import dataclass

from supervisor.core.payload import DEFAULT_MAX_INPUTS


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients know it. `max_inputs` is its worker's INFINITY_MAX_CLIENT_BATCH_SIZE.

    `counts_characters`: its usage is a sum of characters, so that of a shared part can be split. `batch_size`: the most
    rows that its worker runs together. Models of one `group` have the same worker. `passes_keys`: its worker is shown
    what clients send as their key.
    """

    name: str
    aliases: tuple[str, ...] = ()
    max_inputs: int = DEFAULT_MAX_INPUTS
    counts_characters: bool = True
    batch_size: int = 32
    group: str | None = None
    passes_keys: bool = False


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why no worker can be had; `until` is when the next attempt begins, None = not before somebody intervenes."""

    reason: str
    until: float | None
