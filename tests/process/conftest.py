"""Real Infinities whose memory has a limit; the limit is the `group` of whoever asks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import infinity, memory_cgroup


@pytest.fixture
def command(group: memory_cgroup.MemoryGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The real Infinity, all of its memory in the group."""
    monkeypatch.setattr(infinity, "PYTHON", group.python(infinity.PYTHON, tmp_path))
    template = infinity.Template()
    try:
        yield template.command()
    finally:
        template.stop()
