"""Classes of lengths, and the bands of rows that are sorted by them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.lengths import SHORT, Band, bands, length_class


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=300))
def test_bands_are_the_runs_of_one_class(lengths: list[int]) -> None:
    """As a look at every single row finds them."""
    rows = sorted(lengths, reverse=True)
    expected: list[Band] = []
    for stop, characters in enumerate(rows, 1):
        length = length_class(characters)
        if expected and expected[-1].length == length:
            expected.pop()
        expected.append(Band(length, stop))
    assert bands(rows.__getitem__, len(rows)) == tuple(expected)


@given(st.integers(SHORT, 200_000))
def test_rows_of_one_class_differ_by_an_eighth(characters: int) -> None:
    """What is a seventh longer is of a higher class, and no longer row is of a lower one."""
    assert length_class(characters * 8 // 7 + 1) > length_class(characters)
    assert length_class(characters) <= length_class(characters + 1) <= length_class(characters) + 1


@pytest.mark.parametrize("characters", [0, 1, SHORT])
def test_short_rows_are_alike(characters: int) -> None:
    """An empty one too."""
    assert length_class(characters) == length_class(SHORT)


def test_few_lengths_are_asked_for() -> None:
    """Of 2,048 rows of four classes, a few dozen."""
    asked = []

    def characters(at: int) -> int:
        asked.append(at)
        return 1000 // 2 ** (at // 512)

    assert [band.stop for band in bands(characters, 2048)] == [512, 1024, 1536, 2048]
    assert len(asked) < 60
