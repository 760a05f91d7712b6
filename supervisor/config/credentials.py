"""Files with credentials: the keys of the proxy's clients, the token of the admin API.

Owns what may be in them. No message repeats any of it: whoever wrote a key where its hash belongs must not find it in a
log.
"""

import hashlib
import re
from collections.abc import Mapping

from supervisor.config.faults import shown

# Some thousand clients; each key is compared with all of them.
MOST_BYTES = 1024**2
_NAME = re.compile(r"[!-~]{1,100}")
_HASH = re.compile(r"sha256:([0-9A-Fa-f]{64})")
_TOKEN = re.compile(r"[!-~]{16,4096}")
_NO_KEY = hashlib.sha256(b"").digest()
_KEY_LINE = "allowed: NAME sha256:HEX, with 64 hexadecimal digits"


def api_keys(path: str) -> Mapping[bytes, str]:
    """The names of the clients by the SHA-256 of their keys. Several keys may have one name: so one can be changed.

    Raises ValueError, fit for a user, for a file that can't be read, has a line that is none, or has no key at all.
    """
    names: dict[bytes, str] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        match = _HASH.fullmatch(words[1]) if len(words) == 2 else None
        if match is None or not _NAME.fullmatch(words[0]):
            raise ValueError(f"{shown(path)}:{number}: no key; {_KEY_LINE}")
        digest = bytes.fromhex(match[1])
        if digest == _NO_KEY:
            raise ValueError(f"{shown(path)}:{number}: the hash of nothing, which anybody could send; {_KEY_LINE}")
        if digest in names:
            raise ValueError(
                f"{shown(path)}:{number}: the key is there already, for {names[digest]}; allowed: each once"
            )
        names[digest] = words[0]
    if not names:
        raise ValueError(f"{shown(path)}: there is no key in it, so nobody could come in; {_KEY_LINE}")
    return names


def token(path: str) -> str:
    """The token in a file of one line; ValueError, fit for a user, where there is none that is hard to guess."""
    text = _text(path).strip()
    if not _TOKEN.fullmatch(text):
        raise ValueError(
            f"{shown(path)}: no token; allowed: one line of 16 or more printable ASCII characters without spaces, "
            "as `openssl rand -hex 32` makes one"
        )
    return text


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ValueError(f"{shown(path)}: can't be read: {reason}; allowed: a file that this user may read") from error
    if len(data) > MOST_BYTES:
        raise ValueError(f"{shown(path)}: larger than {MOST_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(path)}: not UTF-8; allowed: text") from error
