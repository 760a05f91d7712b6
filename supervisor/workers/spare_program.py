"""A warm spare: an Infinity that has imported everything and waits to be told what to serve. Its own program.

Infinity's interpreter runs it as `python spare_program.py SCRIPT`, SCRIPT being Infinity's own console script. Only the
standard library may be imported here: the interpreter has nothing of the supervisor's, and may be older.

Its stdin is a socket to the supervisor. What is said there are lines:

    warm            from here, once everything is imported
    ?               from there; answered with `awake`, also while it imports
    {"argv": …}     from there, with one descriptor, the worker's log: the order

The order's `argv` is the command line, `env` what is different in the environment (null: not there). From then on
nothing of this program is left: the script runs as it would have run by itself, in the same process.

An end of file before the order, whenever it comes, ends this process: so it can't outlive the supervisor, or be left
behind by one that runs another program in its place.
"""

import importlib
import json
import os
import queue
import runpy
import socket
import sys
import threading
from contextlib import suppress
from typing import Any, NamedTuple

# What the script imports, and no more: 14 s of the 15 s that a plain start of MiniLM takes, and all of torch and
# transformers. What a load imports besides takes another tenth of a second.
ENTRY = "infinity_emb.cli"
_MOST = 65536


class Order(NamedTuple):
    """What to become."""

    argv: list[str]
    env: dict[str, Any]
    output: int


def main() -> None:
    """Import, wait, become the worker."""
    script = sys.argv[1]
    if sys.path[0] == os.path.dirname(os.path.realpath(__file__)):  # not with -P
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    supervisor = socket.socket(fileno=os.dup(0))
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    listener = threading.Thread(target=listen, args=(supervisor, orders), daemon=True)
    listener.start()
    importlib.import_module(ENTRY)
    with suppress(OSError):  # nobody there any more: the listener ends this
        supervisor.sendall(b"warm\n")
    order = orders.get()
    listener.join()
    supervisor.close()
    become(order)
    runpy.run_path(script, run_name="__main__")


def listen(supervisor: socket.socket, orders: "queue.SimpleQueue[Order]") -> None:
    """Answer, take the order; end this process when there is nobody to wait for. A thread, for imports take long."""
    text, files = b"", list[int]()
    while True:
        try:
            data, more, _, _ = socket.recv_fds(supervisor, _MOST, 1)
        except OSError:
            data, more = b"", []
        if not data:
            os._exit(0)
        text, files = text + data, files + list(more)
        while b"\n" in text:
            line, _, text = text.partition(b"\n")
            if line == b"?":
                with suppress(OSError):
                    supervisor.sendall(b"awake\n")
            else:
                orders.put(Order(**json.loads(line), output=files[0]))
                return


def become(order: Order) -> None:
    """Take on arguments, environment and files of the worker."""
    for number in (1, 2):
        os.dup2(order.output, number)
    os.close(order.output)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for name, value in order.env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    sys.argv = order.argv


if __name__ == "__main__":
    main()
