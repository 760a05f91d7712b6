"""Why a start came to nothing: told by how the process ended and what it wrote last, with what to do about it.

Owns the kinds of failure, the words they are known by, and what another start may be expected to do (`Outlook`). Pure:
the process and its output are `supervisor.workers`'.

The words are what Infinity 0.0.78 with transformers 4.57, huggingface_hub 0.36 and uvicorn 0.32 wrote when it was
started that way (`tests/infinity/test_start_failures.py`). Words that are not known cost little: the failure is
`UNKNOWN`, and its last lines say the rest.
"""

import errno
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from supervisor.core.lifecycle import KILLED, Outlook


class Kind(StrEnum):
    """Failures that are told apart."""

    NO_PROGRAM = "no_program"
    NOT_EXECUTABLE = "not_executable"
    BAD_ARGUMENTS = "bad_arguments"
    NO_SUCH_MODEL = "no_such_model"
    NOT_DOWNLOADED = "not_downloaded"
    NO_ACCESS = "no_access"
    INCOMPLETE_MODEL = "incomplete_model"
    NOT_INSTALLED = "not_installed"
    NO_DEVICE = "no_device"
    HUB_OUT_OF_REACH = "hub_out_of_reach"
    PORT_TAKEN = "port_taken"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    KILLED = "killed"
    UNKNOWN = "unknown"


class Meaning(NamedTuple):
    """What a kind is in words, `{model_id}` and `{program}` standing for the operator's, and what may come of it."""

    words: str
    outlook: Outlook


MEANINGS: Mapping[Kind, Meaning] = MappingProxyType(
    {
        Kind.NO_PROGRAM: Meaning(
            "{program}: no such program, or no such interpreter in its first line; check infinity.command",
            Outlook.HOPELESS,
        ),
        Kind.NOT_EXECUTABLE: Meaning("{program}: cannot be executed; check infinity.command", Outlook.HOPELESS),
        Kind.BAD_ARGUMENTS: Meaning(
            "Infinity refuses its command line; check args, engine and device of the model", Outlook.HOPELESS
        ),
        Kind.NO_SUCH_MODEL: Meaning("{model_id}: no such folder or hub id; check models[].model_id", Outlook.HOPELESS),
        Kind.NOT_DOWNLOADED: Meaning(
            "{model_id}: no such folder, and not in the hub's cache, which is all that HF_HUB_OFFLINE allows; "
            "check models[].model_id",
            Outlook.HOPELESS,
        ),
        Kind.NO_ACCESS: Meaning("{model_id}: the hub wants a token that may read it; set HF_TOKEN", Outlook.HOPELESS),
        Kind.INCOMPLETE_MODEL: Meaning(
            "{model_id}: no model there, or not all of it; check models[].model_id", Outlook.HOPELESS
        ),
        Kind.NOT_INSTALLED: Meaning("a package is missing where Infinity is installed", Outlook.HOPELESS),
        # Open, since the driver may come up later than we do.
        Kind.NO_DEVICE: Meaning("it finds no such device; check models[].device and device_id", Outlook.OPEN),
        Kind.HUB_OUT_OF_REACH: Meaning(
            "{model_id}: no such folder, and the hub cannot be reached; check models[].model_id and the network",
            Outlook.PASSING,
        ),
        Kind.PORT_TAKEN: Meaning("somebody took its port meanwhile; the next start has another", Outlook.PASSING),
        Kind.OUT_OF_MEMORY: Meaning(
            "out of memory while loading; free some, or have fewer or smaller models in memory", Outlook.PASSING
        ),
        Kind.DISK_FULL: Meaning("the disk is full; free some of it", Outlook.PASSING),
        Kind.KILLED: Meaning("killed from outside; the kernel's log tells whether for want of memory", Outlook.PASSING),
        Kind.UNKNOWN: Meaning("ended by itself while starting", Outlook.OPEN),
    }
)

