"""Real Infinity servers that the parity tests share, and a proxy before each set of them.

One start of each for the whole run. A worker has one model, as under the supervisor; the direct reference for several
models is one Infinity that serves them all.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.proxy.dispatcher import ServedModel
from tests.support import infinity, parity

KEY = "a-worker-key"
ENV = {"INFINITY_API_KEY": KEY}
AUTHORIZATION = {"authorization": f"Bearer {KEY}"}


@dataclass
class Pair:
    """A bare Infinity and a proxy that serves the same models."""

    direct: str
    proxy: parity.Proxy

    def exchange(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str | None] | None = None
    ) -> tuple[parity.Answer, parity.Answer]:
        """The same request to both. The bare one gets its key; the proxy's clients know none."""
        direct = parity.exchange(self.direct, method, path, body, {**AUTHORIZATION, **(headers or {})})
        return direct, parity.exchange(self.proxy.url, method, path, body, headers)

    def same(
        self, path: str, body: bytes, headers: dict[str, str | None] | None = None, *, v1: bool = False
    ) -> parity.Answer:
        """POST to both: the answers are equal. Returns the one through the proxy."""
        direct = parity.exchange(self.direct, "POST", path, body, {**AUTHORIZATION, **(headers or {})})
        through = parity.exchange(self.proxy.url, "POST", f"/v1{path}" if v1 else path, body, headers)
        parity.same(direct, through)
        return through


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `rerank`, `classify` and `clip`."""
    out = tmp_path_factory.mktemp("tiny_models")
    command = [str(infinity.PYTHON), str(infinity.SUPPORT / "tiny_models.py"), infinity.minilm(), str(out)]
    subprocess.run(command, check=True, timeout=100, env={**infinity.clean_environment(), **infinity.ENV})
    return out


@pytest.fixture(scope="session")
def debug_server() -> Iterator[infinity.Server]:
    """One model of the debug engine."""
    with infinity.serve(infinity.debug_args("m"), env=ENV) as server:
        server.headers.update(AUTHORIZATION)
        yield server


@pytest.fixture(scope="session")
def single(debug_server: infinity.Server) -> Iterator[Pair]:
    """One model of the debug engine: exact numbers, all of them the length of the input."""
    served = {"m": (debug_server, ServedModel("m", ("nick",)))}
    proxy = parity.Proxy(served)
    yield Pair(debug_server.base_url, proxy)
    proxy.close()


@pytest.fixture(scope="session")
def several(debug_server: infinity.Server) -> Iterator[Pair]:
    """Two models; the reference serves both from one process."""
    args = [*infinity.debug_args("m"), *infinity.debug_args("other")]
    with (
        infinity.serve(infinity.debug_args("other"), env=ENV) as other,
        infinity.serve(args, env=ENV) as both,
    ):
        other.headers.update(AUTHORIZATION)
        proxy = parity.Proxy({"m": (debug_server, ServedModel("m")), "other": (other, ServedModel("other"))})
        yield Pair(both.base_url, proxy)
        proxy.close()


def _of_one_model(args: list[str], name: str, **options: object) -> Iterator[Pair]:
    env = {**ENV, **options.pop("env", {})}  # type: ignore[dict-item]
    with infinity.serve(args, env=env, **options) as server:  # type: ignore[arg-type]
        server.headers.update(AUTHORIZATION)
        proxy = parity.Proxy({name: (server, ServedModel(name))})
        yield Pair(server.base_url, proxy)
        proxy.close()


@pytest.fixture(scope="session")
def minilm() -> Iterator[Pair]:
    """MiniLM with torch: real numbers."""
    yield from _of_one_model(infinity.torch_args("mini"), "mini")


@pytest.fixture(scope="session")
def rerank(tiny_models: Path) -> Iterator[Pair]:
    """A tiny reranker."""
    yield from _of_one_model(infinity.torch_args("rerank", str(tiny_models / "rerank")), "rerank")


@pytest.fixture(scope="session")
def classify(tiny_models: Path) -> Iterator[Pair]:
    """A tiny classifier."""
    yield from _of_one_model(infinity.torch_args("classify", str(tiny_models / "classify")), "classify")


@pytest.fixture(scope="session")
def clip(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A tiny CLIP, started the plain way: only so is aiohttp, which images need, in its environment."""
    env = parity.with_aiohttp(tmp_path_factory.mktemp("aiohttp"))
    args = infinity.torch_args("clip", str(tiny_models / "clip"))
    yield from _of_one_model(args, "clip", env=env, command=infinity.plain_command())
