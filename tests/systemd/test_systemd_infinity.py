"""A real Infinity under the shipped unit: all that is hardened lets torch work, on the CPU at least."""

from typing import Any

import pytest

from tests.support import infinity
from tests.support.private_systemd import INSTALLED, PROXY, SERVICE, Host

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


def test_minilm_answers_outlives_a_crash_and_ends(host: Host) -> None:
    """It loads, embeds, is taken over by the next supervisor with no start of its own, and is gone after a stop."""
    folder = infinity.minilm().partition("/site-packages/")[2]
    model: dict[str, Any] = {
        "name": "minilm",
        "model_id": str(INSTALLED / "infinity.packages" / folder),
        "engine": "torch",
        "device": "cpu",
        "args": ["--no-bettertransformer"],
    }
    command = [str(INSTALLED / "infinity/bin/infinity_emb"), "v2"]
    host.configure({"infinity": {"command": command, "env": infinity.ENV}, "models": [model]})
    host.start()
    before = host.wait_ready("minilm", 240)
    code, answer = host.post(PROXY + "/embeddings", {"model": "minilm", "input": ["a cat", "a dog"]})
    assert code == 200, answer
    assert [len(row["embedding"]) for row in answer["data"]] == [384, 384]

    supervisor = host.main_pid()
    host.systemctl("kill", "--kill-whom=main", "--signal=KILL", SERVICE)
    host.until(lambda: host.main_pid() not in (0, supervisor) and host.show("ActiveState") == "active")
    after = host.wait_ready("minilm", 60)
    assert (after["pid"], after["loads"]) == (before["pid"], 0)
    again = host.post(PROXY + "/embeddings", {"model": "minilm", "input": ["a cat", "a dog"]})
    assert again[1]["data"] == answer["data"]
    host.systemctl("stop", SERVICE)
    assert host.processes() == []
    assert host.listeners() == []
