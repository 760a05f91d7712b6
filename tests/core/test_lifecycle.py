"""The life of a worker: the tables are closed and complete, back-off grows, forgets and gives up."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.lifecycle import (
    ALLOWED,
    FORGOTTEN_AFTER,
    LONGEST_BACK_OFF,
    MEETS,
    STARTS_GIVEN_UP,
    BackOff,
    Meets,
    Outlook,
    check_move,
    exit_description,
)
from supervisor.core.model import LIVE_STATES, ModelState

S = ModelState


def test_tables_know_every_state() -> None:
    """No state is without its successors or without an answer for a request that meets it."""
    assert set(ALLOWED) == set(MEETS) == set(ModelState)
    assert all(following for following in ALLOWED.values())


def test_a_process_is_ended_before_a_state_without_one() -> None:
    """Whatever held a process goes to a state that holds none through `stopping` only."""
    for state in LIVE_STATES - {S.STOPPING}:
        assert ALLOWED[state] <= LIVE_STATES
    assert not ALLOWED[S.STOPPING] & LIVE_STATES


def test_every_state_can_be_left_for_stopped_and_for_ready() -> None:
    """No state is a trap: from each one the worker can be stopped, and can become ready again."""
    for start in ModelState:
        reached = {start}
        while more := set().union(*(ALLOWED[state] for state in reached)) - reached:
            reached |= more
        assert {S.STOPPED, S.READY} <= reached


@pytest.mark.parametrize(
    ("before", "after"),
    [(S.STOPPED, S.READY), (S.STARTING, S.STOPPED), (S.DRAINING, S.READY), (S.FAILED, S.STARTING), (S.READY, S.READY)],
)
def test_a_move_that_is_not_in_the_table_is_a_mistake(before: ModelState, after: ModelState) -> None:
    """Walking outside the table raises."""
    with pytest.raises(ValueError, match=f"from {before} to {after}"):
        check_move(before, after)


def test_the_way_of_an_ordinary_life() -> None:
    """stopped, starting, ready, draining, stopping, stopped: each step is allowed."""
    way = [S.STOPPED, S.STARTING, S.READY, S.DRAINING, S.STOPPING, S.STOPPED]
    for before, after in itertools.pairwise(way):
        check_move(before, after)


def test_what_a_request_meets() -> None:
    """Only a ready worker takes requests, only a failed one refuses them outright."""
    assert [state for state, meets in MEETS.items() if meets is Meets.GOES] == [S.READY]
    assert [state for state, meets in MEETS.items() if meets is Meets.REFUSED] == [S.FAILED]
    assert [state for state, meets in MEETS.items() if meets is Meets.WAITS_IN_TIME] == [S.BACKOFF]


def test_back_off_of_a_worker_that_keeps_crashing() -> None:
    """At once, then 1, 2, 4 … 60 s, and there it stays."""
    back_off, now, waits = BackOff(), 0.0, []
    for _ in range(10):
        back_off.ready(now)
        now += 30
        waits.append(back_off.crashed(now))
        now += waits[-1]
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert not back_off.given_up


def test_a_long_healthy_time_is_a_clean_slate() -> None:
    """Crashes are forgotten once the worker was ready long enough, and not a moment earlier."""
    back_off = BackOff()
    for _ in range(4):
        back_off.ready(0)
        back_off.crashed(1)
    back_off.ready(1000)
    assert back_off.crashed(1000 + FORGOTTEN_AFTER - 1) == 8
    back_off.ready(5000)
    assert back_off.crashed(5000 + FORGOTTEN_AFTER) == 0


def test_gives_up_after_starts_that_never_were_ready() -> None:
    """Three starts in a row that came to nothing are enough; one that was ready in between begins the count anew."""
    back_off = BackOff()
    for now in range(STARTS_GIVEN_UP - 1):
        back_off.crashed(now)
        assert not back_off.given_up
    back_off.ready(10)
    back_off.crashed(11)
    assert not back_off.given_up
    for now in range(STARTS_GIVEN_UP):
        back_off.crashed(20 + now)
    assert back_off.given_up


def test_a_hopeless_start_is_given_up_at_once() -> None:
    """What another start can't cure is not tried again, whatever went before."""
    back_off = BackOff()
    back_off.crashed(0, Outlook.PASSING)
    assert not back_off.given_up
    back_off.crashed(1, Outlook.HOPELESS)
    assert back_off.given_up
    assert back_off.given_up_text == "given up after 2 starts"
    back_off.forgive()
    assert not back_off.given_up
    back_off.crashed(2, Outlook.HOPELESS)
    assert back_off.given_up_text == "given up after 1 start"


