"""The primary behind Sentinel for blocking clients: Celery's result backend, kombu's channels and the lease keeper.

They know servers by host and port. So their URL names the first Sentinel, and a ``SentinelService`` travels beside it
in their transport options: its pools ask Sentinel where the primary is whenever they connect. A primary that was
demoted replies with READONLY, which closes the connection, so that the next one finds the new primary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from snakepit_bridge.redis.urls import Address, mask_url, sentinel_arguments

OPTION = "sentinel"
"""The transport option, of broker and result backend, that holds the service."""


@dataclass(frozen=True, slots=True)
class SentinelService:
    """A primary that Sentinel knows by the name of its service.

    Attributes:
        url: its URL.
        address: the URL, parsed.
    """

    url: str = field(repr=False)
    address: Address = field(compare=False)

    @classmethod
    def parse(cls, url: str) -> SentinelService | None:
        """Return the service that a URL names, or None for a URL of another kind.

        Raises:
            OptionError: an option is invalid.
            ValueError: the URL is invalid; the message may quote a password.
        """
        if not url.partition("://")[0].endswith("+sentinel"):
            return None
        return cls(url, Address.parse(url))

    def create_pool(self, **params: Any) -> SentinelConnectionPool:
        """Return a pool of connections to the current primary.

        Args:
            params: of a pool of connections to a single server; its host and port don't matter.
        """
        rest = {name: value for name, value in params.items() if name not in ("host", "port", "connection_class")}
        given: type[Connection] = params.get("connection_class") or Connection
        managed = _MANAGED.get(given, given)
        arguments: dict[str, Any] = {**sentinel_arguments(self.address), "retry": Retry(NoBackoff(), 0)}
        sentinel = Sentinel(self.address.hosts, sentinel_kwargs=arguments)
        rest["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
        return _Pool(self.address.service, sentinel, connection_class=managed, **rest)

    def ask_each(self) -> dict[str, dict[str, str] | None]:
        """Return which primary each Sentinel names for each of its services; None for one that doesn't answer."""
        return {f"{host}:{port}": self._ask(host, port) for host, port in self.address.hosts}

    def _ask(self, host: str, port: int) -> dict[str, str] | None:
        arguments: dict[str, Any] = {**sentinel_arguments(self.address), "retry": Retry(NoBackoff(), 0)}
        try:
            with Redis(host, port, **arguments) as client:
                services: Any = client.sentinel_masters()
        except (RedisError, OSError):
            return None
        return {name: f"{state['ip']}:{state['port']}" for name, state in services.items()}

    def __json__(self) -> str:
        """Return what remote control shows of it."""
        return mask_url(self.url)


_MANAGED: dict[type[Connection], type[Connection]] = {
    Connection: SentinelManagedConnection,
    SSLConnection: SentinelManagedSSLConnection,
}


class _Pool(SentinelConnectionPool):
    """A pool that closes the connections to Sentinel with its own."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections, those to Sentinel as well unless the ones in use stay open."""
        super().disconnect(inuse_connections)
        if inuse_connections:
            self.sentinel_manager.close()
