"""The heads of many sessions at a time, and the index of sessions' names."""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import replies
from snakepit_bridge.snapshots.lua import SCRIPTS
from snakepit_bridge.snapshots.records import Head
from snakepit_bridge.snapshots.redis_keys import Keys

# Sessions per pipeline.
_BATCH = 500
# A name in the index without a session is pruned after this time, since the session may be just being created.
_PRUNE_AFTER_S = 3_600.0


class RedisHeads:
    """The heads of the sessions of one store.

    Args:
        connection: the Redis.
        keys: of the store.
    """

    def __init__(self, connection: RedisConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def read_names(self) -> list[str]:
        """Return the names in the index, sorted, of which some may be of sessions that are gone."""
        connection = self._connection
        names: Any = await connection.wait_bounded(connection.client.zrange(self._keys.index, 0, -1))
        return sorted(name.decode() for name in names)

    async def read_index(self) -> dict[str, float]:
        """Return when each session was created, in Unix seconds; some of them may be gone."""
        connection = self._connection
        entries: Any = await connection.wait_bounded(connection.client.zrange(self._keys.index, 0, -1, withscores=True))
        return {name.decode(): float(at) for name, at in entries}

    async def read_all(self) -> dict[str, Head]:
        """Return the heads of all sessions, and prune names of the index that have none."""
        created = await self.read_index()
        heads = await self.read(sorted(created))
        await self.prune(self._keys.index, created, heads)
        return heads

    async def prune(self, index: str, entries: Mapping[str, float], kept: Container[str]) -> None:
        """Remove names from an index that aren't to be kept, but for those that were added lately.

        Args:
            index: the key of the sorted set.
            entries: when each name was added, in Unix seconds, as it was read.
            kept: the names to keep.
        """
        latest = time.time() - _PRUNE_AFTER_S
        gone = [name for name, at in entries.items() if name not in kept and at < latest][:_BATCH]
        if gone:
            await self._connection.run(SCRIPTS["prune"], (index,), (latest, *gone))

    async def read(self, sessions: Iterable[str]) -> dict[str, Head]:
        """Return the heads of sessions by name, without those that haven't been published."""
        names = list(sessions)
        heads: dict[str, Head] = {}
        for start in range(0, len(names), _BATCH):
            heads |= await self._read_batch(names[start : start + _BATCH])
        return heads

    async def _read_batch(self, names: Sequence[str]) -> dict[str, Head]:
        """Read heads directly, which is cheap, and by script only those written by another run of the server."""
        plain = await self._read_plain(names)
        unsure = [name for name, head in plain.items() if head is None]
        calls = [(self._keys.session(name), ()) for name in unsure]
        answers = await self._connection.run_each(SCRIPTS["head"], calls) if unsure else []
        judged = {
            name: replies.parse_head(reply) for name, reply in zip(unsure, answers, strict=True) if len(reply) > 1
        }
        return {name: head for name in names if (head := judged.get(name) or plain[name])}

    async def _read_plain(self, names: Sequence[str]) -> dict[str, Head | None]:
        if self._connection.cluster:
            return dict.fromkeys(names)
        run, replid, seconds, microseconds, *heads = await self._connection.run(
            SCRIPTS["heads"], [self._keys.head(name) for name in names], replies.HEAD_FIELDS
        )
        server, now = [run, replid], int(seconds) + int(microseconds) / 1e6
        return {name: replies.parse_plain_head(fields, server, now) for name, fields in zip(names, heads, strict=True)}
