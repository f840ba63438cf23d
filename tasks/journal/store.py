"""The journals of predictions in Redis: a hash for each, beside the results, whose commit removes it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

_JOURNAL = "journal"


class JournalStore:
    """The journals of one namespace.

    Args:
        connection: the result backend's Redis.
        namespace: prefix of the keys.
        keep_s: seconds for which a journal is kept after its last entry.
        cipher: encrypts the entries; their names, which are digests of requests, are in them then.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str, keep_s: float, cipher: Cipher = PLAIN) -> None:
        self._connection = connection
        self._keys = FleetKeys(namespace)
        self._keep_s = max(1, round(keep_s))
        self._cipher = cipher

    def key(self, task_id: str) -> str:
        """Return the key of a prediction's journal."""
        return self._keys.prediction_journal(task_id)

    async def load(self, task_id: str) -> Mapping[str, bytes]:
        """Return the entries of a prediction's journal, by their names.

        Raises:
            DecryptionError: an entry can't be decrypted.
            StoreUnavailableError: Redis is unavailable.
        """
        found: Mapping[bytes, bytes] = await self._connection.execute("HGETALL", self.key(task_id))
        return dict(self._decrypt(task_id, field.decode(), entry) for field, entry in found.items())

    def add(self, task_id: str, entries: Mapping[str, bytes]) -> Awaitable[Any]:
        """Add entries in the next pipeline, ahead of every command that is issued later.

        Awaiting the reply raises ``StoreUnavailableError`` if Redis is unavailable.
        """
        key = self.key(task_id)
        if self._cipher.is_on:
            entries = dict(self._encrypt(task_id, name, entry) for name, entry in entries.items())
        added = self._connection.execute("HSET", key, *(part for item in entries.items() for part in item))
        self._connection.execute("EXPIRE", key, self._keep_s)
        return added

    def _encrypt(self, task_id: str, name: str, entry: bytes) -> tuple[str, bytes]:
        """Return the field and the value of an entry: a digest of its name, and both encrypted."""
        field = self._cipher.digest(_JOURNAL, f"{task_id} {name}".encode())
        return field, self._cipher.encrypt(_JOURNAL, (task_id, field), name.encode() + b"\n" + entry)

    def _decrypt(self, task_id: str, field: str, value: bytes) -> tuple[str, bytes]:
        found = self._cipher.decrypt(_JOURNAL, (task_id, field), value)
        if found is value:
            return field, value  # from before there were keys
        name, _, entry = found.partition(b"\n")
        return name.decode(), entry

    def remove(self, task_id: str) -> Awaitable[Any]:
        """Remove a prediction's journal in the next pipeline."""
        return self._connection.execute("DEL", self.key(task_id))
