"""Who may give orders: a token where one is asked for, a unix socket by its mode, and nobody's web page."""

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner, Result

from supervisor.admin.server import AdminServer
from supervisor.admin.unix_socket import UnixSocket
from supervisor.cli import client, main
from supervisor.errors import StartError
from supervisor.metrics import Metrics
from tests.support.admin_client import Answer, call
from tests.support.fake_control import FakeControl
from tests.support.served_admin import served_admin

TOKEN = "0123456789abcdef0123456789abcdef"


@asynccontextmanager
async def admin(**more: str | None) -> AsyncIterator[tuple[AdminServer, FakeControl]]:
    """An admin server on loopback, and what is behind it."""
    control = FakeControl()
    server = AdminServer(control, Metrics(), "127.0.0.1", 0, **more)
    await server.start()
    try:
        yield server, control
    finally:
        await server.close()


async def asked(server: AdminServer, method: str, path: str, sent: str | None, **more: str) -> Answer:
    """The answer to a request with this Authorization."""
    body = b"" if method == "POST" else None
    return await call(server.port, method, path, body, {"Authorization": sent, **more})


WRONG = [
    None,
    "",
    "Bearer",
    "Bearer x",
    f"Basic {TOKEN}",
    TOKEN,
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    "Bearer é",
]
LOOKS = ("/", "/metrics", "/api/v1/status", "/api/v1/config", "/api/v1/events", "/no")
ORDERS = ("/api/v1/pause", "/api/v1/reload", "/api/v1/models/m/unload", "/healthz/../x")


@pytest.mark.parametrize("sent", WRONG)
async def test_without_the_token_only_the_probes_are_open(sent: str | None) -> None:
    """Looks, metrics, the page, paths that are not there, and orders: 401, and nothing is done."""
    async with admin(token=TOKEN) as (server, control):
        for method, path in (
            *(("GET", path) for path in LOOKS),
            *(("POST", path) for path in ORDERS),
        ):
            answer = await asked(server, method, path, sent)
            assert (answer.status, answer.reason) == (401, "unauthorized"), path
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert TOKEN not in answer.raw.decode()
        assert [(await asked(server, "GET", path, sent)).status for path in ("/healthz", "/readyz")] == [200, 200]
        assert control.acts == []


async def test_with_the_token_all_is_open_but_to_web_pages() -> None:
    """By any name of the host; a page that got hold of the token still may not change anything from elsewhere."""
    async with admin(token=TOKEN) as (server, control):
        good = f"bearer {TOKEN}"
        assert (await asked(server, "GET", "/api/v1/status", good, Host="ops.example:7998")).status == 200
        assert (await asked(server, "POST", "/api/v1/pause", good, Origin="http://evil.example")).status == 403
        assert (await asked(server, "POST", "/api/v1/pause", good)).status == 200
        server.set_token("another-token-of-16")
        assert (await asked(server, "POST", "/api/v1/resume", good)).status == 401
        assert (await asked(server, "POST", "/api/v1/resume", "Bearer another-token-of-16")).status == 200
        assert len(control.acts) == 2


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_no_answer_allows_a_page_of_another_origin_to_read_it(token: str | None) -> None:
    """No CORS header on anything, preflights included."""
    async with admin(token=token) as (server, _):
        for method in ("GET", "OPTIONS", "POST"):
            answer = await asked(
                server, method, "/api/v1/status", token and f"Bearer {token}", Origin="http://evil.example"
            )
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
            assert answer.status == (200 if method == "GET" else 405 if method == "OPTIONS" else 403)


# -- the unix socket ------------------------------------------------------------------------------------------------


async def test_the_socket_is_open_to_its_owner_and_group_without_a_token(tmp_path: Path) -> None:
    """Mode 0660 whatever the umask; gone after the end; the address beside it still asks for the token."""
    path = tmp_path / "admin.sock"
    before = os.umask(0)
    try:
        async with admin(token=TOKEN, socket=str(path)) as (server, control):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
                assert (await session.post("http://localhost/api/v1/pause", data=b"")).status == 200
                rebound = {"Host": "evil.example"}
                assert (await session.get("http://localhost/api/v1/status", headers=rebound)).status == 403
            assert control.acts == [("pause", None)]
            assert (await asked(server, "POST", "/api/v1/pause", None)).status == 401
    finally:
        os.umask(before)
    assert not path.exists()


