"""Workers that are real Infinities: started, watched, stopped, and held against the scripted stand-in."""

import asyncio
import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from supervisor.core.endpoint import Endpoint
from supervisor.core.model import ModelState
from supervisor.errors import WorkerError
from supervisor.workers import instance, output
from supervisor.workers.launch import WorkerSpec
from tests.support import infinity
from tests.support.fake_lanes import FakeLog, bench, group, scripted

S = ModelState
FAST = ("--no-model-warmup",)


def real(name: str = "m", command: list[str] | None = None, args: tuple[str, ...] = FAST, **other: Any) -> WorkerSpec:
    """A worker that is a real Infinity, by default with the debug engine and out of the template."""
    settings = {"model_id": infinity.minilm(), "engine": "debugengine", "device": "cpu", **other}
    used = tuple(command or infinity.template().command())
    return WorkerSpec(name=name, command=used, args=args, env=infinity.ENV, **settings)


def ask(endpoint: Endpoint, path: str, body: object = None, key: str | None = None) -> tuple[int, Any]:
    """Status and JSON; `key` replaces the right one."""
    headers = {"authorization": f"Bearer {endpoint.api_key if key is None else key}"}
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers["content-type"] = "application/json"
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint.base_url + path, data, headers), timeout=60) as got:
            return got.status, json.loads(got.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> FakeLog:
    """What workers' output and ends are logged as."""
    fake = FakeLog()
    monkeypatch.setattr(output, "log", fake)
    monkeypatch.setattr(instance, "log", fake)
    return fake


async def test_a_plain_start(tmp_path: Path, log: FakeLog) -> None:
    """Infinity as users run it: loads, answers the canary, keeps strangers out, ends by our SIGTERM as our own stop."""
    async with bench(tmp_path, real("all/MiniLM", infinity.plain_command(), args=())) as it:
        await asyncio.wait_for(it.pool.ensure_ready("all/MiniLM"), 110)
        view, endpoint = it.view("all/MiniLM"), it.lanes.endpoints["all/MiniLM"]
        assert view.capabilities == {"embed"}
        assert (await asyncio.to_thread(ask, endpoint, "/models", None, "wrong"))[0] == 401
        body = {"model": "all/MiniLM", "input": ["a", "bc"]}
        assert (await asyncio.to_thread(ask, endpoint, "/embeddings", body))[0] == 200
        assert group(view.pgid or 0) == [view.pid]
        await it.pool.ensure_stopped("all/MiniLM", "operator")
        assert not group(view.pgid or 0)
        assert it.way("all/MiniLM") == ["starting", "ready", "draining", "stopping", "stopped"]
        assert not log.of("worker_ignores_sigterm")
        assert it.view("all/MiniLM").restarts == 0
        lines = [fields["line"] for fields in log.of("worker_output")]
        assert any("Application startup complete" in line for line in lines)
        assert any(re.search(r"selected, using engine=`debugengine` and device=", line) for line in lines)
        assert not any(endpoint.api_key in line for line in lines)
        assert (tmp_path / "all%2FMiniLM.log").exists()


async def test_a_plain_start_that_is_stopped(tmp_path: Path) -> None:
    """While it imports, SIGTERM ends Infinity at once: no drain, no SIGKILL, nothing left."""
    async with bench(tmp_path, real(command=infinity.plain_command())) as it:
        it.pool.request_ready("m")
        await it.until(lambda: it.view().pid is not None)
        pgid = it.view().pgid or 0
        await asyncio.sleep(2)
        await asyncio.wait_for(it.pool.ensure_stopped("m", "operator"), 9)
        assert not group(pgid)
        assert it.way() == ["starting", "stopping", "stopped"]


async def test_a_killed_infinity_is_replaced(tmp_path: Path) -> None:
    """`kill -9` of the process a user sees: the whole group goes, another one serves."""
    async with bench(tmp_path, real()) as it:
        await it.pool.ensure_ready("m")
        view = it.view()
        assert len(group(view.pgid or 0)) == 2  # the stand-in and the forked server
        os.kill(view.pid or 0, signal.SIGKILL)
        await it.until(lambda: it.view().loads == 2)
        assert not group(view.pgid or 0)
        endpoint = it.lanes.endpoints["m"]
        assert (await asyncio.to_thread(ask, endpoint, "/embeddings", {"model": "m", "input": "x"}))[0] == 200


async def test_a_model_that_does_not_exist(tmp_path: Path) -> None:
    """Infinity's own last lines are the reason: a bad path is given up after one start, in its words."""
    async with bench(tmp_path, real(model_id="/no/such/model", engine="torch")) as it:
        with pytest.raises(WorkerError, match=r"given up after 1 start: .*exit status 3.*HFValidationError.*/no/such/"):
            await asyncio.wait_for(it.pool.ensure_ready("m"), 60)
        assert it.view().state is S.FAILED
        assert any("Application startup failed" in line for line in it.view().log_tail)


async def test_an_option_infinity_does_not_know(tmp_path: Path) -> None:
    """A wrong extra argument ends the start with Infinity's usage message in the reason."""
    async with bench(tmp_path, real(args=("--no-such-option",))) as it:
        with pytest.raises(WorkerError, match=r"exit status 2; last lines: .*No such option: --no-such-option"):
            await asyncio.wait_for(it.pool.ensure_ready("m"), 60)


async def test_the_widest_window_of_whole_requests_is_no_overload(tmp_path: Path) -> None:
    """Four requests of 2,048 inputs at once, the most we ever send, are all answered: never a 429."""
    async with bench(tmp_path, real()) as it:
        await it.pool.ensure_ready("m")
        body = {"model": "m", "input": ["x" * (n % 50 + 1) for n in range(2048)]}
        endpoint = it.lanes.endpoints["m"]
        answers = await asyncio.gather(*(asyncio.to_thread(ask, endpoint, "/embeddings", body) for _ in range(4)))
        assert [status for status, _ in answers] == [200] * 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small models by what they can do; but for MiniLM random ones, made by Infinity's own libraries."""
    made = tmp_path_factory.mktemp("models")
    command = [str(infinity.PYTHON), str(infinity.SUPPORT / "tiny_models.py"), infinity.minilm(), str(made)]
    environment = {**infinity.clean_environment(), **infinity.ENV}
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=110)
    return {"embed": infinity.minilm(), **{name: str(made / name) for name in ("rerank", "classify", "clip")}}


