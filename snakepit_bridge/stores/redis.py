"""The snapshot store on Redis 7+ or Valkey: every change and every read is one server-side script.

A session lives until it is dropped, nothing of it expires by itself: ``RedisStore.permanent`` lists the keys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from snakepit_bridge.revision import Token
from snakepit_bridge.snapshot import Snapshot
from snakepit_bridge.stores import replies
from snakepit_bridge.stores.connection import RedisConnection
from snakepit_bridge.stores.contract import RETENTION, STORE, Change, Changes, Head, SnapshotStore, checked
from snakepit_bridge.stores.replies import Asked, Reply

# Heads that one pipeline asks for.
_HEADS_AT_ONCE = 500


class RedisStore(SnapshotStore):
    """Sessions on one Redis or Valkey server.

    Args:
        url: as ``RedisConnection`` takes it.
        namespace: the prefix of every key and channel.
        retention: how many past revisions of a session can be read again.
        timeout_s: seconds within which every call ends.

    Raises:
        ConfigurationError: the URL can't be read.
    """

    def __init__(
        self, url: str, *, namespace: str = "dspex", retention: int = RETENTION, timeout_s: float = 5.0
    ) -> None:
        self._connection = RedisConnection(url, timeout_s=timeout_s)
        self._namespace = namespace
        self._retention = retention
        self._index = f"{namespace}:sessions"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.url!r}, namespace={self._namespace!r})"

    @property
    def permanent(self) -> tuple[str, ...]:
        """Patterns of the keys that have no TTL: the index of sessions, and each session until it is dropped."""
        session = re.escape(self._prefix("\0")).replace(re.escape("\0"), ".*")
        return (re.escape(self._index), f"{session}:(head|variables|history)")

    def channel(self, session: str) -> str:
        """Returns the pub/sub channel that is told each new token of a session, and ``""`` when it is dropped."""
        return f"{self._prefix(session)}:moved"

    async def publish(
        self,
        session: str,
        changes: Changes,
        *,
        replace: bool = False,
        expected: Token | None = None,
        fence: int | None = None,
        publisher: str = STORE,
        author: str = "",
        reason: str = "",
        age_s: float = 0.0,
    ) -> Token:
        """See ``SnapshotStore.publish``."""
        asked = Asked(session, publisher, expected, fence)
        updates = [
            part
            for name, variable in checked(changes).items()
            for part in (name, b"" if variable is None else variable.encode())
        ]
        # The index first: a name without a session is passed over, a session without a name would never be found.
        await self._connection.bounded(self._connection.client.sadd(self._index, session))
        return await self._commit("publish", asked, author, reason, age_s, (int(replace), *updates))

    async def rollback(
        self,
        session: str,
        to: Token,
        *,
        expected: Token | None = None,
        fence: int | None = None,
        publisher: str = STORE,
        author: str = "",
        reason: str = "",
    ) -> Token:
        """See ``SnapshotStore.rollback``."""
        asked = Asked(session, publisher, expected, fence, to)
        return await self._commit("rollback", asked, author, reason or f"rollback to {to}", 0.0, to)

    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        """See ``SnapshotStore.read``."""
        reply = await self._ask("read", Asked(session), ("", "") if have is None else have.token)
        return replies.snapshot(reply, session, have)

    async def read_at(self, session: str, token: Token) -> Snapshot:
        """See ``SnapshotStore.read_at``."""
        return replies.snapshot(await self._ask("read_at", Asked(session, token=token), token), session, None)

    async def head(self, session: str) -> Head:
        """See ``SnapshotStore.head``."""
        return replies.head(await self._ask("head", Asked(session)))

    async def history(self, session: str, limit: int = 20) -> list[Change]:
        """See ``SnapshotStore.history``."""
        reply = await self._ask("history", Asked(session), (limit,))
        return [replies.change(entry) for entry in reply[1:]]

    async def raise_fence(self, session: str, *, publisher: str) -> int:
        """See ``SnapshotStore.raise_fence``."""
        reply = await self._ask("fence", Asked(session, publisher), (publisher,))
        return int(reply[1])

    async def sessions(self) -> dict[str, Head]:
        """See ``SnapshotStore.sessions``."""
        connection = self._connection
        members: set[Any] = await connection.bounded(connection.client.smembers(self._index))
        names = sorted(member.decode() for member in members)
        heads: dict[str, Head] = {}
        for start in range(0, len(names), _HEADS_AT_ONCE):
            some = names[start : start + _HEADS_AT_ONCE]
            answers = await connection.run_each("head", [(self._keys(name), ()) for name in some])
            heads |= {name: replies.head(reply) for name, reply in zip(some, answers, strict=True) if len(reply) > 1}
        return heads

    async def drop(self, session: str) -> None:
        """See ``SnapshotStore.drop``."""
        await self._ask("drop", Asked(session), (self.channel(session),))
        await self._connection.bounded(self._connection.client.srem(self._index, session))

    async def aclose(self) -> None:
        """See ``SnapshotStore.aclose``."""
        await self._connection.aclose()

    async def _commit(
        self, script: str, asked: Asked, author: str, reason: str, age_s: float, args: Sequence[Any]
    ) -> Token:
        expected = ("", "") if asked.expected is None else asked.expected
        who = (self.channel(asked.session), asked.publisher, author, reason)
        terms = (*who, asked.fence or 0, *expected, self._retention, round(age_s * 1e6))
        # redis-py sends a command again when its reply is lost; the request's name tells the script that it did.
        request = f"{self._prefix(asked.session)}:request:{uuid4().hex}"
        reply = await self._ask(script, asked, (*terms, *args), request)
        return replies.token(reply[1])

    async def _ask(self, script: str, asked: Asked, args: Sequence[Any] = (), *keys: str) -> Reply:
        reply = await self._connection.run(script, (*self._keys(asked.session), *keys), args)
        return replies.accepted(reply, asked)

    def _keys(self, session: str) -> tuple[str, ...]:
        prefix = self._prefix(session)
        return (f"{prefix}:head", f"{prefix}:variables", f"{prefix}:history", f"{prefix}:floor")

    def _prefix(self, session: str) -> str:
        # One hash tag for all keys of a session, which is what lets a script touch them together on a cluster.
        return f"{self._namespace}:{{s:{session}}}"
