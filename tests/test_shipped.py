"""What is shipped in etc/ is right: every file loads, shows every key at its default, and agrees with the schema."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from supervisor.config import Settings, check, effective, json_schema, load

ETC = Path(__file__).resolve().parent.parent / "etc"
PROFILES = ("small", "medium", "large", "gpu")
# A setting that is switched off: `#` at once followed by a key or by a list item. Prose has a space after its `#`.
SWITCHED_OFF = re.compile(r"^( *)#(?=- |[a-z_]+:)", re.MULTILINE)
MODEL = {"name": "minilm", "model_id": "sentence-transformers/all-MiniLM-L6-v2"}


def shipped() -> list[Path]:
    """Every YAML file of etc/."""
    return sorted(ETC.rglob("*.yaml"))


def switched_on(path: Path) -> str:
    """The file's text with every setting in force."""
    return SWITCHED_OFF.sub(r"\1", path.read_text())


def settings_of(tmp_path: Path, text: str) -> Settings:
    """The settings of a file with that text."""
    (tmp_path / "a.yaml").write_text(text)
    return load(tmp_path / "a.yaml")


def key_paths(node: dict[str, Any], schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every key of the schema, with its place."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    for each in node.get("anyOf", ()):
        yield from key_paths(each, schema, path)
    if "items" in node:
        yield from key_paths(node["items"], schema, f"{path}[]")
    for key, child in node.get("properties", {}).items():
        yield f"{path}.{key}"
        yield from key_paths(child, schema, f"{path}.{key}")


def written_paths(node: Any, path: str = "") -> Iterator[str]:
    """Every key of a document, with its place."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield f"{path}.{key}"
            yield from written_paths(child, f"{path}.{key}")
    if isinstance(node, list):
        for child in node:
            yield from written_paths(child, f"{path}[]")


def test_all_files_are_known_to_these_tests() -> None:
    """A file added to etc/ needs a test of its own."""
    names = {"supervisor.yaml", "quickstart.yaml", "service.yaml"} | {
        f"profiles/{profile}.yaml" for profile in PROFILES
    }
    assert {str(path.relative_to(ETC)) for path in shipped()} == names


def test_supervisor_yaml_changes_nothing_as_it_is() -> None:
    """All settings are switched off, so the file is the defaults."""
    assert effective(load(ETC / "supervisor.yaml")) == effective(Settings())


def test_supervisor_yaml_shows_every_key_at_its_default(tmp_path: Path) -> None:
    """Switched on, it has each key of the schema once, with its default, and one model, all at defaults, too."""
    text = switched_on(ETC / "supervisor.yaml")
    assert effective(settings_of(tmp_path, text)) == {
        **effective(Settings()),
        "models": effective(settings_of(tmp_path, yaml.safe_dump({"models": [MODEL]})))["models"],
    }
    written = list(written_paths(yaml.safe_load(text)))
    assert sorted(written) == sorted(key_paths(json_schema(), json_schema()))


def test_supervisor_yaml_explains_every_key() -> None:
    """The line above each key is a comment, or belongs to the key's section."""
    lines = (ETC / "supervisor.yaml").read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r" *#?(- )?[a-z_]+:", line)]
    assert len(keys) > 60
    for number in keys:
        above = lines[number - 1].strip()
        assert above.startswith("# "), f"line {number + 1}, {lines[number].strip()!r}, has no comment above it"


@pytest.mark.parametrize("name", ["etc/service.yaml", "deploy/docker/sidecar.yaml", "deploy/docker/complete.yaml"])
def test_configs_for_other_places_are_right_but_for_what_is_not_here(name: str) -> None:
    """Programs and models of an installation, or of an image, are the only faults."""
    outcome = check(ETC.parent / name)
    missing = [
        str(fault)
        for fault in outcome.faults
        if re.search(r"/(opt/infinity-supervisor|app)/\S+ is not there", str(fault))
    ]
    assert [str(fault) for fault in outcome.faults] == missing
    assert not outcome.notes


def test_the_compose_file_builds_what_the_dockerfile_has() -> None:
    """Targets, files and ports that one names, the other has."""
    folder = ETC.parent / "deploy/docker"
    dockerfile = (folder / "Dockerfile").read_text()
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    build = compose["services"]["supervisor"]["build"]
    assert f"AS {build['target']}\n" in dockerfile
    assert (folder / build["context"]).resolve() == ETC.parent
    assert (ETC.parent / build["dockerfile"]).is_file()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        assert all((ETC.parent / name).exists() for name in source.split())
    port = compose["services"]["infinity"]["command"][-1]
    assert yaml.safe_load((folder / "sidecar.yaml").read_text())["models"][0]["url"] == f"http://127.0.0.1:{port}"