def test_what_may_pass_is_tried_for_ever() -> None:
    """A start that lacked memory, a port or the network is tried again and again, ever more rarely."""
    back_off = BackOff()
    waits = [back_off.crashed(now, Outlook.PASSING) for now in range(10)]
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert not back_off.given_up
    for now in range(STARTS_GIVEN_UP):  # nor does it count when the reason becomes one that nobody knows
        assert not back_off.given_up
        back_off.crashed(20 + now)
    assert back_off.given_up


def test_one_that_was_ready_is_never_hopeless() -> None:
    """The outlook is of starts: whatever is said of a worker that was ready, it is started again."""
    back_off = BackOff()
    back_off.ready(0)
    assert back_off.crashed(1, Outlook.HOPELESS) == 0
    assert not back_off.given_up


def test_forgiven_is_as_new() -> None:
    """An operator's load begins from a clean slate: not given up, and the next crash is restarted at once."""
    back_off = BackOff()
    for now in range(STARTS_GIVEN_UP):
        back_off.crashed(now)
    back_off.forgive()
    assert (back_off.given_up, back_off.crashes, back_off.crashed(100)) == (False, 0, 0)


def test_our_own_stop_is_not_a_crash() -> None:
    """A worker that we stopped, however often, starts without any wait and never counts as failed."""
    back_off = BackOff()
    for now in range(10):
        back_off.ready(now)
        back_off.stopped()
    assert (back_off.crashes, back_off.given_up) == (0, False)


def test_a_stop_does_not_lend_its_health_to_the_next_start() -> None:
    """The healthy time of a worker we stopped says nothing about one that dies while starting, much later."""
    back_off = BackOff()
    back_off.ready(0)
    back_off.stopped()
    for now in range(STARTS_GIVEN_UP):
        back_off.crashed(10_000 + now)
    assert back_off.given_up


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2000)), max_size=50))
def test_back_off_is_bounded_and_only_grows_between_clean_slates(lives: list[tuple[bool, float]]) -> None:
    """Whatever a worker does, the wait is within 0 and 60 s, and never falls unless the crashes were forgotten."""
    back_off, now, last = BackOff(), 0.0, 0.0
    for was_ready, seconds in lives:
        if was_ready:
            back_off.ready(now)
        now += seconds
        wait = back_off.crashed(now)
        assert 0 <= wait <= LONGEST_BACK_OFF
        assert wait >= last or (wait == 0 and was_ready and seconds >= FORGOTTEN_AFTER * 0.999)
        last, now = wait, now + wait


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit status 0"),
        (1, "exit status 1"),
        (3, "exit status 3"),
        (-15, "killed by SIGTERM"),
        (143, "killed by SIGTERM"),
        (-9, "killed by the kernel or somebody (SIGKILL)"),
        (137, "killed by the kernel or somebody (SIGKILL)"),
        (-11, "killed by SIGSEGV"),
        (-64, "killed by signal 64"),
        (200, "exit status 200"),
        (None, "exit status unknown"),
    ],
)
def test_an_exit_in_words(status: int | None, words: str) -> None:
    """Both ways to report a signal read the same, and SIGKILL says who it may have been."""
    assert exit_description(status) == words


def test_starts_that_came_to_nothing_are_counted_until_one_serves_or_is_forgiven() -> None:
    """A crash of one that served is none of them."""
    back_off = BackOff()
    assert back_off.fruitless == 0
    back_off.crashed(0.0)
    back_off.crashed(1.0)
    assert back_off.fruitless == 2
    back_off.ready(2.0)
    back_off.crashed(3.0)
    assert back_off.fruitless == 0
    back_off.crashed(4.0)
    back_off.forgive()
    assert back_off.fruitless == 0
