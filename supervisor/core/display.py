"""Figures and text as people read them: percentages, bytes, durations; "-" stands for what is not known."""

import re

NONE = "-"
_STEPS = (("KiB", 1024), ("MiB", 1024**2), ("GiB", 1024**3), ("TiB", 1024**4))

# C0 and C1 controls, line and paragraph separators, marks that turn the direction of text, lone surrogates: none may
# reach a terminal from a value, where they would start lines of their own or change what is already written.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with everything a terminal would obey, or that would break a line, written as an escape."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def percentage(percent: float | None) -> str:
    """`91.2 %`."""
    return NONE if percent is None else f"{percent:.1f} %"


def byte_size(count: float | None) -> str:
    """`630 MiB`: three digits, binary units."""
    if count is None:
        return NONE
    unit, size = "B", 1
    for name, step in _STEPS:
        if count >= step * 0.9995:  # 1023.6 KiB reads as 1.00 MiB, not as 1024 KiB
            unit, size = name, step
    value = count / size
    decimals = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {unit}"


def duration(seconds: float | None) -> str:
    """`3.2 s`, `5 m 10 s`, `2 h 13 m`, `4 d 7 h`: the two largest units."""
    if seconds is None:
        return NONE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for name, size, lesser, step in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // step} {lesser}"
    return f"{whole // 60} m {whole % 60} s"
