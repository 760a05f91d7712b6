"""The dispatcher in virtual time: parts that fit into the memory there is, rows that don't, and workers that die."""

import asyncio
import random

import orjson
import pytest

from supervisor.core.payload import Inference
from supervisor.proxy.jobs import Reply
from supervisor.proxy.refusals import Reason
from tests.support.dispatching import Client, World, world
from tests.support.simulated_memory import LOADED, MIB, Memory, Need, squared, truncating, unpadded

pytestmark = pytest.mark.looptime


def ask(w: World, rows: int, longest: int, model: str = "a", within: float | None = None, client: str = "") -> Client:
    """A request for so many rows of `longest` characters."""
    body = {"model": model, "input": [f"{i}".rjust(longest, "x") for i in range(rows)]}
    return w.ask(model, raw=orjson.dumps(body), within=within, client=client)


def widest(w: World, worker: int = 0) -> int:
    """The most rows that any part had."""
    return max(len(sent.rows) for sent in w.workers[worker].sent)


def status(client: Client) -> int:
    """How its request ended."""
    outcome = client.task.result()
    return outcome.status


# -- what fits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "most"), [(2048, 12), (16_384, 32)])
async def test_parts_are_cut_to_the_room(limit: int, most: int) -> None:
    """Rows of 6,000 characters leave in parts that stay below the shrink threshold; with more room in whole batches."""
    memory = Memory(squared, limit * MIB)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w):
            await ask(w, 8, 500)
            clients = [ask(w, 32, 6000) for _ in range(6)]
            while not all(client.done for client in clients):
                await asyncio.sleep(0.05)
                assert memory.used <= 0.85 * memory.limit
            assert all(client.right for client in clients)
        assert most / 2 < widest(w) <= most
        assert memory.kills == 0


async def test_an_empty_text_may_be_the_first_that_a_model_gets() -> None:
    """Nothing is known of its memory then, and nothing is shorter."""
    memory = Memory(squared, 2048 * MIB)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w):
            client = w.ask("a", raw=b'{"model": "a", "input": [""]}', within=5)
            await client
            assert status(client) == 200


async def test_short_rows_with_plenty_of_memory_are_not_looked_at_one_by_one() -> None:
    """At 250 parts a second /proc is read for hardly any, and the parts are as large as without memory."""
    memory = Memory(squared, 64 << 30, seconds=0.004)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w):
            clients = [ask(w, 32, 100) for _ in range(200)]
            await asyncio.gather(*(client.task for client in clients))
            before, parts = memory.reads, len(w.workers[0].sent)
            clients = [ask(w, 32, 100) for _ in range(1000)]
            await asyncio.gather(*(client.task for client in clients))
            parts = len(w.workers[0].sent) - parts
        assert parts == 1000
        assert memory.reads - before < 0.05 * parts


async def test_short_and_long_rows_still_share_parts() -> None:
    """Where there is plenty, memory keeps no request out of a part that the others share."""
    memory = Memory(squared, 64 << 30)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w, window=1):
            await ask(w, 8, 300)
            await ask(w, 8, 300)
            clients = [ask(w, 1, 20 + 17 * i % 280) for i in range(33)]
            await asyncio.gather(*(client.task for client in clients))
        assert [len(sent.rows) for sent in w.workers[0].sent[2:]] == [1, 32]


async def test_nothing_is_asked_without_a_room() -> None:
    """Memory that is drilled, unreadable, or a GPU's: no look at any process, and whole batches of any length."""
    memory = Memory(squared, 600 * MIB)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        memory.limit = 1 << 40
        w.order(32, 2)
        clients = [ask(w, 32, 20_000) for _ in range(2)]
        await asyncio.gather(*(client.task for client in clients))
        assert widest(w) == 32
        assert memory.reads == 0


async def test_a_worker_that_can_not_be_looked_at_gets_careful_parts() -> None:
    """No peaks, no knowledge: few rows where they are long, one by one where they are longer, and no endless trial."""
    memory = Memory(squared, 8 << 30)
    async with world() as w:
        memory.place(w, w.up())
        async with memory.sampled(w):
            clients = [ask(w, 32, 2048), ask(w, 2, 30_000)]
            await asyncio.gather(*(client.task for client in clients))
        assert all(client.right for client in clients)
        assert widest(w) == 8
        assert [len(sent.rows) for sent in w.workers[0].sent if len(sent.rows[0]) == 30_000] == [1, 1]


# -- rows that are too long -----------------------------------------------------------------------------------------


