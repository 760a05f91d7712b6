"""Answers through the proxy equal those of a bare Infinity, whatever splitting and merging went on."""

import gzip
import json
import random
from typing import Any

import orjson
import pytest

from supervisor.core.body import read_body
from supervisor.core.payload import Inference, Rows, understand
from tests.infinity.conftest import Pair
from tests.support import fake_infinity, parity

SIZES = [1, 2, 15, 16, 17, 31, 32, 33, 100, 1000, 2047, 2048]
TEXTS = [
    "",
    " ",
    "  padded\t\n",
    "plain",
    "Grüße aus Köln",
    "日本語のテキスト",
    "👩‍👩‍👧‍👦 family",
    "\u2003em space\x1c",
    "a\x00b",
    'quo"te\\back',
    "\r\n",
    "zero\u200bwidth",
    "x" * 5000,
    "word " * 3000,
    "ﷺ" * 100,
    "e\u0301" * 50,
]


def body(**fields: object) -> bytes:
    """A request as most clients write it."""
    return json.dumps(fields, ensure_ascii=False).encode()


def numbered(n: int) -> list[str]:
    """So many inputs of distinct lengths, in no order of them: the debug engine's vectors are lengths."""
    texts = ["y" * i for i in range(n)]
    random.Random(n).shuffle(texts)
    return texts


# -- embeddings on the debug engine: exact --------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_of_any_size(single: Pair, n: int, encoding: str) -> None:
    """1 to 2,048 inputs of distinct lengths, with and without /v1."""
    single.proxy.order(16)
    request = body(model="m", input=numbered(n), encoding_format=encoding)
    answer = single.same("/embeddings", request, v1=n % 2 == 0)
    assert [row["index"] for row in answer.json["data"]] == list(range(n))


@pytest.mark.parametrize(("batch", "window"), [(1, 1), (1, 4), (3, 2), (7, 1), (32, 2)])
def test_any_part_size_gives_the_same(single: Pair, batch: int, window: int) -> None:
    """Whatever the ladder makes of the batch size, the answer is the same."""
    single.proxy.order(batch, window)
    single.same("/embeddings", body(model="m", input=numbered(120), dimensions=5))


def test_odd_texts(single: Pair) -> None:
    """Empty, white, long, combining, zero bytes: each alone as a string and all together split into parts of two."""
    single.proxy.order(2)
    single.same("/embeddings", body(model="m", input=TEXTS))
    single.same("/embeddings", json.dumps({"model": "m", "input": TEXTS}).encode())
    for text in TEXTS:
        single.same("/embeddings", body(model="m", input=text))


SMALL_PARTS = {"input": ["a", "bb", "ccc"], "model": "m"}


@pytest.mark.parametrize(
    "options",
    [
        {"dimensions": 4},
        {"dimensions": 0},
        {"dimensions": -1},
        {"dimensions": 99},
        {"dimensions": None},
        {"dimensions": 4.0},
        {"dimensions": 4.5},
        {"dimensions": "4"},
        {"dimensions": "x"},
        {"dimensions": True},
        {"dimensions": 10**30},
        {"user": "me"},
        {"user": None},
        {"user": 3},
        {"encoding_format": "hex"},
        {"encoding_format": None},
        {"modality": "text"},
        {"modality": None},
        {"modality": "video"},
        {"modality": "image"},
        {"modality": "audio"},
        {"unknown": {"deep": [1.0, None]}},
        {"input": []},
        {"input": None},
        {"input": 7},
        {"input": ["a", 7]},
        {"input": ["a", None, "b"]},
        {"input": [["a"]]},
        {"input": {"a": "b"}},
        {"model": None},
        {"model": 7},
        {"model": ["m"]},
    ],
)
def test_options_good_and_bad(single: Pair, options: dict[str, object]) -> None:
    """Infinity's answer or its refusal, to the word, with parts of one."""
    single.proxy.order(1)
    single.same("/embeddings", body(**{**SMALL_PARTS, **options}))


LONG = "x" * 122_880


@pytest.mark.parametrize(
    "texts",
    [
        ["a", LONG],
        ["a", LONG + "x"],
        ["a", "b", LONG + " " * 9],
        [" " * 200_000],
        LONG + "x",
        ["a"] * 2049,
        ["a"] * 4000,
    ],
)
def test_limits_are_infinitys(single: Pair, texts: list[str] | str) -> None:
    """Too long and too many are refused in Infinity's words, which name the index; what strips to fit is answered."""
    single.proxy.order(1)
    single.same("/embeddings", body(model="m", input=texts))


