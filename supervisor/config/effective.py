"""The effective configuration, for people: everything filled in, in the order of the contract, without secrets."""

import re
from collections.abc import Mapping
from typing import Any

from supervisor.config.settings import Settings, queue_bytes

HIDDEN = "***"
_SECRET_NAME = re.compile(r"TOKEN(?!IZER)|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def effective(settings: Settings, *, total_memory: int | None = None, state_dir: str | None = None) -> dict[str, Any]:
    """Plain values, fit for YAML and JSON. Environment variables that look secret are shown as `***`.

    Two values follow from the host where they are not written: give its memory in bytes and the folder state goes to,
    and they are shown; else they are null.
    """
    values = _plain(settings.model_dump())
    if total_memory is not None:
        values["proxy"]["queue"]["max_bytes"] = queue_bytes(settings, total_memory)
    values["state_dir"] = settings.state_dir or state_dir
    for section in (values["infinity"], *values["models"]):
        section["env"] = _without_secrets(section["env"])
    return values  # type: ignore[no-any-return]


def _without_secrets(env: Mapping[str, str]) -> dict[str, str]:
    return {
        name: HIDDEN if _SECRET_NAME.search(name) else _URL_CREDENTIALS.sub(HIDDEN, value)
        for name, value in env.items()
    }


def _plain(value: Any) -> Any:
    """Lists for tuples, and whole numbers without a fraction, as people write them."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
