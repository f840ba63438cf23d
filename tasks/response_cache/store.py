"""The response cache in Redis: each answer has a key, and a lease while it is requested; both expire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from tasks.response_cache.lua import SCRIPTS

LEASE_S = 5.0
"""Seconds after which waiters take over from a process that has crashed or lost Redis."""

_ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Hit:
    """A cached answer."""

    answer: bytes


@dataclass(frozen=True, slots=True)
class Lead:
    """The caller leads: it holds the lease and makes the provider call."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Another process leads."""


class AnswerStore:
    """The cached answers of one namespace.

    Args:
        connection: the Redis connection.
        namespace: prefix of the keys.
        cipher: encrypts the answers.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str, cipher: Cipher = PLAIN) -> None:
        self._connection = connection
        self._keys = FleetKeys(namespace)
        self._cipher = cipher

    @property
    def channel(self) -> str:
        """The channel on which ended leases are published."""
        return self._keys.answered

    async def claim(self, digest: str, owner: str) -> Hit | Lead | Wait:
        """Return a call's answer, or whether the caller leads or waits; renew the lease if the caller holds it.

        Raises:
            DecryptionError: the answer can't be decrypted.
            StoreUnavailableError: Redis is unavailable.
        """
        keys = (self._keys.cached_answer(digest), self._keys.answer_lease(digest))
        status, answer = await self._connection.execute_script(SCRIPTS["claim"], keys, (owner, round(LEASE_S * 1000)))
        if status == b"hit":
            return Hit(self._cipher.decrypt(_ANSWER, (digest,), cast(bytes, answer)))
        return Lead() if status == b"lead" else Wait()

    async def save(self, digest: str, owner: str, answer: bytes, ttl_s: int) -> None:
        """Store an answer for ``ttl_s`` seconds and end the lease.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        keys = (self._keys.cached_answer(digest), self._keys.answer_lease(digest))
        stored = self._cipher.encrypt(_ANSWER, (digest,), answer)
        await self._connection.execute_script(SCRIPTS["keep"], keys, (owner, stored, ttl_s, self.channel, digest))

    async def release(self, digest: str, owner: str) -> None:
        """End the lease without an answer, so that a waiter leads.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        await self._connection.execute_script(
            SCRIPTS["release"], (self._keys.answer_lease(digest),), (owner, self.channel, digest)
        )
