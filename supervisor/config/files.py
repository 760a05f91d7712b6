"""The files and programs that settings name: relative paths made absolute, and whether they are there.

The only part of config, besides `load`, that looks at the host.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import TypeVar

from supervisor.config import credentials
from supervisor.config.faults import Path, Problem, shown
from supervisor.config.section import Section
from supervisor.config.settings import ModelSettings, Settings

SectionT = TypeVar("SectionT", bound=Section)
# `sun_path` has 108 bytes, the last one a zero (unix(7)).
_LONGEST_SOCKET = 107
_PATH_BEGINNINGS = ("/", "./", "../", "~")


def is_path(model_id: str) -> bool:
    """Whether a model's id is a folder rather than an id at the hub."""
    return model_id.startswith(_PATH_BEGINNINGS) or model_id in (".", "..")


def resolved(settings: Settings, folder: FilePath) -> Settings:
    """The settings with `~` expanded and relative paths counted from `folder`, the config file's."""
    program, *words = settings.infinity.command
    if "/" in program:
        program = _absolute(program, folder)
    models = tuple(
        model.model_copy(update={key: _absolute(path, folder) for key, path in _paths(model)})
        for model in settings.models
    )
    return settings.model_copy(
        update={
            "infinity": settings.infinity.model_copy(update={"command": (program, *words)}),
            "models": models,
            "proxy": _with_paths(settings.proxy, ("api_keys_file",), folder),
            "admin": _with_paths(settings.admin, ("socket", "token_file"), folder),
            "state_dir": None if settings.state_dir is None else _absolute(settings.state_dir, folder),
        }
    )


def problems(settings: Settings) -> Iterator[Problem]:
    """What resolved settings name and is not there, or is not what it has to be."""
    program = settings.infinity.command[0]
    if "/" in program and _is_used(settings):
        if not os.path.exists(program):
            message = f"{shown(program)} is not there; allowed: a program that is"
            yield Problem(("infinity", "command", 0), message)
        elif os.path.isdir(program) or not os.access(program, os.X_OK):
            message = f"{shown(program)} can't be executed; allowed: a program that this user may run"
            yield Problem(("infinity", "command", 0), message)
    for index, model in enumerate(settings.models):
        if model.model_id and is_path(model.model_id) and not os.path.isdir(model.model_id):
            what = "is no folder" if os.path.exists(model.model_id) else "is not there"
            message = f"{shown(model.model_id)} {what}; allowed: a folder, or an id at the hub, which begins otherwise"
            yield Problem(("models", index, "model_id"), message)
        if model.api_key_file and not (os.path.isfile(model.api_key_file) and os.access(model.api_key_file, os.R_OK)):
            message = f"{shown(model.api_key_file)} is no file that this user may read; allowed: one that is"
            yield Problem(("models", index, "api_key_file"), message)
    for where, file, read in _credentials(settings):
        try:
            read(file)
        except ValueError as error:
            yield Problem(where, str(error))
    if settings.admin.socket is not None and len(os.fsencode(settings.admin.socket)) > _LONGEST_SOCKET:
        message = f"longer than the {_LONGEST_SOCKET} bytes that a socket's path may have; allowed: a shorter one"
        yield Problem(("admin", "socket"), message)
    if settings.state_dir is not None and os.path.exists(settings.state_dir) and not os.path.isdir(settings.state_dir):
        message = f"{shown(settings.state_dir)} is no folder; allowed: a folder, which need not be there yet"
        yield Problem(("state_dir",), message)


def remarks(settings: Settings, folder: FilePath, environ: Mapping[str, str]) -> Iterator[Problem]:
    """What may well be meant as it is, but will not work on this host as things stand."""
    program = settings.infinity.command[0]
    path = settings.infinity.env.get("PATH", environ.get("PATH"))
    if program and "/" not in program and _is_used(settings) and shutil.which(program, path=path) is None:
        message = f"{shown(program)} is not in PATH here, and `run` needs it: install it, or write its full path"
        yield Problem(("infinity", "command", 0), message)
    for index, model in enumerate(settings.models):
        name = model.model_id
        if name and not is_path(name) and os.path.isdir(os.path.join(folder, name)):
            message = f"is taken for an id at the hub; for the folder beside this file write ./{shown(name)}"
            yield Problem(("models", index, "model_id"), message)
        if model.api_key_file and (mode := _mode(model.api_key_file)) & 0o077:
            message = f"others may use {shown(model.api_key_file)} (mode {mode:o}): `chmod 600` keeps the key private"
            yield Problem(("models", index, "api_key_file"), message)
    for where, file, _ in _credentials(settings):
        if (mode := _mode(file)) & 0o027:
            message = f"others may use {shown(file)} (mode {mode:o}): `chmod 640` keeps it from them"
            yield Problem(where, message)


def _is_used(settings: Settings) -> bool:
    """Whether the supervisor starts an Infinity itself, now or once a model is added; not if all are attached."""
    return not settings.models or any(model.url is None for model in settings.models)


def _paths(model: ModelSettings) -> Iterator[tuple[str, str]]:
    """The settings of a model that name a file or folder, with what is written."""
    if model.model_id is not None and is_path(model.model_id):
        yield "model_id", model.model_id
    if model.api_key_file is not None:
        yield "api_key_file", model.api_key_file
    if model.pid_file is not None:
        yield "pid_file", model.pid_file


def _credentials(settings: Settings) -> Iterator[tuple[Path, str, Callable[[str], object]]]:
    """The files that say who is let in, where they are written, and how they are read."""
    if settings.proxy.api_keys_file is not None:
        yield ("proxy", "api_keys_file"), settings.proxy.api_keys_file, credentials.api_keys
    if settings.admin.token_file is not None:
        yield ("admin", "token_file"), settings.admin.token_file, credentials.token


def _with_paths(section: SectionT, keys: tuple[str, ...], folder: FilePath) -> SectionT:
    """A section with these keys, as far as they are written, made absolute paths."""
    written = {key: value for key in keys if (value := getattr(section, key)) is not None}
    return section.model_copy(update={key: _absolute(value, folder) for key, value in written.items()})


def _mode(path: str) -> int:
    """The permissions of a file; 0 when there is none."""
    try:
        return os.stat(path).st_mode & 0o777
    except OSError:
        return 0


def _absolute(text: str, folder: FilePath) -> str:
    """An absolute path, without `..` wherever that names the same file (it does not behind some links)."""
    joined = os.path.join(folder, os.path.expanduser(text))
    tidy = os.path.normpath(joined)
    return tidy if os.path.realpath(tidy) == os.path.realpath(joined) else joined
