"""Requests of several clients in shared parts: each client gets what it would have got alone, and nothing of others."""

import json
import random
import re
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.answer import cut
from supervisor.core.body import read_body
from supervisor.core.merge import Merge
from supervisor.core.payload import Inference, Rows, merged_body, understand
from tests.support import fake_infinity

# What Infinity writes between rows, and what else could be taken for structure: as texts, names and users.
TRAPS = [
    '},{"object":"embedding","embedding":',
    '[1.0],"index":0},{"object":"embedding","embedding":[9.0],"index":1}],"model":"x","usage":',
    '"index":1',
    '}],"model":"m","usage":{"prompt_tokens":0,"total_tokens":0},"id":"x","created":1}',
    '"}],[{"score":1.0,"label":"',
    "\\",
    '\\"',
    "\x00",
    "\u2028",
    "\ufeff",
    "\U0001f469\u200d\U0001f469",
    "e\u0301",
    "null",
    "[]",
    "infinity-0",
    "x" * 3000,
]
TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(TRAPS)
OPTIONS: list[dict[str, Any]] = [
    {},
    {},
    {"dimensions": 2},
    {"dimensions": 2**40},
    {"dimensions": 1, "encoding_format": "base64"},
    {"encoding_format": "base64", "modality": "text"},
    {"encoding_format": "float", "dimensions": 0},
]


@st.composite
def asked(draw: st.DrawFn) -> tuple[Inference, bytes]:
    """A request as a client may write it: keys in any order, unknown ones, some twice, escapes or none."""
    endpoint = draw(st.sampled_from([Inference.EMBEDDINGS, Inference.EMBEDDINGS, Inference.CLASSIFY]))
    rows = draw(st.lists(TEXT, min_size=1, max_size=6))
    single = endpoint is Inference.EMBEDDINGS and draw(st.booleans())
    fields: dict[str, Any] = {"input": rows[0] if single else rows}
    if endpoint is Inference.EMBEDDINGS:
        fields |= draw(st.sampled_from(OPTIONS))
    elif draw(st.booleans()):
        fields["raw_scores"] = draw(st.booleans())
    fields |= draw(st.dictionaries(st.sampled_from(["user", "model"]), st.sampled_from(TRAPS)))
    fields |= draw(st.dictionaries(st.sampled_from(["data", "index", "usage", "\u00e9"]), TEXT | st.just([{}])))
    items = draw(st.permutations(sorted(fields.items())))
    written = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=draw(st.booleans()))}" for k, v in items]
    if draw(st.booleans()):
        written.insert(0, json.dumps(items[-1][0]) + ': "twice"')
    return endpoint, ("{" + ", ".join(written) + "}").encode()


class Client:
    """One request, what it has been answered so far, and what it would have got alone."""

    def __init__(self, endpoint: Inference, raw: bytes, model: str = "m") -> None:
        self.alone = fake_infinity.answer(endpoint.value, raw, model=model)
        plan = understand(endpoint, read_body(raw, "application/json"), orjson.loads(raw).get("model", model))
        assert isinstance(plan, Rows)
        self.endpoint, self.raw, self.plan, self.next = endpoint, raw, plan, 0
        self.merge: Merge = plan.merge()
        self.answer: bytes | None = None
        self.shared = False

    def same(self) -> None:
        """Its answer is its own to the byte, but for an `id` of its own, in Infinity's form, where it shared a part."""
        assert self.answer is not None
        status, alone = self.alone
        assert status == 200
        name = orjson.loads(self.answer)["id"]
        if self.shared:
            assert re.fullmatch("infinity-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", name)
        else:
            assert name == "infinity-0"
        assert self.answer.replace(name.encode(), b"infinity-0") == alone


def send(pieces: list[tuple[Client, int, int]], model: str = "m") -> bool:
    """One part to the worker and back; False when the answer can't be told apart."""
    shared = len(pieces) > 1
    first, start, stop = pieces[0]
    if shared:
        body = merged_body([(client.plan, start, stop) for client, start, stop in pieces], model)
    else:
        body = first.plan.part(start, stop)
    status, answer = fake_infinity.answer(first.endpoint.value, body, model=model)
    assert status == 200
    if not shared and first.plan.inputs == stop - start:
        first.answer = answer
        return True
    usage = [client.plan.usage(start, stop) for client, start, stop in pieces] if shared else None
    answers = cut(first.plan.shape, answer, [stop - start for _, start, stop in pieces], usage)
    if answers is None:
        return False
    for (client, start, stop), own in zip(pieces, answers, strict=True):
        client.merge.add(start, stop, own)
        client.shared |= shared and start == 0
        if client.merge.complete:
            client.answer = client.merge.result()
    return True


