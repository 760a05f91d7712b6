"""The fair queue: shares of classes and clients, merging, what came back, the estimate, and nothing left behind.

The server here is the plainest there is: parts of up to 32 rows, one after the other, filled by merge key. A row
costs 1.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisor.core.fair_queue import WEIGHTS, FairQueue, Priority, priority_of

INTERACTIVE, NORMAL, BULK = Priority
PART = 32


@dataclass(eq=False, slots=True)
class Request:
    """An entry; `cost` is the rows of it that wait. `key` "x+y" stands for two keys."""

    number: int
    client: str
    cost: float
    priority: Priority = NORMAL
    key: str | None = "embed"
    mark: float = field(default=0.0)

    @property
    def keys(self) -> tuple[str, ...]:
        """As the queue wants them."""
        return () if self.key is None else tuple(self.key.split("+"))


Part = list[tuple[Request, float]]


class Host:
    """A queue, numbers for its entries, and a server that takes one part at a time."""

    def __init__(self) -> None:
        self.queue: FairQueue[Request] = FairQueue()
        self.numbers = count()
        self.served: Counter[str] = Counter()

    def add(
        self, client: str, rows: float, priority: Priority = NORMAL, key: str | None = "embed", times: int = 1
    ) -> Request:
        """The last of so many equal requests that now wait."""
        for _ in range(times):
            request = Request(next(self.numbers), client, rows, priority, key)
            self.queue.add(request)
        return request

    def part(self, most: float = PART) -> Part:
        """Takes the next part."""
        part: Part = []
        request = self.queue.first()
        while request is not None and most > 0:
            rows = min(request.cost, most)
            request.cost -= rows
            most -= rows
            self.queue.charge(request, rows)
            if request.cost <= 0:
                self.queue.remove(request)
            part.append((request, rows))
            self.served[request.client] += rows
            self.served[request.priority] += rows
            request = self.queue.next_like(request.keys[0]) if request.keys else None
        return part

    def lose(self, part: Part) -> None:
        """A part comes back."""
        for request, rows in part:
            request.cost += rows
            self.queue.put_first(request)

    def parts_until(self, request: Request, limit: int = 10_000) -> int:
        """How many parts leave until nothing of this request waits, that part included."""
        for number in range(1, limit + 1):
            self.part()
            if request not in self.queue:
                return number
        raise AssertionError(f"still waiting after {limit} parts")


def rows_of(part: Part) -> float:
    """How many rows it has."""
    return sum(rows for _, rows in part)


def assert_empty(queue: FairQueue[Request]) -> None:
    """Nothing is left of anybody, in any container."""
    queue.check_invariants()
    assert len(queue) == 0
    assert queue.first() is None
    assert not queue._held
    assert not queue._returned
    for class_ in queue._order:
        clients = class_.clients
        for container in (clients._clients, clients._orders, clients._left):
            assert not container
        backlog = clients.backlog
        for container in (backlog._changed, backlog._binned, backlog._bins):
            assert not container


@pytest.mark.parametrize(
    ("header", "inputs", "priority"),
    [
        (None, 1, INTERACTIVE),
        (None, 4, INTERACTIVE),
        (None, 5, NORMAL),
        (None, 256, NORMAL),
        (None, 257, BULK),
        ("bulk", 1, BULK),
        (" Interactive ", 2048, INTERACTIVE),
        ("NORMAL", 1, NORMAL),
        ("urgent", 1, INTERACTIVE),
        ("", 257, BULK),
    ],
)
def test_priority_is_the_word_of_the_header_or_else_goes_by_inputs(
    header: str | None, inputs: int, priority: Priority
) -> None:
    """A valid word wins whatever the case; without one, and with any other, the number of inputs decides."""
    assert priority_of(header, inputs) is priority


# -- clients of one class --------------------------------------------------------------------------------------------


def test_one_line_behind_a_large_request_waits_two_parts_at_most() -> None:
    """A query that comes while 2,048 inputs of another client wait is in one of the next two parts."""
    host = Host()
    host.add("large", 2048)
    for _ in range(60):
        for _ in range(3):
            host.part()
        assert host.parts_until(host.add("small", 1, key="other"), 2) <= 2
        if not len(host.queue):
            break


def test_one_line_behind_a_thousand_requests_waits_two_parts_at_most() -> None:
    """It is not the number of requests that counts but the number of clients."""
    host = Host()
    host.add("many", 1, key=None, times=1000)
    for _ in range(40):
        host.part()
    assert host.parts_until(host.add("single", 1, key=None), 2) <= 2


def test_clients_get_equal_cost_whatever_the_size_of_their_requests() -> None:
    """Three clients with requests of 1, 20 and 700 rows are served the same number of rows."""
    host = Host()
    host.add("a", 1, times=4000, key="a")
    host.add("b", 20, times=200, key="b")
    host.add("c", 700, times=6, key="c")
    for _ in range(300):
        host.part()
        shares = [host.served[client] for client in "abc"]
        assert max(shares) - min(shares) <= PART


def test_a_client_with_alternating_keys_fills_its_parts() -> None:
    """A gateway in front of many callers, two models' options in turn: each part is full and of one key."""
    host = Host()
    for _ in range(640):
        host.add("gateway", 1, key="floats")
        host.add("gateway", 1, key="base64")
    keys = []
    while len(host.queue):
        part = host.part()
        assert rows_of(part) == PART
        assert len({request.key for request, _ in part}) == 1
        numbers = [request.number for request, _ in part]
        assert numbers == sorted(numbers)
        keys.append(part[0][0].key)
    assert keys == ["floats", "base64"] * 20


