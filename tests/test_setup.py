"""What deploy/quickstart and tests/run share: what a set-up says, what it repairs, what it leaves behind."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.support import tiny_packages
from tests.support.setup_checkout import Checkout, alive, finished, path_with, run, wait_for

# What pip 23 says when its index is not there, cut to what matters.
BROKEN_OFF = """\
echo "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError: Connection refused'"
echo "ERROR: Could not find a version that satisfies the requirement aiohttp (from versions: none)"
exit 1
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout whose path has a space in it."""
    return Checkout(tmp_path / "a checkout")


def test_a_second_set_up_starts_no_pip(checkout: Checkout) -> None:
    """What is complete is not touched again, so a later start needs neither network nor time."""
    assert checkout.set_up().code == 0
    assert [line.split()[0] for line in checkout.asked()] == [".venv", ".infinity"]
    assert (checkout.path / ".quickstart/model").resolve().is_dir()
    again = checkout.set_up()
    assert (again.code, again.out) == (0, "")
    assert len(checkout.asked()) == 2


def test_sizes_are_told_before_the_download(checkout: Checkout) -> None:
    """What will be downloaded depends on the torch that pip finds, and is told first."""
    assert "PyTorch (CPU build) and a small model: 0.4 GB to download" in checkout.set_up().out
    shutil.rmtree(checkout.path / ".infinity")
    checkout.environ["TORCH"] = "2.13.0"
    checkout.pip("echo '  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (526.6 MB)'")
    done = checkout.set_up()
    if done.code:  # the host has no room for it, which is told as well
        assert "this takes up to 11.5 GB" in done.err
    else:
        assert "CUDA build" in done.out
        assert "  downloading torch-2.13.0 (526.6 MB)\n" in done.out


def test_changed_dependencies_are_installed_in_place(checkout: Checkout) -> None:
    """After a `git pull` that changes what the supervisor needs, pip runs for that environment and no other."""
    checkout.set_up()
    checkout.depend_on("aiohttp", "orjson")
    kept = checkout.path / ".venv/kept"
    kept.touch()
    assert checkout.set_up().code == 0
    assert [line.split()[0] for line in checkout.asked()] == [".venv", ".infinity", ".venv"]
    assert kept.exists()


def test_settings_of_tools_are_no_change(checkout: Checkout) -> None:
    """Only what pip reads counts: a contributor who edits a linter's settings stays offline."""
    checkout.set_up()
    project = checkout.path / "pyproject.toml"
    project.write_text(project.read_text().replace("x = 1", "x = 2"))
    checkout.set_up()
    assert len(checkout.asked()) == 2


def test_extras_stay(checkout: Checkout) -> None:
    """tests/run adds the test tools; quickstart does not take them away or install again."""
    checkout.set_up()
    checkout.set_up("test")
    assert checkout.asked()[-1].endswith("--editable .[test]")
    checkout.set_up()
    assert len(checkout.asked()) == 3
    checkout.depend_on("aiohttp", "orjson")
    checkout.set_up()
    assert checkout.asked()[-1].endswith("--editable .[test]")


def test_an_environment_of_someone_else_is_kept(checkout: Checkout) -> None:
    """A `.venv` that was made by hand is brought up to date, not removed."""
    folder = checkout.path / ".venv/bin"
    folder.mkdir(parents=True)
    shutil.copy(checkout.python, folder / "python")
    (folder / "my-tool").touch()
    assert checkout.set_up().code == 0
    assert (folder / "my-tool").exists()


def test_a_moved_checkout_is_made_anew(checkout: Checkout) -> None:
    """Scripts of an environment carry its path, so one that was moved along is of no use."""
    checkout.set_up()
    elsewhere = checkout.path.with_name("elsewhere")
    checkout.path.rename(elsewhere)
    checkout.path, checkout.python = elsewhere, elsewhere / checkout.python.name
    checkout.environ["CHECKOUT"] = str(elsewhere)
    (elsewhere / ".venv/stale").touch()
    assert checkout.set_up().code == 0
    assert len(checkout.asked()) == 4
    assert not (elsewhere / ".venv/stale").exists()


def test_a_download_that_breaks_off_is_repaired_by_the_next_run(checkout: Checkout) -> None:
    """One line with the remedy and where pip's words are; the half-made environment is made anew."""
    checkout.pip(f'touch "$folder/half"\n{BROKEN_OFF}')
    done = checkout.set_up()
    assert done.code == 1
    assert done.err == (
        "setup: .venv: the download broke off: check the network (or pip's index and proxy settings, `pip config list`)"
        f" and run this again; what pip said is in {checkout.path}/.quickstart/setup.log\n"
    )
    assert "Connection refused" in (checkout.path / ".quickstart/setup.log").read_text()
    checkout.pip("")
    assert checkout.set_up().code == 0
    assert not (checkout.path / ".venv/half").exists()


