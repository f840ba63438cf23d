"""Protect the HTTP server from web pages: none may use it unless its origin is allowed.

A page can send requests to a gateway on the loopback interface of its reader's machine, and can resolve a name of its
own to it (DNS rebinding), which lets it read the responses. So a request's ``Host`` must be one of this gateway's, and
a request that a browser sends for another origin is rejected. No response has a CORS header.
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
# ``Sec-Fetch-Site`` of requests that no page of another site sent.
_OWN_SITES = ("none", "same-origin")


@dataclass(frozen=True, slots=True)
class WebOrigins:
    """The hosts and origins that requests may name.

    Attributes:
        hosts: names without port, in lowercase; None allows every name.
        origins: as browsers write them: ``https://app.example.com``.
    """

    hosts: frozenset[str] | None
    origins: frozenset[str] = frozenset()

    @classmethod
    def from_settings(cls, listening: str, hosts: Iterable[str], origins: Iterable[str]) -> Self:
        """Return the hosts and origins that a gateway listening on this host allows.

        On loopback these are the loopback names and addresses and the configured hosts. Elsewhere every host is allowed
        unless some are configured: there each call needs a token, which no page has.

        Args:
            listening: the host that the gateway listens on.
            hosts: configured hosts.
            origins: configured origins.

        Raises:
            ConfigurationError: a host or an origin is malformed.
        """
        named = frozenset(map(_parse_host, hosts))
        allowed = frozenset(map(_parse_origin, origins))
        if ANY_HOST in named or not (named or _is_local(listening)):
            return cls(None, allowed)
        return cls(named | {listening.lower()}, allowed)

    def check(self, host: str | None, origin: str | None, site: str | None) -> None:
        """Check the headers of a request.

        Args:
            host: the ``Host`` header.
            origin: the ``Origin`` header.
            site: the ``Sec-Fetch-Site`` header.

        Raises:
            HostNotAllowedError: the host isn't this gateway's.
            OriginNotAllowedError: a browser sent the request for a page of another origin.
        """
        if self.hosts is not None and not self._is_own(host):
            raise HostNotAllowedError(host or "")
        if origin is not None and origin.lower() not in self.origins:
            raise OriginNotAllowedError(origin)
        if origin is None and site is not None and site.lower() not in _OWN_SITES:
            raise OriginNotAllowedError(f"{site} (by the header sec-fetch-site)")

    def check_page(self, host: str | None, origin: str | None, site: str | None) -> None:
        """Check the headers of a request for a page of this gateway's own, whose forms name this gateway as origin.

        Args:
            host: the ``Host``.
            origin: the ``Origin``, if a browser sent one.
            site: ``Sec-Fetch-Site``, if a browser sent it and no link of another site led to the page.

        Raises:
            HostNotAllowedError: the host isn't this gateway's.
            OriginNotAllowedError: a page of another origin sent the request.
        """
        is_own = origin is not None and origin.lower().partition("://")[2] == (host or "").lower()
        self.check(host, None if is_own else origin, site)

    def _is_own(self, host: str | None) -> bool:
        assert self.hosts is not None
        name = _strip_port(host or "")
        # A loopback address, unlike a name, can't be made to resolve elsewhere.
        return name in self.hosts or _is_local(name)


def _is_local(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == _LOCAL


def _strip_port(host: str) -> str:
    """Return the name in a ``Host`` header, without brackets, port and final dot."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def _parse_host(text: str) -> str:
    name = text.strip().lower()
    if not name or any(part in name for part in "/@ ,") or (":" in name and not _is_address(name)):
        raise ConfigurationError(f"An allowed host must be a name or an address without scheme and port; got {text!r}.")
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
            f"An allowed origin must be SCHEME://HOST[:PORT], like https://a.example; got {text!r}."
        )
    return f"{scheme}://{rest}"
