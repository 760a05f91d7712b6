"""The commands that talk to a daemon: what they send, print and return."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from supervisor.cli import client, main, progress
from supervisor.cli.render import status_text, table
from tests.support.fake_control import model, status
from tests.support.served_admin import ServedAdmin, served_admin


@pytest.fixture
def served() -> Iterator[ServedAdmin]:
    """A daemon's admin listener with a fake control behind it."""
    with served_admin() as served:
        yield served


def invoke(admin: str, *words: str) -> Result:
    """Run a command in this process against that address."""
    return CliRunner(env={"INFINITY_SUPERVISOR_ADMIN": admin}).invoke(main, list(words))


def test_status_is_one_look(served: ServedAdmin) -> None:
    """Rung, reason, gate, every signal with its figure or why it is missing, queue, batch and a table of models."""
    done = invoke(served.url, "status")
    assert done.exit_code == 0
    assert done.stdout == (
        "infinity-supervisor 0.1.0, up 2 h 14 m, enforce\n"
        "\n"
        "rung        pause  (memory 91.2 % ≥ 90 %)\n"
        "gate        closed, requests are held\n"
        "cpu           12.5 %  normal  +0.4 per min\n"
        "memory        91.2 %  pause   -2.0 per min  drill\n"
        "gpu                -  no NVML library\n"
        "gpu_memory         -  no NVML library\n"
        "batch       14  (1 to 32, adjusted 1 times)\n"
        "queue       12 requests, 340 inputs, 80.0 KiB, oldest 4.2 s\n"
        "spare       warm, 350 MiB\n"
        "\n"
        "MODEL                      STATE     PID   MEMORY    BATCH  IN FLIGHT  IDLE   USES  LOADS  NOTE\n"
        "minilm                     ready     4711  630 MiB   14     0          3.2 s  17    1      pinned\n"
        "BAAI/bge-small-en-v1.5     starting  4712  1.17 GiB  14     0          -      0     0      paused\n"
        "<script>alert(1)</script>  failed    -     -         14     0          -      0     0"
        '      last words: "\\x1b[31mKeyError\\x1b[0m: <b>x</b>"\n'
    )


def test_status_in_other_states() -> None:
    """An open gate, an operator's pause, an empty queue, a blind signal and no models each read plainly."""
    document: dict[str, Any] = status()
    document.update(rung="normal", paused=False, reason=None, models=[])
    document["queue"].update(requests=0)
    document["spare"].update(state="off", memory_bytes=None)
    document["signals"]["memory"] = {"percent": None, "rung": "shrink", "missing": "can't read /proc/meminfo"}
    text = status_text(document)
    assert "rung        normal\ngate        open\n" in text
    assert "can't read /proc/meminfo (taken as shrink)" in text
    assert "queue       empty\n" in text
    assert "spare" not in text
    assert text.endswith("no models are configured")
    document.update(paused=True, reason="operator", models=[model("a", "stopped", restarts=3)])
    document["spare"].update(reason="infinity_emb is not found")
    text = status_text(document)
    assert "spare       off  (infinity_emb is not found)\n" in text
    assert "gate        closed by the operator" in text
    assert "3 restarts" in text
    document["models"] = [model("a", "failed", reason="why: " + "last words " * 50)]
    assert max(map(len, status_text(document).splitlines())) < 300
    assert "why: last words" in status_text(document)


def test_tables_align_wide_characters() -> None:
    """Columns line up for East Asian names too."""
    assert table(["A", "B"], [["日本", "x"], ["abcd", "y"]]) == ["A     B", "日本  x", "abcd  y"]


def test_status_as_json_is_the_document(served: ServedAdmin) -> None:
    """--json prints the daemon's document and nothing else, in ASCII so that no name can drive a terminal."""
    done = invoke(served.url, "status", "--json")
    assert json.loads(done.stdout) == served.control.status()
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout


def test_explain_tells_the_last_decisions(served: ServedAdmin) -> None:
    """Dates in UTC and sentences, oldest first; -n bounds them; --json gives the entries."""
    done = invoke(served.url, "explain", "-n", "3")
    assert done.stdout.splitlines() == [
        "2026-01-02 03:04:06.500Z  paused: memory 91.2 % ≥ 90 % (0.1 s old); 12 requests held",
        "2026-01-02 03:04:08.000Z  unload <i>old</i>: idle for 301 s",
        "2026-01-02 03:04:09.500Z  resumed, back to normal: memory 61.0 % < 75 % (0.1 s old)",
    ]
    entries = json.loads(invoke(served.url, "explain", "--json").stdout)
    assert [entry["id"] for entry in entries] == [1, 2, 3, 4]


