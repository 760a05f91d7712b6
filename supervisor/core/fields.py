"""Values that Infinity is sure to accept in a request's fields.

Owns what is known of its checks (`fastapi_schemas/pymodels.py` and `data_uri.py` of 0.0.78, pydantic in lax mode).
Every function says no in doubt: what is not sure goes to Infinity untouched, and it judges.

Pure.
"""

import re
from typing import Final

# `INPUT_STRING` of Infinity: 8192 * 15 characters, counted after stripping white space (we count before: stricter).
MAX_CHARACTERS: Final = 122_880
# `ITEMS_LIMIT_SMALL` of Infinity, or its limit on inputs where that is smaller.
MAX_IMAGES: Final = 32
# pydantic takes 2,083.
_MAX_URL: Final = 2_000

# What pydantic's lax mode reads as a bool, besides bool itself, 0 and 1.
_BOOL_WORDS: Final = frozenset({"0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes"})

_DATA_URI_HEAD: Final = re.compile(r"data:image/[A-Za-z0-9.+-]{1,100};base64,")
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
# Plain host names only: no address (the last label begins with a letter), no user, nothing that is encoded anew.
_URL: Final = re.compile(
    r"https?://(?=[^/:?]{1,250}(?:[/:?]|$))(?!xn--)(?:[a-z0-9](?:[a-z0-9-]{0,60}[a-z0-9])?\.(?!xn--))*"
    r"[a-z](?:[a-z0-9-]{0,60}[a-z0-9])?(?::[1-9][0-9]{0,3})?(?:/[A-Za-z0-9._~/-]*(?:\?[A-Za-z0-9._~/=&-]*)?)?"
)


def is_text(value: object) -> bool:
    """Whether it is one text, as short as Infinity wants them."""
    return type(value) is str and len(value) <= MAX_CHARACTERS


def are_texts(value: object, limit: int) -> bool:
    """Whether it is a list of one to `limit` texts."""
    return (
        type(value) is list
        and 0 < len(value) <= limit
        and all(type(row) is str for row in value)
        and max(map(len, value)) <= MAX_CHARACTERS
    )


def are_images(value: object, limit: int) -> bool:
    """Whether it is a list of one to `limit` (at most 32) images: base64 inside a data URI, or plain web addresses."""
    return type(value) is list and 0 < len(value) <= min(limit, MAX_IMAGES) and all(map(_is_image, value))


def is_integer(value: object) -> bool:
    """Whether it is read as an integer, for the spellings that are beyond doubt."""
    if isinstance(value, int):
        return True
    if isinstance(value, float):
        return value.is_integer() and abs(value) < 2**53
    return type(value) is str and value.isascii() and value.isdigit() and len(value) < 16


def is_bool(value: object) -> bool:
    """Whether it is read as a bool."""
    if isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        return value in (0, 1)
    return type(value) is str and value.lower() in _BOOL_WORDS


def _is_image(value: object) -> bool:
    if type(value) is not str:
        return False
    if len(value) <= _MAX_URL and _URL.fullmatch(value):
        return True
    head = _DATA_URI_HEAD.match(value)
    if head is None or (len(value) - head.end()) % 4:
        return False
    # A regular expression would take five times as long: this is 0.4 ms for a megabyte.
    data = value.encode()[head.end() :]
    digits = data.rstrip(b"=")
    return len(data) - len(digits) <= 2 and not digits.translate(None, _BASE64)
