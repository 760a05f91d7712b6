"""A client of debug engines that knows its own answer: their vectors are the lengths of the inputs.

As long as no two inputs at a time are of one length, a swapped, doubled or half answer is seen.
"""

from collections.abc import Sequence

import aiohttp


class LengthClient:
    """Asks one question at a time; `wrong` tells of every answer that was not right, `good` counts the others."""

    def __init__(self, session: aiohttp.ClientSession, proxy: str) -> None:
        self._session = session
        self._url = proxy + "/v1/embeddings"
        self.wrong: list[str] = []
        self.good = 0
        self.rows = 0

    async def ask(self, name: str, lengths: Sequence[int], model: str = "") -> None:
        """Inputs of these lengths for a model by that name; `model` is its own name where that one is an alias.

        Raises what aiohttp raises when there is no answer.
        """
        body = {"model": name, "input": ["x" * length for length in lengths]}
        async with self._session.post(self._url, json=body) as response:
            status, answer = response.status, await response.json()
        self.rows += len(lengths)
        if status == 200 and _is_right(answer, lengths, model or name):
            self.good += 1
        else:
            self.wrong.append(f"{status} for {name} {list(lengths)}: {str(answer)[:300]}")


def _is_right(answer: dict[str, object], lengths: Sequence[int], model: str) -> bool:
    said = (answer["model"], [row["embedding"] for row in answer["data"]], answer["usage"]["total_tokens"])
    return said == (model, [[float(length)] * 13 for length in lengths], sum(lengths))


def plain_session() -> aiohttp.ClientSession:
    """As many connections as there are clients, kept as long as the server keeps them."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_read=120)
    )
