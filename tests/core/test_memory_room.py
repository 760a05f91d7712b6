"""The account of the host's memory between two samples: what is reserved, what was kept, and what is left."""

import random

from supervisor.core.memory_room import MemoryRoom

A, B = "a", "b"


def room(size: int = 1000, last: int = 1200) -> MemoryRoom:
    """An account after a sample."""
    made = MemoryRoom()
    made.set(size, last)
    return made


def test_others_reservations_are_taken_off_and_ones_own_are_not() -> None:
    """What an owner has on its way is its to use again: a new reservation stands instead of the old one."""
    account = room()
    account.reserve(A, 300)
    assert (account.left(A), account.left(B)) == (1000, 700)
    assert (account.left_at_last(A), account.left_at_last(B)) == (1200, 900)
    account.reserve(A, 400)
    assert (account.left(A), account.left(B)) == (1000, 600)
    assert account.shared(B)
    assert not account.shared(A)


def test_what_is_released_may_be_kept_until_it_is_looked_at() -> None:
    """Its worker may hold all that was reserved, the most of several; a look tells how much it is."""
    account = room()
    for size in (300, 200):
        account.reserve(A, size)
        account.release(A)
        assert (account.left(A), account.left(B)) == (700, 700)
    account.keeps(A, 50)
    assert (account.left(A), account.left(B)) == (950, 950)
    assert not account.shared(B), "what is kept does not come back while one waits"


def test_a_sample_shows_what_was_kept() -> None:
    """It counts as used from then on, and no more beside that."""
    account = room()
    account.reserve(A, 300)
    account.release(A)
    account.set(800, 1000)
    assert account.left(B) == 800


def test_a_sample_in_the_middle_of_a_part_changes_nothing() -> None:
    """What it has grown is in the sample and in the reservation: it is added back, or it would count twice."""
    account = room()
    account.reserve(A, 300)
    account.set(1000 - 250, 1200 - 250, grown=250)
    assert (account.left(A), account.left(B), account.left_at_last(B)) == (1000, 700, 900)


def test_a_worker_that_is_gone_takes_everything_with_it() -> None:
    """Nothing is reserved and nothing kept."""
    account = room()
    account.reserve(A, 300)
    account.release(A)
    account.reserve(A, 100)
    account.forget(A)
    assert (account.left(A), account.left(B), account.reserved(A)) == (1000, 1000, 0)


def test_nothing_is_lost_in_the_account() -> None:
    """After any sequence, what is left is the room less what others reserved and anybody kept."""
    rnd = random.Random(7)
    account = room()
    owners = [A, B, "c"]
    reserved, kept = dict[str, int](), dict[str, int]()
    size = 1000
    for _ in range(5000):
        owner, amount = rnd.choice(owners), rnd.randint(0, 400)
        match rnd.randint(0, 5):
            case 0 | 1:
                account.reserve(owner, amount)
                reserved[owner] = amount
            case 2:
                account.release(owner)
                kept[owner] = max(kept.get(owner, 0), reserved.pop(owner, 0))
            case 3:
                account.keeps(owner, amount)
                kept[owner] = amount
            case 4:
                account.forget(owner)
                reserved.pop(owner, None)
                kept.pop(owner, None)
            case 5:
                size = rnd.randint(-100, 2000)
                account.set(size, size + 200, grown := rnd.randint(0, 50))
                size += grown
                kept.clear()
        for one in owners:
            others = sum(value for name, value in reserved.items() if name != one)
            assert account.left(one) == size - others - sum(kept.values())
            assert account.left_at_last(one) == account.left(one) + 200
