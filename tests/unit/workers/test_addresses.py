"""HOST:PORT, as the settings of gateways and refreshers spell it."""

from __future__ import annotations

import re

import pytest

from snakepit_bridge.exceptions import ConfigurationError
from workers.addresses import is_loopback, parse_address


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:50061", ("127.0.0.1", 50061)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert parse_address(address) == parts


@pytest.mark.parametrize("address", ["", "localhost", ":1", "[]:1", "host:", "host:-1", "host:65536", "host:٣"])
def test_a_malformed_address_is_refused_with_what_it_is_for(address: str) -> None:
    expected = f"The peer's address must be HOST:PORT, like peer:1; got {address!r}."
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        parse_address(address, "The peer's address", "peer:1")


def test_a_port_that_is_connected_to_is_above_0() -> None:
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        parse_address("localhost:0", min_port=1)


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.2", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a", False)]
)
def test_loopback_addresses_are_recognized(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
