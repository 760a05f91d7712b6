"""The files that say who is let in: what may be in them, and what is said of one that may not be used."""

import asyncio
import hashlib
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from supervisor.config import check
from supervisor.config.credentials import MOST_BYTES, api_keys, token
from supervisor.credentials import ApiKeys, Keys, admin_token
from supervisor.errors import StartError
from tests.support.proxying import eventually


def digest(key: str) -> bytes:
    """The SHA-256 of a key."""
    return hashlib.sha256(key.encode()).digest()


def line(name: str, key: str) -> str:
    """A client's line."""
    return f"{name} sha256:{digest(key).hex()}\n"


def test_keys_are_found_by_their_hashes(tmp_path: Path) -> None:
    """Comments and empty lines are none; upper case is as good; two keys may have one name."""
    file = tmp_path / "keys"
    file.write_text(
        "# ours\n\n"
        + line("a", "one")
        + line("a", "two").replace("sha256:", "sha256:").upper()[:2].lower()
        + f"sha256:{digest('two').hex().upper()}\n"
        + "  "
        + line("b/c", "three")
    )
    assert api_keys(str(file)) == {digest("one"): "a", digest("two"): "a", digest("three"): "b/c"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "there is no key in it"),
        ("# none\n", "there is no key in it"),
        ("secret-key-itself\n", ":1: no key"),
        (line("a", "x") + "b secret-key-itself\n", ":2: no key"),
        ("a sha1:" + "0" * 40, ":1: no key"),
        ("a sha256:" + "0" * 63, ":1: no key"),
        ("a sha256:" + "g" * 64, ":1: no key"),
        (line("a", "x").strip() + " more", ":1: no key"),
        (line("\x1b[2J", "x"), ":1: no key"),
        (line("n" * 101, "x"), ":1: no key"),
        (line("a", ""), ":1: the hash of nothing"),
        (line("a", "x") + line("b", "x"), ":2: the key is there already, for a"),
        ("\xff", "not UTF-8"),
        ("#" * (MOST_BYTES + 1), "larger than"),
    ],
)
def test_a_bad_key_file_is_refused_precisely(tmp_path: Path, text: str, fault: str) -> None:
    """By line and with what is allowed; what stands there is not repeated, for it may be a key."""
    file = tmp_path / "keys"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="keys") as caught:
        api_keys(str(file))
    assert fault in str(caught.value)
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "short", "two words of sixteen", "line\nline" * 9, "ümlaut" * 9, "\x00" * 20])
def test_a_token_must_be_hard_to_guess(tmp_path: Path, text: str) -> None:
    """One line of 16 characters or more; the message has none of it."""
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(ValueError, match="openssl rand"):
        token(str(file))
    file.write_text("  0123456789abcdef\n")
    assert token(str(file)) == "0123456789abcdef"


def test_check_config_reads_the_files(tmp_path: Path) -> None:
    """A bad one is a fault of the config, with the setting's line; one that others may read is a note."""
    (tmp_path / "keys").write_text("nothing of use\n")
    (tmp_path / "token").write_text("0123456789abcdef\n")
    (tmp_path / "token").chmod(0o644)
    file = tmp_path / "supervisor.yaml"
    file.write_text("proxy:\n  api_keys_file: ./keys\nadmin:\n  listen: 0.0.0.0:7998\n  token_file: ./token\n")
    checked = check(file)
    assert [(fault.line, fault.path) for fault in checked.faults] == [(2, "proxy.api_keys_file")]
    assert f"{tmp_path}/keys:1: no key" in checked.faults[0].message
    assert any(note.path == "admin.token_file" and "chmod 640" in note.message for note in checked.notes)
    file.write_text(file.read_text().replace("  token_file: ./token\n", ""))
    assert [fault.path for fault in check(file).faults] == ["proxy.api_keys_file", "admin.listen"]


def started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Keys | None], ApiKeys]:
    """A file with one key, what was made of it so far, and who looks at it all the time."""
    monkeypatch.setattr("supervisor.credentials.LOOK_EVERY", 0.01)
    file, used = folder / "keys", list[Keys | None]()
    file.write_text(line("a", "one"))
    keys = ApiKeys(used.append, str(file))
    keys.start()
    return file, used, keys


async def test_a_changed_file_counts_within_seconds_and_a_bad_one_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written anew or replaced; what can't be used, or is gone, leaves the keys in force."""
    file, used, keys = started(tmp_path, monkeypatch)
    looking = asyncio.create_task(keys.run())
    try:
        for step in ("written", "replaced", "bad", "gone", "back"):
            if step == "written":
                file.write_text(line("b", "two two"))
            elif step == "replaced":
                (tmp_path / "new").write_text(line("c", "three"))
                os.replace(tmp_path / "new", file)
            elif step == "bad":
                file.write_text("half a li")
            elif step == "gone":
                file.unlink()
            else:
                file.write_text(line("d", "four"))
            before = len(used)
            if step in ("bad", "gone"):
                await asyncio.sleep(0.2)
                assert len(used) == before
            else:
                await eventually(lambda before=before: len(used) > before)
    finally:
        looking.cancel()
    assert [list(found.values()) for found in used if found is not None] == [["a"], ["b"], ["c"], ["d"]]


def test_a_reload_never_opens_the_door_by_a_bad_file(tmp_path: Path) -> None:
    """Keys that are in force stay; where none were, nobody comes in until the file is good."""
    used, file = list[Keys | None](), tmp_path / "keys"
    keys = ApiKeys(used.append, None)
    keys.start()
    keys.set_path(str(file))
    assert used == [None, {}]
    file.write_text(line("a", "one"))
    keys.set_path(str(file))
    file.write_text("")
    keys.set_path(str(file))
    assert used[2:] == [{digest("one"): "a"}]
    keys.set_path(None)
    assert used[-1] is None


async def test_what_could_not_be_read_for_a_moment_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor was left just when the file had changed: it has not changed since, and counts all the same."""
    file, used, keys = started(tmp_path, monkeypatch)
    with monkeypatch.context() as broken:
        broken.setattr("supervisor.credentials.api_keys", Mock(side_effect=ValueError("keys: too many open files")))
        file.write_text(line("b", "two two"))
        keys.set_path(str(file))
    looking = asyncio.create_task(keys.run())
    try:
        await eventually(lambda: len(used) == 2)
    finally:
        looking.cancel()


def test_without_a_file_everybody_comes_in_and_with_a_bad_one_nobody_starts(tmp_path: Path) -> None:
    """No file is a choice of the operator's, a bad one is none; of a token that went bad the one before stays."""
    used = list[Keys | None]()
    ApiKeys(used.append, None).start()
    assert used == [None]
    with pytest.raises(StartError, match=r"proxy.api_keys_file: .*can't be read"):
        ApiKeys(used.append, str(tmp_path / "none")).start()
    with pytest.raises(StartError, match=r"admin.token_file: .*can't be read"):
        admin_token(str(tmp_path / "none"))
    assert admin_token(str(tmp_path / "none"), "before") == "before"
    assert admin_token(None) is None
