"""Takes a share of one core until it is killed: `python -m tests.bench.foreign 0.5`."""

import sys
import time

PERIOD = 0.05


def main() -> None:
    """Busy for the share, asleep for the rest of each period."""
    share = float(sys.argv[1])
    due = time.monotonic()
    while True:
        while time.monotonic() < due + share * PERIOD:
            pass
        due = max(due + PERIOD, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
