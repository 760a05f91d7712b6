"""Where one worker stands, as others see it: its state, what is known of its process, what it was counted for.

Owns the view. Every move is checked against the table of `core.lifecycle`, told in the log and to whoever watches.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from supervisor.core.lifecycle import check_move
from supervisor.core.model import ModelState
from supervisor.workers.launch import WorkerSpec
from supervisor.workers.surroundings import Surroundings, WorkerView

log = structlog.get_logger(__name__)

S = ModelState


class Standing:
    """One worker's `view`, and what each of its models can do (`capabilities`); only its own task changes them."""

    def __init__(self, spec: WorkerSpec, around: Surroundings) -> None:
        self.view = WorkerView(spec.name, S.STOPPED, group=spec.name if spec.group else None)
        self.capabilities: Mapping[str, frozenset[str]] = {}
        self._models = spec.models
        self._around = around

    @property
    def state(self) -> ModelState:
        """Where it is in its life."""
        return self.view.state

    def move(self, state: ModelState, reason: str | None) -> None:
        """It is in this state from now on, and why; ValueError for a move that the table does not have."""
        before = self.state
        check_move(before, state)
        self.show(state=state, reason=reason)
        if state is not S.BACKOFF:
            self.show(backoff_until=None)
        level = {S.BACKOFF: log.warning, S.FAILED: log.error}.get(state, log.info)
        told = {"reason": reason} if reason and state not in (S.STARTING, S.STOPPING) else {}  # told once
        level(f"worker_{state}", model=self.view.name, before=before.value, **told)
        self._around.on_change()

    def show(self, **changes: Any) -> None:
        """These fields of the view are others now."""
        self.view = replace(self.view, **changes)

    def loaded(self, seconds: float, now: float) -> None:
        """A process became ready, so long after its start."""
        self.show(ready_since=now, load_seconds=seconds, loads=self.view.loads + 1)
        for model in self._models:
            self._around.hooks.on_load(model, seconds)

    def unloaded(self, cause: str) -> None:
        """It was stopped because somebody asked for it."""
        self.show(unloads=self.view.unloads + 1)
        for model in self._models:
            self._around.hooks.on_unload(model, cause)

    def restarted(self, cause: str) -> None:
        """It is started again, or another process has taken its place."""
        self.show(restarts=self.view.restarts + 1)
        for model in self._models:
            self._around.hooks.on_restart(model, cause)
