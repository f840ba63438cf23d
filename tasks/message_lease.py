"""What the tasks ask of the transport that their message came by: to give the message away without losing it."""

from __future__ import annotations

from typing import Protocol

from snakepit_bridge.redis.connection import RedisConnection


class MessageLeases(Protocol):
    """The claims on the broker's messages; the task's own is ``request.properties["delivery_tag"]``.

    A task whose message was given away ends with Celery's ``Ignore``; so does one whose claim isn't held any more.

    Attributes:
        connection: the way to the broker's Redis.
        library: Lua text that defines ``claim_take(base, tag)``, which answers the list that the message came from and
            the message; or nil if the claim isn't held. It is for scripts that put the message somewhere of their own.
    """

    connection: RedisConnection
    library: str

    @property
    def base(self) -> str:
        """What ``claim_take`` takes first."""
        ...

    async def move(self, tag: str, queue: str, priority: int | None = None) -> bool:
        """Move a held message to the end of another queue; False if the claim isn't held any more.

        Raises:
            StoreUnavailableError: the broker is away.
        """
        ...

    async def delay(self, tag: str, until_unix_s: float) -> bool:
        """Put a held message aside until a moment of Unix time; False if the claim isn't held any more.

        Raises:
            StoreUnavailableError: the broker is away.
        """
        ...