REQUESTS: dict[str, list[tuple[str, dict[str, object]]]] = {
    "embed": [
        ("/embeddings", {"input": ["a", "bcd"]}),
        ("/embeddings", {"input": "abc"}),
        ("/embeddings", {"input": ["abc"], "encoding_format": "base64"}),
    ],
    "rerank": [("/rerank", {"query": "q", "documents": ["one", "three", "two two"]})],
    "classify": [("/classify", {"input": ["one", "two two"]})],
}


@pytest.mark.parametrize("capability", REQUESTS)
async def test_canary_and_stand_in(tmp_path: Path, folders: dict[str, str], capability: str) -> None:
    """Real models pass the canary of their kind, and the scripted worker answers in the shape the real one does."""
    args = ("--no-bettertransformer", *FAST)
    spec = real("real", model_id=folders[capability], engine="torch", args=args)
    double = scripted("scripted", capabilities=[capability])
    async with bench(tmp_path, spec, double) as it:
        await asyncio.gather(it.pool.ensure_ready("real"), it.pool.ensure_ready("scripted"))
        assert it.view("real").capabilities == it.view("scripted").capabilities == {capability}
        shapes: dict[str, list[Any]] = {}
        for name, endpoint in it.lanes.endpoints.items():
            seen = shapes.setdefault(name, [])
            for path in ("/health", "/models"):
                seen.append(shape(await asyncio.to_thread(ask, endpoint, path)))
            for path, body in REQUESTS[capability]:
                seen.append(shape(await asyncio.to_thread(ask, endpoint, path, {"model": name, **body})))
            seen.append(await asyncio.to_thread(ask, endpoint, "/models", None, "wrong"))
            seen.append(await asyncio.to_thread(ask, endpoint, "/nowhere", {}))
        assert shapes["real"] == shapes["scripted"]


async def test_canary_of_a_model_for_images_and_texts(tmp_path: Path, folders: dict[str, str]) -> None:
    """A CLIP model is asked for texts, and what it can do besides is known."""
    async with bench(tmp_path, real(model_id=folders["clip"], engine="torch")) as it:
        await asyncio.wait_for(it.pool.ensure_ready("m"), 60)
        assert it.view().capabilities == {"embed", "image_embed"}


def shape(value: Any) -> Any:
    """Types instead of values; a list is the shape of its first item, so that lengths of rows do not matter."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, tuple):
        return (value[0], shape(value[1]))
    return type(value).__name__
