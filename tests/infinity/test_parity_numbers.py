"""Real numbers through the proxy: MiniLM with torch, tiny models for rerank, classify and images, the stock client."""

import asyncio
import json
import random
from typing import Any

import openai
import pytest

from tests.infinity.conftest import Pair
from tests.support import parity
from tests.support.parity import png

SENTENCES = [
    "The cat sat on the mat.",
    "Munich is in Germany.",
    "",
    "   ",
    "Grüße aus Köln",
    "日本語のテキスト",
    "👩‍👩‍👧‍👦",
    "a",
    "SELECT * FROM t WHERE x = 'y';",
    "long " * 400,
]


def body(**fields: object) -> bytes:
    """A request as most clients write it."""
    return json.dumps(fields, ensure_ascii=False).encode()


def texts(n: int) -> list[str]:
    """So many texts, no two alike, of mixed lengths."""
    chance = random.Random(n)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "sigma"]
    return [f"{i} {' '.join(chance.choices(words, k=chance.randint(0, 25)))}" for i in range(n)]


@pytest.mark.parametrize("n", [1, 5, 16, 17, 40])
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_minilm_embeddings(minilm: Pair, n: int, encoding: str) -> None:
    """Parts are padded differently than the whole: equal within 1e-5."""
    minilm.proxy.order(16)
    answer = minilm.same("/embeddings", body(model="mini", input=texts(n), encoding_format=encoding), v1=n > 16)
    assert len(answer.json["data"]) == n


@pytest.mark.parametrize(("batch", "window"), [(1, 1), (3, 2)])
def test_minilm_in_small_parts(minilm: Pair, batch: int, window: int) -> None:
    """Odd texts, each in another part than beside its neighbours."""
    minilm.proxy.order(batch, window)
    minilm.same("/embeddings", body(model="mini", input=SENTENCES, dimensions=64))


@pytest.mark.parametrize("n", [1, 16, 17, 90])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_documents": True},
        {"raw_scores": True, "top_n": 5},
        {"top_n": 1},
        {"top_n": 1000, "return_documents": True},
    ],
)
def test_rerank(rerank: Pair, n: int, options: dict[str, object]) -> None:
    """Merged, then sorted, then cut."""
    rerank.proxy.order(16)
    request = {"model": "rerank", "query": "alpha beta of the sigma", "documents": texts(n), **options}
    rerank.same("/rerank", body(**request), v1=n == 17)


@pytest.mark.parametrize(
    "fields",
    [
        {"documents": SENTENCES},
        {"query": "q"},
        {"query": "q", "documents": []},
        {"query": "q", "documents": ["a", 3]},
        {"query": "q", "documents": ["a"], "top_n": 0},
        {"query": "q", "documents": ["a", "b", "c"], "top_n": "2"},
        {"query": "q", "documents": ["a", "b", "c"], "top_n": 2.0, "return_documents": "yes", "raw_scores": 1},
        {"query": "q", "documents": ["a"], "top_n": None},
        {"query": "", "documents": SENTENCES, "top_n": 3},
        {"query": "  q ", "documents": ["  padded  ", "b", "c"], "return_documents": True},
    ],
)
def test_rerank_options_good_and_bad(rerank: Pair, fields: dict[str, object]) -> None:
    """In parts of two, or whole where Infinity would refuse; documents come back stripped, as Infinity strips them."""
    rerank.proxy.order(2)
    rerank.same("/rerank", body(model="rerank", **fields))


@pytest.mark.parametrize("n", [1, 16, 17, 60])
@pytest.mark.parametrize("raw_scores", [True, False])
def test_classify(classify: Pair, n: int, raw_scores: bool) -> None:
    """Labels and scores of each input, in order."""
    classify.proxy.order(16)
    classify.same("/classify", body(model="classify", input=texts(n), raw_scores=raw_scores), v1=n == 16)


