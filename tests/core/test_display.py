"""Figures and text as people read them."""

import pytest

from supervisor.core.display import byte_size, duration, percentage, printable


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (81920, "80.0 KiB"),
        (1048166, "1.00 MiB"),
        (660602880, "630 MiB"),
        (1258291200, "1.17 GiB"),
        (5 * 1024**4, "5.00 TiB"),
    ],
)
def test_bytes_have_three_digits(count: int | None, expected: str) -> None:
    """Sizes are short and in the unit that fits."""
    assert byte_size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "-"),
        (0.0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 m 0 s"),
        (310, "5 m 10 s"),
        (3599.9, "1 h 0 m"),
        (8041.5, "2 h 14 m"),
        (4 * 86400 + 7 * 3600, "4 d 7 h"),
    ],
)
def test_durations_have_two_units(seconds: float | None, expected: str) -> None:
    """Durations show their two largest units and never "60 s"."""
    assert duration(seconds) == expected


def test_percentages_and_the_unknown() -> None:
    """One decimal; what is not known is a dash and never 0."""
    assert (percentage(91.24), percentage(None)) == ("91.2 %", "-")


def test_control_characters_become_escapes() -> None:
    """Nothing in a value can start a line, move the cursor or turn the direction of the text around it."""
    assert printable("a\nb\x1b[31m\x9b\u202ec\u2028\ud800é日") == r"a\nb\x1b[31m\x9b\u202ec\u2028\ud800é日"