def test_an_entry_gets_another_key_and_keeps_its_turn() -> None:
    """It is found by the new one only, before later entries of its client; by none, it waits on."""
    host = Host()
    first = host.add("a", 8, key="long")
    second = host.add("a", 1, key="short")
    third = host.add("a", 1, key="short")
    first.key = "short"
    host.queue.rekey(first, ("long",))
    host.queue.check_invariants()
    assert host.queue.next_like("long") is None
    assert [request for request, _ in host.part(9)] == [first, second]
    third.key = None
    host.queue.rekey(third, ("short",))
    host.queue.check_invariants()
    assert host.queue.next_like("short") is None
    assert host.queue.first() is third
    third.key = "long"
    host.queue.rekey(third, ())
    assert host.queue.next_like("long") is third
    host.queue.remove(third)
    with pytest.raises(KeyError):
        host.queue.rekey(third, ("long",))
    assert_empty(host.queue)


def test_a_part_is_filled_with_one_entry_of_each_client_in_turn() -> None:
    """Filling is fair too: of three clients with the same key, nobody gets into a part twice before all did once."""
    host = Host()
    for client in "abc":
        host.add(client, 1, times=32)
    assert [request.client for request, _ in host.part(9)] == list("abcabcabc")


def test_entries_without_a_key_leave_alone() -> None:
    """None is not a key to merge by."""
    host = Host()
    host.add("a", 1, key=None, times=3)
    assert host.queue.next_like(None) is None
    lost = [host.part(), host.part()]
    for part in lost:
        host.lose(part)
    assert [len(host.part()) for _ in range(3)] == [1, 1, 1]


def test_of_equal_clients_the_one_served_longest_ago_is_next() -> None:
    """Equal cost served leaves a round in the order of the last one, and newcomers in order of arrival."""
    host = Host()
    for client in "cabbbaaacc":
        host.add(client, 2, key=client)
    assert [host.part(2)[0][0].client for _ in range(9)] == list("cab" * 3)


def test_leaving_and_returning_gains_a_client_nothing() -> None:
    """Who always has but one request waiting, and comes back at once, is served no more than who always waits."""
    host = Host()
    host.add("stays", 1, times=20_000, key=None)
    host.add("also", 1, times=20_000, key=None)
    guest = host.add("comes", PART, key=None)
    for _ in range(6000):
        host.part()
        if guest not in host.queue:
            guest = host.add("comes", PART, key=None)
    host.queue.check_invariants()
    assert host.served["comes"] <= host.served["stays"] + 2 * PART
    assert host.served["comes"] >= 0.9 * host.served["stays"]