RAW: list[tuple[bytes, dict[str, str | None]]] = [
    (b"", {}),
    (b" ", {}),
    (b"null", {}),
    (b"[]", {}),
    (b'"text"', {}),
    (b"hello", {}),
    (b'{"model": "m", "input": "a"', {}),
    (b'{"model": "m", "input": ["a"],}', {}),
    (b"[" * 5000, {}),
    (b'{"model": "m", "input": "a", "x": NaN}', {}),
    (b'{"model": "m", "input": ["a", "b"], "x": -Infinity}', {}),
    (b'{"model": "m", "input": "a", "x": 1e999}', {}),
    (b'{"model": "m", "input": ["a", NaN]}', {}),
    (b'{"model": "m", "input": "\\ud800"}', {}),
    (b'{"model": "m", "input": ["a", "b\\udc00"]}', {}),
    (b'{"model": "m", "input": "\xed\xa0\x80"}', {}),
    (b'{"model": "m", "input": "\xff"}', {}),
    (b'{"model": "x", "model": "m", "input": "zz", "input": ["a"]}', {}),
    ('{"model": "m", "input": ["ä", "b"]}'.encode("utf-16"), {}),
    ('{"model": "m", "input": ["ä", "b"]}'.encode("utf-8-sig"), {}),
    ('{"model": "m", "input": ["ä", "b"]}'.encode("utf-32"), {}),
    (gzip.compress(b'{"model": "m", "input": "a"}', mtime=0), {"Content-Encoding": "gzip"}),
    (gzip.compress(b'{"model": "m", "input": "a"}', mtime=0), {}),
    (b'{"model": "m", "input": ["a", "b"]}', {"Content-Type": None}),
    (b'{"model": "m", "input": ["a", "b"]}', {"Content-Type": "text/plain"}),
    (b'{"model": "m", "input": ["a", "b"]}', {"Content-Type": "application/json; charset=latin-1"}),
    (b'{"model": "m", "input": ["a", "b"]}', {"Content-Type": "Application/Vnd.api+JSON"}),
    (b'{"model": "m", "input": ["a", "b"]}', {"Content-Encoding": "gzip"}),
]


@pytest.mark.parametrize(("raw", "headers"), RAW)
def test_bodies_that_are_hard_to_read(single: Pair, raw: bytes, headers: dict[str, str | None]) -> None:
    """What our parser and Infinity's see differently is Infinity's to judge."""
    single.proxy.order(1)
    single.same("/embeddings", raw, headers)


@pytest.mark.parametrize("path", ["/rerank", "/classify", "/embeddings_image", "/embeddings_audio"])
@pytest.mark.parametrize(
    "fields",
    [
        {"query": "q", "documents": ["a", "b"], "input": ["data:image/png;base64,AAAA"]},
        {"query": "q", "documents": ["a", "b"], "input": "data:audio/wav;base64,AAAA"},
        {"query": 1, "documents": "a", "input": ["nonsense"]},
        {"documents": [], "input": ["data:,a"] * 33},
        {},
    ],
)
def test_endpoints_that_the_model_lacks(single: Pair, path: str, fields: dict[str, object]) -> None:
    """400 of a model without that ability, 422 of a body without sense."""
    single.proxy.order(1)
    single.same(path, body(model="m", **fields))


def test_an_alias_answers_with_the_canonical_name(single: Pair) -> None:
    """As the model itself would."""
    single.proxy.order(16)
    for n in (2, 40):
        request = {"model": "nick", "input": numbered(n)}
        through = parity.exchange(single.proxy.url, "POST", "/embeddings", body(**request))
        parity.same(_direct(single, "/embeddings", {**request, "model": "m"}), through)


def _direct(pair: Pair, path: str, request: dict[str, Any]) -> parity.Answer:
    headers = {"authorization": "Bearer a-worker-key"}
    return parity.exchange(pair.direct, "POST", path, body(**request), headers)


def test_what_we_split_infinity_accepts(single: Pair) -> None:
    """600 requests of random fields: whatever we would take apart is no 422 of Infinity's."""
    chance = random.Random(11)
    odd: list[Any] = [None, True, False, 0, 1, 2, -1, 1.0, 1.5, "", "1", "yes", "text", "q", [], ["a"], ["a", 1], {}]
    split = 0
    for _ in range(600):
        endpoint = chance.choice([Inference.EMBEDDINGS, Inference.RERANK, Inference.CLASSIFY])
        good = {
            Inference.EMBEDDINGS: {"input": ["a", "b"], "dimensions": 2, "user": "u", "encoding_format": "float"},
            Inference.RERANK: {"query": "q", "documents": ["a"], "top_n": 1, "raw_scores": True},
            Inference.CLASSIFY: {"input": ["a"], "raw_scores": False},
        }[endpoint]
        request = {key: value for key, value in good.items() if chance.random() < 0.9}
        keys = [*good, "modality", "return_documents", "other"]
        for _ in range(chance.choice([0, 1, 1, 2])):
            request[chance.choice(keys)] = chance.choice(odd)
        raw = orjson.dumps(request)
        if isinstance(understand(endpoint, read_body(raw, parity.JSON), "m"), Rows):
            split += 1
            assert _direct(single, endpoint.path, request).status in (200, 400), request
    assert split > 100


