"""Starts of the real Infinity that fail, each in its own way; and a first download from a hub."""

import asyncio
import re
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers.launch import WorkerSpec
from tests.support import daemon as daemons
from tests.support import infinity
from tests.support.fake_hub import GATED, Hub, fake_hub
from tests.support.fake_lanes import bench

S = ModelState
KNOWN, OTHER = "org/minilm", "org/minilm-2"
TORCH = ("--no-bettertransformer", "--no-model-warmup")


def real(command: Sequence[str] = (), **other: Any) -> WorkerSpec:
    """A worker that is a real Infinity out of a template, by default the one that all tests share."""
    settings = {"model_id": infinity.minilm(), "engine": "torch", "device": "cpu", "args": TORCH, **other}
    env = {**infinity.ENV, **settings.pop("env", {})}
    return WorkerSpec(name="m", command=tuple(command or infinity.template().command()), env=env, **settings)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub with one model."""
    with fake_hub(Path(infinity.minilm()), {KNOWN, OTHER}) as running:
        yield running


@pytest.fixture(scope="module")
def online(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str]]:
    """The command of Infinities that ask this hub, with an empty cache of their own."""
    asking = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    template = infinity.Template({**infinity.ENV, **asking, "HF_HOME": str(tmp_path_factory.mktemp("hub"))})
    yield template.command()
    template.stop()


async def reason_of(folder: Path, spec: WorkerSpec) -> str:
    """Why it was given up; it must have been after one start."""
    async with bench(folder / "logs", spec) as it:
        with pytest.raises(WorkerError, match=r"^given up after 1 start: "):
            await it.pool.ensure_ready("m")
        assert it.way() == ["starting", "stopping", "failed"]
        return (it.view().reason or "").removeprefix("given up after 1 start: ")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_id": "/no/such/model"}, "/no/such/model: no such folder or hub id; .*exit status 3; last lines: "),
        ({"model_id": "org/unknown"}, "org/unknown: no such folder, and not in the hub's cache.*exit status 3"),
        ({"args": ("--no-such-option",)}, "Infinity refuses its command line; .*exit status 2; .*No such option"),
        ({"engine": "nope"}, "Infinity refuses its command line; .*exit status 2; .*'nope' is not one of"),
        (
            {"args": (*TORCH, "--model-id", "/no/such/model", "--served-model-name", "b")},
            ".*no such folder or hub id.*exit status 3",
        ),
    ],
    ids=["path", "offline", "option", "engine", "one of several"],
)
async def test_what_only_a_hand_can_cure(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    """Given up after one start, with what to do about it and Infinity's last lines."""
    assert re.match(words, await reason_of(tmp_path, real(**settings)))


@pytest.mark.parametrize(
    ("model_id", "words"),
    [("org/unknown", "org/unknown: no such folder or hub id"), (GATED, f"{GATED}: the hub wants a token")],
)
async def test_what_a_hub_refuses(tmp_path: Path, online: Sequence[str], model_id: str, words: str) -> None:
    """An id the hub does not know, or does not give to us, is given up after one start."""
    reason = await reason_of(tmp_path, real(online, model_id=model_id))
    assert reason.startswith(words)