def test_being_away_earns_a_client_nothing() -> None:
    """A client that was away while others were served begins with a share like theirs, not with what it missed."""
    host = Host()
    host.add("here", 1, times=4000, key=None)
    host.add("back", 1, key=None)
    host.add("there", 1, times=4000, key=None)
    for _ in range(3000):
        host.part()
    host.add("back", 1, times=1000, key=None)
    before = Counter(host.served)
    for _ in range(90):
        host.part()
    gained = [host.served[client] - before[client] for client in ("here", "there", "back")]
    assert max(gained) - min(gained) <= 2


def test_newcomers_without_end_do_not_starve_who_waits() -> None:
    """Each part a fresh client with a part's rows: who waits with much gets his share beside all who wait, not none.

    After n parts for him n fresh clients wait too, so he gets every n-th: the square root of twice the parts in all.
    """
    host = Host()
    host.add("waits", 5000, key=None)
    for number in range(1, 2000):
        host.add(f"fresh {number}", 4, key=None)
        host.part(4)
        assert host.served["waits"] / 4 >= 0.8 * (2 * number) ** 0.5 - 2
    host.queue.check_invariants()


def parts_led_by_another(host: Host, request: Request, limit: int) -> int:
    """How many parts leave until this request has left, while another client always waits with keys "x" and None.

    Each second part is one row of his with key "x", and has room for 31 of others.
    """
    for number in range(1, limit + 1):
        if number % 2:
            host.add("leads", 1, key="x")
            host.add("leads", 1, key=None)
        host.part()
        if request not in host.queue:
            return number
    raise AssertionError(f"still waiting after {limit} parts")


@pytest.mark.parametrize(("priority", "most"), [(NORMAL, 100), (BULK, 300)])
def test_filling_the_parts_of_another_does_not_starve_the_own_entry_of_a_rare_key(
    priority: Priority, most: int
) -> None:
    """Who is served by filling what another leaves of his parts still gets his turn, for his oldest entry."""
    host = Host()
    host.add("leads", 1, key=None, times=2)
    filled = host.add("fills", 31 * 5, priority, key="x")
    rare = host.add("fills", 1, priority, key=None)
    host.add("fills", 100_000, priority, key="x")
    parts_led_by_another(host, filled, 20)
    assert rare in host.queue
    assert parts_led_by_another(host, rare, most) <= most


@pytest.mark.parametrize(("priority", "most"), [(NORMAL, 300), (BULK, 500)])
def test_room_that_nobody_else_could_use_is_no_debt(priority: Priority, most: int) -> None:
    """After filling the parts of another for long, a client has his turn soon when he has no more with that key."""
    host = Host()
    host.add("leads", 1, key=None, times=2)
    host.add("fills", 31 * 100, priority, key="x")
    last = host.add("fills", 1, priority, key="y")
    assert parts_led_by_another(host, last, most) >= 100


def test_one_huge_row_loosens_the_bound_on_filling_for_a_while_only() -> None:
    """Hundreds of services after a row of 5,000, room that nobody else could use is no debt either."""
    host = Host()
    host.add("huge", 5000, key=None)
    host.add("leads", 1, key=None, times=702)
    host.part(5000)
    for _ in range(700):
        host.part()
    host.add("fills", 31 * 100, key="x")
    last = host.add("fills", 1, key="y")
    assert parts_led_by_another(host, last, 300) >= 100


# -- classes ---------------------------------------------------------------------------------------------------------


def test_classes_are_served_by_weight() -> None:
    """While all three wait, they get 8 : 4 : 1."""
    host = Host()
    for priority, rows in ((INTERACTIVE, 1), (NORMAL, 4), (BULK, 8)):
        host.add(f"{rows} rows", rows, priority, key=None, times=20_000)
    while host.served[BULK] < 1000:
        host.part()
    for priority, weight in WEIGHTS.items():
        assert abs(host.served[priority] / weight - 1000) <= 8