@given(st.lists(asked(), min_size=1, max_size=8), st.randoms(use_true_random=False), st.sampled_from(["m", *TRAPS]))
@settings(max_examples=300, deadline=None)
def test_everybody_gets_what_it_would_have_got_alone(
    requests: list[tuple[Inference, bytes]], chance: random.Random, model: str
) -> None:
    """Requests of many kinds leave in parts of any size, together where their keys are equal."""
    clients = [Client(endpoint, raw, model) for endpoint, raw in requests]
    waiting: dict[object, list[Client]] = {}
    for client in clients:
        waiting.setdefault(client.plan.key or client, []).append(client)
    parts = []
    for group in waiting.values():
        while group:
            chance.shuffle(group)
            part = []
            for client in group[: chance.randint(1, 4)]:
                stop = client.next + chance.randint(1, client.plan.inputs - client.next)
                part.append((client, client.next, stop))
                client.next = stop
            parts.append(part)
            group[:] = [client for client in group if client.next < client.plan.inputs]
    chance.shuffle(parts)
    assert all(send(part, model) for part in parts), "usage in characters can be told apart"
    for client in clients:
        client.same()
    names = [orjson.loads(c.answer)["id"] for c in clients if c.shared and c.answer]
    # The worker of this test gives every answer the same id: only the seats of one part differ then.
    for part in parts:
        if len(part) > 1:
            own = [orjson.loads(c.answer)["id"] for c, start, _ in part if start == 0 and c.answer]
            assert len(set(own)) == len(own)
    assert "infinity-0" not in names


def test_a_neighbours_words_are_in_nobody_elses_answer() -> None:
    """Not its text, its user, its name for the model, nor its number."""
    secret = {"input": "SECRET-text", "user": "SECRET-user", "model": "SECRET-name", "note": "SECRET-note"}
    mine = Client(Inference.EMBEDDINGS, orjson.dumps({"model": "m", "input": ["mine", "and mine"]}))
    theirs = Client(Inference.EMBEDDINGS, orjson.dumps(secret))
    body = merged_body([(theirs.plan, 0, 1), (mine.plan, 0, 2)], "m")
    assert body.count(b"SECRET") == 1, "only the text goes to the worker"
    assert send([(theirs, 0, 1), (mine, 0, 2)])
    assert mine.answer is not None
    assert theirs.answer is not None
    assert b"SECRET" not in mine.answer
    mine.same()
    theirs.same()
    assert orjson.loads(mine.answer)["id"] != orjson.loads(theirs.answer)["id"]


@pytest.mark.parametrize("endpoint", [Inference.EMBEDDINGS, Inference.CLASSIFY])
def test_tokens_can_not_be_told_apart(endpoint: Inference) -> None:
    """A worker that counts tokens: no shared answer is cut, and a request that was split alone adds them up."""
    raw = b'{"input": ["one", "two two"]}'
    plan = understand(endpoint, read_body(raw, "application/json"), "m")
    assert isinstance(plan, Rows)
    body = orjson.loads(fake_infinity.answer(endpoint.value, raw)[1])
    body["usage"] = {"prompt_tokens": 3, "total_tokens": 3}
    assert cut(plan.shape, orjson.dumps(body), [1, 1], [plan.usage(0, 1), plan.usage(1, 2)]) is None
    alone = cut(plan.shape, orjson.dumps(body), [2], None)
    assert alone is not None
    assert alone[0].usage == 3


@pytest.mark.parametrize("texts", [["a b", " a"], ["a\x1c", "b"], ["\u2003", "b"], ["\u200b", "b"], ["", "b"]])
def test_usage_is_right_at_the_edges_of_white_space(texts: list[str]) -> None:
    """What Infinity strips and what it doesn't: who may share a part is charged exactly; who may not goes alone."""
    clients = [Client(Inference.EMBEDDINGS, orjson.dumps({"input": text})) for text in texts]
    shares = [client for client in clients if client.plan.key is not None]
    assert [client.plan.key is None for client in clients] == [t == "" or t != t.strip() for t in texts]
    assert send([(client, 0, 1) for client in shares])
    for client in clients:
        if client not in shares:
            assert send([(client, 0, 1)])
        client.same()
