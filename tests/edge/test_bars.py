"""Progress bars in workers' output: tqdm's forms are known, everything else is a line."""

import pytest

from supervisor.workers.bars import in_words, is_bar


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "model.safetensors:  34%|███▍      | 30.9M/90.9M [00:03<00:06, 9.52MB/s]",
            "downloading model.safetensors 34 %",
        ),
        ("config.json:   0%|          | 0.00/612 [00:00<?, ?B/s]", "downloading config.json 0 %"),
        ("(…)onnx/model.onnx:   7%|7| 7.1M/90M [00:01<00:12, 7.1MB/s]", "downloading model.onnx 7 %"),
        ("model.bin: 12.3MB [00:01, 9.52MB/s]", "downloading model.bin 12.3MB"),
        ("model.safetensors: 100%|██████████| 90.9M/90.9M [00:09<00:00, 9.60MB/s]", ""),
        ("Fetching 13 files:  38%|███▊      | 5/13 [00:01<00:02,  3.10it/s]", "Fetching 13 files 38 %"),
        (" 50%|█████     | 1/2 [00:01<00:01,  1.00s/it]", "50 %"),
    ],
)
def test_a_bar_in_words(line: str, words: str) -> None:
    """What it counts and how far it is; a full bar has nothing more to say."""
    assert is_bar(line)
    assert in_words(line) == words


@pytest.mark.parametrize(
    "line",
    [
        "",
        "INFO: 34% of the queue is used | see [docs]",
        "model.safetensors:  34%|███▍      | 30.9M/90.9M [00:03<00:06, 9.52MB/s]ERROR: no space left",
        "OSError: [Errno 98] address already in use",
        "RuntimeError: 12.3MB [of what?] wanted",
    ],
)
def test_what_is_no_bar(line: str) -> None:
    """A line that only looks a little like a bar, or follows one without an end of line, is told like any other."""
    assert not is_bar(line)
    assert in_words(line) == ""
