"""What changed between two configurations, and what a running daemon can make of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from supervisor.config.settings import ModelSettings, Settings

NEEDS_RESTART = frozenset(
    {
        "proxy.listen",
        "admin.listen",
        "admin.socket",
        "admin.token_file",
        "admin.agent_listen",
        "state_dir",
        "logging.format",
    }
)
"""What is fixed while the daemon runs: sockets and whether one asks for a token, the locked folder and the way out of
the log."""

_LAUNCH = ("model_id", "engine", "device", "device_id", "args", "env", "group")  # of a model
_ATTACHED = ("url", "api_key_file", "pid_file", "systemd_unit")  # of one that something else runs
_SHARED_LAUNCH = ("command", "env")  # of `infinity`


@dataclass(frozen=True, slots=True)
class Diff:
    """Dotted paths, those of models by name (`models.minilm.pinned`), and names of models.

    `models_changed` are those whose worker would be started in another way now: one that runs has to be restarted. What
    else changes about a model changes under the running worker.
    """

    live: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    models_added: tuple[str, ...] = ()
    models_removed: tuple[str, ...] = ()
    models_changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any((self.live, self.needs_restart, self.models_added, self.models_removed))


def diff(old: Settings, new: Settings) -> Diff:
    """What changes from `old` to `new`. Values are not in it, so it may be logged."""
    before, after = ({model.name: model for model in settings.models} for settings in (old, new))
    both = [name for name in after if name in before]
    changed = list(_changed_paths(_without_models(old), _without_models(new)))
    for name in both:
        changed += _changed_paths(before[name].model_dump(), after[name].model_dump(), f"models.{name}")
    if both != [name for name in before if name in after]:
        changed.append("models")  # their order
    return Diff(
        live=tuple(path for path in changed if path not in NEEDS_RESTART),
        needs_restart=tuple(path for path in changed if path in NEEDS_RESTART),
        models_added=tuple(name for name in after if name not in before),
        models_removed=tuple(name for name in before if name not in after),
        models_changed=tuple(name for name in both if launch(old, before[name]) != launch(new, after[name])),
    )


def with_fixed_kept(old: Settings, new: Settings) -> Settings:
    """The new settings as far as a running daemon can take them: what needs a restart stays as it was."""
    values: Settings = new
    for path in NEEDS_RESTART:
        section, _, key = path.rpartition(".")
        if section:
            kept = getattr(values, section).model_copy(update={key: getattr(getattr(old, section), key)})
            values = values.model_copy(update={section: kept})
        else:
            values = values.model_copy(update={key: getattr(old, key)})
    return values


def launch(settings: Settings, model: ModelSettings) -> tuple[Any, ...]:
    """All that a worker cannot change once it runs, and who shares it.

    Batch size and time-outs are not of it: they apply as they are.
    """
    if model.url is not None:
        return tuple(getattr(model, key) for key in _ATTACHED)
    sharing = sorted((m.name, m.model_id, m.engine) for m in settings.models if model.group and m.group == model.group)
    return (
        *(getattr(settings.infinity, key) for key in _SHARED_LAUNCH),
        *(getattr(model, key) for key in _LAUNCH),
        sharing,
    )


def _without_models(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(exclude={"models"})


def _changed_paths(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The paths of what differs, sections gone through key by key, environments told as a whole."""
    for key, value in new.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, Mapping) and key != "env":
            yield from _changed_paths(old[key], value, here)
        elif old[key] != value:
            yield here