def test_many_clients_of_a_class_do_not_make_it_heavier() -> None:
    """A hundred interactive clients leave the one bulk client its thirteenth."""
    host = Host()
    for number in range(100):
        host.add(f"client {number}", 1, INTERACTIVE, key=None, times=50)
    host.add("client 0", 1, NORMAL, key=None, times=5000)
    host.add("heavy", 1, BULK, key=None, times=5000)
    for _ in range(2600):
        host.part()
    assert abs(host.served[BULK] - 200) <= 1


def test_of_equal_classes_the_higher_goes_first() -> None:
    """On an empty queue, arrival does not matter between classes."""
    host = Host()
    requests = [host.add("client", 1, priority, key=None) for priority in (BULK, NORMAL, INTERACTIVE)]
    assert [host.part()[0][0] for _ in range(3)] == requests[::-1]


def test_being_idle_earns_a_class_nothing() -> None:
    """After an hour without interactive requests, they get their weight's share and no more."""
    host = Host()
    host.add("heavy", 1, BULK, key=None, times=20_000)
    host.add("early", 1, INTERACTIVE, key=None)
    for _ in range(10_000):
        host.part()
    host.add("late", 1, INTERACTIVE, key=None, times=2000)
    before = host.served[BULK]
    for _ in range(900):
        host.part()
    assert abs(host.served[BULK] - before - 100) <= 1


def test_a_class_that_comes_and_goes_gains_nothing() -> None:
    """Interactive requests of which only one waits at a time leave bulk its ninth."""
    host = Host()
    host.add("heavy", 1, BULK, key=None, times=5000)
    guest = host.add("guest", 1, INTERACTIVE, key=None)
    for _ in range(1800):
        host.part()
        if guest not in host.queue:
            guest = host.add("guest", 1, INTERACTIVE, key=None)
    assert abs(host.served[BULK] - 200) <= 2


@pytest.mark.parametrize("most", [1, 20])
def test_clients_that_left_are_remembered_in_bounds(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """However many clients come once each while others wait, few are kept, and fairness goes on."""
    monkeypatch.setattr("supervisor.core.fair_clients.LEFT_MOST", most)
    host = Host()
    for number in range(100):
        host.add(f"waits {number}", 500, key=None)
    for number in range(3000):
        host.add(f"fresh {number}", 1, key="x")
        host.part()
        if number % 20 == 0:
            host.queue.check_invariants()
    assert len(host.queue._classes[NORMAL].clients) <= len(host.queue) + most


# -- what came back --------------------------------------------------------------------------------------------------


def test_what_came_back_goes_first_in_order_of_arrival() -> None:
    """Two lost parts leave again before everything else, oldest first, also before a higher class."""
    host = Host()
    first = host.add("a", 16, BULK, key="x", times=1)
    second = host.add("a", 16, BULK, key="y")
    parts = [host.part(), host.part()]
    assert [part[0][0] for part in parts] == [first, second]
    urgent = host.add("b", 1, INTERACTIVE, key="x")
    host.lose(parts[1])
    host.lose(parts[0])
    host.queue.check_invariants()
    assert list(host.queue) == [first, second, urgent]
    assert host.queue.next_like("y") is second
    assert host.queue.next_like("x") is first
    assert [request for request, _ in host.part()] == [first, urgent]
    assert host.part()[0][0] is second
    assert_empty(host.queue)


def test_what_came_back_is_not_paid_again() -> None:
    """A client of whose rows one was sent eleven times gets as many rows done as the other, before it is his turn."""
    host = Host()
    host.add("lucky", PART, key=None)
    host.add("unlucky", 1, key=None, times=50)
    host.add("lucky", 1, key=None, times=50)
    while host.served["unlucky"] < 10:
        part = host.part()
    for _ in range(10):
        host.lose(part)
        host.queue.check_invariants()
        assert host.part() == part
    while host.served["lucky"] < PART + 1:
        host.part()
    assert abs(host.served["unlucky"] - 10 - PART) <= 1


def test_a_large_request_overtakes_nobody_when_one_of_its_parts_is_lost() -> None:
    """Only the rows that came back go first; the rest of their request keeps its place."""
    host = Host()
    large = host.add("large", 2048, key="x")
    part = host.part()
    host.lose(part)
    assert large.cost == 2048
    small = host.add("small", 1, key="y")
    assert host.queue.first() is large
    assert host.parts_until(small, 3) <= 3
    assert large in host.queue


def test_what_came_back_can_be_given_up() -> None:
    """A request that came back is removed like any other, whole or in part."""
    host = Host()
    large = host.add("a", 100)
    small = host.add("b", 5, key=None)
    parts = [host.part(), host.part()]
    for part in parts:
        host.lose(part)
    for request in (large, small, small):
        host.queue.remove(request)
        host.queue.check_invariants()
    assert_empty(host.queue)


# -- edges of the interface ------------------------------------------------------------------------------------------


def test_adding_twice_and_charging_a_stranger_are_errors() -> None:
    """Both would make sums wrong in silence; removing a stranger is harmless."""
    host = Host()
    request = host.add("a", 1)
    with pytest.raises(ValueError, match="waits already"):
        host.queue.add(request)
    for cost in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="cost"):
            host.queue.charge(request, cost)
    host.queue.remove(request)
    host.queue.remove(request)
    with pytest.raises(KeyError):
        host.queue.charge(request, 1.0)
    assert_empty(host.queue)


