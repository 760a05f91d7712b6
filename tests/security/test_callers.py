"""Who is let into the proxy, and what client a request is of: keys, and proxies that are trusted or not."""

import asyncio
import hashlib
import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.proxy.callers import Callers
from supervisor.proxy.dispatcher import ServedModel
from supervisor.proxy.refusals import Refusal
from tests.support.proxying import Setup, eventually, head, proxied

KEYS = {hashlib.sha256(key.encode()).digest(): name for key, name in (("key-a", "alice"), ("key-b", "bob"))}
BODY = b'{"model":"m","input":["x"]}'


def callers(*networks: str) -> Callers:
    """Some that trust these networks."""
    found = Callers()
    found.trusted = [ipaddress.ip_network(network) for network in networks]
    return found


# -- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", "1.2.3.4", "203.0.113.9"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.9.9.9", "1.2.3.4"),
        ("10.0.0.1", "10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("10.0.0.1", "6.6.6.6, <script>", "10.0.0.1"),
        ("10.0.0.1", "6.6.6.6, unknown, 10.2.2.2", "10.2.2.2"),
        ("10.0.0.1", "1.2.3.4:5678", "1.2.3.4"),
        ("10.0.0.1", "[2001:db8::7]:443", "2001:db8::7"),
        ("10.0.0.1", "2001:DB8:0::7", "2001:db8::7"),
        ("fd00::1", "2001:db8::7, fd00::2", "2001:db8::7"),
        ("fe80::1%eth0", "1.2.3.4", "fe80::1%eth0"),
        ("10.0.0.1", "," * 9000, "10.0.0.1"),
        ("10.0.0.1", "6.6.6.6," + "10.0.0.2," * 40 + "10.0.0.3", "10.0.0.2"),
        ("", "1.2.3.4", ""),
    ],
)
def test_the_last_hop_that_is_no_proxy_of_ours_is_the_client(peer: str, forwarded: str, client: str) -> None:
    """From the right; what a client wrote itself stands left of it, and from an untrusted peer nothing counts."""
    caller = callers("10.0.0.0/8", "fd00::/8").identify({}, peer, forwarded)
    assert (caller.client, caller.address) == (client, client)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet="0123456789abcdef.:, []%\x1b\nx", max_size=80))
def test_whatever_a_client_writes_it_is_never_taken_for_another(written: str) -> None:
    """Behind a proxy that appends its address it is that address, whatever stands before it."""
    caller = callers("10.0.0.0/8").identify({}, "10.0.0.1", f"{written}, 192.0.2.1")
    assert caller.address == "192.0.2.1"


@pytest.mark.parametrize("way", ["plain", "aiohttp"])
async def test_clients_behind_a_trusted_proxy_take_turns_by_their_addresses(way: str) -> None:
    """Over the wire, both ways through the server; a header in two lines, as HAProxy makes it, is one list."""
    async with proxied() as p:
        lines = (
            ["X-Forwarded-For: 6.6.6.6, 1.2.3.4"]
            if way == "plain"
            else [
                "X-Forwarded-For: 6.6.6.6",
                "X-Forwarded-For: 1.2.3.4",
            ]
        )
        for trusted, client in ((["127.0.0.0/8"], "1.2.3.4"), ([], "127.0.0.1")):
            p.server.callers.trusted = [ipaddress.ip_network(network) for network in trusted]
            assert await posted(p, *lines) == 200
            assert p.dispatcher.askers[-1].client == client


async def posted(p: Setup, *lines: str) -> int:
    """The status of an embedding that is asked for with these header lines."""
    fields = ["Host: x", "Content-Type: application/json", f"Content-Length: {len(BODY)}", *lines]
    async with p.raw() as (reader, writer):
        writer.write(("POST /embeddings HTTP/1.1\r\n" + "\r\n".join(fields) + "\r\n\r\n").encode() + BODY)
        return (await head(reader))[0]


# -- keys -----------------------------------------------------------------------------------------------------------

WRONG = [
    "Bearer key-c",
    "Bearer key-a x",
    "Bearer",
    "Bearer ",
    "Basic key-a",
    "key-a",
    "",
    "Bearer key-a,key-b",
    "Bearer é",
]


@pytest.mark.parametrize("sent", WRONG)
def test_only_a_known_key_is_one(sent: str) -> None:
    """The scheme minds no case; neither a prefix nor a hash of a key is the key."""
    some = Callers()
    some.set_keys(KEYS)
    assert some.identify({"authorization": "bEARER  key-a"}, "::1", None).client == "alice"
    with pytest.raises(Refusal):
        some.identify({"authorization": sent}, "::1", None)
    with pytest.raises(Refusal):
        some.identify({"authorization": "Bearer " + next(iter(KEYS)).hex()}, "::1", None)


@pytest.mark.parametrize("more", [{}, {"Expect": "100-continue"}])
async def test_without_a_key_everything_but_health_is_401_in_openais_shape(more: dict[str, str]) -> None:
    """On the short way through the server and on aiohttp's; no worker is asked; with a key all is as ever."""
    async with proxied() as p:
        p.server.callers.set_keys(KEYS)
        for method, path, body in (
            ("POST", "/embeddings", {"model": "m", "input": "x"}),
            ("POST", "/v1/rerank", {}),
            ("GET", "/models", None),
            ("GET", "/docs", None),
            ("GET", "/metrics", None),
            ("OPTIONS", "/embeddings", None),
        ):
            answer = await p.request(method, path, body, **(more if body is not None else {}))
            assert (answer.status, answer.headers["x-supervisor-reason"]) == (401, "unauthorized"), path
            assert answer.headers["www-authenticate"] == "Bearer"
            error = answer.json["error"]
            assert (set(error), error["code"]) == ({"message", "type", "param", "code"}, "unauthorized")
        assert (await p.request("GET", "/health")).status == 200
        assert p.fake.seen == []
        assert (await p.embed("x", Authorization="Bearer key-a")).status == 200
        assert (await p.request("GET", "/models", Authorization="Bearer key-b")).status == 200
        (seen,) = p.fake.seen
        assert seen.headers["authorization"] == "Bearer worker-key"
        assert p.counter.reasons == ["unauthorized"] * 6


