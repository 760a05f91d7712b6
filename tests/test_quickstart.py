"""deploy/quickstart: which Python it takes, how it starts the supervisor, and what it says when it cannot."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.setup_checkout import Checkout, path_with, run, wait_for


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout whose path has a space in it."""
    return Checkout(tmp_path / "a checkout")


# -- finding a Python ------------------------------------------------------------------------------------------------


def quickstart(checkout: Checkout, path: str, *arguments: str) -> str:
    """What deploy/quickstart says on standard error with this PATH; it has to fail."""
    done = run([checkout.path / "deploy/quickstart", *arguments], {**checkout.environ, "PATH": path})
    assert done.code == 1, done
    assert done.err.count("\n") == 1, done
    return done.err


def test_no_python_is_one_line_with_the_package_to_install(checkout: Checkout, tmp_path: Path) -> None:
    """A host without any Python learns what to install."""
    said = quickstart(checkout, path_with(tmp_path / "bin"))
    assert "no Python 3.11 or 3.12 on the PATH: " in said
    assert "`apt-get install python3 python3-venv`" in said


def test_pythons_that_do_not_fit_are_named(checkout: Checkout, tmp_path: Path) -> None:
    """Too old and too new ones are named with their versions, so that nobody wonders why they were not taken."""
    path = path_with(tmp_path / "bin", python3="echo old 3.10", **{"python3.13": "echo new 3.13"})
    assert "(only python3 (3.10) python3.13 (3.13))" in quickstart(checkout, path)


def test_a_python_without_venv_names_its_package(checkout: Checkout, tmp_path: Path) -> None:
    """Debian ships Python without ensurepip: the package that has it is named."""
    hide = f'exec {sys.executable} -c "import sys; sys.modules[\'ensurepip\'] = None; exec(sys.argv[2])" "$@"'
    said = quickstart(checkout, path_with(tmp_path / "bin", **{"python3.11": hide}))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"Python {version} is here, but not its venv module" in said
    assert f"`apt-get install python{version}-venv`" in said


def test_a_name_that_does_not_run_is_passed_over(checkout: Checkout, tmp_path: Path) -> None:
    """pyenv leaves names on the PATH that only say they are not selected."""
    real = f'exec {sys.executable} "$@"'
    path = path_with(tmp_path / "bin", **{"python3.12": "echo not selected; exit 127", "python3.11": real})
    done = run([checkout.path / "deploy/quickstart", "--help"], {**checkout.environ, "PATH": path})
    assert done.code == 0
    assert "--install-only" in done.out


# -- starting --------------------------------------------------------------------------------------------------------

# Stands in for the supervisor: its config check, and a daemon whose model is ready at the third look.
SUPERVISOR = """\
#!{python}
import http.server, json, os, sys
config = json.load(open(sys.argv[3]))
if sys.argv[1] == "check-config":
    assert sys.argv[4] == "--json"
    faults = [{{"file": sys.argv[3], "line": 7, "path": "models.0.name", "message": m}} for m in config["faults"]]
    print(json.dumps({{"ok": not faults, "faults": faults, "effective": config}}))
    sys.exit(2 if faults else 0)
assert sys.argv[1:] == ["run", "-c", "etc/quickstart.yaml"]
print("pid", os.getpid(), flush=True)
if config["dies"]:
    sys.exit(7)
class Admin(http.server.BaseHTTPRequestHandler):
    looks = 0
    def do_GET(self):
        Admin.looks += 1
        state = "ready" if Admin.looks > 2 else "starting"
        body = json.dumps({{"models": [{{"name": "minilm", "state": state, "reason": None}}]}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
host, port = config["admin"]["listen"].split(":")
http.server.HTTPServer((host, int(port)), Admin).serve_forever()
"""