def test_an_index_that_is_not_there_is_told_before_the_big_download(checkout: Checkout) -> None:
    """Infinity's size is asked for first; no answer is already the network's fault."""
    checkout.python.write_text(checkout.python.read_text().replace('echo "torch (2.15.0)"', "exit 1"))
    done = checkout.set_up()
    assert done.code == 1
    assert ".infinity: pip finds no torch: check the network" in done.err


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device'; exit 1",
         "the disk is full: make room"),
        ("echo 'ERROR: No matching distribution found for aiohttp>=99'; exit 1",
         "the package index has no aiohttp>=99 for this Python"),
        ("echo 'error: subprocess-exited'; echo 'note: a build'; exit 1", "pip failed (error: subprocess-exited)"),
        ("kill -9 $$", "pip was ended by SIGKILL: run this again"),
        ("exit 3", "pip failed (no word)"),
    ],
)  # fmt: skip
def test_every_failure_of_pip_is_one_sentence(checkout: Checkout, script: str, said: str) -> None:
    """Whatever pip says at length, the person reads one line with a remedy."""
    checkout.pip(script)
    done = checkout.set_up()
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert f"setup: .venv: {said}" in done.err


def test_too_little_room_is_told_before_the_download(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the downloads and what they unpack to is looked for before any is fetched."""
    monkeypatch.syspath_prepend(str(checkout.path / "deploy/lib"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**10, 10**10, 10**8))
    for name, value in checkout.environ.items():
        monkeypatch.setenv(name, value)
    import environments  # deploy/lib is no package: its files are a program's

    with pytest.raises(environments.SetupError, match=r"has 0\.1 GB of disk free and this takes up to 0\.3 GB: make "):
        environments.set_up(root=checkout.path, python=str(checkout.python))
    assert checkout.asked() == []


def test_a_checkout_that_cannot_be_written_says_so(checkout: Checkout) -> None:
    """Neither a traceback nor a half-made environment."""
    (checkout.path / ".quickstart").touch()
    done = checkout.set_up()
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert ".quickstart" in done.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_no_pip(checkout: Checkout, number: signal.Signals) -> None:
    """Whoever ends a set-up ends the pip it started, and the next run repairs what that left."""
    checkout.pip('echo $$ > "$CHECKOUT/pid"; exec sleep 60')
    process = checkout.start()
    pid = checkout.path / "pid"
    wait_for(lambda: pid.exists() and pid.read_text().strip() != "")
    process.send_signal(number)
    assert finished(process).code == {signal.SIGINT: 130}.get(number, 128 + number)
    wait_for(lambda: not alive(int(pid.read_text())))
    checkout.pip("")
    assert checkout.set_up().code == 0


def test_two_at_once_take_turns(checkout: Checkout) -> None:
    """The second says that it waits, and then finds nothing left to do."""
    checkout.pip('touch "$CHECKOUT/began"; while [ ! -e "$CHECKOUT/go" ]; do sleep 0.05; done')
    first = checkout.start()
    wait_for((checkout.path / "began").exists)
    second = checkout.start()
    assert second.stdout is not None
    assert second.stdout.readline() == f"Another set-up in {checkout.path} is running; waiting for it.\n"
    (checkout.path / "go").touch()
    assert finished(first).code == 0
    assert finished(second).code == 0
    assert len(checkout.asked()) == 2


def test_a_pip_that_outlives_its_set_up_keeps_others_out(checkout: Checkout) -> None:
    """After SIGKILL the orphaned pip still writes into the environment: the next run waits for its end."""
    checkout.pip('echo $$ > "$CHECKOUT/pid"; exec sleep 60')
    process = checkout.start()
    pid = checkout.path / "pid"
    wait_for(lambda: pid.exists() and pid.read_text().strip() != "")
    process.kill()
    finished(process)
    checkout.pip("")
    second = checkout.start()
    assert second.stdout is not None
    assert "waiting for it" in second.stdout.readline()
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert finished(second).code == 0


def test_the_real_pip_installs_inside_the_checkout_only(tmp_path: Path) -> None:
    """The whole of `--install-only` with real environments and tiny packages, through a link and from elsewhere."""
    checkout = Checkout(tmp_path / "a checkout")
    packages, home, elsewhere = (tmp_path / name for name in ("packages", "home", "elsewhere"))
    for folder in (packages, home, elsewhere):
        folder.mkdir()
    tiny_packages.infinity_packages(packages)
    tiny_packages.project(checkout.path)
    (tmp_path / "link").symlink_to(checkout.path / "deploy/quickstart")
    environ = {
        "PATH": path_with(tmp_path / "bin", **{"python3.11": f'exec {sys.executable} "$@"'}),
        "HOME": str(home),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(packages),
    }
    done = run([tmp_path / "link", "--install-only"], environ, cwd=elsewhere)
    assert done.code == 0, done
    assert done.out.endswith("Installed. `deploy/quickstart` starts it.\n")
    assert (checkout.path / ".quickstart/model/config.json").read_text() == "{}"
    assert list(home.iterdir()) == list(elsewhere.iterdir()) == []
    assert not (checkout.path / ".quickstart/tmp").exists()
    environ["PIP_FIND_LINKS"] = "/nowhere"
    assert run([tmp_path / "link", "--install-only"], environ).out == "Installed. `deploy/quickstart` starts it.\n"
