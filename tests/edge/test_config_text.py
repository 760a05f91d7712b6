"""The text of a config file: encoding, syntax, duplicate keys, aliases, sizes; each with its exact line."""

import os
import time
from pathlib import Path

import pytest

from supervisor.config import ConfigError, check, load
from supervisor.config.lines import MAX_BYTES, parse


def told(path: Path) -> list[tuple[int, str, str]]:
    """(line, dotted path, message) of each fault in a file."""
    return [(fault.line, fault.path, fault.message) for fault in check(path).faults]


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "~\n", "null", "---\n...\n", "\ufeff"])
def test_an_empty_file_means_all_defaults(tmp_path: Path, text: str) -> None:
    """A file without any setting is valid and equals the defaults."""
    (tmp_path / "a.yaml").write_text(text)
    assert load(tmp_path / "a.yaml").resource_monitor.cpu_pause_threshold == 90


SYNTAX = [
    ("tab", "resource_monitor:\n\tcheck_interval: 1\n", 2, "a tab indents this line"),
    ("tab in a list", "models:\n  - name: a\n\tmodel_id: b\n", 3, "a tab indents this line"),
    ("tab behind spaces", "admin:\n  \tlisten: x\n", 2, "a tab"),
    ("two colons", "mode: a: b\n", 1, "mapping values are not allowed here"),
    ("bad indentation", "proxy:\n    listen: a\n  queue: {}\n", 3, "not valid YAML"),
    ("open quote", "mode: 'enforce\nprofile: small\n", 2, "which begins in line 1"),
    ("open list", "mode: enforce\ninfinity:\n  command: [a,\n", 3, "not valid YAML"),
    ("undefined alias", "mode: enforce\nprofile: *small\n", 2, "undefined alias"),
    ("at sign", "mode: @x\n", 1, "cannot start any token"),
    ("two documents", "mode: enforce\n---\nmode: observe\n", 2, "a second document begins here"),
    ("control character", "mode: enforce\nprofile: \x01\n", 2, "U+0001"),
    ("a list", "\n- mode\n", 2, "holds a list"),
    ("a word", "mode\n", 1, "holds a single value"),
    ("half a line", "resource_monitor:\n  check_interval: 1.0\n  cpu_warning_thr", 3, "not valid YAML"),
    ("version", "%YAML 2.0\n---\nmode: enforce\n", 1, "not valid YAML"),
]


@pytest.mark.parametrize(("text", "line", "words"), [case[1:] for case in SYNTAX], ids=[case[0] for case in SYNTAX])
def test_text_that_is_no_yaml_is_one_fault_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    """What can't be read is told in one line that names the place."""
    file = tmp_path / "a.yaml"
    file.write_bytes(text.encode())
    [(found, path, message)] = told(file)
    assert (found, path) == (line, "")
    assert words in message
    assert "\n" not in message
    assert str(check(file).faults[0]).startswith(f"{file}:{line}: ")


def test_bytes_that_are_no_utf8_name_their_line(tmp_path: Path) -> None:
    """Latin-1 and UTF-16 are refused where they stop being UTF-8."""
    (tmp_path / "latin.yaml").write_bytes("mode: enforce\n# gr\xfc\xdf\n".encode("latin-1"))
    (tmp_path / "wide.yaml").write_bytes("mode: enforce\n".encode("utf-16"))
    assert told(tmp_path / "latin.yaml") == [(2, "", "byte 0xfc is not UTF-8; allowed: UTF-8")]
    assert told(tmp_path / "wide.yaml") == [(1, "", "byte 0xff is not UTF-8; allowed: UTF-8")]