# Looked for in this order: a traceback tells causes before what followed from them, and the cause is what counts. A hub
# that is out of reach is what transformers says last of an id that is not in the cache, also where it may not ask.
_WORDS: tuple[tuple[Kind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(words))
    for kind, words in (
        (Kind.PORT_TAKEN, "address already in use"),
        (
            Kind.OUT_OF_MEMORY,
            r"out of memory|OutOfMemory|an(?:'t|not) allocate memory|\bMemoryError\b|std::bad_alloc"
            r"|failed to map segment|can't start new thread",
        ),
        (Kind.DISK_FULL, "No space left on device|Disk quota exceeded"),
        (
            Kind.NOT_INSTALLED,
            "ModuleNotFoundError|is not available. install via|packages that were not found in your env",
        ),
        (Kind.NO_ACCESS, "GatedRepoError|access (?:a )?gated repo"),
        (Kind.NOT_DOWNLOADED, "OfflineModeIsEnabled|offline mode is enabled|outgoing traffic has been disabled"),
        (
            Kind.NO_SUCH_MODEL,
            "HFValidationError|RepositoryNotFoundError|RevisionNotFoundError|is not a valid model identifier",
        ),
        (Kind.HUB_OUT_OF_REACH, r"couldn't connect to '|cannot find the requested files in the local cache"),
        (
            Kind.INCOMPLETE_MODEL,
            r"does not appear to have (?:a|any) file|no file named|directory: '.*config\.json'|EntryNotFoundError"
            "|Unrecognized model in|SafetensorError",
        ),
        # The first is Infinity's own: of a list of devices that is empty it takes the first.
        (Kind.NO_DEVICE, r"autodevice_string\[0\]|Found no NVIDIA|No CUDA GPUs|not compiled with CUDA"),
    )
)
# How typer and click end, and what they write, when they cannot take a command line.
_USAGE, _USAGE_WORDS = 2, "Usage:"
# What a shell, or `env`, says of a program it cannot run (POSIX).
_SHELL = {126: Kind.NOT_EXECUTABLE, 127: Kind.NO_PROGRAM}
_NOT_EXECUTABLE = {errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EISDIR, errno.ENOTDIR}


class StartFailure(NamedTuple):
    """Why a start came to nothing and what to do about it, in words, and what another start may do."""

    text: str
    outlook: Outlook


def of_end(status: int | None, oom_kills: int, lines: Iterable[str], model_id: str, program: str) -> StartFailure:
    """The failure of a worker that ended while it started; see `kind_of_end`."""
    return _failure(kind_of_end(status, oom_kills, lines), model_id, program)


def of_error(number: int | None, model_id: str, program: str) -> StartFailure:
    """The failure of a program that could not even be executed, by errno; without words where that says nothing."""
    if number == errno.ENOENT:
        return _failure(Kind.NO_PROGRAM, model_id, program)
    if number in _NOT_EXECUTABLE:
        return _failure(Kind.NOT_EXECUTABLE, model_id, program)
    return StartFailure("", Outlook.OPEN)


def kind_of_end(status: int | None, oom_kills: int, lines: Iterable[str]) -> Kind:
    """The kind of failure of a worker that ended while it started.

    1. The kernel says so: it killed for want of memory.
    2. The exit status says so: no program, or a command line that it does not take.
    3. What it wrote says so.
    4. It was killed, and nobody knows why; or nobody knows anything.

    Args:
        status: as `subprocess` has it; negative: the signal.
        oom_kills: how many of its processes the kernel killed for want of memory.
        lines: the last lines that it wrote.
    """
    if oom_kills:  # 1
        return Kind.OUT_OF_MEMORY
    if status in _SHELL:  # 2
        return _SHELL[status]
    text = "\n".join(lines)
    if status == _USAGE and _USAGE_WORDS in text:
        return Kind.BAD_ARGUMENTS
    for kind, words in _WORDS:  # 3
        if words.search(text):
            return kind
    return Kind.KILLED if status in KILLED else Kind.UNKNOWN  # 4


def _failure(kind: Kind, model_id: str, program: str) -> StartFailure:
    words, outlook = MEANINGS[kind]
    return StartFailure(words.format(model_id=model_id, program=program), outlook)
