"""A script of looks at models, told line by line: what the manager is shown at a time, and what it says.

`Script(model("a"), model("b", STOPPED)).at(1, b={"queued": 1})` gives `["load b"]`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from supervisor.core.model import ModelState, ModelView
from supervisor.core.policy import ResidencyPolicy
from supervisor.core.residency import ModelMemoryManager, Pressure, Recycle, Step, Unload

GB = 10**9
STARTING = ModelState.STARTING
STOPPED = ModelState.STOPPED
READY = ModelState.READY
DRAINING = ModelState.DRAINING
STOPPING = ModelState.STOPPING
BACKOFF = ModelState.BACKOFF
FAILED = ModelState.FAILED

# 10 GB of memory: 8.5 GB may be in use, 9.5 GB when it is for the only model.
TIGHT = Pressure(memory_used=0, memory_limit=10 * GB, fit_percent=85.0, last_fit_percent=95.0)
ROOMY = Pressure(memory_used=2 * GB, memory_limit=100 * GB, fit_percent=85.0, last_fit_percent=95.0)


def model(name: str, state: ModelState = READY, **fields: Any) -> ModelView:
    """A model, ready and holding 1 GB unless said otherwise."""
    held = GB if state in (READY, DRAINING, STOPPING) else 0
    return ModelView(name=name, state=state, **({"memory_bytes": held} | fields))


def words(step: Step | Recycle) -> str:
    """A step in short: "load a", "unload a: idle", "refuse a"."""
    kind = type(step).__name__.lower()
    return f"unload {step.model}: {step.cause}" if isinstance(step, Unload) else f"{kind} {step.model}"


class Script:
    """The manager under test and the world as it was last shown to it.

    What is not said stays as it was, but for the age of requests that wait.
    """

    def __init__(self, *models: ModelView, pressure: Pressure = ROOMY, **policy: Any) -> None:
        self.manager = ModelMemoryManager(ResidencyPolicy(**policy))
        self.models = {view.name: view for view in models}
        self.pressure = pressure
        self.steps: list[Step | Recycle] = []
        self._now: float | None = None

    def show(self, pressure: Mapping[str, Any] | None = None, /, **models: Mapping[str, Any]) -> None:
        """Change the world without a look at it: fields of the pressure, fields of models by name."""
        self.pressure = replace(self.pressure, **(pressure or {}))
        for name, fields in models.items():
            fields = dict(fields)
            if "state" in fields and "memory_bytes" not in fields:
                fields["memory_bytes"] = model(name, fields["state"]).memory_bytes
            if fields.get("queued") == 0:
                fields.setdefault("oldest_wait", 0.0)
            self.models[name] = replace(self.models[name], **fields)

    def _age(self, now: float) -> None:
        """Whoever waits has waited longer."""
        passed = now - (now if self._now is None else self._now)
        self._now = now
        for name, view in self.models.items():
            if view.queued or view.oldest_wait:
                self.models[name] = replace(view, oldest_wait=view.oldest_wait + passed)

    def at(self, now: float, pressure: Mapping[str, Any] | None = None, /, **models: Mapping[str, Any]) -> list[str]:
        """Change the world, look at it at `now`, and return what is newly to be done."""
        self._age(float(now))
        self.show(pressure, **models)
        self.steps = self.manager.steps(list(self.models.values()), self.pressure, float(now))
        return [words(step) for step in self.steps]

    def until(self, start: int, end: int) -> list[tuple[int, str]]:
        """Look once a second from `start` up to and with `end`: what was said, and when."""
        return [(now, word) for now in range(start, end + 1) for word in self.at(now)]

    def why(self) -> str:
        """The reason of the only step of the last look."""
        (step,) = self.steps
        return step.why
