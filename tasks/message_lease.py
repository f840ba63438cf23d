"""What tasks need from the broker transport: move or delay their own message without losing it."""

from __future__ import annotations

from typing import Protocol

from snakepit_bridge.redis.connection import RedisConnection


class MessageLeases(Protocol):
    """The leases on the broker's messages; the task's own has the tag ``request.properties["delivery_tag"]``.

    A task raises Celery's ``Ignore`` once its message was moved, or once its lease is lost.

    Attributes:
        connection: the broker's Redis.
        library: Lua source that defines ``claim_take(base, tag)``, for scripts that store the message elsewhere. It
            returns the list that the message came from and the message, or nil if the lease is lost.
    """

    connection: RedisConnection
    library: str

    @property
    def base(self) -> str:
        """The first argument of ``claim_take``."""
        ...

    async def move(self, tag: str, queue: str, priority: int | None = None) -> bool:
        """Move a leased message to the end of another queue; return False if the lease is lost.

        Raises:
            StoreUnavailableError: the broker is unavailable.
        """
        ...

    async def delay(self, tag: str, until_unix_s: float) -> bool:
        """Delay a leased message until a Unix time; return False if the lease is lost.

        Raises:
            StoreUnavailableError: the broker is unavailable.
        """
        ...
