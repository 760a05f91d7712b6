"""File descriptors: how many this process may have, and how many of them are for clients.

Owns the limit on open files and how it is divided. Who is let in or closed when all are in use is
`supervisor.connections`'.
"""

import resource
from typing import Final

# Connections of clients at most: 10,000 that are idle, and as many thousands again that are not, cost about 4 KB each.
MOST_CLIENTS: Final = 16_000
# What is not clients': 256 pass-through requests and 128 callers of the control plane, each with a descriptor of its
# own; five or so for each worker (pipe, process, log, connections), the journal, /proc, NVML.
RESERVED: Final = 512


def for_clients() -> int:
    """Raise the limit on open files as far as it is of use and allowed; how many connections clients may have then.

    Not further: workers inherit the limit, and there are programs that try every number up to it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CLIENTS + RESERVED
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_CLIENTS if soft == resource.RLIM_INFINITY else clients_within(soft)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return clients_within(wanted)


def clients_within(limit: int) -> int:
    """How many of so many open files are for clients; where there are few, half of them."""
    return min(MOST_CLIENTS, max(limit - RESERVED, limit // 2))
