"""The dispatcher in virtual time: requests that leave together, and that nobody notices."""

import asyncio

import orjson
import pytest

from supervisor.core.payload import Inference
from supervisor.proxy.jobs import Reply, WorkerLost
from tests.support import fake_infinity
from tests.support.dispatching import Client, Sent, World, world

pytestmark = pytest.mark.looptime


def sizes(w: World, worker: int = 0) -> list[int]:
    """How many rows each part had."""
    return [len(sent.rows) for sent in w.workers[worker].sent]


async def answered(clients: list[Client]) -> None:
    """All have exactly what each would have got alone."""
    await asyncio.gather(*(client.task for client in clients))
    assert [client.name for client in clients if not client.right] == []


async def test_what_waits_leaves_together() -> None:
    """Behind a full window single inputs gather, and leave as one part of at most the batch size."""
    async with world() as w:
        w.order(8, 1)
        w.up()
        clients = [w.ask(name=f"n{i}.") for i in range(12)]
        await answered(clients)
        assert sizes(w) == [1, 8, 3]
        assert w.counter.inputs == {"a": 12}
        w.check_empty()


async def test_nothing_waits_while_the_window_has_room() -> None:
    """The first parts leave at once, each alone: merging costs nobody a wait."""
    async with world() as w:
        w.order(8, 3)
        worker = w.up()
        clients = [w.ask(name=f"n{i}.") for i in range(2)]
        await w.settle()
        assert [sent.at for sent in worker.sent] == [0.0, 0.0]
        await answered(clients)


async def test_a_part_is_filled_with_the_beginning_of_a_larger_request() -> None:
    """A request that fits only in part gives what fits, and its rest leaves with the next."""
    async with world() as w:
        w.order(8, 1)
        w.up()
        clients = [w.ask(rows=rows, name=f"n{i}.") for i, rows in enumerate((8, 5, 6, 7, 5))]
        await answered(clients)
        assert sizes(w) == [8, 8, 8, 7]


@pytest.mark.parametrize("endpoint", [Inference.EMBEDDINGS, Inference.CLASSIFY])
async def test_merged_answers_are_those_of_each_alone(endpoint: Inference) -> None:
    """Whatever the mixture of sizes and options, each client gets its own rows, indices and usage."""
    async with world() as w:
        w.order(7, 1)
        w.up()
        clients = []
        for i in range(60):
            options: dict[str, object] = {"raw_scores": bool(i % 3)} if endpoint is Inference.CLASSIFY else {}
            if endpoint is Inference.EMBEDDINGS and i % 3 == 1:
                options = {"encoding_format": "base64"}
            if i % 5 == 0 and endpoint is Inference.EMBEDDINGS:
                options["user"] = f'"index":{i}}},{{"object":"embedding"'
            clients.append(w.ask(rows=1 + i % 4, name=f"n{i}.", endpoint=endpoint, **options))
        await answered(clients)
        assert max(sizes(w)) == 7
        w.check_empty()


async def test_other_endpoints_options_and_classes_stay_apart() -> None:
    """Only requests that Infinity would treat alike, of one class, share a part."""
    async with world() as w:
        w.order(16, 1)
        worker = w.up()
        blocker = w.ask(name="blocker")
        await w.settle()
        clients = [
            w.ask(name="float"),
            w.ask(name="packed", encoding_format="base64"),
            w.ask(name="classify", endpoint=Inference.CLASSIFY),
            w.ask(name="bulk", priority="bulk"),
            w.ask(name="float.too", encoding_format="float"),
        ]
        await answered([blocker, *clients])
        parts = [sorted(row.rstrip("0123456789") for row in sent.rows) for sent in worker.sent[1:]]
        assert sorted(parts) == [["bulk"], ["classify"], ["float", "float.too"], ["packed"]]


async def test_rerank_never_shares_a_part() -> None:
    """Each rerank has its own query."""
    async with world() as w:
        w.order(16, 1)
        w.up()
        clients = [w.ask(rows=2, name=f"n{i}.", endpoint=Inference.RERANK) for i in range(4)]
        await answered(clients)
        assert sizes(w) == [2, 2, 2, 2]