@pytest.mark.parametrize(
    "fields", [{"input": "a"}, {"input": []}, {"input": SENTENCES}, {"input": ["a"], "raw_scores": 3}]
)
def test_classify_options_good_and_bad(classify: Pair, fields: dict[str, object]) -> None:
    """A bare string is no input here."""
    classify.proxy.order(2)
    classify.same("/classify", body(model="classify", **fields))


COLOURS = [(0, 0, 0), (255, 255, 255), (200, 30, 90), (3, 250, 7)]


@pytest.mark.parametrize("path", ["/embeddings", "/embeddings_image"])
@pytest.mark.parametrize(
    ("images", "status"),
    [
        ([png(40, 30, colour) for colour in COLOURS], 200),
        (png(32, 32, COLOURS[2]), 200),
        ([png(33, 40, (i * 7, 255 - i * 7, 90)) for i in range(32)], 200),
        ([png(33, 40, COLOURS[0])] * 33, 422),
        ([png(2, 2, COLOURS[0])], 400),
        (["data:image/png;base64,AAAA"], 400),
        (["http://127.0.0.1:1/x.png"], 400),
        (["no uri"], 422),
        ([], 422),
    ],
)
def test_images_are_split(clip: Pair, path: str, images: list[str] | str, status: int) -> None:
    """Vectors of pictures, up to 32 of them; more, too small, broken or unreachable ones are Infinity's to refuse."""
    clip.proxy.order(4)
    request: dict[str, Any] = {"model": "clip", "input": images, "modality": "image", "encoding_format": "float"}
    answer = clip.same(path, body(**request))
    assert answer.status == status, answer.body[:300]
    if status == 200:
        count = len(images) if isinstance(images, list) else 1
        assert len({str(row["embedding"]) for row in answer.json["data"]}) == count, "no two pictures are alike"


def test_texts_for_images_are_split(clip: Pair) -> None:
    """The text side of the same model is rows like any other."""
    clip.proxy.order(4)
    clip.same("/embeddings", body(model="clip", input=[f"a picture of {i} cats" for i in range(30)]))


# -- the stock client -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["float", "base64", None])
@pytest.mark.parametrize("n", [1, 20])
def test_openai_client(minilm: Pair, encoding: str | None, n: int) -> None:
    """Sync and async, with /v1 as its users write it and without: the vectors of the bare Infinity."""
    minilm.proxy.order(16)
    asked: dict[str, Any] = {"model": "mini", "input": texts(n)}
    if encoding is not None:
        asked["encoding_format"] = encoding
    direct_client = openai.OpenAI(base_url=minilm.direct, api_key="a-worker-key", max_retries=0)
    client = openai.OpenAI(base_url=minilm.proxy.url + "/v1", api_key="whatever", max_retries=0)

    def vectors(answer: Any) -> list[Any]:
        # An explicit base64 stays text in the client, which has no type for that.
        rows = [row.embedding for row in answer.data]
        assert [row.index for row in answer.data] == list(range(n))
        return [answer.model, answer.usage.total_tokens, [parity.floats(r) if isinstance(r, str) else r for r in rows]]

    async def asynchronously() -> Any:
        async with openai.AsyncOpenAI(base_url=minilm.proxy.url, api_key="whatever", max_retries=0) as async_client:
            return vectors(await async_client.embeddings.create(**asked))

    with direct_client, client:
        direct, through = (vectors(c.embeddings.create(**asked)) for c in (direct_client, client))
    parity.close(direct, through)
    parity.close(direct, asyncio.run(asynchronously()))


def test_openai_client_understands_our_refusals(minilm: Pair) -> None:
    """An unknown model is the client's BadRequestError with our words in it."""
    with openai.OpenAI(base_url=minilm.proxy.url, api_key="x", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match=r"Available model names are \['mini'\]") as refused:
            client.embeddings.create(model="nope", input="a")
        assert refused.value.response.headers["x-supervisor-reason"] == "unknown_model"
        assert [model.id for model in client.models.list()] == ["mini"]