def test_entries_that_come_and_are_given_up_leave_no_trace() -> None:
    """While others wait and nothing is sent (a closed gate), neither callers nor their keys pile up anywhere."""
    host = Host()
    host.add("waits", 1)
    for number in range(5000):
        host.queue.remove(host.add(f"client {number % 7}", 1, key=f"key {number % 3}"))
        host.queue.remove(host.add(f"stranger {number}", 1, key="embed"))
    clients = host.queue._classes[NORMAL].clients
    assert len(clients) == 1
    assert sum(len(order._heap) for order in clients._orders.values()) < 100
    host.queue.check_invariants()


# -- the estimate ----------------------------------------------------------------------------------------------------


def served_until_done(host: Host, client: str, priority: Priority, rows: float) -> float:
    """What is really served until a new request of this client is done, in parts of one row."""
    request = host.add(client, rows, priority, key=None)
    served = 0.0
    while request in host.queue:
        served += rows_of(host.part(1))
    return served


BACKLOG = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "d", "e"]), st.integers(1, 120), st.sampled_from(list(Priority))),
    max_size=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(BACKLOG, st.sampled_from(["a", "new"]), st.integers(1, 90), st.sampled_from(list(Priority)))
def test_the_estimate_is_what_is_served(
    backlog: Iterable[tuple[str, int, Priority]], client: str, rows: int, priority: Priority
) -> None:
    """On any backlog of a few clients, the estimate is right within a row of each of them, by the weights."""
    host = Host()
    for name, size, class_ in backlog:
        host.add(name, size, class_, key=None)
    estimate = host.queue.cost_ahead(client, priority, rows)
    assert abs(served_until_done(host, client, priority, rows) - estimate) <= 6 + 2 * 13 / WEIGHTS[priority]


def test_the_estimate_counts_what_came_back() -> None:
    """What goes before everything else is ahead of a request of any class."""
    host = Host()
    host.add("a", PART, BULK, key=None)
    host.lose(host.part())
    assert host.queue.cost == PART
    assert host.queue.cost_ahead("b", INTERACTIVE, 3) == PART + 3
    assert served_until_done(host, "b", INTERACTIVE, 3) == PART + 3


def test_the_estimate_over_many_clients_is_never_too_low_nor_twice_too_high() -> None:
    """With hundreds of clients, as their backlogs change, it stays between the exact figure and its double."""
    random = Random(11)
    host = Host()
    live: list[Request] = []
    for step in range(1500):
        live.append(host.add(f"client {random.randrange(400)}", random.choice((1, 2, 7, 30, 2048))))
        if step % 3 == 0:
            host.queue.remove(live.pop(random.randrange(len(live))))
        if step % 5 == 0:
            host.part()
        if step % 50:
            continue
        rows, name = random.choice((1, 3, 20, 500)), f"client {random.randrange(500)}"
        waiting: Counter[str] = Counter()
        for request in host.queue:
            waiting[request.client] += request.cost
        own = rows + waiting.pop(name, 0)
        exact = own + sum(min(each, own) for each in waiting.values())
        estimate = host.queue.cost_ahead(name, NORMAL, rows)
        assert exact - 1e-6 <= estimate <= 2 * exact
        host.queue.check_invariants()


