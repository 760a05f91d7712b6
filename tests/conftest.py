"""What holds for every test."""

import asyncio

# pytest-asyncio looks for a current event loop, and where there is none Python makes one that nobody closes: with
# warnings as errors, the session would fail at its end. None is set, so none is made.
asyncio.set_event_loop(None)
