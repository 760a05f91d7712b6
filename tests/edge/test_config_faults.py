"""Every kind of fault in a config file: the exact line and path, and what is allowed instead; all of them at once."""

from pathlib import Path

import pytest

from supervisor.config import ConfigError, check, load
from supervisor.config.owned import OPTIONS, VARIABLES

MODEL = "models:\n  - name: a\n    model_id: org/a\n"


def told(tmp_path: Path, text: str) -> list[tuple[int, str, str]]:
    """(line, dotted path, message) of each fault of a file with that text."""
    (tmp_path / "a.yaml").write_text(text)
    return [(fault.line, fault.path, fault.message) for fault in check(tmp_path / "a.yaml").faults]


def threshold(**values: object) -> str:
    """A file with these thresholds."""
    lines = (f"  {key}_threshold: {'null' if value is None else value}\n" for key, value in values.items())
    return "resource_monitor:\n" + "".join(lines)


def cases() -> list[tuple[str, list[str]]]:
    """(text of a file, what is told) of each case in the list beside this file."""
    found = []
    for case in Path(__file__).with_suffix(".txt").read_text().rstrip("\n").split("\n----")[1:]:
        lines = case.split("\n")[1:]  # the rest of the separator's line is a heading
        expected = [line[2:] for line in lines if line.startswith("> ")]
        found.append(("\n".join(line for line in lines if not line.startswith("> ")) + "\n", expected))
    return found


@pytest.mark.parametrize(("text", "expected"), cases())
def test_a_mistake_is_told_with_its_place_and_what_is_allowed(tmp_path: Path, text: str, expected: list[str]) -> None:
    """A file with one mistake has one fault: its line, its dotted path, what is wrong and what is allowed."""
    assert expected
    assert [f"{line}: {path}: {message}" for line, path, message in told(tmp_path, text)] == expected


@pytest.mark.parametrize("option", OPTIONS)
def test_owned_options_are_refused_by_name(tmp_path: Path, option: str) -> None:
    """Each option that the supervisor sets is refused, alone and with a value."""
    for word in (option, f"{option}=1"):
        [(line, path, message)] = told(tmp_path, MODEL + f"    args: ['{word}']\n")
        assert (line, path) == (4, "models.0.args.0")
        assert message.startswith(f"{option} is set by the supervisor; allowed: ")


@pytest.mark.parametrize("name", VARIABLES)
def test_owned_variables_are_refused_by_name(tmp_path: Path, name: str) -> None:
    """Each variable that the supervisor sets is refused, for all models and for one; its value is not repeated."""
    found = told(tmp_path, f"infinity:\n  env: {{{name}: hidden}}\n{MODEL}    env:\n      {name}: hidden\n")
    assert [(line, path) for line, path, _ in found] == [(2, f"infinity.env.{name}"), (7, f"models.0.env.{name}")]
    assert all(
        message.startswith(f"{name} is set by the supervisor") and "hidden" not in message for *_, message in found
    )