async def test_a_row_too_long_for_the_host_is_refused_with_the_figures() -> None:
    """413 at once, telling what it needs, what there is, and how long a row would fit; one that long is answered."""
    memory = Memory(squared, 2 << 30)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w):
            await ask(w, 8, 500)
            began = w.now
            client = ask(w, 1, 100_000)
            await client
            assert w.now - began < 5
            refusal = client.refusal
            assert refusal.reason is Reason.TOO_LARGE
            assert refusal.status == 413
            words = str(refusal).replace(",", "").split()
            needed, room = (int(words[i - 1]) for i, word in enumerate(words) if word == "MiB")
            fits = int(words[words.index("characters.") - 1])
            assert needed > 0.7 * squared(1, 100_000) / MIB
            assert room == pytest.approx((0.95 * memory.limit - LOADED) / MIB, abs=2)
            assert 15_000 < fits < 35_000
            right = ask(w, 1, fits - 5000)
            await right
            assert right.right
        assert memory.kills == 0
        w.check_empty()


async def test_trials_are_nobodys_answers() -> None:
    """A row much longer than any before is tried in part first, alone, and answered whole; its client sees nothing."""
    memory = Memory(truncating, 2 << 30)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w):
            await ask(w, 8, 500)
            client = ask(w, 3, 100_000)
            await client
            assert client.right
        tried = [len(sent.rows[0]) for sent in w.workers[0].sent if 500 < len(sent.rows[0]) < 100_000]
        assert tried
        assert tried == sorted(tried)
        assert w.counter.inputs == {"a": 11}, "trials are no work for anybody"
        w.check_empty()


@pytest.mark.parametrize(("need", "limit"), [(squared, 1 << 30), (truncating, 8 << 30)])
async def test_nothing_leaves_beside_a_trial_and_none_is_repeated(need: Need, limit: int) -> None:
    """Each trial tells something: it is alone at the worker, measured, and longer than the one before."""
    memory = Memory(need, limit)
    async with world(peaks=memory) as w:
        worker = w.up()
        memory.place(w, worker)
        async with memory.sampled(w):
            known = 13_000 if need is squared else 200
            for _ in range(10):
                await ask(w, 1, known)
            client = ask(w, 1, 60_000)
            lines = []
            while not client.done:
                lines.append(ask(w, 1, 30))
                await asyncio.sleep(0.05)
                if any(known < longest < 60_000 for _, longest in memory.processes[1].running.values()):
                    assert len(worker.running) == 1
            assert status(client) == (413 if need is squared else 200)
            await asyncio.gather(*(line.task for line in lines))
        tried = [len(sent.rows[0]) for sent in worker.sent if known < len(sent.rows[0]) < 60_000]
        assert tried
        assert tried == sorted(set(tried))


async def test_a_ranking_is_tried_with_its_query() -> None:
    """The beginning of a document comes with the query, and both count."""
    memory = Memory(truncating, 2 << 30)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w):
            body = {"model": "a", "query": "q" * 200, "documents": ["d" * 50_000, "e" * 60_000]}
            client = w.ask(raw=orjson.dumps(body), endpoint=Inference.RERANK)
            await client
            assert client.right
        first = orjson.loads(w.workers[0].sent[0].body)
        assert first["query"] == "q" * 200
        assert 1000 < len(first["documents"][0]) < 10_000


async def test_a_refused_trial_is_the_refusal_of_its_request() -> None:
    """Infinity's own words, once; nothing is tried for ever."""
    memory = Memory(squared, 2 << 30)
    async with world(peaks=memory) as w:
        worker = w.up()
        memory.place(w, worker)
        worker.script = lambda sent: Reply(400, b"no such thing", {})
        async with memory.sampled(w):
            client = ask(w, 1, 100_000)
            reply = await client
            assert isinstance(reply, Reply)
            assert (reply.status, reply.body) == (400, b"no such thing")
        assert len(worker.sent) == 1
        w.check_empty()


async def test_a_client_that_leaves_during_a_trial_leaves_nothing() -> None:
    """Its row does not come back into the queue."""
    memory = Memory(squared, 4 << 30)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w):
            client = ask(w, 1, 30_000)
            await asyncio.sleep(0.1)
            client.leave()
            await asyncio.sleep(1)
            assert len(w.workers[0].sent) == 1
            w.check_empty()


async def test_what_can_not_be_divided_goes_whole_or_is_refused() -> None:
    """A body that is only counted leaves when nothing else is there; nothing of it is tried."""
    memory = Memory(squared, 8 << 30)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w):
            await ask(w, 8, 500)
            body = orjson.dumps({"model": "a", "input": ["x" * 900] * 40, "encoding_format": "other"})
            client = w.ask(raw=body)
            await w.settle()
            w.loosened = True
            w.check_part = lambda worker, rows: None  # type: ignore[method-assign]
            await client
        assert len(w.workers[0].sent) == 2
        assert len(w.workers[0].sent[1].rows) == 40