async def test_a_keys_name_is_the_client_wherever_it_comes_from() -> None:
    """Of the key itself nothing is kept where turns are taken."""
    async with proxied() as p:
        p.server.callers.set_keys(KEYS)
        for key in ("key-a", "key-b"):
            assert (await p.embed("x", Authorization=f"Bearer {key}")).status == 200
        assert [asker.client for asker in p.dispatcher.askers] == ["alice", "bob"]
        assert "key-a" not in repr(p.dispatcher.askers)


async def test_keys_change_under_open_connections() -> None:
    """One that is taken away is refused on the next request of the same connection."""
    async with proxied() as p:
        p.server.callers.set_keys(KEYS)
        assert (await p.embed("x", Authorization="Bearer key-a")).status == 200
        p.server.callers.set_keys({digest: name for digest, name in KEYS.items() if name != "alice"})
        assert (await p.embed("x", Authorization="Bearer key-a")).status == 401
        assert (await p.embed("x", Authorization="Bearer key-b")).status == 200


# -- clients' keys for an attached Infinity -------------------------------------------------------------------------


async def ask_together(p: Setup, *keys: str | None) -> list[int]:
    """Single inputs wait behind a closed gate, one for each key, and leave when it opens."""
    p.order(paused=True)
    sent: list[dict[str, Any]] = [{} if key is None else {"Authorization": f"Bearer {key}"} for key in keys]
    tasks = [asyncio.create_task(p.embed(f"text {i}", **more)) for i, more in enumerate(sent)]
    await eventually(lambda: p.dispatcher.totals.queued_requests == len(keys))
    p.order(batch=16, window=1)
    return [(await task).status for task in tasks]


async def test_requests_with_different_keys_never_share_a_part() -> None:
    """Each part shows one key, its clients' own; those of one key leave together."""
    async with proxied(models=(ServedModel("m", passes_keys=True),), attached=False) as p:
        attach_without_key(p)
        assert await ask_together(p, "a", "b", "a", None, "b", "a", None) == [200] * 7
        parts = {seen.headers.get("authorization"): rows for seen, rows in zip(p.fake.seen, p.rows, strict=True)}
        assert parts == {
            "Bearer a": ["text 0", "text 2", "text 5"],
            "Bearer b": ["text 1", "text 4"],
            None: ["text 3", "text 6"],
        }
        assert len(p.fake.seen) == 3


async def test_what_is_ours_is_never_shown_a_clients_key() -> None:
    """Where we have a key, or pass none on, no client's leaves the house, not even through the other paths."""
    async with proxied() as p:
        assert await ask_together(p, "a", "b") == [200, 200]
        assert (await p.request("GET", "/docs", Authorization="Bearer a")).status == 404
        assert {seen.headers["authorization"] for seen in p.fake.seen} == {"Bearer worker-key"}
        assert len(p.fake.seen) == 2, "keys don't part what may leave together"


async def test_other_paths_show_a_client_key_where_there_is_none_of_ours() -> None:
    """As Infinity alone would see it."""
    async with proxied(models=(ServedModel("m", passes_keys=True),), attached=False) as p:
        attach_without_key(p)
        await p.request("GET", "/docs", Authorization="Bearer a")
        await p.request("GET", "/docs")
        assert [seen.headers.get("authorization") for seen in p.fake.seen] == ["Bearer a", None]


def attach_without_key(p: Setup) -> None:
    """An attached worker, of which we have no key."""
    from supervisor.core.endpoint import Endpoint

    p.dispatcher.attach(Endpoint("m", "127.0.0.1", p.fake.port, ""))


# -- headers of one connection --------------------------------------------------------------------------------------


async def test_hop_by_hop_headers_end_here() -> None:
    """Those that RFC 9110 names, and those that any `Connection` line names."""
    async with proxied() as p:
        async with p.raw() as (reader, writer):
            writer.write(
                b"GET /docs HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, X-One\r\nConnection: x-two\r\nX-One: 1\r\n"
                b"X-Two: 2\r\nX-Three: 3\r\nTE: trailers\r\nKeep-Alive: 5\r\nProxy-Authorization: a\r\n\r\n"
            )
            await head(reader)
        (seen,) = p.fake.seen
        assert seen.headers["x-three"] == "3"
        assert not {"x-one", "x-two", "te", "keep-alive", "proxy-authorization"} & seen.headers.keys()


@pytest.mark.parametrize("trusted", [True, False])
async def test_workers_hear_of_other_clients_only_from_trusted_proxies(trusted: bool) -> None:
    """uvicorn believes X-Forwarded-* from loopback, where we call from."""
    said = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=6.6.6.6",
        "X-Real-IP": "6.6.6.6",
    }
    async with proxied() as p:
        p.server.callers.trusted = [ipaddress.ip_network("127.0.0.0/8")] if trusted else []
        await p.request("GET", "/docs", **said)
        (seen,) = p.fake.seen
        assert {name.lower() for name in said} & seen.headers.keys() == (
            {n.lower() for n in said} if trusted else set()
        )