@pytest.mark.parametrize("files", [[], ["config.json"]], ids=["empty", "config only"])
async def test_a_folder_without_a_model(tmp_path: Path, files: list[str]) -> None:
    """A folder that lacks the configuration, or the weights, is told as that."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in files:
        shutil.copy(Path(infinity.minilm()) / file, folder)
    reason = await reason_of(tmp_path, real(model_id=str(folder)))
    assert reason.startswith(f"{folder}: no model there, or not all of it; ")


@pytest.mark.long
async def test_a_hub_out_of_reach_may_come_back(tmp_path: Path, hub: Hub, online: Sequence[str]) -> None:
    """A start without a network is made again; as soon as the hub answers, the model is ready."""
    hub.down, hub.pace = True, 1e9
    async with bench(tmp_path, real(online, model_id=OTHER)) as it:
        it.pool.request_ready("m")
        await it.until(lambda: "backoff" in it.way(), 60)  # huggingface_hub tries for 25 s
        assert f"{OTHER}: no such folder, and the hub cannot be reached; " in (it.view().reason or "")
        hub.down = False
        await it.until_state(S.READY)


async def test_a_first_download_is_progress(tmp_path: Path, hub: Hub, online: Sequence[str]) -> None:
    """A download that takes several times `start_timeout` is shown, hardly logged, and ends ready."""
    hub.down, hub.pace = False, 9e6
    async with bench(tmp_path, real(online, model_id=KNOWN, start_timeout=3.0)) as it:
        it.pool.request_ready("m")
        seen: set[str | None] = set()
        began = time.monotonic()
        while it.view().state is not S.READY:
            assert it.view().state in (S.STOPPED, S.STARTING), it.view().reason
            seen.add(it.view().reason)
            await asyncio.sleep(0.1)
        assert time.monotonic() - began > 9
        told = {each for each in seen if re.fullmatch(r"downloading model\.safetensors \d+ %", each or "")}
        assert len(told) > 5, seen
        assert not any("%|" in line for line in it.view().log_tail)


async def test_out_of_memory(tmp_path: Path) -> None:
    """A model that does not fit into what the process may still take is tried again later, and says why."""
    async with bench(tmp_path, real(env={"TEST_MEMORY_LEFT": "40000000"})) as it:
        it.pool.request_ready("m")
        await it.until(lambda: it.way().count("backoff") == 2, 60)
        assert re.match("out of memory while loading; .*exit status 3; .*MemoryError", it.view().reason or "")


async def test_a_taken_port(tmp_path: Path) -> None:
    """Infinity finds its port taken only after it has loaded (exit 1): the next start has another and is ready."""
    async with bench(tmp_path, real(engine="debugengine")) as it:
        it.pool.request_ready("m")
        await it.until(lambda: it.view().port is not None)
        port = it.view().port
        with socket.create_server(("127.0.0.1", port or 0)):
            await it.until(lambda: it.view().state is S.STARTING and it.view().port not in (None, port))
            reason = it.view().reason or ""
            assert re.search("somebody took its port meanwhile; .*exit status 1; .*address already in use", reason)
            await it.until_state(S.READY)


def test_a_model_that_cannot_be_loaded_evicts_another_once(tmp_path: Path) -> None:
    """It has the healthy model leave for it once. From then on its clients are refused at once, with the reason and
    when to come again, and the healthy model is loaded again and stays; until an operator has repaired it."""
    folder = tmp_path / "models" / "bad"
    folder.parent.mkdir()
    folder.symlink_to(infinity.minilm())  # a config with a folder that is not there is refused
    bad = daemons.minilm_model("bad", model_id=str(folder), preload=False)
    settings = {"models": [daemons.debug_model("a"), bad], "model_memory_manager": {"max_models_in_memory": 1}}
    with daemons.running(tmp_path, settings) as d:
        d.wait_ready("a")
        folder.unlink()
        for _ in range(3):
            status, answer, headers = d.exchange(d.proxy + "/embeddings", {"model": "bad", "input": "x"})
            assert (status, headers["x-supervisor-reason"]) == (503, "worker_unavailable")
            assert 40 <= int(headers["retry-after"]) <= 60
            assert headers["x-should-retry"] == "false"
            assert f"{folder}: no such folder or hub id; check models[].model_id" in answer["error"]["message"]
            assert d.embed("a", "abc") == [[3.0] * 13]
        assert d.model("bad")["state"] == "failed"
        assert (d.model("a")["unloads"], d.model("a")["loads"]) == (1, 2)
        folder.symlink_to(infinity.minilm())
        assert d.api("models/bad/load")["state"] == "ready"
        assert (d.model("a")["state"], d.model("a")["unloads"]) == ("stopped", 2)
