"""The memory that models share: how full it is, how far a load may fill it, and how hard it presses.

Values only. A *room* is one memory: the host's (models on "cpu") or one GPU's. Who goes and who is loaded is decided in
`eviction` and `loading`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from supervisor.core.model import Rung, Signal

# The room of models without a GPU; every other room is named by the GPU's UUID.
HOST = "cpu"


@dataclass(frozen=True, slots=True)
class Room:
    """One memory that models live in; bytes, and percentages of `total`.

    `total` 0 means that its size is not known: nothing is limited then and nothing can be proved.
    `real` is False while a drill replaces the reading behind `rung` (`used` is always the real one).
    """

    used: int
    total: int
    rung: Rung
    fit_percent: float | None
    last_fit_percent: float | None
    real: bool = True

    def limit(self, only: bool) -> int | None:
        """How many bytes may be in use once a load is done; None = no limit.

        The only model may fill what is left up to the unload threshold: one that fits no other way must still be able
        to serve. A shrink threshold that is off leaves the unload threshold as the limit.
        """
        percent = self.last_fit_percent if only or self.fit_percent is None else self.fit_percent
        if percent is None or not self.total:
            return None
        return int(self.total * percent / 100)

    @property
    def excess(self) -> int | None:
        """Bytes in use above the shrink threshold, negative below it; None when either is not known."""
        if self.fit_percent is None or not self.total:
            return None
        return self.used - int(self.total * self.fit_percent / 100)

    @property
    def below_unload(self) -> bool:
        """Whether what is really in use is under the unload threshold."""
        limit = self.limit(only=True)
        return limit is not None and self.used < limit


@dataclass(frozen=True, slots=True)
class Pressure:
    """How the host presses at this moment, as the decisions about models in memory need it.

    `memory_used` and the first figure of `device_memory` (used, total by GPU UUID) are real bytes even in a drill.
    `fit_percent` is the shrink threshold of the signal and `last_fit_percent` its unload threshold, None = off.
    `device_rungs` has the GPU memory's rung by UUID, "" for all devices. `gate_closed` is the host-wide gate, whoever
    closed it; `paused` names models whose own gate is closed. `ladder_quiet`: every signal is below warn. `drilled` are
    the signals whose reading is replaced.
    """

    memory_used: int = 0
    memory_limit: int = 0
    fit_percent: float | None = None
    last_fit_percent: float | None = None
    gpu_fit_percent: float | None = None
    gpu_last_fit_percent: float | None = None
    cpu: Rung = Rung.NORMAL
    memory: Rung = Rung.NORMAL
    device_rungs: Mapping[str, Rung] = field(default_factory=lambda: MappingProxyType({}))
    device_memory: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))
    gate_closed: bool = False
    paused: frozenset[str] = frozenset()
    ladder_quiet: bool = True
    drilled: frozenset[Signal] = frozenset()

    def room(self, device: str) -> Room:
        """The memory that a model on `device` lives in."""
        if device == HOST:
            return Room(
                used=self.memory_used,
                total=self.memory_limit,
                rung=self.memory,
                fit_percent=self.fit_percent,
                last_fit_percent=self.last_fit_percent,
                real=Signal.MEMORY not in self.drilled,
            )
        used, total = self.device_memory.get(device, (0, 0))
        return Room(
            used=used,
            total=total,
            rung=max(self.device_rungs.get(device, Rung.NORMAL), self.device_rungs.get("", Rung.NORMAL)),
            fit_percent=self.gpu_fit_percent,
            last_fit_percent=self.gpu_last_fit_percent,
            real=Signal.GPU_MEMORY not in self.drilled,
        )


def bytes_text(count: float) -> str:
    """A number of bytes for people: "1.25 GiB", "300 MiB".

    >>> bytes_text(1_342_177_280), bytes_text(314_572_800)
    ('1.25 GiB', '300 MiB')
    """
    return f"{count / 2**30:.2f} GiB" if abs(count) >= 2**30 else f"{count / 2**20:.0f} MiB"