def test_explain_without_decisions_says_so(served: ServedAdmin) -> None:
    """Nothing decided yet is no error, and prints nothing that a script would read."""
    served.control.journal._entries.clear()
    done = invoke(served.url, "explain")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no decisions yet\n")


@pytest.mark.parametrize("name", ["minilm", "BAAI/bge-small-en-v1.5", "a b%2F?#ü", "..", "-x"])
def test_models_of_any_name(served: ServedAdmin, name: str) -> None:
    """load, unload and restart reach the daemon with the name as it was typed, and print the outcome."""
    for act, state in (("load", "ready"), ("unload", "stopped"), ("restart", "ready")):
        done = invoke(served.url, act, "--", name)
        assert (done.exit_code, done.stdout, done.stderr) == (0, f"{name} is {state}\n", "")
    assert served.control.acts == [("load", name), ("unload", name), ("restart", name)]


@pytest.mark.parametrize(
    ("name", "words"), [("nobody", "configured: minilm"), ("broken", "OSError"), ("slow", "still starting")]
)
def test_what_is_refused_is_exit_1_with_the_reason(served: ServedAdmin, name: str, words: str) -> None:
    """One line on stderr, nothing on stdout."""
    done = invoke(served.url, "load", name)
    assert (done.exit_code, done.stdout) == (1, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "act"),
    [
        (["pause"], ("pause", None)),
        (["pause", "--for", "90"], ("pause", 90.0)),
        (["pause", "--for", "90s"], ("pause", 90.0)),
        (["pause", "--for", "5m"], ("pause", 300.0)),
        (["pause", "--for", "1h30m"], ("pause", 5400.0)),
        (["pause", "--for", "1d2h3m4.5s"], ("pause", 93784.5)),
        (["resume"], ("resume",)),
        (["drill", "memory=96"], ("drill", {"memory": 96.0}, 30.0)),
        (["drill", "cpu=0", "gpu_memory=99.5%", "--for", "1m"], ("drill", {"cpu": 0.0, "gpu_memory": 99.5}, 60.0)),
        (["drill", "--for", "0"], ("drill", {}, 0.0)),
    ],
)
def test_pause_resume_and_drill(served: ServedAdmin, words: list[str], act: tuple[object, ...]) -> None:
    """What is typed is what the daemon is asked for; its answer is printed."""
    done = invoke(served.url, *words)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert served.control.acts == [act]


@pytest.mark.parametrize(
    "words",
    [
        ["pause", "--for", "5 minutes"],
        ["pause", "--for", ""],
        ["pause", "--for", "-5"],
        ["pause", "--for", "m"],
        ["pause", "--for", "1h30"],
        ["pause", "--for", "nan"],
        ["pause", "--for", "٣"],
        ["drill"],
        ["drill", "memory"],
        ["drill", "memory=", "--for", "3"],
        ["drill", "memory=101"],
        ["drill", "memory=nan"],
        ["drill", "memory=-1"],
        ["drill", "ram=50"],
        ["drill", "memory=50", "memory=60"],
        ["explain", "-n", "0"],
        ["explain", "-n", "x"],
        ["load"],
        ["load", "a", "b"],
        ["status", "extra"],
        ["nonsense"],
        ["status", "--nonsense"],
    ],
)
def test_bad_usage_is_exit_2_and_reaches_nobody(served: ServedAdmin, words: list[str]) -> None:
    """What can't be meant is refused here, before the daemon hears of it."""
    done = invoke(served.url, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert served.control.acts == []


def test_what_only_the_daemon_refuses_is_exit_1(served: ServedAdmin) -> None:
    """Limits that the daemon owns come back as its one line."""
    done = invoke(served.url, "pause", "--for", "8d")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "at most 604800" in done.stderr


def test_the_option_wins_over_the_environment(served: ServedAdmin) -> None:
    """--admin names the daemon, whatever the environment says."""
    assert invoke("http://127.0.0.1:1", "status", "--admin", served.url).exit_code == 0


def test_a_unix_socket_works(tmp_path: Path) -> None:
    """unix:PATH reaches a daemon that listens on a socket file, acts included."""
    with served_admin(tmp_path / "s") as served:
        assert invoke(served.url, "load", "minilm").stdout == "minilm is ready\n"
        assert invoke(served.url, "status").exit_code == 0


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:7998", "localhost", "https://localhost:1", "unix:", "http://", "http://x:99999", "http://x/y", ""],
)
def test_a_bad_address_is_bad_usage(address: str) -> None:
    """An address of no known form is exit 2 with the forms that are allowed."""
    done = CliRunner().invoke(main, ["status", "--admin", address])
    assert done.exit_code == 2
    assert "allowed: http://HOST:PORT or unix:PATH" in done.stderr


