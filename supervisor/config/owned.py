"""What the supervisor sets itself on every Infinity it starts, and users therefore must not: options and variables.

Names as of `infinity_emb v2 --help`, 0.0.78; click takes no abbreviations of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from supervisor.config.faults import Path, Problem

_PRIVATE = "each worker gets a private one at each start"
_ENDS = "the worker would end instead of serving"

# option -> what to do instead, or why not
OPTIONS: Mapping[str, str] = {
    "--model-id": "write `model_id`",
    "--served-model-name": "write `name`",
    "--engine": "write `engine`",
    "--device": "write `device`",
    "--device-id": "write `device_id`",
    "--batch-size": "write batch_controller.max_batch_size",
    "--host": _PRIVATE,
    "--port": f"{_PRIVATE}; clients use proxy.listen",
    "--api-key": _PRIVATE,
    "--url-prefix": "the proxy and the health checks need the plain paths",
    "--preload-only": _ENDS,
    "--no-preload-only": "it is the default",
    "--help": _ENDS,
    "--install-completion": _ENDS,
    "--show-completion": _ENDS,
}

VARIABLES: Mapping[str, str] = {
    "INFINITY_MODEL_ID": "write models[].model_id",
    "INFINITY_SERVED_MODEL_NAME": "write models[].name",
    "INFINITY_ENGINE": "write models[].engine",
    "INFINITY_DEVICE": "write models[].device",
    "INFINITY_DEVICE_ID": "write models[].device_id",
    "INFINITY_BATCH_SIZE": "write batch_controller.max_batch_size",
    "INFINITY_HOST": _PRIVATE,
    "INFINITY_PORT": f"{_PRIVATE}; clients use proxy.listen",
    "INFINITY_API_KEY": _PRIVATE,
    "INFINITY_URL_PREFIX": "the proxy and the health checks need the plain paths",
    "INFINITY_QUEUE_SIZE": "requests wait in the supervisor: write proxy.queue",
    "INFINITY_PRELOAD_ONLY": _ENDS,
    "CUDA_VISIBLE_DEVICES": "write models[].device_id",
    "CUDA_DEVICE_ORDER": "models[].device_id counts in PCI order",
}


def owned_options(words: Sequence[str], path: Path, first: int = 0) -> Iterator[Problem]:
    """A problem for each word, from index `first` on, that is an option of ours (`--port`, `--port=1`, `--port 1`)."""
    for index, word in enumerate(words[first:], start=first):
        option = word.replace("=", " ").split(" ")[0]
        if option in OPTIONS:
            message = f"{option} is set by the supervisor; allowed: any other option ({OPTIONS[option]})"
            yield Problem((*path, index), message)
        elif word.startswith("--") and word[len(option) :].startswith(" "):
            message = f"{option} and its value are one item; allowed: two list items, or one with `=`"
            yield Problem((*path, index), message)


def owned_variables(env: Mapping[str, str], path: Path) -> Iterator[Problem]:
    """A problem for each variable that is ours or that no environment can hold."""
    for name in env:
        if name in VARIABLES:
            message = f"{name} is set by the supervisor; allowed: any other variable ({VARIABLES[name]})"
            yield Problem((*path, name), message)
        elif not name or "=" in name:
            yield Problem((*path, name), "not a variable's name; allowed: at least one character, none of them `=`")


def command_problems(command: Sequence[str], path: Path) -> Iterator[Problem]:
    """What in `infinity.command` keeps it from running `infinity_emb v2` as the supervisor needs it.

    Options of ours are looked for behind the word `v2` only: before it they are a wrapper's (`docker run --device …`).
    """
    if not command[0]:
        yield Problem((*path, 0), "empty; allowed: a program's name or path")
    if PurePath(command[0]).name == "infinity_emb" and command[1:2] == ("v1",):
        yield Problem((*path, 1), "v1 takes no API key; allowed: v2")
    if "v2" in command:
        yield from owned_options(command, path, first=command.index("v2") + 1)
