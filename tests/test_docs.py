"""README.md against the code: nothing that a user can set, call, see or run is missing there, nothing is made up."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from supervisor.admin.api import Api
from supervisor.cli import main
from supervisor.config import effective, json_schema, load
from supervisor.metrics import Metrics
from supervisor.proxy.refusals import RULES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

Schema = dict[str, Any]


def section(title: str) -> str:
    """The text under a heading, up to the next one of that level."""
    _, _, rest = README.partition(f"\n## {title}\n")
    assert rest, f"README.md has no section {title}"
    return rest.partition("\n## ")[0]


def rows(title: str) -> dict[str, list[str]]:
    """The table of a section: the first cell, without its back-ticks, to the other cells."""
    lines = [line for line in section(title).splitlines() if line.startswith("| `")]
    body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({row[0] for row in body}) == len(body)
    return {row[0].strip("`"): row[1:] for row in body}


def settings_of(node: Schema, definitions: dict[str, Schema], path: str = "") -> set[str]:
    """The dotted paths of all settings that a schema knows; `[]` marks the items of a list of objects."""
    if "$ref" in node:
        return settings_of(definitions[node["$ref"].rpartition("/")[2]], definitions, path)
    if "properties" in node:
        deeper = (settings_of(n, definitions, f"{path}.{name}".lstrip(".")) for name, n in node["properties"].items())
        return set().union(*deeper)
    if "$ref" in node.get("items", {}):
        return settings_of(node["items"], definitions, path + "[]")
    deeper = (settings_of(choice, definitions, path) for choice in node.get("anyOf", ()) if _holds_settings(choice))
    return set().union(*deeper) or {path}


def _holds_settings(choice: Schema) -> bool:
    return "$ref" in choice or "$ref" in choice.get("items", {})


def test_every_setting_is_in_the_configuration_table() -> None:
    """A setting that is added, renamed or removed has to be so in the table as well."""
    schema = json_schema()
    assert set(rows("Configuration")) == settings_of(schema, schema["$defs"])


def test_the_defaults_in_the_table_are_those_in_force(tmp_path: Path) -> None:
    """The default column says what a config with one model and nothing else amounts to."""
    path = tmp_path / "minimal.yaml"
    path.write_text("models: [{name: minilm, model_id: some/hub-id}]\n")
    in_force = effective(load(path))
    in_force["models[]"] = in_force["models"][0]
    for key, (_, default, _) in rows("Configuration").items():
        value: Any = in_force
        for part in key.split("."):
            value = value[part]
        if default != "required":
            assert yaml.safe_load(default.strip("`")) == value, key
        else:
            assert key in ("models[].name", "models[].model_id")


def test_every_metric_is_in_the_table() -> None:
    """Name, type and labels of each metric are those that a scrape shows."""
    documented = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, (kind, labels, _) in rows("Metrics").items()
    }
    assert documented == {metric.name: (metric.kind, metric.labels) for metric in Metrics().described()}


def test_every_refusal_is_in_the_table() -> None:
    """Reason and status of all that the proxy itself refuses."""
    documented = {reason: int(status) for reason, (status, _) in rows("Proxy").items()}
    assert documented == {reason.value: rule.status for reason, rule in RULES.items()}


def test_every_route_of_the_control_plane_is_in_the_table() -> None:
    """What an operator's scripts can call."""

    class Streams:
        async def serve(self, request: object) -> None: ...

    api = Api(None, None, Streams(), "127.0.0.1")  # type: ignore[arg-type]
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in api.application().router.routes()
        if route.resource and route.method != "HEAD"
    }
    documented = {name.replace("{name}/load", "{name}/{action}") for name in rows("Admin API")}
    assert documented == routes


def test_every_command_is_in_the_table_with_the_options_it_has() -> None:
    """The first word of a row is the command; each option and argument after it exists."""
    documented = {usage.split()[0]: usage for usage in rows("Command line")}
    assert documented.keys() == main.commands.keys()
    for name, usage in documented.items():
        known = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)\[?(--?[a-z]+)", usage)) <= known, usage


def shown_commands() -> list[list[str]]:
    """Every call of the command that README.md shows in a block or in back-ticks, as words."""
    blocks = [text for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL) if not kind]
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(infinity-supervisor [^`]+)`", prose)
    words = [shlex.split(line) for line in lines if re.match(r"\S*infinity-supervisor\s", line)]
    return [call[1:] for call in words if call[1] not in ("COMMAND",)]


@pytest.mark.parametrize("words", shown_commands(), ids=" ".join)
def test_shown_commands_can_be_typed(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a command with arguments that it takes; nothing is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "supervisor.yaml").touch()
    name, *arguments = words
    command = main.commands[name]
    command.make_context(name, [argument.replace("MODEL", "minilm") for argument in arguments])


def test_configs_that_are_shown_are_valid(tmp_path: Path) -> None:
    """Whoever copies a config out of README.md gets one that works."""
    shown = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert shown
    for number, text in enumerate(shown):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text.replace("/opt/infinity/bin/infinity_emb", "/bin/true"))
        assert load(path).models


def test_paths_and_links_lead_somewhere() -> None:
    """Files, folders and sections that are named exist."""
    for target in re.findall(r"\]\(([^)#:]+)\)", README) + list(rows("How to change it")):
        assert (ROOT / target).exists(), target
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^a-z -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_the_shared_import_name_is_told() -> None:
    """Two distributions with the package `supervisor` overwrite each other: the reader has to know before."""
    assert "supervisord" in section("Your own set-up")


def test_help_of_every_command_shows_an_example() -> None:
    """`--help` ends with a line that can be typed."""
    for name, command in main.commands.items():
        text = command.get_help(click.Context(command, info_name=name))
        assert re.search(rf"Example:\n +infinity-supervisor {name}", text), name
