"""A log that keeps what is wrong and drops the rest unseen: a thousand stories write a million lines."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import structlog


@contextlib.contextmanager
def only_errors() -> Iterator[list[dict[str, Any]]]:
    """What is logged from the level error up meanwhile, an event with its fields each."""
    seen: list[dict[str, Any]] = []

    def keep(_: object, __: str, event: dict[str, Any]) -> dict[str, Any]:
        seen.append(event)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield seen
    finally:
        structlog.configure(**before)