def test_no_daemon_is_one_line_with_address_and_remedy(tmp_path: Path) -> None:
    """Nobody there is exit 1: which address, and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused for as long as the test runs
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for address in (url, f"unix:{tmp_path}/nobody"):
            done = invoke(address, "status")
            assert (done.exit_code, done.stdout) == (1, "")
            assert done.stderr.count("\n") == 1
            assert address in done.stderr
            assert "infinity-supervisor run -c FILE" in done.stderr
            assert "--admin" in done.stderr


class Stranger:
    """Something else that listens: answers every connection with the same bytes."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        try:
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(self._reply)
        except OSError:
            return

    def __enter__(self) -> "Stranger":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
        b'HTTP/1.1 500 Oops\r\nContent-Length: 14\r\n\r\n{"error": "no"}',
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\xff\x00",
        b"",
    ],
)
def test_a_stranger_on_the_port_is_recognised(reply: bytes) -> None:
    """What answers without being a supervisor is exit 1 and one line, whatever it says."""
    with Stranger(reply) as stranger:
        done = invoke(stranger.url, "status")
    assert (done.exit_code, done.stdout) == (1, "")
    assert stranger.url in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("admin: {listen: 127.0.0.1:8123}", "http://127.0.0.1:8123"),
        ("admin: {listen: 0.0.0.0:8123}", "http://127.0.0.1:8123"),
        ("admin: {listen: '[::]:8123'}", "http://[::1]:8123"),
        ("admin: {listen: '[fd00::5]:8123'}", "http://[fd00::5]:8123"),
        ("models: []", client.DEFAULT_ADDRESS),
        ("admin: {listen: nonsense}", client.DEFAULT_ADDRESS),
        ("admin: {listen: null}", client.DEFAULT_ADDRESS),
        ("admin: 3", client.DEFAULT_ADDRESS),
        ("[", client.DEFAULT_ADDRESS),
        ("\x00", client.DEFAULT_ADDRESS),
        ("", client.DEFAULT_ADDRESS),
    ],
)
def test_the_default_address_is_the_configs(tmp_path: Path, text: str, expected: str) -> None:
    """Without option and environment, admin.listen of the config at its default path, else the default port."""
    file = tmp_path / "supervisor.yaml"
    file.write_text(text)
    assert client.default_address(str(file)).text == expected
    assert client.default_address(str(tmp_path / "none")).text == client.DEFAULT_ADDRESS


def test_logs_prints_the_last_lines(served: ServedAdmin) -> None:
    """`-n` bounds them; an unknown model is one line on stderr and 1."""
    done = invoke(served.url, "logs", "minilm", "-n", "2")
    assert (done.exit_code, done.stdout) == (0, "line 1\nline 2\n")
    done = invoke(served.url, "logs", "nope")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no model named 'nope'" in done.stderr


def test_logs_follows_over_a_restart_of_the_daemon(served: ServedAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes is printed as it comes; a daemon that does not answer for a while is told, and is no end."""
    came = iter([["first"], client.CallFailed("no daemon answers"), ["second"], KeyboardInterrupt()])

    def logs(self: client.Daemon, model: str, count: int, after: int | None = None) -> tuple[list[str], int]:
        news = next(came)
        if isinstance(news, BaseException):
            raise news
        return news, (after or 0) + 1

    monkeypatch.setattr(client.Daemon, "logs", logs)
    monkeypatch.setattr("supervisor.cli.control.LOOK_EVERY", 0.0)
    monkeypatch.setattr("supervisor.cli.control.RETRY_EVERY", 0.0)
    done = invoke(served.url, "logs", "minilm", "-f")
    assert done.stdout == "first\nsecond\n"
    assert "no daemon answers; still trying" in done.stderr


def test_what_a_wait_shows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal one line tells what the model does meanwhile, cut to the width so that it can be written over."""

    class Starting:
        def get(self, _path: str) -> Any:
            return {"models": [model("m", "starting", reason="downloading model.safetensors 34 %, and on and on")]}

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    monkeypatch.setenv("COLUMNS", "57")
    with progress.progress_of(Starting(), "m"):  # type: ignore[arg-type]
        time.sleep(0.2)
    shown = capsys.readouterr().err.split("\r\x1b[K")
    assert "m: 0 s, starting: downloading model.safetensors 34 %, an" in shown
    assert max(map(len, shown)) == 56
    assert shown[-1] == ""
