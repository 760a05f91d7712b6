"""Suspicion: how fast a guilty input is found, and how guilt is remembered."""

from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.suspicion import (
    DEATHS,
    DEATHS_BY_OTHERS,
    REMEMBERED,
    REMEMBERED_FOR,
    Guilty,
    Suspicion,
    after_death,
    is_guilty,
)


@given(st.integers(1, 4096))
def test_a_part_is_halved_down_to_one_in_as_many_deaths_as_it_has_bits(inputs: int) -> None:
    """The first death changes no size; each one after it halves, and never below one."""
    suspicion = after_death(None, inputs)
    assert suspicion == Suspicion(1, inputs)
    size = inputs
    while size > 1:
        suspicion = after_death(suspicion, size)
        assert suspicion.most < size
        size = suspicion.most
    assert suspicion.deaths <= 1 + (inputs - 1).bit_length()


def test_who_is_to_blame() -> None:
    """Two deaths alone, or five where somebody else killed."""
    assert not is_guilty(Suspicion(DEATHS - 1, 1), False)
    assert is_guilty(Suspicion(DEATHS, 1), False)
    assert not is_guilty(Suspicion(DEATHS_BY_OTHERS - 1, 1), True)
    assert is_guilty(Suspicion(DEATHS_BY_OTHERS, 1), True)


def test_guilt_is_forgotten_after_an_hour() -> None:
    """And found true again when it is seen again."""
    guilty = Guilty()
    assert not guilty
    guilty.remember(b"bad", 0.0)
    assert guilty.knows(b"bad", REMEMBERED_FOR - 1)
    assert not guilty.knows(b"good", 1.0)
    assert not guilty.knows(b"bad", REMEMBERED_FOR)
    assert len(guilty) == 0


def test_memory_is_bounded_and_keeps_the_latest() -> None:
    """A client that makes up ever new poison does not fill our memory."""
    guilty = Guilty()
    for i in range(3 * REMEMBERED):
        guilty.remember(b"%d" % i, float(i))
    assert len(guilty) == REMEMBERED
    last = float(3 * REMEMBERED)
    assert guilty.knows(b"%d" % (3 * REMEMBERED - 1), last)
    assert not guilty.knows(b"0", last)
