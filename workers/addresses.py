"""Network addresses as settings spell them: HOST:PORT."""

from __future__ import annotations

import ipaddress

from snakepit_bridge.exceptions import ConfigurationError

_MAX_PORT = 65_535


def parse_address(
    address: str, what: str = "An address to listen on", example: str = "127.0.0.1:50061", *, min_port: int = 0
) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``, with an IPv6 address in brackets.

    Args:
        address: the text.
        what: what the address is for, as the beginning of the error.
        example: a valid one, for the error.
        min_port: the lowest port that is valid; 0 stands for any free one.

    Raises:
        ConfigurationError: the address is malformed.
    """
    host, separator, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_number = port.isascii() and port.isdigit()
    if not (separator and bare and is_number and min_port <= int(port) <= _MAX_PORT):
        raise ConfigurationError(f"{what} must be HOST:PORT, like {example}; got {address!r}.")
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Check whether a host is loopback; a name other than localhost may resolve to anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