def test_the_fake_infinity_of_other_tests_is_a_good_one(single: Pair) -> None:
    """Where it answers, it answers what the real one does."""
    for request in (
        {"input": TEXTS, "model": "m"},
        {"input": "one", "dimensions": 3, "encoding_format": "base64"},
        {"input": numbered(50)},
    ):
        status, fake = fake_infinity.answer("embeddings", body(**request), vector=fake_infinity.lengths)
        real = _direct(single, "/embeddings", request)
        parity.same(real, parity.Answer(status, {"content-type": parity.JSON, "content-length": str(len(fake))}, fake))
    for bad in ({"input": []}, {}, {"input": [1]}, {"input": ["a"] * 2049}):
        assert fake_infinity.answer("embeddings", body(**bad))[0] == _direct(single, "/embeddings", bad).status


# -- several models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["m", "other"])
def test_several_models_each_answer_for_themselves(several: Pair, model: str) -> None:
    """The right worker is asked."""
    several.proxy.order(16)
    answer = several.same("/embeddings", body(model=model, input=numbered(40)))
    assert answer.json["model"] == model


@pytest.mark.parametrize(
    "named", [{}, {"model": "zz"}, {"model": ""}, {"model": "default/not-specified"}, {"model": "M"}]
)
def test_missing_and_unknown_models_among_several(several: Pair, named: dict[str, str]) -> None:
    """Infinity's own 400, word for word; the reason is in a header besides."""
    direct, through = several.exchange("POST", "/embeddings", body(input="a", **named))
    assert through.status == direct.status == 400
    assert through.json == direct.json
    assert through.headers["x-supervisor-reason"] == "unknown_model"


@pytest.mark.parametrize("raw", [b'{"model": null, "input": "a"}', b'{"model": 7, "input": "a"}', b"hello", b"", b"[]"])
def test_illegible_models_among_several(several: Pair, raw: bytes) -> None:
    """Any worker refuses them in the same words."""
    several.same("/embeddings", raw)


def test_an_unreadable_body_still_reaches_the_model_it_names(several: Pair) -> None:
    """NaN is no reason to be answered by another model."""
    answer = several.same("/embeddings", b'{"model": "other", "input": ["a", "bb"], "x": NaN}')
    assert answer.json["model"] == "other"


# -- other paths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/nope"),
        ("POST", "/nope"),
        ("GET", "/"),
        ("GET", "/embeddings"),
        ("OPTIONS", "/embeddings"),
        ("DELETE", "/rerank"),
        ("HEAD", "/docs"),
        ("HEAD", "/health"),
        ("POST", "/health"),
        ("PUT", "/models"),
        ("GET", "/v1/nope"),
    ],
)
def test_other_paths_and_methods(single: Pair, method: str, path: str) -> None:
    """As Infinity has them."""
    direct, through = single.exchange(method, path)
    assert (through.status, through.body) == (direct.status, direct.body)
    for name in ("content-type", "location", "allow", "content-length"):
        assert through.headers.get(name) == direct.headers.get(name), name


def test_a_redirect_points_to_the_proxy(single: Pair) -> None:
    """Infinity builds it from the Host header: it must be the one the client knows."""
    direct, through = single.exchange("POST", "/embeddings/", b"{}")
    assert through.status == direct.status == 307
    assert through.headers["location"] == f"{single.proxy.url}/embeddings"


def test_infinitys_metrics_pass_through(single: Pair) -> None:
    """A scraper that was pointed at Infinity goes on working."""
    through = parity.exchange(single.proxy.url, "GET", "/metrics")
    assert through.status == 200
    assert b"http_requests_total" in through.body


def test_models_and_health_have_infinitys_shape(single: Pair) -> None:
    """Key for key, with `state` besides."""
    direct, through = single.exchange("GET", "/models")
    assert list(through.json) == list(direct.json)
    one, other = direct.json["data"][0], through.json["data"][0]
    assert list(other) == [*one, "state"]
    assert {key: type(value) for key, value in one.items()}.items() <= {k: type(v) for k, v in other.items()}.items()
    assert list(other["stats"]) == list(one["stats"])
    direct, through = single.exchange("GET", "/health")
    assert list(through.json) == list(direct.json) == ["unix"]
    assert abs(through.json["unix"] - direct.json["unix"]) < 30