@pytest.mark.parametrize("status", [400, 422, 500])
async def test_a_bad_neighbour_harms_nobody(status: int) -> None:
    """A part that Infinity refuses is sent again, each request alone; only the guilty one gets the refusal."""
    async with world() as w:
        w.order(8, 1)
        worker = w.up()

        def refuses(sent: Sent) -> Reply | None:
            if any("bad" in row for row in sent.rows):
                return Reply(status, b'{"error":{"message":"rows: %d"}}' % len(sent.rows), {})
            return None

        worker.script = refuses
        clients = [w.ask(name=name) for name in ("first", "n1.", "bad", "n2.", "n3.")]
        await asyncio.gather(*(client.task for client in clients))
        bad = clients.pop(2).task.result()
        assert isinstance(bad, Reply)
        assert (bad.status, bad.body) == (status, b'{"error":{"message":"rows: 1"}}')
        assert all(client.right for client in clients)
        assert sizes(w) == [1, 4, 1, 1, 1, 1]
        w.check_empty()


async def test_usage_that_is_no_sum_of_characters_ends_the_merging() -> None:
    """With --lengths-via-tokenize usage can't be split: everyone is sent again alone, and from then on."""
    async with world() as w:
        w.order(8, 1)
        worker = w.up()

        def tokens(sent: Sent) -> Reply:
            _, body = fake_infinity.answer("embeddings", sent.body, model="a")
            answer = orjson.loads(body)
            answer["usage"] = dict.fromkeys(answer["usage"], 1 + len(sent.rows))
            return Reply(200, orjson.dumps(answer), {})

        worker.script = tokens
        clients = [w.ask(name=f"n{i}.") for i in range(5)]
        await asyncio.gather(*(client.task for client in clients))
        later = [w.ask(name=f"m{i}.") for i in range(4)]
        await asyncio.gather(*(client.task for client in later))
        assert sizes(w) == [1, 4, 1, 1, 1, 1, 1, 1, 1, 1]
        for client in clients + later:
            outcome = client.task.result()
            assert isinstance(outcome, Reply)
            assert orjson.loads(outcome.body)["usage"]["total_tokens"] == 2, "its own, not a share of the others'"
        w.check_empty()


async def test_an_answer_that_can_not_be_told_apart_is_nobodys() -> None:
    """Too few rows in the answer to a shared part: each request is sent alone and gets its own."""
    async with world() as w:
        w.order(8, 1)
        worker = w.up()

        def short(sent: Sent) -> Reply | None:
            if len(sent.rows) == 1:
                return None
            _, body = fake_infinity.answer("embeddings", sent.body, model="a")
            answer = orjson.loads(body)
            answer["data"].pop()
            return Reply(200, orjson.dumps(answer), {})

        worker.script = short
        await answered([w.ask(name=f"n{i}.") for i in range(6)])


async def test_a_lost_worker_costs_a_shared_part_nothing() -> None:
    """All requests of a part that got no answer wait again and are answered by the next worker."""
    async with world() as w:
        w.order(8, 1)
        worker = w.up()
        clients = [w.ask(rows=rows, name=f"n{i}.") for i, rows in enumerate((1, 2, 3, 9))]

        def dies(sent: Sent) -> Reply | None:
            if len(sent.rows) > 1:
                raise WorkerLost("gone", sent=True)
            return None

        worker.script = dies
        await asyncio.sleep(2.5)
        w.dispatcher.detach("a")
        w.up()
        await answered(clients)
        w.check_empty()


async def test_a_client_that_leaves_a_shared_part_leaves_the_others_theirs() -> None:
    """Its rows were sent and are spent; nobody else's answer changes."""
    async with world() as w:
        w.order(8, 1)
        w.up()
        clients = [w.ask(name=f"n{i}.") for i in range(6)]
        await asyncio.sleep(1.5)
        clients.pop(3).leave()
        await answered(clients)
        w.check_empty()


async def test_rows_are_padded_to_the_longest_so_a_long_one_does_not_join_many() -> None:
    """A part stays within its time: a long row leaves by itself and not with all the short ones before it."""
    async with world() as w:
        w.order(32, 1, seconds=0.2)
        worker = w.up()

        def length(sent: Sent) -> float:
            return 0.001 * len(sent.rows) * max(map(len, sent.rows))

        worker.takes = length
        for _ in range(20):  # it learns what a character takes
            await answered([w.ask(name="y" * 20 + f"{i}.") for i in range(9)])
        del worker.sent[:]
        blocker = w.ask(name="first")
        await w.settle()
        short, long = [w.ask(name=f"s{i}.") for i in range(6)], w.ask(name="x" * 150, client="other")
        await answered([blocker, *short, long])
        assert [len(sent.rows) for sent in worker.sent if any(len(row) > 100 for row in sent.rows)] == [1]
