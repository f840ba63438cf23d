"""The index of staged sessions: those of a store that may have a rollout or experiments.

Whoever begins one writes the session's name first, since the index is in another slot of a cluster: a name without a
rollout is ignored, and removed later, but a rollout without a name would not be found. What is missing all the same, as
what was written by an earlier version or lost with a server, is found when the index is written anew.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots.records import Head
from snakepit_bridge.snapshots.redis_heads import RedisHeads
from snakepit_bridge.snapshots.redis_keys import Keys

COMPLETE_S = 600
"""Seconds for which the index is trusted, until all sessions are looked at again."""


class StagedSessions:
    """The index of the staged sessions of one store.

    Args:
        connection: the Redis.
        keys: of the store.
        heads: reads the heads of its sessions.
    """

    def __init__(self, connection: RedisConnection, keys: Keys, heads: RedisHeads) -> None:
        self._connection = connection
        self._keys = keys
        self._heads = heads

    async def add(self, session: str) -> None:
        """Add a session; call it before its rollout or experiment is stored.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._connection.execute("ZADD", self._keys.staged, time.time(), session)

    async def read(self) -> dict[str, Head]:
        """Return the heads of the staged sessions by name.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        is_complete, entries = await asyncio.gather(
            self._connection.execute_read("EXISTS", self._keys.staged_complete), self._read_entries()
        )
        if not is_complete:
            return await self._rebuild()
        heads = await self._heads.read(sorted(entries))
        staged = _select(heads)
        await self._heads.prune(self._keys.staged, entries, staged)
        return staged

    async def _read_entries(self) -> dict[str, float]:
        """Return when each session was added, in Unix seconds."""
        connection = self._connection
        entries: Any = await connection.wait_bounded(
            connection.client.zrange(self._keys.staged, 0, -1, withscores=True)
        )
        return {name.decode(): float(at) for name, at in entries}

    async def _rebuild(self) -> dict[str, Head]:
        """Look at all sessions, and write the index anew."""
        staged = _select(await self._heads.read_all())
        if staged:
            now = time.time()
            await self._connection.execute(
                "ZADD", self._keys.staged, *(part for name in staged for part in (now, name))
            )
        await self._connection.execute("SET", self._keys.staged_complete, 1, "EX", COMPLETE_S)
        return staged


def _select(heads: dict[str, Head]) -> dict[str, Head]:
    return {name: head for name, head in heads.items() if head.is_staged}
