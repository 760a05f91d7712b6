"""A supervisor that can be made to stand still, for tests of its watchdog: imported at its start by its environment."""

import os
import signal
import time
from typing import Any


def stand_still(*_: Any) -> None:
    """For longer than anybody waits."""
    time.sleep(3600)


if "TESTS_BLOCK_ON" in os.environ:
    signal.signal(int(os.environ["TESTS_BLOCK_ON"]), stand_still)