def test_at_no_moment_may_others_write_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its mode before it is set once more for a narrow umask."""
    seen = []
    monkeypatch.setattr(os, "chmod", lambda path, _: seen.append(stat.S_IMODE(os.stat(path).st_mode)))
    before = os.umask(0)
    try:
        UnixSocket(str(tmp_path / "s")).listener.close()
    finally:
        os.umask(before)
    assert seen == [0o660]


def test_a_killed_supervisors_socket_is_replaced_and_anything_else_left_alone(tmp_path: Path) -> None:
    """A file, and a socket where somebody listens, stay; so does one that another has put there meanwhile."""
    path = str(tmp_path / "s")
    UnixSocket(path).listener.close()  # as after SIGKILL: the file stays
    first = UnixSocket(path)
    first.listener.listen()
    with pytest.raises(StartError, match="somebody listens there"):
        UnixSocket(path)
    first.listener.close()
    second = UnixSocket(path)
    first.remove()
    assert os.path.exists(path)
    second.remove()
    second.listener.close()
    assert not os.path.exists(path)
    Path(path).write_text("mine")
    with pytest.raises(StartError, match="no socket"):
        UnixSocket(path)
    with pytest.raises(StartError, match=r"admin.socket .*No such file"):
        UnixSocket(str(tmp_path / "none" / "s"))
    assert Path(path).read_text() == "mine"


# -- the command line -----------------------------------------------------------------------------------------------


def invoke(*words: str, **environ: str) -> Result:
    """Run a command in this process."""
    return CliRunner(env=environ).invoke(main, list(words))


def test_commands_reach_the_socket(tmp_path: Path) -> None:
    """`--admin unix:PATH`, for looks and for orders."""
    with served_admin(tmp_path / "s") as served:
        assert invoke("status", "--admin", f"unix:{tmp_path}/s").exit_code == 0
        assert invoke("pause", "--admin", f"unix:{tmp_path}/s").exit_code == 0
        assert served.control.acts == [("pause", None)]


def test_commands_send_the_token(tmp_path: Path) -> None:
    """From a file, named by option or environment: never on a command line. Without it the remedy is told."""
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with served_admin(token=TOKEN) as served:
        done = invoke("status", "--admin", served.url)
        assert (done.exit_code, "asks for a token: name its file with --token-file" in done.stderr) == (1, True)
        assert invoke("status", "--admin", served.url, "--token-file", str(file)).exit_code == 0
        assert invoke("status", "--admin", served.url, INFINITY_SUPERVISOR_TOKEN_FILE=str(file)).exit_code == 0
        done = invoke("status", "--admin", served.url, "--token-file", str(tmp_path / "none"))
        assert (done.exit_code, "can't be read: No such file" in done.stderr, done.stderr.count("\n")) == (1, True, 1)


def test_the_configs_token_is_for_the_configs_address_only(tmp_path: Path) -> None:
    """Relative to the config; nobody else is shown it; a socket that may be written to comes first."""
    config, path = tmp_path / "supervisor.yaml", tmp_path / "s"
    (tmp_path / "token").write_text(TOKEN)
    config.write_text(f"admin: {{listen: '0.0.0.0:8123', token_file: ./token, socket: {path}}}\n")
    addresses = (
        "http://127.0.0.1:8123",
        "http://localhost:8123",
        "http://127.0.0.1:8124",
        "http://x.y:8123",
        "unix:/x",
    )
    named = [client.default_token_file(client.parse(text), str(config)) for text in addresses]
    assert named == [f"{tmp_path}/./token"] * 2 + [None] * 3
    assert client.default_address(str(config)).text == "http://127.0.0.1:8123"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert client.default_address(str(config)).text == f"unix:{path}"
