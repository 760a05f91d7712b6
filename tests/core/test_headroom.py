"""What the parts may take of memory, as orders say it: now, at the last, and at best."""

from dataclasses import replace

from supervisor.core.headroom import Headroom
from supervisor.core.model import Known, LaneOrders, Missing, ModelState, ModelView, Orders, Sample, WorkerUse
from supervisor.core.policy import Thresholds

MIB = 1 << 20
LIMIT = 10_000 * MIB
NOTHING = Missing("none", 0)
MODEL = ModelView("a", ModelState.READY, ready_since=5.0)
ORDERS = Orders(lanes={"a": LaneOrders(), "b": LaneOrders()})
OTHER = ModelView("b", ModelState.READY, ready_since=6.0)


def sample(used: int, limit: int = LIMIT) -> Sample:
    """A look at memory alone."""
    reading = Known(100 * used * MIB / limit, 0.0)
    return Sample(0.0, NOTHING, reading, NOTHING, NOTHING, memory_used=used * MIB, memory_limit=limit)


def use(**held: int) -> dict[str, WorkerUse]:
    """What workers hold, in MiB; each has a pid."""
    return {name: WorkerUse(0.0, size * MIB, 0, 70 + len(name)) for name, size in held.items()}


def put(headroom: Headroom, used: int, drilled: bool = False, **held: int) -> Orders:
    """The orders on such a sample."""
    return headroom.put(ORDERS, sample(used), Thresholds(), [MODEL, OTHER], use(**held), drilled)


def test_room_reaches_to_shrink_and_at_the_last_to_unload() -> None:
    """85 and 95 % of the limit, less what is used; the worker's process comes with it."""
    orders = put(Headroom(), 3000, a=1000)
    assert orders.memory_room == 5500 * MIB
    assert orders.memory_last == 6500 * MIB
    assert orders.lanes["a"].main_pid == 71
    assert orders.lanes["b"].main_pid is None


def test_nothing_is_asked_of_a_process_that_nobody_shows_us() -> None:
    """A model that somebody else runs is bounded by memory only as far as its process is known."""
    attached = replace(MODEL, managed=False)
    for held, asked in (({}, None), ({"a": 1000}, 71)):
        orders = Headroom().put(ORDERS, sample(3000), Thresholds(), [attached], use(**held), False)
        assert orders.lanes["a"].main_pid == asked
        assert (orders.lanes["a"].memory_ever is None) == (asked is None)


def test_room_may_be_negative() -> None:
    """Above the threshold there is less than nothing."""
    assert put(Headroom(), 9000).memory_room == -500 * MIB


def test_at_best_others_use_the_least_they_ever_did() -> None:
    """Unload, less the least use of others seen, less what this worker holds once loaded; other models are gone."""
    headroom = Headroom()
    put(headroom, 3000, a=1000, b=500)  # others: 1,500
    orders = put(headroom, 5000, a=1400, b=700)
    assert orders.lanes["a"].memory_ever == (9500 - 1500 - 1000) * MIB
    assert orders.lanes["b"].memory_ever == (9500 - 1500 - 500) * MIB
    assert put(headroom, 1000, a=1000).lanes["a"].memory_ever == 8500 * MIB


def test_the_process_of_a_group_stays_as_a_whole() -> None:
    """The other models of a worker do not go when all others do: what they hold is no room for its parts."""
    models = [replace(model, group="g") for model in (MODEL, OTHER)]
    orders = Headroom().put(ORDERS, sample(3000), Thresholds(), models, use(a=1000, b=1000), False)
    assert orders.lanes["a"].memory_ever == orders.lanes["b"].memory_ever == (9500 - 1000 - 2000) * MIB


def test_a_new_worker_has_a_level_of_its_own() -> None:
    """The least that it held since it became ready; while it loads, what it holds is no measure."""
    headroom = Headroom()
    put(headroom, 3000, a=1000)
    again = replace(MODEL, ready_since=50.0)
    for model in (again, replace(MODEL, state=ModelState.STARTING, ready_since=None)):
        orders = headroom.put(ORDERS, sample(3000), Thresholds(), [model], use(a=1200), False)
        assert orders.lanes["a"].memory_ever == (9500 - 1800 - 1200) * MIB


def test_another_limit_is_another_host() -> None:
    """A container that was given other bounds: what others used is learned anew."""
    headroom = Headroom()
    put(headroom, 1000)
    orders = headroom.put(ORDERS, sample(3000, LIMIT // 2), Thresholds(), [MODEL], {}, False)
    assert orders.lanes["a"].memory_ever == (4750 - 3000) * MIB


def test_no_orders_where_memory_is_not_known() -> None:
    """Drilled or unreadable: nothing is asked, and a drill teaches nothing about others."""
    headroom = Headroom()
    assert put(headroom, 100, drilled=True) == ORDERS
    blind = replace(sample(0, LIMIT), memory=Missing("gone", 0.0))
    assert headroom.put(ORDERS, blind, Thresholds(), [MODEL], {}, False) == ORDERS
    assert put(Headroom(), 2000, drilled=True) == ORDERS
    assert headroom.put(ORDERS, replace(blind, memory_limit=0), Thresholds(), [MODEL], {}, False) == ORDERS


def test_a_drill_teaches_nothing() -> None:
    """What others used in it was not real."""
    headroom = Headroom()
    put(headroom, 2000)
    put(headroom, 10, drilled=True)
    assert put(headroom, 2000).lanes["a"].memory_ever == 7500 * MIB


def test_a_models_gpu_is_left_out() -> None:
    """Its parts take another memory."""
    gpu = replace(MODEL, device="GPU-1")
    orders = Headroom().put(ORDERS, sample(3000), Thresholds(), [gpu, OTHER], use(a=100), False)
    assert orders.lanes["a"] == ORDERS.lanes["a"]
    assert orders.lanes["b"].memory_ever is not None


def test_a_threshold_that_is_off() -> None:
    """Shrink and unload stand in for each other; with both off nothing is asked."""
    for thresholds, room, last in (
        (Thresholds(shrink=None), 6500, 6500),
        (Thresholds(unload=None), 5500, 5500),
    ):
        orders = Headroom().put(ORDERS, sample(3000), thresholds, [MODEL], {}, False)
        assert (orders.memory_room, orders.memory_last) == (room * MIB, last * MIB)
    off = Thresholds(shrink=None, unload=None)
    assert Headroom().put(ORDERS, sample(3000), off, [MODEL], {}, False) == ORDERS