def test_one_key_switched_on_alone_is_valid(tmp_path: Path) -> None:
    """Whoever takes away a single `#` gets a file that works."""
    text = (ETC / "supervisor.yaml").read_text()
    head, models, tail = re.split(r"(?<=\n)(?=models:|# Where clients connect)", text)
    for part in (head, tail):
        for match in SWITCHED_OFF.finditer(part):
            changed = part[: match.start()] + match[1] + part[match.end() :]
            assert effective(settings_of(tmp_path, changed)) == effective(Settings()), changed[match.start() :][:60]
    required = re.sub(r"^( *)#(?=- name|model_id)", r"\1", models, flags=re.MULTILINE)
    for match in SWITCHED_OFF.finditer(required):
        changed = required[: match.start()] + match[1] + required[match.end() :]
        assert len(settings_of(tmp_path, changed).models) == 1


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_say_what_they_set(tmp_path: Path, profile: str) -> None:
    """A profile's file selects it, and what it shows switched off is what the profile sets, with a model as example."""
    path = ETC / "profiles" / f"{profile}.yaml"
    settings = load(path)
    assert settings.profile == profile
    assert effective(settings_of(tmp_path, switched_on(path))) == effective(settings)
    assert len(re.findall(SWITCHED_OFF, path.read_text())) == 4
    example = re.sub(r"^# (?=models:|  )", "", path.read_text(), flags=re.MULTILINE)
    assert [model.name for model in settings_of(tmp_path, example).models] == ["minilm"]


def test_quickstart_yaml_loads_beside_what_quickstart_makes(tmp_path: Path) -> None:
    """With Infinity and the model link in place it is valid without a note, and serves the package's MiniLM."""
    program = tmp_path / ".infinity" / "bin" / "infinity_emb"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "package" / "model").mkdir(parents=True)
    (tmp_path / ".quickstart").mkdir()
    (tmp_path / ".quickstart" / "model").symlink_to(tmp_path / "package" / "model")
    (tmp_path / "etc").mkdir()
    shutil.copy(ETC / "quickstart.yaml", tmp_path / "etc")
    checked = check(tmp_path / "etc" / "quickstart.yaml")
    assert (checked.faults, checked.notes) == ((), ())
    assert checked.settings is not None
    assert checked.settings.infinity.command == (str(program), "v2")
    assert checked.settings.infinity.env == {"HF_HUB_OFFLINE": "1"}
    assert checked.settings.state_dir == f"{tmp_path}/.quickstart/state"
    model, second = checked.settings.models
    assert (second.name, second.model_id, second.preload) == ("minilm-2", model.model_id, False)
    assert (model.name, model.aliases) == ("minilm", ("sentence-transformers/all-MiniLM-L6-v2",))
    assert (model.model_id, model.engine, model.device) == (f"{tmp_path}/.quickstart/model", "torch", "cpu")
    assert model.preload


def test_quickstart_yaml_names_what_is_not_there_yet(tmp_path: Path) -> None:
    """Before deploy/quickstart has run, the two missing paths are the only faults."""
    shutil.copy(ETC / "quickstart.yaml", tmp_path)
    assert [fault.path for fault in check(tmp_path / "quickstart.yaml").faults] == [
        "infinity.command.0",
        "models.0.model_id",
        "models.1.model_id",
    ]


def test_the_schema_file_is_the_schema() -> None:
    """`infinity-supervisor config-schema > etc/supervisor.schema.json` was run after the last change."""
    assert json.loads((ETC / "supervisor.schema.json").read_text()) == json_schema()


def test_the_schema_is_valid_and_describes_every_key() -> None:
    """It is a JSON Schema, without references to nowhere, and every key in it says what it means."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for part in (schema, *schema["$defs"].values()):
        assert part["description"]
        for key, node in part["properties"].items():
            assert len(node["description"]) > 10, key


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.name)
def test_shipped_files_agree_with_the_schema(path: Path) -> None:
    """As they are and with everything switched on, and they tell editors where the schema is."""
    validator = jsonschema.Draft202012Validator(json_schema())
    for text in (path.read_text(), switched_on(path)):
        validator.validate(yaml.safe_load(text) or {})
    first_line = path.read_text().splitlines()[0]
    assert (path.parent / first_line.split("$schema=")[1]).resolve() == ETC / "supervisor.schema.json"


@pytest.mark.parametrize(
    "document",
    [
        {"nonsense": 1},
        {"resource_monitor": {"cpu_pause_threshold": "90"}},
        {"resource_monitor": {"cpu_pause_threshold": 101}},
        {"models": [{"name": "a"}]},
        {"models": [{"name": "a", "model_id": "b", "device": "gpu"}]},
        {"models": [{"name": "a", "model_id": "b", "device_id": "0"}]},
        {"infinity": {"command": []}},
        {"infinity": {"env": {"A": 1}}},
        {"mode": None},
    ],
)
def test_the_schema_refuses_what_we_refuse(document: dict[str, Any], tmp_path: Path) -> None:
    """Types, bounds and unknown keys are in the schema, so that an editor shows them while one writes."""
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(document)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(document))
    assert check(tmp_path / "a.yaml").faults
