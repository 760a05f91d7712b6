"""What holds for every test."""

import asyncio

import pytest

# pytest-asyncio looks for a current event loop, and where there is none Python makes one that nobody closes: with
# warnings as errors, the session would fail at its end. None is set, so none is made.
asyncio.set_event_loop(None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--long`: the tests that take minutes, too."""
    parser.addoption("--long", action="store_true", help="also run the tests marked long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out, and say so, unless they are asked for."""
    if config.getoption("--long"):
        return
    chosen = [item for item in items if item.get_closest_marker("long") is None]
    left_out = [item for item in items if item.get_closest_marker("long") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen
