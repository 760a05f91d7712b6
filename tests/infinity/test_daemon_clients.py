"""The daemon as clients see it: real answers by the stock openai client, refusals of bad input, nothing woken."""

import asyncio
import base64
import concurrent.futures
import gzip
import json
import socket
import struct
from collections.abc import Iterator

import openai
import pytest

from tests.support import daemon as daemons
from tests.support import infinity
from tests.support.daemon import Daemon

TEXTS = [
    "a",
    "Grüße aus Köln",
    "日本語のテキスト",
    "  padded  ",
    "",
    *(f"sentence number {n} " * n for n in range(1, 60)),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """MiniLM and a debug engine, small batches so that requests are split; a third model that is never asked for."""
    settings = {
        "models": [
            daemons.minilm_model("minilm", aliases=["sentence-transformers/all-MiniLM-L6-v2"]),
            daemons.debug_model("debug"),
            daemons.debug_model("cold", preload=False),
        ],
        "batch_controller": {"max_batch_size": 8, "initial_batch_size": 8},
        "proxy": {"max_body_bytes": 3_000_000},
    }
    with daemons.running(tmp_path_factory.mktemp("served"), settings) as d:
        d.wait_ready("minilm", "debug")
        yield d


@pytest.fixture(scope="module")
def bare() -> Iterator[infinity.Server]:
    """The same MiniLM without a supervisor."""
    with infinity.serve(infinity.torch_args("minilm")) as server:
        yield server


def close(one: list[float], other: list[float]) -> bool:
    """Equal but for the low bits that padding moves."""
    return len(one) == len(other) and all(abs(a - b) <= 1e-5 for a, b in zip(one, other, strict=True))


def test_openai_client_gets_infinitys_answers(served: Daemon, bare: infinity.Server) -> None:
    """The stock client, sync and async, float and base64, by name and alias, gets what a bare Infinity answers."""
    expected = [row["embedding"] for row in bare.post("/embeddings", {"model": "minilm", "input": TEXTS})[1]["data"]]
    with openai.OpenAI(base_url=served.proxy + "/v1", api_key="any") as client:
        answer = client.embeddings.create(model="minilm", input=TEXTS, encoding_format="float")
        assert [row.index for row in answer.data] == list(range(len(TEXTS)))
        assert all(close(row.embedding, vector) for row, vector in zip(answer.data, expected, strict=True))
        packed = client.embeddings.create(model="sentence-transformers/all-MiniLM-L6-v2", input=TEXTS)
        assert all(close(row.embedding, vector) for row, vector in zip(packed.data, expected, strict=True))
        assert packed.usage.total_tokens == sum(len(text.strip()) for text in TEXTS)
        short = client.embeddings.create(model="minilm", input="one", dimensions=16, encoding_format="float")
        assert len(short.data[0].embedding) == 16

    async def ask() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=served.proxy, api_key="any") as client:
            answers = await asyncio.gather(
                *(
                    client.embeddings.create(model="minilm", input=text or " ", encoding_format="float")
                    for text in TEXTS
                )
            )
        return [answer.data[0].embedding for answer in answers]

    assert all(close(one, other) for one, other in zip(asyncio.run(ask()), expected, strict=True))


def test_base64_is_infinitys(served: Daemon, bare: infinity.Server) -> None:
    """Raw base64 answers decode to the same vectors."""
    body = {"model": "minilm", "input": TEXTS, "encoding_format": "base64"}
    ours, theirs = served.post(served.proxy + "/embeddings", body)[1], bare.post("/embeddings", body)[1]
    assert set(ours) == set(theirs)
    for one, other in zip(ours["data"], theirs["data"], strict=True):
        assert close(floats(one["embedding"]), floats(other["embedding"]))


def floats(text: str) -> list[float]:
    """The float32 values behind a base64 embedding."""
    data = base64.b64decode(text)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def test_openai_errors_are_typed(served: Daemon) -> None:
    """The client raises its own exception for what is refused, with a message that names the remedy."""
    with openai.OpenAI(base_url=served.proxy, api_key="any", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="minilm"):
            client.embeddings.create(model="nope", input="x")
        with pytest.raises(openai.UnprocessableEntityError):
            client.embeddings.create(model="debug", input=["x"] * 2049)


