"""The whole daemon before the real Infinity: who is let in, whose key goes where, and what of secrets can be seen."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.support import daemon as daemons
from tests.support import infinity

TOKEN = "t0ken-0123456789abcdef"
KEY = "a-clients-key"
ASKED = {"model": "a", "input": "abcd"}


def line(name: str, key: str) -> str:
    """A client's line in the key file."""
    return f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}\n"


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """`infinity-supervisor` with these words."""
    argv = [sys.executable, "-m", "supervisor", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=daemons.ROOT, check=False)


class Locked(daemons.Daemon):
    """A daemon whose admin API asks for the token."""

    def get(self, url: str, timeout: float = 30) -> tuple[int, Any]:
        """The same, with the token."""
        import urllib.request

        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
        return daemons._answer(request, timeout)[:2]


def test_closed_to_those_who_dont_belong(tmp_path: Path) -> None:
    """An address that others reach needs a token to start; keys change live; no secret of any kind can be seen."""
    keys, token, sock = tmp_path / "keys", tmp_path / "token", tmp_path / "admin.sock"
    keys.write_text(line("alice", KEY))
    token.write_text(TOKEN)
    for file in (keys, token):
        file.chmod(0o600)
    more: dict[str, Any] = {
        "models": [daemons.debug_model("a", env={"HF_TOKEN": "hf-secret-0815"})],
        "proxy": {"api_keys_file": str(keys)},
        "admin": {"listen": f"0.0.0.0:{daemons.free_port()}", "socket": str(sock)},
    }
    d = Locked(tmp_path, daemons.config(tmp_path, more))
    for words in (["check-config", "-c", str(d.path)], ["run", "-c", str(d.path)]):
        refused = command(*words)
        assert (refused.returncode, "admin.token_file" in refused.stderr) == (2, True)
    d.settings["admin"]["token_file"] = str(token)
    d.write(d.settings)
    d.admin = d.admin.replace("0.0.0.0", "127.0.0.1")
    try:
        d.start()
        d.wait_ready("a")
        # keys
        status, answer, headers = d.exchange(f"{d.proxy}/v1/embeddings", ASKED)
        assert (status, headers["x-supervisor-reason"], answer["error"]["code"]) == (
            401,
            "unauthorized",
            "unauthorized",
        )
        mine = {"Authorization": f"Bearer {KEY}"}
        assert d.exchange(f"{d.proxy}/v1/embeddings", ASKED, headers=mine)[0] == 200
        assert daemons.Daemon.get(d, f"{d.proxy}/health")[0] == 200
        keys.write_text("alice " + KEY + "\n")  # the key itself by mistake
        d.until(lambda: d.events("api_keys_refused"), 30, "the bad file is not refused")
        assert d.exchange(f"{d.proxy}/v1/embeddings", ASKED, headers=mine)[0] == 200
        keys.write_text(line("bob", "another-key"))
        d.until(
            lambda: d.exchange(f"{d.proxy}/embeddings", ASKED, headers=mine)[0] == 401, 30, "the old key still counts"
        )
        assert d.exchange(f"{d.proxy}/embeddings", ASKED, headers={"Authorization": "Bearer another-key"})[0] == 200
        # the token, the socket
        assert daemons.Daemon.get(d, f"{d.admin}/api/v1/status")[0] == 401
        assert daemons.Daemon.get(d, f"{d.admin}/readyz")[0] == 200
        assert command("status", "--admin", d.admin).returncode == 1
        assert command("status", "--admin", d.admin, "--token-file", str(token)).returncode == 0
        assert command("pause", "--admin", f"unix:{sock}").returncode == 0
        assert command("resume", "--admin", f"unix:{sock}").returncode == 0
        # workers answer nobody else
        worker = f"http://127.0.0.1:{d.model('a')['port']}"
        assert d.exchange(f"{worker}/embeddings", ASKED)[0] == 401
        assert d.exchange(f"{worker}/embeddings", ASKED, headers=mine)[0] == 401
        # secrets
        worker_key = json.loads(next((tmp_path / "state").rglob("workers.json")).read_text())
        secrets = {TOKEN, KEY, "another-key", "hf-secret-0815", *strings(worker_key, "api_key")}
        assert len(secrets) > 4
        pids = [d.process.pid, *(child.pid for child in psutil.Process(d.process.pid).children(recursive=True))]  # type: ignore[union-attr]
        seen = {
            "process list": " ".join(" ".join(psutil.Process(pid).cmdline()) for pid in pids),
            "log": d.log.read_text(),
            "status": json.dumps(d.status()),
            "config": json.dumps(d.get(f"{d.admin}/api/v1/config")[1]),
            "decisions": json.dumps(d.decisions()),
            "metrics": str(d.get(f"{d.admin}/metrics")[1]),
            "page": str(d.get(f"{d.admin}/")[1]),
            "check-config": command("check-config", "-c", str(d.path)).stdout,
            "state file names": " ".join(map(str, (tmp_path / "state").rglob("*"))),
        }
        assert not [(where, secret) for where, text in seen.items() for secret in secrets if secret in text]
        for file in (*(tmp_path / "state").iterdir(), next((tmp_path / "state").rglob("workers.json"))):
            assert not file.stat().st_mode & 0o077, file
    finally:
        d.kill_all()
    assert not sock.exists()


def strings(node: Any, key: str) -> list[str]:
    """All texts under a key, however deep."""
    if isinstance(node, dict):
        own = [value for name, value in node.items() if name == key and isinstance(value, str)]
        return own + [text for value in node.values() for text in strings(value, key)]
    return [text for value in node for text in strings(value, key)] if isinstance(node, list) else []


def test_an_attached_infinity_is_shown_its_clients_keys(tmp_path: Path) -> None:
    """Without a key of ours it decides itself whom it answers, in its own words; a model of ours asks for none."""
    port = daemons.free_port()
    with infinity.serve(infinity.debug_args("m"), env={"INFINITY_API_KEY": KEY}, port=port):
        models = [{"name": "m", "url": f"http://127.0.0.1:{port}"}, daemons.debug_model("a")]
        with daemons.running(tmp_path, {"models": models}) as d:
            d.wait_ready("m", "a")
            asked = {"model": "m", "input": "abcd"}
            right, wrong = {"Authorization": f"Bearer {KEY}"}, {"Authorization": "Bearer other"}
            assert d.exchange(f"{d.proxy}/embeddings", asked, headers=right)[0] == 200
            for headers in (wrong, None):
                status, answer, received = d.exchange(f"{d.proxy}/embeddings", asked, headers=headers)
                assert (status, "x-supervisor-reason" in received) == (401, False)
                assert "Unauthorized" in str(answer)
            assert d.exchange(f"{d.proxy}/embeddings", ASKED, headers=wrong)[0] == 200
