"""Addresses of workers as HTTP has them."""

from supervisor.core.endpoint import Endpoint


def test_an_ipv6_address_stands_in_brackets() -> None:
    """In URLs and in the Host header; a name and an IPv4 address stand as they are."""
    assert Endpoint("m", "::1", 8000, "").base_url == "http://[::1]:8000"
    assert Endpoint("m", "127.0.0.1", 8000, "").authority == "127.0.0.1:8000"


def test_the_key_is_not_shown() -> None:
    """Whatever prints an endpoint, in a log or a trace."""
    assert "secret" not in repr(Endpoint("m", "127.0.0.1", 8000, "secret"))
