"""How long bytes may take on the wire, in either direction, before whoever sends or takes them is given up.

Pure. A limit on silence alone is none: one byte now and then keeps a place in the queue, or a worker, for ever.
"""

from typing import Final

# Nothing needs to move for so long (s): a network that is repaired in less costs no request.
GRACE_SECONDS: Final = 30.0
# And this many bytes a second on the whole: 128 kbit/s is less than any line to a server has. Four clients that
# announce 64 MiB each take all room in a queue of 256 MiB; at this rate they have to send it, within 68 minutes.
# (Apache asks for 500 bytes a second: 37 hours.)
LEAST_BYTES_PER_SECOND: Final = 16 * 1024


def allowed(moved: int, grace: float) -> float:
    """Seconds after its beginning at which a transfer is given up of which `moved` bytes are through.

    `grace`: what may pass without any.
    """
    return grace + moved / LEAST_BYTES_PER_SECOND