def test_what_is_no_readable_file_is_one_fault(tmp_path: Path) -> None:
    """A missing file, a folder, a path through a file and a link to itself are one clear line each."""
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for name, words in [
        ("missing.yaml", "No such file or directory"),
        (".", "Is a directory"),
        ("file/x.yaml", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("x" * 300, "File name too long"),
    ]:
        path = tmp_path / name
        [fault] = check(path).faults
        assert str(fault) == f"{path}: can't be read: {words}; allowed: a readable YAML file"
        with pytest.raises(ConfigError, match=words):
            load(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_one_fault(tmp_path: Path) -> None:
    """A file without permission says so."""
    (tmp_path / "a.yaml").write_text("")
    (tmp_path / "a.yaml").chmod(0)
    [(_, _, message)] = told(tmp_path / "a.yaml")
    assert "Permission denied" in message


VALUES = [
    ("duplicate key", "mode: enforce\nmode: observe\n", [(2, "mode", "a second time (first in line 1)")]),
    (
        "duplicates deeper",
        "proxy:\n  listen: 127.0.0.1:1\n  listen: 127.0.0.1:2\nproxy: {}\n",
        [(3, "proxy.listen", "first in line 2"), (4, "proxy", "first in line 1")],
    ),
    ("merge key kept apart", "infinity:\n  env: {<<: {A: b}, A: c}\n", []),
    ("merge of a word", "infinity:\n  <<: x\n", [(2, "infinity", "`<<` takes a mapping")]),
    ("number as key", "mode: enforce\n5: x\n", [(2, "", "the key '5' is not text")]),
    ("yes as key", "infinity:\n  env:\n    on: '1'\n", [(3, "infinity.env", "the key 'on' is not text")]),
    ("list as key", "mode: enforce\n[a]: x\n", [(2, "", "the key a list or mapping is not text")]),
    ("python tag", "mode: !!python/name:os.system\n", [(1, "mode", "python/name:os.system' is not allowed")]),
    ("own tag", "\nproxy: !x {}\n", [(2, "proxy", "'!x' is not allowed")]),
    ("set", "proxy: !!set {a}\n", [(1, "proxy", "set' is not allowed")]),
    (
        "no number",
        "resource_monitor:\n  history_size: !!int x\n",
        [(2, "resource_monitor.history_size", "can't be read as int")],
    ),
    (
        "no truth",
        "models:\n- {name: a, model_id: b, pinned: !!bool x}\n",
        [(2, "models.0.pinned", "can't be read as bool")],
    ),
    (
        "huge",
        "batch_controller: {max_batch_size: 0x" + "f" * 5000 + "}\n",
        [(1, "batch_controller.max_batch_size", "too large")],
    ),
    ("huge decimal", "proxy:\n  max_body_bytes: " + "9" * 5000, [(2, "proxy.max_body_bytes", "can't be read as int")]),
    ("nul", 'state_dir: "a\\0b"\n', [(1, "state_dir", "NUL")]),
    ("surrogate", 'infinity: {env: {A: "\\ud800"}}\n', [(1, "infinity.env.A", "half a surrogate")]),
    ("in itself", "models: &a\n- *a\n", [(1, "models.0", "the alias names what it stands in")]),
    ("merged into itself", "infinity: &a\n  <<: *a\n", [(2, "infinity", "`<<` takes a mapping that ends before it")]),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in VALUES], ids=[case[0] for case in VALUES])
def test_values_that_yaml_allows_and_we_do_not(tmp_path: Path, text: str, expected: list[tuple[int, str, str]]) -> None:
    """Duplicate keys, tags, odd keys and unusable values are told with their place, and nothing else is."""
    (tmp_path / "a.yaml").write_text(text)
    found = told(tmp_path / "a.yaml")
    assert [(line, path) for line, path, _ in found] == [(line, path) for line, path, _ in expected], found
    for (_, _, message), (_, _, words) in zip(found, expected, strict=True):
        assert words in message


def test_aliases_and_merge_keys_repeat_settings(tmp_path: Path) -> None:
    """Own keys win over merged ones, earlier merged ones over later ones; a fault in them has the line it stands in."""
    file = tmp_path / "a.yaml"
    file.write_text(
        "models:\n- &a {name: a, model_id: x, args: &args [--dtype, float16]}\n"
        "- <<: *a\n  name: b\n- <<: [{engine: optimum, device: cuda}, *a]\n  name: c\n  args: *args\n"
    )
    a, b, c = load(file).models
    assert (b.name, b.model_id, b.args) == ("b", "x", a.args)
    assert (c.engine, c.device, c.model_id, c.args) == ("optimum", "cuda", "x", ("--dtype", "float16"))
    file.write_text("models:\n- &a {name: a, model_id: 5}\n- <<: *a\n  name: b\n")
    assert [(line, path) for line, path, _ in told(file)] == [(2, "models.0.model_id"), (2, "models.1.model_id")]


def bombs() -> dict[str, str]:
    """Texts that would take for ever, or too much memory, if they were simply read."""
    lists = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    merges = "a0: &a0 {x: y}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12)
    )
    chain = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000))
    return {
        "laughs": lists,
        "merged laughs": merges,
        "a long chain": chain,
        "deep flow": "a: " + "[" * 100_000,
        "deep mappings": "a: " + "{a: " * 50_000,
        "deep block": "".join(" " * i + "a:\n" for i in range(500)),
        "many items": "a: [" + "x," * 100_000 + "]",
        "many keys": "\n".join(f"k{i}: 1" for i in range(22_000)),
        "question marks": "? " * 50_000,
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_soon(tmp_path: Path, name: str) -> None:
    """Aliases that multiply and texts that nest or go on without end are given up, with a line, in bounded time."""
    (tmp_path / "a.yaml").write_text(bombs()[name])
    began = time.monotonic()
    [(line, path, message)] = told(tmp_path / "a.yaml")
    assert time.monotonic() - began < 20
    assert line > 0
    assert path == ""
    assert "too large or too deep" in message


def test_a_file_that_is_too_large_is_not_even_parsed(tmp_path: Path) -> None:
    """The size is bounded; endless devices are, too."""
    (tmp_path / "a.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    assert told(tmp_path / "a.yaml") == [(0, "", "the file is too large; allowed: at most 256 KiB")]
    assert told(Path("/dev/zero"))[0][2].startswith("the file is too large")


def test_every_half_written_file_is_valid_or_one_line(tmp_path: Path) -> None:
    """A file cut off at any byte never ends in anything but faults with lines of the file."""
    text = (
        "resource_monitor:\n  memory_pause_threshold: 82\n"
        "infinity:\n  command: [infinity_emb, v2]\n  env: {A: 'ü', B: \"x\"}\n"
        "models:\n  - name: größe\n    model_id: org/x\n    args: [--dtype, float16]\n"
    ).encode()
    for end in range(len(text)):
        (tmp_path / "a.yaml").write_bytes(text[:end])
        checked = check(tmp_path / "a.yaml")
        assert (checked.settings is None) == bool(checked.faults)
        assert all(0 < fault.line <= text[:end].count(b"\n") + 1 and "\n" not in str(fault) for fault in checked.faults)


def test_text_of_a_value_is_kept_as_written() -> None:
    """A fault can show `yes` where YAML made true of it."""
    document = parse(b"proxy:\n  listen: 12:30\n", "f")
    assert document.text_of(("proxy", "listen")) == "12:30"
    assert document.line_of(("proxy", "queue", "max_wait")) == 1
