"""What holds for every test."""

import asyncio
import signal

import pytest

# pytest-asyncio looks for a current event loop, and where there is none Python makes one that nobody closes: with
# warnings as errors, the session would fail at its end. None is set, so none is made.
asyncio.set_event_loop(None)

# A shell starts what runs in its background with SIGINT ignored, and programs that tests start would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# In these, time is real and so are processes: they run one after the other, for two at once would measure each other.
# All others have virtual time, or none, and may run beside them.
REAL = (
    "tests/process/",
    "tests/infinity/",
    "tests/fronts/",
    "tests/systemd/",
    "tests/faults/",
    "tests/floods/",
    "tests/test_",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup`, keep those that measure in one place."""
    for item in items:
        if item.nodeid.startswith(REAL):
            item.add_marker(pytest.mark.xdist_group("real"))
        elif item.nodeid.startswith("tests/systemd/"):  # they share one that is booted, and measure nothing
            item.add_marker(pytest.mark.xdist_group("systemd"))
