"""Rules for models that something else runs: what `url` goes with, and where it may lead. Pure, as all rules are."""

from collections.abc import Iterator

from supervisor.config.address import parse_address, parse_url
from supervisor.config.faults import Path, Problem
from supervisor.config.settings import ModelSettings, Settings

_LAUNCH = ("model_id", "engine", "device", "device_id", "args", "env", "group")
_CONTROL = ("pid_file", "systemd_unit")


def models_say_who_runs_them(written: Settings, settings: Settings) -> Iterator[Problem]:
    """A model has a `model_id`, or a `url` and nothing that a process of ours would be started with.

    1. Neither. 2. A `url`, and settings of a process that nobody starts. 3. What belongs to a `url`, without one.
    4. Two ways of control: which one counts?
    """
    for index, model in enumerate(written.models):
        path: Path = ("models", index)
        if model.url is None:
            if model.model_id is None:  # 1
                message = "missing; allowed: text of 1 or more characters, or a `url` instead"
                yield Problem((*path, "model_id"), message, ((*path, "url"),))
            for key in _present(model, ("api_key_file", *_CONTROL)):  # 3
                message = "is for a model that something else runs; allowed: only together with `url`"
                yield Problem((*path, key), message, ((*path, "url"),))
            continue
        for key in _present(model, _LAUNCH):  # 2
            message = "has no effect on an Infinity that something else runs; allowed: `url` without it, or no `url`"
            yield Problem((*path, key), message, ((*path, "url"),))
        if model.pid_file is not None and model.systemd_unit is not None:  # 4
            message = "is given besides systemd_unit; allowed: one of the two"
            yield Problem((*path, "pid_file"), message, ((*path, "systemd_unit"),))


def urls_lead_elsewhere(written: Settings, settings: Settings) -> Iterator[Problem]:
    """A `url` is one that can be asked, and does not lead back to the supervisor itself."""
    own = {}
    for name, text in (("proxy.listen", settings.proxy.listen), ("admin.listen", settings.admin.listen)):
        try:
            own[name] = parse_address(text)
        except ValueError:  # another rule tells
            continue
    for index, model in enumerate(settings.models):
        if model.url is None:
            continue
        path: Path = ("models", index, "url")
        try:
            address = parse_url(model.url)
        except ValueError as error:
            yield Problem(path, str(error))
            continue
        for name, ours in own.items():
            if address.clashes_with(ours) and (address.loopback or not ours.every_host):
                yield Problem(path, f"leads to the supervisor itself, {name}; allowed: an Infinity's own address")


def controls_are_not_shared(written: Settings, settings: Settings) -> Iterator[Problem]:
    """Whoever stops one model must not stop another with it."""
    first: dict[tuple[str, str], int] = {}
    for index, model in enumerate(settings.models):
        for key in _present(model, _CONTROL):
            value: str = getattr(model, key)
            other = first.setdefault((key, value), index)
            if other != index:
                message = f"controls models.{other} already, which would be stopped with this one; allowed: once"
                yield Problem(("models", index, key), message, (("models", other, key),))


def _present(model: ModelSettings, keys: tuple[str, ...]) -> list[str]:
    """Those of the keys that are written and say something."""
    return [key for key in keys if key in model.model_fields_set and getattr(model, key) not in (None, (), {})]