# -- waiting --------------------------------------------------------------------------------------------------------


async def known(w: World, memory: Memory, longest: int = 20_000) -> None:
    """Let the model be known up to this length."""
    foreign, memory.foreign = memory.foreign, 0
    memory.order(w)
    for length in (500, 2000, 8000, longest, longest):
        await ask(w, 1, length)
    memory.foreign = foreign


async def test_a_row_waits_for_others_to_use_less_and_lines_go_by() -> None:
    """What would fit without the others' use is not refused: it waits, harms nobody, and leaves when they have gone."""
    memory = Memory(squared, 4 << 30, foreign=3 << 30)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        await known(w, memory)
        async with memory.sampled(w):
            await asyncio.sleep(1.5)
            long = ask(w, 2, 20_000)
            lines = [ask(w, 1, 30) for _ in range(5)]
            await asyncio.gather(*(line.task for line in lines))
            assert all(line.right for line in lines)
            await asyncio.sleep(10)
            assert not long.done
            memory.foreign = 0
            await asyncio.wait_for(long.task, 3)
            assert long.right
        assert memory.kills == 0


async def test_a_guess_is_no_refusal_while_others_use_the_memory() -> None:
    """A row far longer than what could be tried beside the others waits; once they have gone it is tried, and fits."""
    memory = Memory(truncating, 4 << 30, foreign=3200 * MIB)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        memory.foreign = 0
        memory.order(w)
        for _ in range(2):
            await ask(w, 1, 200)
        memory.foreign = 3340 * MIB
        async with memory.sampled(w):
            await asyncio.sleep(1.5)
            client = ask(w, 1, 100_000)
            await asyncio.sleep(5)
            assert not client.done
            memory.foreign = 0
            await asyncio.wait_for(client.task, 5)
            assert client.right


@pytest.mark.parametrize("half_done", [False, True])
async def test_a_wait_for_memory_ends(half_done: bool) -> None:
    """After `max_wait` it is refused, with what is missing, also when some of the request was answered before."""
    memory = Memory(squared, 4 << 30)
    async with world(peaks=memory, max_wait=20) as w:
        memory.place(w, w.up())
        await known(w, memory, 40_000)
        async with memory.sampled(w):
            memory.foreign = 0 if half_done else 1700 * MIB
            await asyncio.sleep(1.5)
            began, parts = w.now, len(w.workers[0].sent)
            client = ask(w, 8, 40_000)
            await asyncio.sleep(0.3)
            memory.foreign = 1700 * MIB
            await asyncio.wait_for(client.task, 100)
            assert client.refusal.reason is Reason.PAUSED
            assert "MiB of memory" in str(client.refusal)
            assert 19 < w.now - began < 45
            assert (len(w.workers[0].sent) > parts) == half_done
        assert memory.kills == 0
        w.check_empty()


async def test_lanes_share_the_room_and_take_turns() -> None:
    """Two models whose parts fit one at a time: together they stay below the threshold, and neither starves."""
    memory = Memory(squared, 3 << 30)
    async with world("a", "b", peaks=memory, max_wait=1000) as w:
        for model in ("a", "b"):
            memory.place(w, w.up(model))
        async with memory.sampled(w):
            await asyncio.gather(*(ask(w, 4, 3000, model).task for model in ("a", "b", "a", "b")))
            clients = [ask(w, 8, 14_000, model) for model in ("a", "b") for _ in range(8)]
            while not all(client.done for client in clients):
                await asyncio.sleep(0.05)
                assert memory.used <= 0.95 * memory.limit
            assert all(client.right for client in clients)
            ends = [max(client.answered_at or 0.0 for client in clients[i : i + 8]) for i in (0, 8)]
            assert max(ends) < 1.5 * min(ends)


async def test_a_long_row_is_not_kept_waiting_by_another_lane() -> None:
    """A row that needs nearly all of the room gets it after what is at the other worker, however much waits there."""
    memory = Memory(squared, 3 << 30)
    async with world("a", "b", peaks=memory, max_wait=1000) as w:
        for model in ("a", "b"):
            memory.place(w, w.up(model))
        async with memory.sampled(w, batch=8):
            for longest in (500, 2000, 8000, 20_000, 39_500):
                await ask(w, 1, longest, "b")
            await ask(w, 8, 1000)
            crowd = [ask(w, 8, 1000) for _ in range(300)]
            await asyncio.sleep(2.1)
            assert memory.used > 2 * LOADED + squared(8, 1000)
            began = w.now
            await ask(w, 1, 39_500, "b")
            assert w.now - began < 1.5
            assert not crowd[-1].done
            await asyncio.gather(*(client.task for client in crowd))
        assert memory.kills == 0


