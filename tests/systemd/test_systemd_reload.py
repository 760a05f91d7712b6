"""`systemctl reload` waits for the outcome and tells it."""

import pytest

from tests.support.private_systemd import CONFIG, SERVICE, Host


def test_a_reload_is_waited_for_and_a_bad_file_changes_nothing(host: Host) -> None:
    """What a good file says is in force when it returns; with a bad one it fails, says why, and all stays as it was.

    The bad file is wrong about the admin address as well: nothing that it says is needed to be told that it is bad.
    """
    host.start()
    host.wait_ready("m")
    host.configure({"models": [host.model("m"), host.model("n", start_seconds=0.5)], "proxy": {"max_body_bytes": 1000}})
    host.systemctl("reload", SERVICE)
    assert [model["name"] for model in host.status()["models"]] == ["m", "n"]
    assert host.post("http://127.0.0.1:7997/embeddings", {"model": "m", "input": "x" * 2000})[0] == 413

    host.write(CONFIG, "admin: {listen: '127.0.0.1:1'}\nmodels: []\nnonsense: 1\n")
    failed = host.systemctl("reload", SERVICE, check=False)
    assert failed.returncode == 1
    assert "nonsense" in host.show("StatusText")
    shown = host.systemctl("status", SERVICE).stdout
    assert "last reload refused" in shown
    assert "nonsense: unknown key" in shown.replace("'", "")
    told = [str(entry["MESSAGE"]) for entry in host.journal(f"_SYSTEMD_UNIT={SERVICE}", "EVENT=reload_failed")]
    assert told
    assert host.show("ActiveState") == "active"
    assert host.status()["last_reload"]["ok"] is False
    assert [model["name"] for model in host.status()["models"]] == ["m", "n"]
    assert host.embed("m") == 200

    host.configure({"models": [host.model("m")]})
    host.systemctl("reload", SERVICE)
    assert [model["name"] for model in host.status()["models"]] == ["m"]
    host.until(lambda: "last reload" not in host.show("StatusText"))


@pytest.mark.long
def test_sighup_is_shown_as_a_reload(host: Host) -> None:
    """Whoever sends the signal himself sees the unit reload, for as long as a model that goes is drained."""
    host.configure({"models": [host.model("m"), host.model("n", term_seconds=2)]})
    host.start()
    host.wait_ready("n")
    host.configure({"models": [host.model("m")]})
    host.run("kill", "-HUP", str(host.main_pid()))
    host.until(lambda: host.show("ActiveState") == "reloading", timeout=5)
    host.until(lambda: host.show("ActiveState") == "active")
    assert host.status()["last_reload"]["models_removed"] == ["n"]
