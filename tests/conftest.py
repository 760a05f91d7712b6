"""What holds for every test."""

import asyncio
import signal

# pytest-asyncio looks for a current event loop, and where there is none Python makes one that nobody closes: with
# warnings as errors, the session would fail at its end. None is set, so none is made.
asyncio.set_event_loop(None)

# A shell starts what runs in its background with SIGINT ignored, and programs that tests start would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)
