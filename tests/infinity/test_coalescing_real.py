"""Many clients at once before a real Infinity: what leaves together is told apart exactly."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest

from supervisor.core.payload import Inference
from supervisor.proxy.upstream import HttpWorker
from tests.infinity.conftest import AUTHORIZATION, Pair
from tests.support import parity

CLIENTS = 48


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many inputs each request to the worker had."""
    seen: list[int] = []
    send = HttpWorker.send

    async def counted(self: HttpWorker, endpoint: Inference, body: bytes, headers: Any) -> Any:
        rows = orjson.loads(body).get("input", "")
        seen.append(len(rows) if isinstance(rows, list) else 1)
        return await send(self, endpoint, body, headers)

    monkeypatch.setattr(HttpWorker, "send", counted)
    return seen


def requests_of(model: str, count: int, seed: int) -> list[tuple[str, bytes]]:
    """Requests of all kinds, some of which Infinity refuses; no two inputs of one length."""
    chance = random.Random(seed)
    lengths = iter(chance.sample(range(1, 60 * count), 6 * count))
    made = []
    for i in range(count):
        texts: Any = [f"{i}." + "x" * next(lengths) for _ in range(chance.choice([1, 1, 1, 1, 2, 4]))]
        fields: dict[str, Any] = {"model": model, "input": texts}
        match chance.randrange(12):
            case 0:
                fields["encoding_format"] = "base64"
            case 1:
                fields["user"] = '"}],"model":"m","usage":{"index":0}'
            case 2:
                fields["input"] = texts[0]
            case 3:
                fields["input"] = [*texts, 7]  # 422
            case 4:
                fields["input"] = [f" {texts[0]}\n"]
            case 5:
                fields["nobody"] = {"knows": [1, 2]}
            case 6:
                fields["input"] = [*texts, "y" * 122_881]  # 422, and the index in its text
        made.append(("/embeddings", orjson.dumps(fields)))
    return made


@pytest.mark.parametrize("batch", [5, 32])
def test_debug_engine_told_apart(single: Pair, parts: list[int], batch: int) -> None:
    """48 clients at once, all kinds of requests: each gets what it gets alone, to the byte of a refusal."""
    single.proxy.order(batch, 1)
    _at_once(single, requests_of("m", 300, seed=batch), parts, batch)


def test_minilm_told_apart(minilm: Pair, parts: list[int]) -> None:
    """Real vectors: equal within 1e-5 whoever they shared a batch with."""
    minilm.proxy.order(16, 1)
    _at_once(minilm, requests_of("mini", 80, seed=7), parts, 16)


def _at_once(pair: Pair, asked: list[tuple[str, bytes]], parts: list[int], batch: int) -> None:
    start = threading.Barrier(CLIENTS)

    def client(number: int) -> list[tuple[int, parity.Answer]]:
        start.wait(30)
        mine = range(number, len(asked), CLIENTS)
        return [(i, parity.exchange(pair.proxy.url, "POST", *asked[i])) for i in mine]

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [answer for many in pool.map(client, range(CLIENTS)) for answer in many]
    for i, answer in answers:
        parity.same(parity.exchange(pair.direct, "POST", *asked[i], AUTHORIZATION), answer)
    assert len(answers) == len(asked)
    assert max(parts) == batch, "nothing was merged"
    assert len(parts) < 0.7 * len(asked)
