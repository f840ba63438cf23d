"""The answers in Redis, and who is asking for one: each answer has a key and a lease, and both expire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from snakepit_bridge.redis.connection import RedisConnection
from tasks.response_cache.lua import SCRIPTS

LEASE_S = 5.0
"""Seconds after which those who wait no longer believe in a process that asks: it died, or lost Redis."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer that is kept."""

    answer: bytes


@dataclass(frozen=True, slots=True)
class Lead:
    """It is the caller's turn to ask, for as long as its lease."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody else is asking."""


class AnswerStore:
    """The kept answers under one namespace.

    Args:
        connection: the way to Redis.
        namespace: prefix of the keys.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str) -> None:
        self._connection = connection
        self._namespace = namespace

    @property
    def channel(self) -> str:
        """Where it is told whose lease has ended."""
        return f"{self._namespace}:answered"

    async def claim(self, digest: str, owner: str) -> Hit | Lead | Wait:
        """Return a call's answer, or whose turn it is to get it; renews the owner's lease.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        keys = (self._answer_key(digest), self._lease_key(digest))
        said, answer = await self._connection.execute_script(SCRIPTS["claim"], keys, (owner, round(LEASE_S * 1000)))
        if said == b"hit":
            return Hit(cast(bytes, answer))
        return Lead() if said == b"lead" else Wait()

    async def save(self, digest: str, owner: str, answer: bytes, ttl_s: int) -> None:
        """Keep an answer for so many seconds.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        keys = (self._answer_key(digest), self._lease_key(digest))
        await self._connection.execute_script(SCRIPTS["keep"], keys, (owner, answer, ttl_s, self.channel, digest))

    async def release(self, digest: str, owner: str) -> None:
        """Give the turn to somebody else.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._connection.execute_script(
            SCRIPTS["release"], (self._lease_key(digest),), (owner, self.channel, digest)
        )

    def _answer_key(self, digest: str) -> str:
        return f"{self._namespace}:{{lm:{digest}}}:answer"

    def _lease_key(self, digest: str) -> str:
        return f"{self._namespace}:{{lm:{digest}}}:lease"
