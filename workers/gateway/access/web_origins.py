"""Which pages of a browser may reach the HTTP side: none, unless their origin is named.

A page can send requests to a gateway on the loopback of its reader's machine, and can point a name of its own there
(DNS rebinding), which makes answers readable to it. So the host that a request names has to be one of this gateway,
and a request that a browser sends for another origin is refused. No answer has a CORS header.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from snakepit_bridge.exceptions import ConfigurationError
from workers.gateway.errors import HostNotAllowedError, OriginNotAllowedError

ANY_HOST = "*"
_LOCAL = "localhost"
# What browsers say of requests that no other page had sent.
_OWN_SITES = ("none", "same-origin")


@dataclass(frozen=True, slots=True)
class WebOrigins:
    """The hosts and origins that requests may name.

    Attributes:
        hosts: names without port, in small letters; None lets every name pass.
        origins: as browsers spell them: ``https://app.example.com``.
    """

    hosts: frozenset[str] | None
    origins: frozenset[str] = frozenset()

    @classmethod
    def from_settings(cls, listening: str, hosts: Iterable[str], origins: Iterable[str]) -> Self:
        """Return what a gateway that listens on this host lets pass.

        Where only this machine reaches it, that is its own loopback names and addresses besides those that are named;
        elsewhere every host, unless some are named: there each call needs a token, which no page has.

        Raises:
            ConfigurationError: a host or an origin can't be one.
        """
        named = frozenset(_parse_host(one) for one in hosts)
        allowed = frozenset(_parse_origin(one) for one in origins)
        if ANY_HOST in named or not (named or _is_local(listening)):
            return cls(None, allowed)
        return cls(named | {listening.lower()}, allowed)

    def check(self, host: str | None, origin: str | None, site: str | None) -> None:
        """Return if a request with these headers (``Host``, ``Origin``, ``Sec-Fetch-Site``) may pass.

        Raises:
            HostNotAllowedError, OriginNotAllowedError
        """
        if self.hosts is not None and not self._is_own(host):
            raise HostNotAllowedError(host or "")
        if origin is not None and origin.lower() not in self.origins:
            raise OriginNotAllowedError(origin)
        if origin is None and site is not None and site.lower() not in _OWN_SITES:
            raise OriginNotAllowedError(f"{site} (by the header sec-fetch-site)")

    def _is_own(self, host: str | None) -> bool:
        assert self.hosts is not None
        name = _strip_port(host or "")
        # An address can't be pointed elsewhere, as a name can.
        return name in self.hosts or _is_local(name)


def _is_local(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == _LOCAL


def _strip_port(host: str) -> str:
    """Return the name in a ``Host`` header: ``[::1]:8061`` names ``::1``, and a name may end in a dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def _parse_host(text: str) -> str:
    name = text.strip().lower()
    if not name or any(part in name for part in "/@ ,") or (":" in name and not _is_address(name)):
        raise ConfigurationError(f"An allowed host is a name or an address without scheme and port; got {text!r}.")
    return name


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _parse_origin(text: str) -> str:
    scheme, separator, rest = text.strip().lower().partition("://")
    if scheme not in ("http", "https") or not separator or not rest or any(part in rest for part in "/@ ,*"):
        raise ConfigurationError(
            f"An allowed origin reads SCHEME://HOST[:PORT], as in https://a.example; got {text!r}."
        )
    return f"{scheme}://{rest}"