BAD = [
    ("not JSON", b"{", 422),
    ("no body", b"", 422),
    ("a number for input", b'{"model": "debug", "input": 7}', 422),
    ("an empty list", b'{"model": "debug", "input": []}', 422),
    ("null model", b'{"model": null, "input": "x"}', 422),
    ("a text over 122,880 characters", json.dumps({"model": "debug", "input": ["ok", "x" * 122_881]}).encode(), 422),
    ("no model of several", b'{"input": "x"}', 400),
    ("an unknown model", b'{"model": "Debug", "input": "x"}', 400),
    ("gzip", gzip.compress(b'{"model": "debug", "input": "x"}'), 400),
    ("too large", b'{"model": "debug", "input": "' + b"x" * 3_000_000 + b'"}', 413),
]


@pytest.mark.parametrize(("body", "status"), [(b, s) for _, b, s in BAD], ids=[name for name, _, _ in BAD])
def test_bad_input_is_refused_and_harms_nobody(served: Daemon, body: bytes, status: int) -> None:
    """Each bad body gets its refusal while another client's requests go on, and no model's worker changes."""
    before = [(m["name"], m["state"], m["pid"]) for m in served.status()["models"]]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        other = pool.submit(served.embed, "debug", *("n" * n for n in range(1, 200)))
        assert served.post(served.proxy + "/embeddings", body)[0] == status
        assert other.result(60)[198] == [199.0] * 13
    assert [(m["name"], m["state"], m["pid"]) for m in served.status()["models"]] == before


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n",
    ],
)
def test_malformed_http_is_refused(served: Daemon, raw: bytes) -> None:
    """What is not HTTP gets a 400 or a closed connection, never an answer meant for somebody else."""
    host, port = served.settings["proxy"]["listen"].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(raw)
        answer = connection.recv(4096)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert served.embed("debug", "abc") == [[3.0] * 13]


def test_looking_wakes_nothing(served: Daemon) -> None:
    """`/models`, `/health`, metrics and pass-through answer and leave a cold model cold."""
    status, listed = served.get(served.proxy + "/v1/models")
    assert status == 200
    assert {row["id"]: row["state"] for row in listed["data"]} == {
        "minilm": "ready",
        "debug": "ready",
        "cold": "stopped",
    }
    assert "unix" in served.get(served.proxy + "/health")[1]
    assert served.get(served.proxy + "/openapi.json")[1]["info"]["title"]
    assert served.get(served.proxy + "/docs")[0] == 200
    assert served.get(served.admin + "/readyz")[0] == 200
    assert served.model("cold")["state"] == "stopped"
    served.until(lambda: served.model("debug").get("infinity_queued_inputs") == 0, 20, "Infinity's own word is missing")
    assert "infinity_queued_inputs" not in served.model("cold")


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("drill", {"signals": {"disk": 9}, "seconds": 1}, "disk"),
        ("drill", {"signals": {"cpu": 900}, "seconds": 1}, "cpu"),
        ("drill", {"signals": {"cpu": 90}, "seconds": -1}, "seconds"),
        ("pause", {"seconds": "long"}, "seconds"),
        ("pause", {"for": 1}, "for"),
        ("pause", b"{", "JSON"),
    ],
)
def test_bad_orders_are_refused(served: Daemon, path: str, body: object, word: str) -> None:
    """A bad order to the control plane gets a 400 that names what is wrong, and changes nothing."""
    status, answer = served.post(f"{served.admin}/api/v1/{path}", body)
    assert status == 400
    assert word in str(answer)
    assert served.status()["paused"] is False


def test_a_deadline_of_the_client_is_kept(served: Daemon) -> None:
    """`x-request-timeout-ms` bounds the wait; a value that is none is refused."""
    served.api("pause", {"seconds": None})
    try:
        body = {"model": "debug", "input": "x"}
        headers = {"x-request-timeout-ms": "300", "x-request-id": "abc-1"}
        status, _, seen = served.exchange(served.proxy + "/embeddings", body, headers=headers)
        assert (status, seen["x-supervisor-reason"], seen["x-request-id"]) == (504, "deadline_exceeded", "abc-1")
        status, _, _ = served.exchange(served.proxy + "/embeddings", body, headers={"x-request-timeout-ms": "soon"})
        assert status == 400
    finally:
        served.api("resume")
    assert served.status()["queue"]["requests"] == 0
