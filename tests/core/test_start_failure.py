"""Why a start came to nothing: each kind is known by what Infinity really writes, and says what to do about it."""

import errno

import pytest

from supervisor.core.lifecycle import Outlook
from supervisor.core.start_failure import MEANINGS, Kind, kind_of_end, of_end, of_error

STARTUP = "ERROR:    Application startup failed. Exiting."


@pytest.mark.parametrize(
    ("status", "last", "kind"),
    [
        (3, "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name'", Kind.NO_SUCH_MODEL),
        (3, "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: 1)", Kind.NO_SUCH_MODEL),
        (3, "OSError: x is not a local folder and is not a valid model identifier listed on", Kind.NO_SUCH_MODEL),
        (
            3,
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files in the disk cache and "
            "outgoing traffic has been disabled. To enable hf.co look-ups and downloads online, set",
            Kind.NOT_DOWNLOADED,
        ),
        (
            3,
            "huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file on the "
            "Hub and we cannot find the requested files in the local cache. Please check your connection",
            Kind.HUB_OUT_OF_REACH,
        ),
        (3, "huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: 1)", Kind.NO_ACCESS),
        (3, "RepositoryNotFoundError: … If you are trying to access a private or gated repo, make", Kind.NO_SUCH_MODEL),
        (3, "OSError: You are trying to access a gated repo.", Kind.NO_ACCESS),
        (3, "OSError: Error no file named model.safetensors found in directory /m", Kind.INCOMPLETE_MODEL),
        (
            3,
            "ImportError: optimum is not available. install via `pip install infinity-emb[optimum]`",
            Kind.NOT_INSTALLED,
        ),
        (3, "FileNotFoundError: [Errno 2] No such file or directory: '/m/config.json'", Kind.INCOMPLETE_MODEL),
        (3, "huggingface_hub.errors.EntryNotFoundError: 404 Client Error. (Request ID: 1)", Kind.INCOMPLETE_MODEL),
        (3, "safetensors._safetensors_rust.SafetensorError: Error while deserializing header", Kind.INCOMPLETE_MODEL),
        (1, "│ ❱ 109 │   │   device_placement=autodevice_string[0],  │  autodevice = 'cuda'", Kind.NO_DEVICE),
        (3, "RuntimeError: Found no NVIDIA driver on your system.", Kind.NO_DEVICE),
        (1, "ModuleNotFoundError: No module named 'infinity_emb'", Kind.NOT_INSTALLED),
        (1, "ERROR:    [Errno 98] error while attempting to bind: address already in use", Kind.PORT_TAKEN),
        (3, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", Kind.OUT_OF_MEMORY),
        (3, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", Kind.OUT_OF_MEMORY),
        (1, "ImportError: libtorch_cpu.so: failed to map segment from shared object", Kind.OUT_OF_MEMORY),
        (1, "OSError: [Errno 12] Cannot allocate memory", Kind.OUT_OF_MEMORY),
        (3, "OSError: [Errno 28] No space left on device", Kind.DISK_FULL),
        (2, "Usage: infinity_emb v2 [OPTIONS]", Kind.BAD_ARGUMENTS),
        (2, "can't open file '/nowhere/infinity.py': [Errno 2] No such file or directory", Kind.UNKNOWN),
        (127, "/bin/sh: 1: infinity_emb: not found", Kind.NO_PROGRAM),
        (126, "/bin/sh: 1: ./infinity_emb: Permission denied", Kind.NOT_EXECUTABLE),
        (-9, "loading", Kind.KILLED),
        (137, "loading", Kind.KILLED),
        (-11, "loading", Kind.UNKNOWN),
        (3, "RuntimeError: something new", Kind.UNKNOWN),
        (None, "loading", Kind.UNKNOWN),
    ],
)
def test_a_kind_is_known_by_status_and_words(status: int | None, last: str, kind: Kind) -> None:
    """The telling line may be the last one, or come before others."""
    assert kind_of_end(status, 0, ["INFO:     Started server process [1]", last]) is kind
    assert kind_of_end(status, 0, [last, STARTUP]) is kind


def test_the_kernel_has_the_last_word() -> None:
    """A process that the kernel killed for want of memory was out of memory, whatever it said."""
    assert kind_of_end(-9, 1, ["HFValidationError"]) is Kind.OUT_OF_MEMORY
    assert kind_of_end(1, 2, []) is Kind.OUT_OF_MEMORY


def test_the_cause_counts_not_what_followed() -> None:
    """Transformers says that the hub is out of reach also where it may not ask, and of a disk that is full."""
    unreachable = "OSError: We couldn't connect to 'https://huggingface.co' to load the files"
    assert kind_of_end(3, 0, [unreachable]) is Kind.HUB_OUT_OF_REACH
    offline = (
        "huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach https://huggingface.co/x: offline mode is enabled"
    )
    assert kind_of_end(3, 0, [offline, unreachable]) is Kind.NOT_DOWNLOADED
    assert kind_of_end(3, 0, ["OSError: [Errno 28] No space left on device", unreachable]) is Kind.DISK_FULL


def test_every_kind_has_words_and_an_outlook() -> None:
    """What may pass is what the host or the network lacked."""
    assert set(MEANINGS) == set(Kind)
    assert [kind for kind in Kind if MEANINGS[kind].outlook is Outlook.OPEN] == [Kind.NO_DEVICE, Kind.UNKNOWN]
    assert {kind for kind in Kind if MEANINGS[kind].outlook is Outlook.PASSING} == {
        Kind.HUB_OUT_OF_REACH,
        Kind.PORT_TAKEN,
        Kind.OUT_OF_MEMORY,
        Kind.DISK_FULL,
        Kind.KILLED,
    }


def test_words_name_what_the_operator_wrote() -> None:
    """The model or the program stands in the text as it is, braces and all."""
    failure = of_end(3, 0, ["HFValidationError"], "/models/{program}", "infinity_emb")
    assert failure.text.startswith("/models/{program}: no such folder or hub id; check models[].model_id")
    assert failure.outlook is Outlook.HOPELESS


@pytest.mark.parametrize(
    ("number", "words", "outlook"),
    [
        (errno.ENOENT, "p: no such program", Outlook.HOPELESS),
        (errno.EACCES, "p: cannot be executed", Outlook.HOPELESS),
        (errno.ENOEXEC, "p: cannot be executed", Outlook.HOPELESS),
        (errno.EAGAIN, "", Outlook.OPEN),
        (None, "", Outlook.OPEN),
    ],
)
def test_a_program_that_cannot_be_executed(number: int | None, words: str, outlook: Outlook) -> None:
    """By errno; of others nothing is known."""
    failure = of_error(number, "m", "p")
    assert failure.text.startswith(words)
    assert bool(failure.text) is bool(words)
    assert failure.outlook is outlook