@pytest.mark.parametrize(("foreign", "rows"), [(2 << 30, 1), (4 << 30, 1)])
async def test_one_row_trickles_up_to_the_last_level(foreign: int, rows: int) -> None:
    """Through a closed gate one row passes if it fits; a short one however full the host is, a long one not."""
    memory = Memory(squared, 4 << 30)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        await known(w, memory)
        memory.foreign = foreign
        memory.order(w, paused=True, trickle=4)
        line = ask(w, 4, 30)
        await asyncio.sleep(0.3)
        assert [len(sent.rows) for sent in w.workers[0].sent[5:]] == [rows]
        line.leave()
        await asyncio.sleep(0.1)
        long = ask(w, 1, 20_000)
        memory.order(w, paused=True, trickle=4)
        await asyncio.sleep(0.3)
        assert long.done == (foreign == 2 << 30)
        long.leave()


# -- deaths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [True, False])
async def test_a_killed_worker_gets_smaller_parts(killed: bool) -> None:
    """SIGKILL that was not ours, with a part at the worker, lowers what leaves to 70 %; any other end does not."""
    memory = Memory(truncating, 64 << 30)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w, window=1):
            for _ in range(6):
                await ask(w, 32, 1000)
            client = ask(w, 32, 1000)
            await asyncio.sleep(0.1)
            w.dispatcher.detach("a", killed)
            memory.processes.clear()
            memory.place(w, w.up())
            await client
            assert client.right
        assert widest(w, 1) == (22 if killed else 32)


async def test_a_kill_under_the_first_part_makes_no_short_text_too_large() -> None:
    """Nothing is known of the model yet, and the host has plenty: who killed it did that for no want of memory."""
    memory = Memory(squared, 16_384 * MIB, seconds=1.0)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w):
            client = ask(w, 1, 13)
            await asyncio.sleep(0.5)
            w.dispatcher.detach("a", killed=True)
            memory.processes.clear()
            memory.place(w, w.up())
            assert (await client).status == 200
            assert (await ask(w, 1, 200)).status == 200


async def test_an_idle_worker_that_is_killed_teaches_nothing() -> None:
    """Nothing of ours was there, so nothing of ours was too large."""
    memory = Memory(truncating, 64 << 30)
    async with world(peaks=memory) as w:
        memory.place(w, w.up())
        async with memory.sampled(w, window=1):
            await ask(w, 32, 1000)
            w.dispatcher.detach("a", True)
            memory.place(w, w.up())
            await ask(w, 32, 1000)
        assert widest(w, 1) == 32


async def test_a_part_is_remembered_when_its_connection_breaks_first() -> None:
    """The answer is lost a moment before anybody knows how the worker ended."""
    memory = Memory(truncating, 64 << 30)
    async with world(peaks=memory) as w:
        worker = w.up()
        memory.place(w, worker)
        async with memory.sampled(w, window=1):
            await ask(w, 32, 1000)
            memory.limit, full = LOADED, memory.limit
            client = ask(w, 32, 1000)
            await asyncio.sleep(0.205)
            memory.limit = full
            assert memory.kills == 1
            await asyncio.sleep(0.05)
            memory.place(w, w.up())
            await client
            assert client.right
        assert widest(w, 1) == 22


@pytest.mark.parametrize("need", [squared, truncating, unpadded])
@pytest.mark.parametrize("keeps", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(4))
async def test_growing_inputs_kill_nobody(need: Need, keeps: float, seed: int) -> None:
    """Clients whose rows grow without end: every request is answered or told that it is too large; no kill, no hang."""
    rnd = random.Random(seed)
    memory = Memory(need, rnd.choice([1024, 1536, 4096]) * MIB, keeps=keeps)
    async with world(peaks=memory, max_wait=1000) as w:
        memory.place(w, w.up())
        async with memory.sampled(w, window=rnd.choice([1, 2, 4])):
            longest, ends = 20.0, set()
            while longest < 60_000:
                clients = [ask(w, rnd.randint(1, 32), max(1, int(longest * rnd.uniform(0.3, 1)))) for _ in range(3)]
                await asyncio.wait_for(asyncio.gather(*(client.task for client in clients)), 500)
                ends |= {status(client) for client in clients}
                assert all(client.right or client.refusal.status == 413 for client in clients)
                longest *= rnd.uniform(1.1, 2.5)
        assert memory.kills == 0
        assert 200 in ends
        if need is truncating:
            assert ends == {200}
        w.check_empty()
