"""One systemd for all tests in here; each begins with nothing running, and leaves nothing running."""

from collections.abc import Iterator

import pytest

from tests.support import private_systemd
from tests.support.private_systemd import SERVICE, SOCKET, Host


@pytest.fixture(scope="session")
def systemd() -> Iterator[Host]:
    """A systemd that is up."""
    with private_systemd.booted() as host:
        yield host


@pytest.fixture
def host(systemd: Host) -> Iterator[Host]:
    """The same, with one scripted model configured, and nothing of ours running."""
    systemd.configure({"models": [systemd.model("m")]})
    yield systemd
    systemd.stop()
    for unit in (SERVICE, SOCKET):
        systemd.run("rm", "-rf", f"/run/systemd/system/{unit}.d")
    systemd.systemctl("daemon-reload")
