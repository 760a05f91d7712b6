"""The command line as a whole, and the commands that read a configuration."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from supervisor import __version__, daemon
from supervisor.cli import main
from supervisor.config import Settings

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "run",
    "check-config",
    "config-schema",
    "status",
    "load",
    "unload",
    "restart",
    "logs",
    "pause",
    "resume",
    "drill",
    "explain",
)
GOOD = f"""\
infinity: {{command: [{sys.executable}]}}
models:
  - {{name: minilm, model_id: some/model}}
"""
# The seed's block 7.1, as it stands.
SEED = """\
resource_monitor:
  check_interval: 1.0
  history_size: 60
  cpu_warning_threshold: 80
  cpu_pause_threshold: 90
  memory_warning_threshold: 80
  memory_pause_threshold: 90
"""


def invoke(*words: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, list(words))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A good configuration."""
    file = tmp_path / "supervisor.yaml"
    file.write_text(GOOD)
    return file


def test_the_commands_are_the_contracts() -> None:
    """Exactly the commands of this version, each in `--help`."""
    assert set(main.commands) == set(COMMANDS)
    done = invoke("--help")
    assert done.exit_code == 0
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example(name: str) -> None:
    """`--help` ends with a command line that can be typed as it stands: it names real options only."""
    done = invoke(name, "--help")
    assert done.exit_code == 0
    _, _, examples = done.stdout.partition("Example:\n")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines
    for line in lines:
        words = line.partition("|")[0].partition(">")[0].split()
        assert words[:2] == ["infinity-supervisor", name]
        command = main.commands[name]
        with command.make_context(name, words[2:]) as context:
            assert isinstance(context, click.Context)


def test_the_version_is_told() -> None:
    """--version names program and version."""
    assert invoke("--version").stdout.endswith(f"version {__version__}\n".split(maxsplit=1)[1])


def test_python_m_supervisor_is_the_same_program() -> None:
    """`python -m supervisor` works without an installed script; bad usage is exit 2."""
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "--config" in done.stderr


def test_check_config_prints_what_it_amounts_to(config: Path) -> None:
    """Effective YAML on stdout, defaults and derived values included; it is itself a valid config."""
    done = invoke("check-config", "-c", str(config))
    assert done.exit_code == 0
    effective = yaml.safe_load(done.stdout)
    assert effective["models"][0]["name"] == "minilm"
    assert effective["resource_monitor"]["cpu_shrink_threshold"] == 85
    again = config.with_name("again.yaml")
    again.write_text(done.stdout)
    assert yaml.safe_load(invoke("check-config", "-c", str(again)).stdout) == effective


def test_the_seeds_block_is_valid_and_noted(tmp_path: Path) -> None:
    """Without models a config is valid; the note goes to stderr, the exit code is 0."""
    file = tmp_path / "seed.yaml"
    file.write_text(SEED)
    done = invoke("check-config", "-c", str(file))
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["resource_monitor"]["memory_pause_threshold"] == 90
    assert "no models are configured" in done.stderr


def test_check_config_tells_every_fault(tmp_path: Path) -> None:
    """Exit 2, nothing on stdout, one line per fault with file, line and dotted path."""
    file = tmp_path / "bad.yaml"
    file.write_text("resource_monitor:\n  check_interval: soon\nbogus: 1\nmode: both\n")
    done = invoke("check-config", "-c", str(file))
    assert (done.exit_code, done.stdout) == (2, "")
    for place in (f"{file}:2: resource_monitor.check_interval: ", f"{file}:3: bogus: ", f"{file}:4: mode: "):
        assert any(line.startswith(place) for line in done.stderr.splitlines()), place


def test_check_config_as_json(config: Path, tmp_path: Path) -> None:
    """--json is one object with ok, faults, notes and effective, for good files and bad ones."""
    good = json.loads(invoke("check-config", "-c", str(config), "--json").stdout)
    assert (good["ok"], good["faults"]) == (True, [])
    assert good["effective"]["models"][0]["name"] == "minilm"
    bad = tmp_path / "bad.yaml"
    bad.write_text("mode: both\n")
    done = invoke("check-config", "-c", str(bad), "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 2
    assert set(report) == {"ok", "faults", "notes", "effective"}
    assert (report["ok"], report["effective"]) == (False, None)
    (fault,) = report["faults"]
    assert (fault["file"], fault["line"], fault["path"]) == (str(bad), 1, "mode")
    assert fault["message"]


@pytest.mark.parametrize("command", ["check-config", "run"])
def test_a_file_that_is_not_there_is_exit_2(tmp_path: Path, command: str) -> None:
    """A missing config is one line with its name."""
    done = invoke(command, "-c", str(tmp_path / "none.yaml"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "none.yaml" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_schema_is_json() -> None:
    """config-schema prints a JSON Schema that names the sections."""
    schema = json.loads(invoke("config-schema").stdout)
    assert {"resource_monitor", "models", "proxy", "admin"} <= set(schema["properties"])


def test_run_without_models_says_what_to_add(tmp_path: Path) -> None:
    """`run` on a config without models is exit 2 and one line."""
    file = tmp_path / "seed.yaml"
    file.write_text(SEED)
    done = invoke("run", "-c", str(file))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "models: no models are configured; add at least one with `name` and `model_id`" in done.stderr


def test_run_refuses_a_bad_config_with_every_fault(tmp_path: Path) -> None:
    """`run` on a bad config is exit 2 with the same lines as check-config."""
    file = tmp_path / "bad.yaml"
    file.write_text("mode: both\nbogus: 1\n")
    done = invoke("run", "-c", str(file))
    assert done.exit_code == 2
    assert done.stderr == invoke("check-config", "-c", str(file)).stderr


@pytest.mark.parametrize("code", [0, 1])
def test_run_hands_over_to_the_daemon(config: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A good config goes to the daemon with its path, and the daemon's exit code is the program's."""
    given: list[tuple[Path, str]] = []

    def run(path: Path, settings: Settings) -> int:
        given.append((path, settings.models[0].name))
        return code

    monkeypatch.setattr(daemon, "run", run)
    assert invoke("run", "-c", str(config)).exit_code == code
    assert given == [(config, "minilm")]
