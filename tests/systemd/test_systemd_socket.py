"""The public port held by systemd: nobody is refused, whatever becomes of the supervisor."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.private_systemd import SERVICE, SOCKET, Host

BODY = json.dumps({"model": "m", "input": "hello"})
HEADERS = {"content-type": "application/json"}


class Clients:
    """Clients that ask one thing after the other: every second one on a connection of its own each time."""

    def __init__(self, host: Host, count: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._ended = threading.Event()
        self._running = [host.submit(self._ask, number % 2 == 0) for number in range(count)]

    def _ask(self, keep: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._ended.is_set():
            connection = connection or http.client.HTTPConnection("127.0.0.1", 7997, timeout=60)
            try:
                connection.request("POST", "/embeddings", BODY, HEADERS)
                answer = connection.getresponse()
                answer.read()
                outcome = str(answer.status)
                leaves = answer.getheader("connection") == "close"
            except (OSError, http.client.HTTPException) as error:
                outcome, leaves = type(error).__name__, True
            self.outcomes[outcome] += 1
            if leaves or not keep:
                connection.close()
                connection = None
            time.sleep(0.005)
        if connection is not None:
            connection.close()

    def end(self) -> None:
        """Have them finish; raises what one of them raised."""
        self._ended.set()
        for each in self._running:
            each.result()


@contextmanager
def clients(host: Host, count: int = 16) -> Iterator[Clients]:
    """Clients for the time of the block; some of them have their answers when it begins."""
    them = Clients(host, count)
    try:
        host.until(lambda: them.outcomes["200"] > count)
        yield them
        answered = them.outcomes["200"]
        host.until(lambda: them.outcomes["200"] > answered + count)
    finally:
        them.end()


def test_a_restart_is_not_noticed(host: Host) -> None:
    """Restarted, stopped and started by who connects, upgraded in place: every client gets its answer."""
    host.start(SOCKET, SERVICE)
    host.wait_ready("m")
    with clients(host) as them:
        host.systemctl("restart", SERVICE)
        pid = host.main_pid()
        host.run("kill", "-USR2", str(pid))
        host.until(lambda: len(host.journal(f"_PID={pid}", "EVENT=started")) == 2)
        assert host.main_pid() == pid
        host.systemctl("stop", SERVICE)  # the port is systemd's still: who connects has it started again
        host.until(lambda: host.show("ActiveState") == "active" and host.main_pid() != pid)
    assert set(them.outcomes) == {"200"}, them.outcomes
    host.systemctl("stop", SOCKET, SERVICE)
    assert not host.listeners()


def test_a_crash_costs_what_was_in_flight(host: Host) -> None:
    """Killed, nobody is refused; only who was being answered, or had his connection open, has to ask again."""
    host.start(SOCKET, SERVICE)
    worker, supervisor = host.wait_ready("m")["pid"], host.main_pid()
    with clients(host) as them:
        host.systemctl("kill", "--kill-whom=main", "--signal=KILL", SERVICE)
        host.until(lambda: host.main_pid() not in (0, supervisor) and host.show("ActiveState") == "active")
    assert host.wait_ready("m")["pid"] == worker
    lost = {name: count for name, count in them.outcomes.items() if name != "200"}
    assert set(lost) <= {"ConnectionResetError", "RemoteDisconnected", "BrokenPipeError"}, lost
    assert sum(lost.values()) <= 16, lost


def test_another_port_than_the_config_has_is_refused(host: Host) -> None:
    """A start says which two differ, and where to change them; who connects there would wait for ever."""
    host.configure({"models": [host.model("m")], "proxy": {"listen": "127.0.0.1:7777"}})
    host.drop_in("[Service]\nRestart=no\n")
    host.systemctl("start", SOCKET)
    assert host.systemctl("start", SERVICE, check=False).returncode == 1
    (told,) = host.journal("EVENT=start_failed", f"_SYSTEMD_INVOCATION_ID={host.show('InvocationID')}")
    assert "systemd listens at 127.0.0.1:7997 (infinity-supervisor.socket), but proxy.listen is 127.0.0.1:7777" in str(
        told["MESSAGE"]
    )