def test_owned_options_are_those_of_the_brief() -> None:
    """No option or variable gets lost from the list."""
    assert {
        "--port",
        "--host",
        "--api-key",
        "--url-prefix",
        "--batch-size",
        "--model-id",
        "--served-model-name",
        "--engine",
    } <= set(OPTIONS)
    assert {"--device", "--device-id", "--preload-only", "--no-preload-only"} <= set(OPTIONS)
    from_options = {f"INFINITY_{option[2:].upper().replace('-', '_')}" for option in OPTIONS}
    odd = {"INFINITY_NO_PRELOAD_ONLY", "INFINITY_HELP", "INFINITY_INSTALL_COMPLETION", "INFINITY_SHOW_COMPLETION"}
    assert set(VARIABLES) == (from_options - odd) | {"INFINITY_QUEUE_SIZE", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"}


def test_all_faults_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Wrong types, unknown keys, broken relations, owned options and missing files come in one answer."""
    text = """\
profile: tiny
resource_monitor:
  cpu_pause_threshold: "90"
  cpu_warning_threshold: 95
  memory_warning_threshold: 95
batch_controller: {min_batch_size: 64}
infinity:
  command: [./nowhere/infinity_emb, v2, --host, x]
models:
  - name: a
    model_id: ./nowhere
    args: [--port, 80]
  - name: A
    model_id: 7
    pinned: perhaps
  - url: x
proxy: {listen: 127.0.0.1:7998}
proxy: {}
"""
    assert [(line, path) for line, path, _ in told(tmp_path, text)] == [
        (1, "profile"),
        (3, "resource_monitor.cpu_pause_threshold"),
        (8, "infinity.command.2"),
        (8, "infinity.command.0"),
        (11, "models.0.model_id"),
        (12, "models.0.args.1"),
        (12, "models.0.args.0"),
        (13, "models.1.name"),
        (14, "models.1.model_id"),
        (15, "models.1.pinned"),
        (16, "models.2.name"),
        (16, "models.2.url"),
        (17, "proxy.listen"),
        (18, "proxy"),
    ]


def test_a_refused_value_causes_no_echo(tmp_path: Path) -> None:
    """What only follows from a refused value is not told: it may well be right once that one is mended."""
    assert len(told(tmp_path, threshold(cpu_pause="'99'", cpu_warning=95))) == 1
    assert len(told(tmp_path, "profile: smal\n" + threshold(memory_warning=89, memory_resume=89.5))) == 1
    assert len(told(tmp_path, "batch_controller: {max_batch_size: '64', initial_batch_size: 48}\n")) == 1
    assert len(told(tmp_path, "models:\n- {model_id: x}\n- {model_id: y}\n")) == 2
    assert len(told(tmp_path, "models: [1, 2, 3]\n")) == 3
    assert len(told(tmp_path, "infinity: {command: ['/nowhere', 5]}\n")) == 2


def test_a_flood_of_faults_is_cut_off_and_counted(tmp_path: Path) -> None:
    """A file that was written for something else does not fill the log."""
    found = told(tmp_path, "".join(f"other{number}: 1\n" for number in range(1, 1001)))
    assert [line for line, _, _ in found] == list(range(1, 202))
    assert found[-1] == (201, "", "800 more from this line on")


def test_values_of_variables_are_never_repeated(tmp_path: Path) -> None:
    """A fault about an environment goes to the log, a secret in it does not."""
    text = """\
infinity:
  env: {HF_TOKEN: 4711, A: 2024-13-45, INFINITY_API_KEY: s4711}
models:
- {env: {X_KEY: 4711.5}}
"""
    found = told(tmp_path, text)
    assert len(found) == 5
    assert not any("4711" in message for *_, message in found)


def test_config_error_has_all_faults_as_lines(tmp_path: Path) -> None:
    """`load` raises once, with every fault, one printable line each."""
    (tmp_path / "a.yaml").write_text('mode: x\nprofile: "y\\nz\\e[0m"\n"k\\nk": 1\n')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "a.yaml")
    assert [fault.path for fault in caught.value.faults] == ["mode", "profile", "'k\\nk'"]
    lines = str(caught.value).split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert lines[0] == f"{tmp_path}/a.yaml:1: mode: 'x' is not known; allowed: one of enforce, observe"


def test_files_that_are_not_there_are_faults(tmp_path: Path) -> None:
    """Folders of models and programs with a slash have to exist, relative ones beside the config file."""
    (tmp_path / "plain").write_text("")
    (tmp_path / "plain").chmod(0o644)
    (tmp_path / "folder").mkdir()
    for text, line, path, words in [
        ("infinity:\n  command: [./missing, v2]\n", 2, "infinity.command.0", f"{tmp_path}/missing is not there"),
        ("infinity:\n  command: [bin/missing, v2]\n", 2, "infinity.command.0", f"{tmp_path}/bin/missing is not there"),
        ("infinity:\n  command: [./plain, v2]\n", 2, "infinity.command.0", "plain can't be executed"),
        ("infinity:\n  command: [./folder, v2]\n", 2, "infinity.command.0", "folder can't be executed"),
        ("models:\n- name: a\n  model_id: ./missing\n", 3, "models.0.model_id", f"{tmp_path}/missing is not there"),
        (
            "models:\n- name: a\n  model_id: ../missing\n",
            3,
            "models.0.model_id",
            f"{tmp_path.parent}/missing is not there",
        ),
        (
            "models:\n- name: a\n  model_id: /missing\n",
            3,
            "models.0.model_id",
            "/missing is not there; allowed: a folder",
        ),
        ("models:\n- name: a\n  model_id: ~/no such/folder\n", 3, "models.0.model_id", "/no such/folder is not there"),
        ("models:\n- name: a\n  model_id: ~nobody-of-that-name/x\n", 3, "models.0.model_id", "is not there"),
        ("models:\n- name: a\n  model_id: ./plain\n", 3, "models.0.model_id", "plain is no folder"),
        ("state_dir: ./plain\n", 1, "state_dir", "plain is no folder"),
    ]:
        [(found_line, found_path, message)] = told(tmp_path, text)
        assert (found_line, found_path) == (line, path)
        assert words in message


def test_notes_refuse_nothing(tmp_path: Path) -> None:
    """No models, a program that is not in PATH and settings without effect are notes beside valid settings."""
    (tmp_path / "org" / "a").mkdir(parents=True)
    program = tmp_path / "infinity_emb"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o644)
    for text, notes in [
        ("", [(1, "models", "no models are configured"), (1, "infinity.command.0", "infinity_emb is not in PATH")]),
        (f"infinity: {{env: {{PATH: '{tmp_path}'}}}}\n", [(1, "models", "no models")]),
        ("infinity: {command: [./infinity_emb, v2]}\nmodels: []\n", [(2, "models", "no models")]),
        ("infinity: {command: [./infinity_emb]}\n" + MODEL, [(4, "models.0.model_id", "write ./org/a")]),
        (
            "infinity: {command: [./infinity_emb]}\nmodels: [{name: a, model_id: b, device_id: 1}]",
            [(2, "models.0.device_id", "no effect")],
        ),
        (
            "infinity: {command: [./infinity_emb]}\nmodels: [{name: a, url: 'http://h:1', api_key_file: ./key}]",
            [(2, "models.0.api_key_file", "(mode 644): `chmod 600` keeps the key private")],
        ),
        (
            "infinity: {command: [./infinity_emb]}\nmodels: [{name: a, model_id: b}]\nproxy: {queue: {max_bytes: 9}}\n",
            [(3, "proxy.queue.max_bytes", "refuses bodies that max_body_bytes, 67108864, allows")],
        ),
    ]:
        (tmp_path / "a.yaml").write_text(text)
        checked = check(tmp_path / "a.yaml", {"PATH": "/nowhere"})
        assert checked.settings is not None
        assert [(note.line, note.path) for note in checked.notes] == [(line, path) for line, path, _ in notes]
        assert all(words in note.message for note, (*_, words) in zip(checked.notes, notes, strict=True))
