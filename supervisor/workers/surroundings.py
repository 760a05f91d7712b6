"""What workers need of the rest of the house, and how they show themselves to it: small interfaces and values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

from supervisor.core.model import ModelState
from supervisor.workers.cgroup import Subtree
from supervisor.workers.lane import LaneControl
from supervisor.workers.records import Records
from supervisor.workers.spare import SpareKeeper


class Hooks(Protocol):
    """What is counted about workers. Causes are a few fixed words, fit for a metric's label."""

    def on_load(self, model: str, seconds: float) -> None:
        """A worker became ready, so long after its start."""

    def on_unload(self, model: str, cause: str) -> None:
        """A worker was stopped because somebody asked for it."""

    def on_restart(self, model: str, cause: str) -> None:
        """A worker is started again: it ended by itself ("crash"), or a restart was ordered."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One model's worker as it is now. `reason` says why it is in this state; times are on the monotonic clock.

    `successor_pgid`: the process group that is being brought up beside the one that serves, to take its place.
    Models of one `group` have the same worker, and differ in nothing but what they can do.
    """

    name: str
    state: ModelState
    pid: int | None = None
    pgid: int | None = None
    port: int | None = None
    reason: str | None = None
    ready_since: float | None = None
    load_seconds: float | None = None
    loads: int = 0
    unloads: int = 0
    restarts: int = 0
    log_tail: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    backoff_until: float | None = None
    successor_pgid: int | None = None
    group: str | None = None


@dataclass(frozen=True)
class Surroundings:
    """What all workers of a pool share. `taken` are the ports in use; `environ` is the supervisor's environment;
    `subtree` has their cgroups."""

    log_dir: Path
    environ: Mapping[str, str]
    lanes: LaneControl
    hooks: Hooks
    on_change: Callable[[], None]
    session: Callable[[], aiohttp.ClientSession]
    records: Records | None
    taken: set[int]
    subtree: Subtree
    spare: SpareKeeper