def free_address() -> str:
    """A loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def installed(checkout: Checkout) -> Checkout:
    """A checkout that is set up, with the stand-in for the supervisor."""
    assert checkout.set_up().code == 0
    command = checkout.path / ".venv/bin/infinity-supervisor"
    command.write_text(SUPERVISOR.format(python=sys.executable))
    command.chmod(0o755)
    (checkout.path / "etc").mkdir()
    configure(checkout)
    return checkout


def configure(checkout: Checkout, **more: object) -> dict[str, dict[str, str]]:
    """Write the config that the stand-in reads."""
    config = {
        "proxy": {"listen": free_address()},
        "admin": {"listen": free_address()},
        "models": [{"name": "minilm", "preload": True}],
        "faults": [],
        "dies": False,
        **more,
    }
    (checkout.path / "etc/quickstart.yaml").write_text(json.dumps(config))
    return config  # type: ignore[return-value]


@pytest.fixture
def started(installed: Checkout) -> Iterator[subprocess.Popen[str]]:
    """deploy/quickstart at work, as the leader of a session and process group of its own."""
    process = subprocess.Popen(
        [installed.path / "deploy/quickstart"],
        env=installed.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_ready_tells_the_addresses_and_one_line_that_works(installed: Checkout, started: subprocess.Popen[str]) -> None:
    """The supervisor took quickstart's place, the line is a whole command, and Ctrl-C leaves nobody of the group."""
    config = json.loads((installed.path / "etc/quickstart.yaml").read_text())
    assert started.stdout is not None
    said = ""
    while "  try  " not in said:
        line = started.stdout.readline()
        assert line, said
        said += line
    proxy, admin = config["proxy"]["listen"], config["admin"]["listen"]
    assert f"pid {started.pid}\n" in said
    assert "minilm is ready after " in said
    assert f"  proxy      http://{proxy}\n  dashboard  http://{admin}/\n" in said
    assert shlex.split(said.rpartition("  try ")[2]) == [
        *("curl", "-s", f"http://{proxy}/v1/embeddings", "-H", "content-type: application/json"),
        *("-d", '{"model": "minilm", "input": "hello"}'),
    ]
    os.killpg(started.pid, signal.SIGINT)
    started.wait(30)

    def nobody() -> bool:
        try:
            os.killpg(started.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(nobody)


def test_the_watcher_goes_with_the_supervisor(installed: Checkout) -> None:
    """A supervisor that ends at once gives its exit status, and nobody goes on watching for it."""
    configure(installed, dies=True)
    done = run([installed.path / "deploy/quickstart"], installed.environ)  # ends when the last writer to its pipe ends
    assert done.code == 7, done
    assert "is ready" not in done.out


@pytest.mark.parametrize("which", ["proxy", "admin"])
def test_an_address_that_is_taken_is_told_before_starting(installed: Checkout, which: str) -> None:
    """Which address, how to see who has it, and which key to change."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        configure(installed, **{which: {"listen": address}})
        done = run([installed.path / "deploy/quickstart"], installed.environ)
    assert done.code == 1
    assert "pid" not in done.out
    port = address.partition(":")[2]
    assert done.err == (
        f"quickstart: {address} is taken: stop what listens there (`ss -ltnp 'sport = :{port}'` names it)"
        f" or change {which}.listen in etc/quickstart.yaml\n"
    )


def test_a_config_with_faults_is_refused_with_all_of_them(installed: Checkout) -> None:
    """Someone who edited etc/quickstart.yaml sees the file, the line and the path of each fault."""
    configure(installed, faults=["is empty", "is taken"])
    done = run([installed.path / "deploy/quickstart"], installed.environ)
    assert done.code == 1
    assert done.err == (
        "quickstart: the config is not valid:\n"
        "etc/quickstart.yaml:7: models.0.name: is empty\n"
        "etc/quickstart.yaml:7: models.0.name: is taken\n"
    )


def test_a_supervisor_that_does_not_work_names_the_remedy(installed: Checkout) -> None:
    """An environment that someone damaged: no traceback, but what to remove."""
    command = installed.path / ".venv/bin/infinity-supervisor"
    command.write_text("#!/bin/sh\necho 'ImportError: no click' >&2; exit 1\n")
    done = run([installed.path / "deploy/quickstart"], installed.environ)
    assert done.code == 1
    assert "does not work (ImportError: no click): remove .venv and run this again\n" in done.err
