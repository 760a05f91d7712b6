"""Header fields on the wire, for requests to workers and answers to clients.

Owns one promise: whatever is in a value, it can't end its line.
"""

import re
from collections.abc import Mapping
from typing import Final

# RFC 9110, 5.5: what may not be in a value is a space instead.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def lines(fields: Mapping[str, str]) -> str:
    """A line for each field, with its end; the names are ours, the values may be anybody's."""
    if not "".join(fields.values()).isprintable():  # neither is any control character, nor much that is harmless
        fields = {name: _CONTROL.sub(" ", value) for name, value in fields.items()}
    return "".join([f"{name}: {value}\r\n" for name, value in fields.items()])


def encode(head: str) -> bytes:
    """The bytes of a head.

    What is beyond ASCII came in as UTF-8, or as lone surrogates where it was none (aiohttp's way): it goes out as it
    came.
    """
    return head.encode("utf-8", "surrogateescape")