def test_the_estimate_over_many_clients_leaves_the_own_backlog_out_of_the_others() -> None:
    """A client's own entries are counted once; who has less than he counts in full."""
    host = Host()
    for number in range(100):
        host.add(f"client {number}", 1)
    host.add("large", 1000)
    assert host.queue.cost_ahead("large", NORMAL, 24) == 1124
    assert host.queue.cost_ahead("client 7", NORMAL, 5) == 6 + 99 + 6


# -- anything --------------------------------------------------------------------------------------------------------


class Anything(RuleBasedStateMachine):
    """Any order of arrivals, parts, losses and departures; the queue against a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.host = Host()
        self.live: list[Request] = []
        self.flying: list[Part] = []

    @rule(
        client=st.sampled_from("abc"),
        rows=st.sampled_from([0.25, 1, 3, 33, 100]),
        priority=st.sampled_from(list(Priority)),
        key=st.sampled_from([None, "x", "y"]),
    )
    def arrive(self, client: str, rows: float, priority: Priority, key: str | None) -> None:
        """A new request."""
        self.live.append(self.host.add(client, rows, priority, key))

    @rule(most=st.sampled_from([1, 32]))
    def send(self, most: int) -> None:
        """The next part leaves."""
        part = self.host.part(most)
        assert bool(part) == bool(self.live)
        if part:
            self.flying.append(part)
            self.live = [request for request in self.live if request.cost > 0]

    @precondition(lambda self: self.flying)
    @rule(pick=st.randoms(use_true_random=False), lost=st.booleans())
    def land(self, pick: Random, lost: bool) -> None:
        """A part is answered, or comes back."""
        part = self.flying.pop(pick.randrange(len(self.flying)))
        if lost:
            self.host.lose(part)
            self.live += [request for request, _ in part if request not in self.live]
            first = min((request for request, _ in part), key=lambda request: request.number)
            head = self.host.queue.first()
            assert head is not None
            assert head.number <= first.number

    @precondition(lambda self: self.live)
    @rule(pick=st.randoms(use_true_random=False))
    def give_up(self, pick: Random) -> None:
        """A client leaves; what of the request is at a worker will not come back."""
        gone = self.live.pop(pick.randrange(len(self.live)))
        self.host.queue.remove(gone)
        self.flying = [[piece for piece in part if piece[0] is not gone] for part in self.flying]
        self.flying = [part for part in self.flying if part]

    @precondition(lambda self: self.live)
    @rule(pick=st.randoms(use_true_random=False), key=st.sampled_from([None, "x", "y", "x+y", "y+x"]))
    def rekey(self, pick: Random, key: str | None) -> None:
        """Another key from now on, perhaps the same."""
        request = pick.choice(self.live)
        before, request.key = request.keys, key
        self.host.queue.rekey(request, before)

    @invariant()
    def agrees(self) -> None:
        """Sums, members and keys are those of the live requests."""
        queue = self.host.queue
        queue.check_invariants()
        assert len(queue) == len(self.live)
        assert set(queue) == set(self.live)
        assert abs(queue.cost - sum(request.cost for request in self.live)) < 1e-6
        assert all(request in queue for request in self.live)
        for key in ("x", "y"):
            found = queue.next_like(key)
            assert (found is None) == all(key not in request.keys for request in self.live)
            assert found is None or key in found.keys

    def teardown(self) -> None:
        """Nothing is left once all is served."""
        while self.host.part():
            pass
        assert_empty(self.host.queue)


Anything.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


class TestAnything(Anything.TestCase):  # type: ignore[misc, name-defined]
    """Runs the machine above."""


# -- a long run ------------------------------------------------------------------------------------------------------

CLIENTS = 12
ARRIVALS = 100_000


def test_a_hundred_thousand_arrivals_in_virtual_time() -> None:
    """With 1.3 times the load it can carry, with cancels, deadlines and lost parts, the queue keeps its promises.

    Sums equal the live entries; bulk keeps 5 % in every window in which it waits throughout; every request that stays
    is served within the bound that the shares promise; nothing is left at the end.
    """
    random = Random(20)
    host = Host()
    queue = host.queue
    now, total, worst, done, late, least_bulk = 0.0, 0.0, 0.0, 0, 0, 1.0
    window: list[tuple[float, float]] = []
    live: dict[int, Request] = {}
    own: dict[int, tuple[float, float]] = {}
    deadlines: list[tuple[float, int]] = []
    waiting: Counter[tuple[str, Priority]] = Counter()
    turns: Counter[tuple[str, Priority]] = Counter()

    def forget(request: Request) -> None:
        if live.pop(request.number, None):
            turns[(request.client, request.priority)] -= 1

    def arrive() -> None:
        size = random.choices((random.randint(1, 4), random.randint(5, 64), 2048), (600, 397, 3))[0]
        priority = random.choices((priority_of(None, size), *Priority), (85, 5, 5, 5))[0]
        request = host.add(f"c{random.randrange(CLIENTS)}", size, priority, random.choice((None, "x", "y", "z")))
        live[request.number] = request
        held = (request.client, request.priority)
        waiting[held] += size
        turns[held] += 1
        own[request.number] = (waiting[held], turns[held] + waiting[held] / PART)
        request.mark = total
        heappush(deadlines, (now + random.choice((50, 300, 3000)), request.number))

    def withdraw(request: Request) -> None:
        waiting[(request.client, request.priority)] -= request.cost
        queue.remove(request)
        forget(request)

    next_arrival, arrived, part_number = 0.0, 0, 0
    while arrived < ARRIVALS or len(queue):
        while arrived < ARRIVALS and next_arrival <= now:
            arrive()
            arrived += 1
            next_arrival += random.expovariate(1.3 * PART / 21.8)
            if random.random() < 0.03 and live:
                number = next(iter(live)) if random.random() < 0.5 else next(reversed(live))
                withdraw(live[number])
        while deadlines and deadlines[0][0] <= now:
            gone = live.get(heappop(deadlines)[1])
            if gone is not None:
                late += 1
                withdraw(gone)
        bulk_waits = queue._classes[BULK].clients.waiting
        part = host.part()
        part_number += 1
        now += 1.0
        total += rows_of(part)
        for request, rows in part:
            waiting[(request.client, request.priority)] -= rows
        if part and random.random() < 0.01:
            total -= rows_of(part)
            for request, rows in part:
                waiting[(request.client, request.priority)] += rows
            host.lose(part)
        else:
            window.append((rows_of(part), sum(rows for request, rows in part if request.priority is BULK)))
            if not bulk_waits:
                window.clear()
            elif len(window) == 400:
                least_bulk = min(least_bulk, sum(bulk for _, bulk in window) / sum(rows for rows, _ in window))
                window.clear()
            for request, _ in part:
                if request.cost <= 0:
                    done += 1
                    forget(request)
                    # Until its turn, its client's tag grows by what waits before it, and by a slice of filling for each
                    # of those turns; every client of its class gets as much and a slice, its class its weight's share.
                    rows, visits = own[request.number]
                    span = rows + (visits + 1) * PART
                    bound = ((span + PART) * CLIENTS + PART) * 13 / WEIGHTS[request.priority]
                    worst = max(worst, (total - request.mark) / bound)
        if part_number % 200 == 0:
            queue.check_invariants()
            assert abs(queue.cost - sum(request.cost for request in queue)) < 1e-6
            assert {request.number for request in queue} == set(live)
    assert least_bulk >= 0.05
    assert worst <= 1.0
    assert late > 1000
    assert done > ARRIVALS / 2
    assert_empty(queue)
