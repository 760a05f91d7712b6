"""nginx and HAProxy as they are shipped, before two supervised Infinities: one pauses, one dies, nobody notices."""

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.support import daemon as daemons
from tests.support.daemon import ROOT, Daemon, free_port
from tests.support.keep_alive import KeepAlive

TOOLS = ROOT / ".quickstart" / "tools"
NGINX, HAPROXY = ROOT / "deploy/nginx/infinity-supervisor.conf", ROOT / "deploy/haproxy/haproxy.cfg"
CLIENTS = 8


def program(name: str) -> str:
    """The program, installed or as tests/run has taken it out of its package."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:{TOOLS / 'usr/sbin'}")
    assert found is not None, f"{name} is not there: tests/run gets it"
    return found


def environment() -> dict[str, str]:
    """Where the libraries are that came with them."""
    folders = [str(folder) for folder in (TOOLS / "usr/lib").glob("*-linux-gnu")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(folders)}


class Front:
    """A shipped configuration with other addresses; `argv` runs it in the foreground, `check` only reads it."""

    def __init__(self, name: str, folder: Path, port: int, backends: list[tuple[str, int]]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        text = (NGINX if name == "nginx" else HAPROXY).read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}")
        for host, (proxy, agent) in zip(("127.0.0.1", "127.0.0.2"), backends, strict=True):
            text = text.replace(f"{host}:7997", proxy).replace(f"agent-addr {host}", f"agent-port {agent}")
        path = folder / f"{name}.conf"
        if name == "nginx":
            (folder / "logs").mkdir()
            path.write_text(
                f"daemon off; pid {folder}/nginx.pid; error_log {folder}/logs/error.log; worker_processes 2;\n"
                f"events {{}}\nhttp {{ access_log {folder}/logs/access.log; client_body_temp_path {folder}/body;\n"
                f"proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;\n"
                f"scgi_temp_path {folder}/s;\n{text}\n}}\n"
            )
            self.argv = [program("nginx"), "-p", str(folder), "-e", str(folder / "logs/error.log"), "-c", str(path)]
            self.check = [*self.argv, "-t"]
        else:
            path.write_text(text)
            self.argv = [program("haproxy"), "-db", "-f", str(path)]
            self.check = [*self.argv, "-c"]

    @contextmanager
    def running(self, log: Path) -> Iterator[None]:
        """Run it."""
        with (
            log.open("wb") as output,
            subprocess.Popen(self.argv, stdout=output, stderr=output, env=environment(), process_group=0) as process,
        ):
            try:
                end = time.monotonic() + 20
                while True:
                    with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                        break
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < end, log.read_text()
                    time.sleep(0.05)
                yield
            finally:
                if process.poll() is None:
                    process.terminate()


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_the_shipped_configuration_is_valid(name: str, tmp_path: Path) -> None:
    """By its own program's word."""
    front = Front(name, tmp_path, free_port(), [("127.0.0.1:7997", 7999), ("127.0.0.2:7997", 7999)])
    done = subprocess.run(front.check, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr


def supervised(folder: Path) -> Daemon:
    """A supervisor as it is to be behind a balancer."""
    folder.mkdir()
    settings = {
        "models": [daemons.debug_model("a")],
        "proxy": {"listen": f"127.0.0.1:{free_port()}", "when_paused": "refuse"},
        "admin": {"listen": f"127.0.0.1:{free_port()}", "agent_listen": f"127.0.0.1:{free_port()}"},
    }
    return Daemon(folder, daemons.config(folder, settings))


def agent_port(d: Daemon) -> int:
    """Where the agent's line is."""
    return int(d.settings["admin"]["agent_listen"].rpartition(":")[2])


def agent_says(d: Daemon) -> str:
    """The agent's line."""
    with socket.create_connection(("127.0.0.1", agent_port(d)), 5) as connection:
        return connection.makefile().read()


def uses(d: Daemon) -> int:
    """How many requests it has sent to its worker."""
    return int(d.model("a")["uses"])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_one_pauses_and_one_dies_and_nobody_notices(name: str, tmp_path: Path) -> None:
    """Traffic goes to the one that takes it, and comes back; a killed one costs no error."""
    first, second = both = [supervised(tmp_path / "first"), supervised(tmp_path / "second")]
    front = Front(name, tmp_path, free_port(), [(d.settings["proxy"]["listen"], agent_port(d)) for d in both])
    stop = threading.Event()
    clients: list[KeepAlive] = []
    try:
        for d in both:
            d.start()
            d.wait_ready("a")
        with front.running(tmp_path / "front.log"):
            clients = [KeepAlive(front.url, i, stop) for i in range(CLIENTS)]
            for client in clients:
                client.start()
            for d in both:
                d.until(lambda d=d: uses(d) > 50, 30, "it gets no traffic")
            assert re.fullmatch(r"up ready \d+% maxconn:2048\n", agent_says(first))

            first.drill(60, memory=92)
            first.until(lambda: first.status()["paused"], 10, "it did not pause")
            assert re.fullmatch(r"up drain \d+% maxconn:512\n", agent_says(first))
            before, others = uses(first), uses(second)
            second.until(lambda: uses(second) > others + 200, 30, "the other one does not get the traffic")
            assert uses(first) <= before + 1, "the gate was closed"  # and trickles nothing: nobody waits
            first.drill(0)
            first.until(lambda: uses(first) > before + 50, 60, "the traffic does not come back")

            assert first.process is not None
            worker = psutil.Process(first.model("a")["pid"])
            first.process.kill()
            worker.kill()
            first.process.wait()
            seen = sum(client.answered for client in clients)
            second.until(lambda: sum(c.answered for c in clients) > seen + 200, 30, "nobody is answered any more")
            stop.set()
            for client in clients:
                client.join(60)
        assert [wrong for client in clients for wrong in client.wrong] == []
    finally:
        stop.set()
        for d in both:
            d.kill_all()


@pytest.mark.timeout(120)
def test_a_pause_refuses_what_waits_and_what_comes(tmp_path: Path) -> None:
    """At once, with the reason; health and readiness say so too; `hold` waits as before when it is set again."""
    d = supervised(tmp_path / "one")
    try:
        d.start()
        d.wait_ready("a")
        d.drill(60, memory=92)
        d.until(lambda: d.status()["paused"], 10, "it did not pause")
        status, answer, headers = d.exchange(d.proxy + "/embeddings", {"model": "a", "input": "x"}, 20)
        assert (status, headers["x-supervisor-reason"]) == (503, "paused")
        assert "memory 92.0 %" in answer["error"]["message"]
        assert int(headers["retry-after"]) >= 5
        assert d.get(d.proxy + "/health")[0] == 503
        assert d.get(d.admin + "/readyz")[0] == 503
        d.write({**d.settings, "proxy": {**d.settings["proxy"], "when_paused": "hold"}})
        assert d.api("reload")["changed"] == ["proxy.when_paused"]
        assert (d.get(d.proxy + "/health")[0], d.get(d.admin + "/readyz")[0]) == (200, 200)
        waiting = threading.Thread(target=d.embed, args=("a", "xx"))
        waiting.start()
        d.until(lambda: d.status()["queue"]["requests"] == 1, 10, "it does not wait")
        d.drill(0)
        waiting.join(60)
        assert not waiting.is_alive()
        assert d.stop() == 0
    finally:
        d.kill_all()
