"""The requests of the asyncio client: texts from a seeded generator, and ready-made bytes."""

import itertools
import random
from collections.abc import Iterator, Sequence

import orjson

WORDS = [
    "river",
    "stone",
    "market",
    "window",
    "engine",
    "garden",
    "letter",
    "mountain",
    "paper",
    "winter",
    "signal",
    "bridge",
    "harbor",
    "candle",
    "forest",
    "planet",
    "number",
    "silver",
    "copper",
    "meadow",
    "ladder",
    "thunder",
    "village",
    "pocket",
    "mirror",
    "castle",
    "basket",
    "feather",
    "island",
    "anchor",
]


def text(rng: random.Random, words: int) -> str:
    """So many words; distinct with near certainty from a dozen words on."""
    return " ".join(rng.choices(WORDS, k=words))


def request(model: str, texts: Sequence[str], headers: str = "") -> bytes:
    """A whole embedding request; `headers` are lines that end with CRLF."""
    body = orjson.dumps({"model": model, "input": list(texts) if len(texts) != 1 else texts[0]})
    head = (
        "POST /embeddings HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def client(name: str) -> str:
    """The header by which a client is told from others at the same address."""
    return f"Authorization: Bearer {name}\r\n"


def endless(
    model: str, *, inputs: int, words: tuple[int, int], seed: int, headers: str = "", distinct: int = 64
) -> Iterator[bytes]:
    """`distinct` requests over and over; the words of each text are drawn between the two numbers."""
    rng = random.Random(seed)
    built = [request(model, [text(rng, rng.randint(*words)) for _ in range(inputs)], headers) for _ in range(distinct)]
    return itertools.cycle(built)
