"""The dispatcher in virtual time: a CPU hold that begins or ends while parts wait for it or run."""

import asyncio

import pytest

from tests.support.dispatching import world

pytestmark = pytest.mark.looptime


async def test_orders_that_close_the_gate_and_end_the_hold_let_nothing_leave() -> None:
    """What the CPU hold kept back is not released into a pause, nor in parts of the size before."""
    async with world("a", "b") as w:
        w.order(4, 2, hold=30.0)
        a, b = w.up("a", seconds=0.1), w.up("b", seconds=0.1)
        held = [w.ask(name, rows=8, name=name) for name in "ab"]
        w.dispatcher.observe_cpu(2.0, 2.0, w.now)
        await asyncio.sleep(0.01)
        assert (len(a.sent), len(b.sent)) == (1, 0), "after an idle time one part may always go"
        w.order(2, 2, paused=True)
        await asyncio.sleep(1)
        assert (len(a.sent), len(b.sent)) == (1, 0)
        w.order(2, 2)
        await asyncio.gather(*(client.task for client in held))
        assert [len(sent.rows) for sent in a.sent + b.sent] == [4, 2, 2, 2, 2, 2, 2]
        assert all(client.right for client in held)


async def test_a_hold_that_begins_under_a_running_part_charges_nobody_for_the_past() -> None:
    """What our workers used before is nobody's: no part is thought to take more than the cores there are."""
    async with world() as w:
        w.order(4, 2)
        worker = w.up(seconds=0.5)
        w.own_cpu = 1000.0
        clients = [w.ask(rows=4, name="first")]
        await asyncio.sleep(0.2)
        w.order(4, 2, hold=90.0)
        clients += [w.ask(rows=4, name=f"n{i}.") for i in range(8)]
        charged = []
        for _ in range(600):
            await asyncio.sleep(0.01)
            w.own_cpu += 0.01 if worker.running else 0.0
            w.dispatcher.observe_cpu(1.0 if worker.running else 0.0, 2.0, w.now)
            charged += [part.core_seconds for lane in w.dispatcher._lanes for part in lane.parts]
        assert all(client.right for client in clients)
        assert max(charged) <= 1.0


async def test_a_part_from_before_the_hold_does_not_end_anothers_charge() -> None:
    """It was never charged for; the one that was keeps what is reserved for it until its own end."""
    async with world() as w:
        w.order(4, 2)
        worker = w.up()
        worker.takes = lambda sent: 1.0 if sent.rows[0].startswith("before") else 10.0
        clients = [w.ask(rows=4, name="before")]
        await asyncio.sleep(0.2)
        w.order(4, 2, hold=30.0)
        clients.append(w.ask(rows=4, name="held"))
        await asyncio.sleep(2)
        assert [client.done for client in clients] == [True, False]
        assert w.dispatcher._pump.throttle.hold._inflight == 1
        await clients[1]
        w.check_empty()
