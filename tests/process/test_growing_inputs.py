"""Inputs that grow until a bare Infinity dies of them, in a memory cgroup: behind the supervisor nobody dies or hangs.

A tiny random model with 8,192 positions on the real torch engine; what a row takes grows with its length, and the
kernel kills at the limit.
"""

import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import daemon, infinity, memory_cgroup

MIB = 1 << 20
# Infinity's libraries and the model take 420 to 750 MiB, by how much of the files is charged to the group; 32 of the
# longest rows take 17 GiB more, one of them half a GiB. Behind the supervisor ROOM is what there is above the start.
LIMIT = 1536 * MIB
ROOM = 750 * MIB
POSITIONS = 8192
WIDE_MODEL = Path(__file__).resolve().parent.parent / "bench" / "wide_model.py"
WORDS = ["river", "stone", "market", "window", "engine", "garden", "letter", "mountain", "paper", "winter", "bridge"]
LONGEST = 7000  # words, about one token each
ROWS = 32
PATIENCE = 75.0  # s; the supervisor itself lets nothing wait longer than 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model, made by Infinity's own libraries."""
    made = tmp_path_factory.mktemp("wide") / "model"
    command = [str(infinity.PYTHON), str(WIDE_MODEL), infinity.minilm(), str(made), str(POSITIONS)]
    subprocess.run(command, check=True, env={**infinity.clean_environment(), **infinity.ENV}, stdout=subprocess.DEVNULL)
    return str(made)


@pytest.fixture
def group() -> Iterator[memory_cgroup.MemoryGroup]:
    """Room for the libraries, the model and a few long rows, but not for 32."""
    with memory_cgroup.limited(LIMIT) as made:
        yield made


def growing(seed: int) -> Iterator[list[str]]:
    """Requests of 32 texts, longer from one to the next; in the end four of the longest."""
    rnd = random.Random(seed)
    words = 16.0
    while words < LONGEST:
        yield [" ".join(rnd.choices(WORDS, k=int(words * rnd.uniform(0.7, 1.0)))) for _ in range(ROWS)]
        words *= rnd.uniform(1.3, 2.5)
    yield [" ".join(rnd.choices(WORDS, k=LONGEST)) for _ in range(4)]


@pytest.mark.timeout(300)
def test_a_bare_infinity_dies(group: memory_cgroup.MemoryGroup, command: list[str], model: str) -> None:
    """Without a supervisor the kernel kills it before the longest texts are reached."""
    args = infinity.torch_args("wide", model)
    with infinity.serve(args, command=command) as server:

        def send_all() -> None:
            for texts in growing(0):
                status, _ = server.post("/embeddings", {"model": "wide", "input": texts})
                assert status == 200

        with pytest.raises(OSError):
            send_all()
        server.process.wait(20)
        assert group.kills == 1


class Lines:
    """Somebody who asks for one line every quarter of a second meanwhile, and must be answered."""

    def __init__(self, d: daemon.Daemon) -> None:
        self.wrong = list[Any]()
        self._daemon, self._over = d, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._over.wait(0.25):
            try:
                self._daemon.embed("wide", "a line of some words", timeout=PATIENCE)
            except (AssertionError, OSError) as error:
                self.wrong.append(error)

    def __enter__(self) -> "Lines":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive(), "a request hangs"


@pytest.mark.timeout(300)
@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_supervised_nobody_dies(
    group: memory_cgroup.MemoryGroup, command: list[str], model: str, tmp_path: Path, seed: int
) -> None:
    """Each request is answered, or refused with the figures; the worker lives, and a line is answered at any time."""
    settings: dict[str, Any] = {
        "infinity": {"command": command},
        "models": [daemon.minilm_model("wide", model_id=model)],
        "resource_monitor": {**daemon.CPU_OFF, "scope": "cgroup"},
    }
    with daemon.running(tmp_path, settings) as d:
        assert d.process is not None
        group.add(d.process.pid)
        d.embed("wide", "x")
        worker = psutil.Process(d.model("wide")["pid"])
        group.set_limit(group.used + ROOM)
        percent = 100 * group.used / group.limit
        d.until(
            lambda: abs((d.status()["signals"]["memory"]["percent"] or 0) - percent) < 3, 20, "the group is not seen"
        )
        answers = []
        with Lines(d) as lines:
            for texts in growing(seed):
                status, answer = d.post(d.proxy + "/embeddings", {"model": "wide", "input": texts}, PATIENCE)
                answers.append(status)
                if status == 413:
                    assert "MiB of memory" in answer["error"]["message"]
                else:
                    assert status == 200, answer
                    assert len(answer["data"]) == len(texts)
        print(f"{answers.count(200)} answered, {answers.count(413)} refused as too large, {group.kills} killed")
        assert lines.wrong == []
        assert answers[:5] == [200] * 5
        assert group.kills == 0
        assert d.model("wide")["restarts"] == 0
        assert worker.is_running()
