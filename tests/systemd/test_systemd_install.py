"""deploy/install, all of it, beside a real systemd: installed, started, asked, upgraded, removed."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import private_systemd
from tests.support.private_systemd import CONFIG, INSTALLED, PROXY, ROOT, SERVICE, SOCKET, Host

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
INSTALL = ROOT / "deploy/install"


@pytest.fixture
def empty() -> Iterator[Host]:
    """A systemd on a host without any of ours."""
    with private_systemd.booted() as host:
        places = f"{INSTALLED} {CONFIG.parent} /run/systemd/system/{SERVICE} /run/systemd/system/{SOCKET}"
        host.run("sh", "-c", f"umount {INSTALLED}/*; rm -rf {places}; userdel infinity-supervisor", check=False)
        host.systemctl("daemon-reload")
        yield host
        host.systemctl("stop", SERVICE, SOCKET, check=False)


def install(host: Host, *arguments: str) -> str:
    """Run it there, but with this machine's network; its words. It has to succeed."""
    words = ["nsenter", "-t", str(host.pid1), *("-m", "-p", "-C", "-i", "-u"), "--", str(INSTALL), *arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_from_nothing_to_an_answer_and_back(empty: Host) -> None:
    """As an operator does it: install, enable, ask; again with a changed config; uninstall; purge."""
    host = empty
    said = install(host)
    assert f"systemctl enable --now {SOCKET} {SERVICE}" in said
    host.systemctl("enable", "--now", SOCKET, SERVICE, timeout=300)
    host.wait_ready("minilm", 120)
    code, answer = host.post(PROXY + "/embeddings", {"model": "minilm", "input": "hello"})
    assert code == 200, answer
    assert len(answer["data"][0]["embedding"]) == 384
    status = host.run("infinity-supervisor", "status").stdout
    assert "minilm" in status

    mine = "# mine\n" + host.run("cat", str(CONFIG)).stdout
    host.write(CONFIG, mine)
    pid = host.main_pid()
    again = install(host, "--control", "infinity.service")
    assert "The old version still runs." in again
    assert host.run("cat", str(CONFIG)).stdout == mine
    assert host.main_pid() == pid
    assert "infinity.service" in host.run("sh", "-c", "cat /etc/polkit-1/rules.d/50-infinity-supervisor-*").stdout
    host.systemctl("reload", SERVICE)
    worker = host.worker("minilm")["pid"]
    host.systemctl("kill", "--kill-whom=main", "-s", "USR2", SERVICE)
    host.until(lambda: len(host.journal("_SYSTEMD_UNIT=" + SERVICE, "EVENT=started")) >= 2, 60, "no upgrade")
    assert host.embed("minilm") == 200
    assert host.main_pid() == pid
    assert host.worker("minilm")["pid"] == worker

    said = install(host, "--uninstall")
    assert f"Kept: {CONFIG.parent}" in said
    assert not (host.root / str(INSTALLED)[1:]).exists()
    assert host.systemctl("status", SERVICE, check=False).returncode == 4  # no such unit
    assert host.run("cat", str(CONFIG)).stdout == mine
    assert not host.processes()
    said = install(host, "--uninstall", "--purge")
    assert "Nothing of it is left" in said
    for path in (CONFIG.parent, Path("/var/lib/infinity-supervisor")):
        assert not (host.root / str(path)[1:]).exists()
    assert host.run("getent", "passwd", "infinity-supervisor", check=False).returncode
    assert "Nothing of it is here." in install(host, "--uninstall")


def test_a_run_that_broke_off_is_made_good_by_the_next(empty: Host, tmp_path: Path) -> None:
    """Killed in the midst of pip: nothing runs on, and the next one says what it makes anew."""
    words = ["nsenter", "-t", str(empty.pid1), *("-m", "-p", "-C", "-i", "-u"), "--", str(INSTALL)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Installing" in line:
                break
        empty.run("pkill", "-TERM", "-f", "deploy/lib/install.py", check=False)
        process.stdout.read()
        assert process.wait(60) != 0
    assert empty.run("pgrep", "-f", "pip install", check=False).returncode == 1
    shutil.rmtree(tmp_path)
    said = install(empty)
    assert "venv is not usable: making it anew." in said
    assert (empty.root / str(INSTALLED)[1:] / "venv/bin/infinity-supervisor").exists()
