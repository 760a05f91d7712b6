"""deploy/install: what it refuses, what it would do, what it writes and never overwrites; whole in tests/systemd."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALL = ROOT / "deploy/install"


def told(*arguments: str, user: int | None = None) -> tuple[int, str]:
    """Exit status and all words of a run."""
    done = subprocess.run(
        [INSTALL, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, user=user
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The program with every place of it below `tmp_path`, and nobody but this user."""
    monkeypatch.syspath_prepend(str(ROOT / "deploy/lib"))
    module = importlib.import_module("install")
    for name, place in {
        "INSTALLED": "opt",
        "CONFIG": "etc/supervisor.yaml",
        "UNITS": "units",
        "RULES": "rules",
        "COMMAND": "bin/infinity-supervisor",
    }.items():
        monkeypatch.setattr(module, name, tmp_path / place)
    for folder in ("opt/setup", "units", "rules", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(module, "USER", "root" if os.geteuid() == 0 else "nobody")
    yield module
    for name in ("install", "environments", "pip_run", "progress"):
        sys.modules.pop(name, None)


def steps(module: ModuleType, *controlled: str) -> dict[str, Callable[[], None]]:
    """What is to be done, but for packages, users and environments."""
    found = {step.words: step.take for step in module.installation(None, controlled)}
    return {words: take for words, take in found.items() if words.startswith(("write", "let root control", "link"))}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--control", "cron.timer"], "'cron.timer' is no service unit"),
        (["--control", 'x"; evil.service'], "is no service unit"),
        (["--purge"], "--purge goes with --uninstall"),
        (["--what"], "unrecognized arguments: --what"),
    ],
)
def test_bad_usage(arguments: list[str], words: str) -> None:
    """Status 2, and what is wrong."""
    status, said = told(*arguments)
    assert status == 2
    assert words in said


def test_help_has_examples() -> None:
    """And needs no root."""
    status, said = told("--help")
    assert status == 0
    assert "sudo deploy/install --dry-run" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_only_root_installs_and_anybody_may_look() -> None:
    """One line with the remedy; a dry run tells every step and takes none."""
    status, said = told(user=65534)
    assert (status, said.count("\n")) == (1, 1)
    assert "run it with sudo" in said
    status, said = told("--dry-run", "--control", "infinity.service", user=65534)
    assert status == 0
    for words in ("bring /opt/infinity-supervisor up to date", "control infinity.service"):
        assert f"would {words}" in said or words in said
    assert not Path("/opt/infinity-supervisor/venv").exists()


def test_a_config_is_written_once_and_never_touched_again(install: ModuleType) -> None:
    """A newer one comes beside it, once; without a newer one nothing comes."""
    config, new = install.CONFIG, install.CONFIG.with_name("supervisor.yaml.new")
    steps(install)[f"write {config}"]()
    assert config.read_bytes() == install.shipped_config()
    assert config.stat().st_mode & 0o777 == 0o640
    config.write_text("mine: all mine\n")
    assert not [words for words in steps(install) if str(config) in words]  # the shipped one is as it was
    (install.INSTALLED / "setup/service.yaml").write_text("what was shipped a version ago\n")
    (words, take) = next((words, take) for words, take in steps(install).items() if str(new) in words)
    assert "stays as it is" in words
    take()
    assert (config.read_text(), new.read_bytes()) == ("mine: all mine\n", install.shipped_config())
    assert not [words for words in steps(install) if str(config) in words]


def test_control_is_for_one_unit_and_its_verbs(install: ModuleType) -> None:
    """A rule of its own for each; written again only when it is another."""
    for unit in ("infinity.service", "gpu@0.service"):
        words = next(words for words in steps(install, unit) if words.startswith("let root control"))
        steps(install, unit)[words]()
        rule = install.rule_path(unit).read_text()
        assert f'action.lookup("unit") == "{unit}"' in rule
        assert not [words for words in steps(install, unit) if words.startswith("let root control")]
    assert len(list(install.RULES.iterdir())) == 2
    install.RULES.rename(install.RULES.with_name("none"))
    with pytest.raises(install.SetupError, match="apt-get install polkitd"):
        install.write_rule(install.rule_path("a.service"), b"")


def test_a_step_that_fails_is_told_in_its_own_words(install: ModuleType) -> None:
    """Which program, and its last line."""
    with pytest.raises(install.SetupError, match=r"`sh -c echo no luck >&2; exit 3`: no luck"):
        install.run(["sh", "-c", "echo no luck >&2; exit 3"])
    with pytest.raises(install.SetupError, match="no-such-program: No such file"):
        install.run(["no-such-program"])


def test_what_the_operator_wrote_goes_only_with_purge(install: ModuleType) -> None:
    """Drop-ins of `systemctl edit` are config: an uninstall keeps them, as it keeps the rest."""
    edited = install.UNITS / f"{install.SERVICE}.d"
    edited.mkdir()
    (edited / "override.conf").write_text("[Service]\nCPUWeight=10\n")
    (install.UNITS / install.SERVICE).write_text("")
    assert str(edited) not in " ".join(step.words for step in install.removal(purge=False))
    step = next(step for step in install.removal(purge=True) if str(edited) in step.words)
    step.take()
    assert not edited.exists()
