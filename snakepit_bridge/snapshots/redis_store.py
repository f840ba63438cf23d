"""The snapshot store on Redis 7+ or Valkey: every change and every read is one server-side script.

A session lives until it is dropped, nothing of it expires by itself: ``RedisStore.permanent`` lists the keys.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from snakepit_bridge.exceptions import BridgeError, RevisionLostError, SessionNotFoundError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import replies
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.lua import SCRIPTS
from snakepit_bridge.snapshots.records import (
    RETENTION,
    STORE,
    Change,
    Changes,
    Head,
    Label,
    Look,
    Retention,
    checked,
)
from snakepit_bridge.snapshots.redis_commit import CommitMetadata, CommitRequest, Committer, Variables
from snakepit_bridge.snapshots.redis_kept import KeptSnapshots
from snakepit_bridge.snapshots.redis_keys import Keys
from snakepit_bridge.snapshots.redis_watch import RedisWatch
from snakepit_bridge.snapshots.replies import Reply, SessionQuery
from snakepit_bridge.snapshots.snapshot import Heard, Snapshot
from snakepit_bridge.snapshots.store import SnapshotStore
from snakepit_bridge.snapshots.watch import Watch

# Sessions that one pipeline asks for.
_AT_ONCE = 500
# A name in the index without a session may belong to one that is just being begun.
_BEGUN_BY_NOW_S = 3_600.0


class RedisStore(SnapshotStore):
    """Sessions on Redis or Valkey: one server, one behind Sentinel, or a cluster.

    Args:
        url: as ``RedisConnection`` takes it.
        namespace: the prefix of every key and channel.
        retention: what is kept of a session that has no retention of its own; a number is that of revisions.
        timeout_s: seconds within which every call ends.

    Raises:
        ConfigurationError: the URL can't be read.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "dspex",
        retention: Retention | int = RETENTION,
        timeout_s: float = 5.0,
    ) -> None:
        self._connection = RedisConnection(url, timeout_s=timeout_s)
        self._keys = Keys(namespace)
        self._retention = Retention.of(retention)
        self._committer = Committer(self._connection, self._keys, self._retention, self.read)
        self._kept = KeptSnapshots(self._connection, self._keys)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.url!r}, namespace={self._keys.namespace!r})"

    @property
    def permanent(self) -> tuple[str, ...]:
        """Patterns of the keys that have no TTL: the index of sessions, and each session until it is dropped."""
        return self._keys.permanent

    def channel(self, session: str) -> str:
        """Returns the pub/sub channel that is told each new token of a session, and ``""`` when it is dropped."""
        return self._keys.channel(session)

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
        looked_at: float | None = None,
        heard: Heard | None = None,
    ) -> Token:
        """See ``SnapshotStore.publish``."""
        updates = [
            part
            for name, variable in checked(changes, publisher).items()
            for part in (name, b"" if variable is None else variable.encode())
        ]

        async def leads_to(present: Variables) -> Variables:
            after = dict(changes) if replace else {**present, **changes}
            return {name: variable for name, variable in after.items() if variable is not None}

        asked, terms = (
            SessionQuery(session, publisher, expected, fence),
            CommitMetadata(author, reason, age_s, looked_at, heard),
        )
        args = (int(replace), *updates)
        return await self._committer.commit(CommitRequest("publish", asked, terms, args, leads_to, on_top=not replace))

    async def _rollback(
        self,
        session: str,
        to: Token,
        expected: Token | None,
        fence: int | None,
        publisher: str,
        author: str,
        reason: str,
    ) -> Token:
        async def leads_to(_: Variables) -> Variables:
            return (await self._read_at(session, to)).variables

        asked, terms = SessionQuery(session, publisher, expected, fence, to), CommitMetadata(author, reason)
        return await self._committer.commit(CommitRequest("rollback", asked, terms, to, leads_to, on_top=False))

    async def confirm(self, looks: Mapping[str, Look], *, publisher: str) -> dict[str, BridgeError]:
        """See ``SnapshotStore.confirm``."""
        refused: dict[str, BridgeError] = {}
        items = list(looks.items()) if self._connection.cluster else await self._unconfirmed(looks, publisher)
        for start in range(0, len(items), _AT_ONCE):
            some = [
                (SessionQuery(name, publisher, look.expected, look.fence), look)
                for name, look in items[start : start + _AT_ONCE]
            ]
            calls = [
                (
                    (*self._keys.session(asked.session), self._keys.request(asked.session)),
                    (
                        *self._committer.terms(asked, CommitMetadata(looked_at=look.looked_at, heard=look.heard)),
                        "",
                        "",
                        "",
                    ),
                )
                for asked, look in some
            ]
            for (asked, _), reply in zip(some, await self._connection.run_each(SCRIPTS["confirm"], calls), strict=True):
                error = replies.refusal(reply, asked)
                if error is not None:
                    refused[asked.session] = error
        return refused

    async def _unconfirmed(self, looks: Mapping[str, Look], publisher: str) -> list[tuple[str, Look]]:
        """Confirms what is plain, in few calls, and returns the others."""
        left: list[tuple[str, Look]] = []
        plain: list[tuple[str, Look, str]] = []
        for name, look in looks.items():
            if look.expected is None:
                left.append((name, look))
            else:
                at, (epoch, revision) = max(0, round(look.looked_at * 1e6)), look.expected
                plain.append((name, look, f"{look.fence or 0} {epoch} {revision} {at} {look.heard or ''}"))
        for start in range(0, len(plain), _AT_ONCE):
            some = plain[start : start + _AT_ONCE]
            heads = [self._keys.head(name) for name, _, _ in some]
            answers = await self._connection.run(
                SCRIPTS["confirm_all"], heads, [publisher, *(said for _, _, said in some)]
            )
            left += [(name, look) for (name, look, _), done in zip(some, answers, strict=True) if not done]
        return left

    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        """See ``SnapshotStore.read``."""
        reply = await self._ask("read", SessionQuery(session), ("", "") if have is None else have.token)
        return replies.snapshot(reply, session, have)

    async def _read_at(self, session: str, token: Token) -> Snapshot:
        try:
            reply = await self._ask("read_at", SessionQuery(session, token=token), token)
        except (RevisionLostError, SessionNotFoundError):
            kept = await self._kept.read(session, token)
            if kept is None:
                raise
            return kept
        return replies.snapshot(reply, session, None)

    async def keep(self, snapshot: Snapshot, seconds: float) -> None:
        """See ``SnapshotStore.keep``."""
        await self._kept.keep(snapshot, seconds)

    async def head(self, session: str) -> Head:
        """See ``SnapshotStore.head``."""
        return replies.head(await self._ask("head", SessionQuery(session)))

    async def history(self, session: str, limit: int = 20) -> list[Change]:
        """See ``SnapshotStore.history``."""
        reply = await self._ask("history", SessionQuery(session), (limit,))
        return [replies.change(entry) for entry in reply[1:]]

    async def _label(
        self, session: str, name: str, token: Token, expected: Token | None, author: str, reason: str
    ) -> Token:
        asked = SessionQuery(session, expected=expected, token=token, label=name)
        args = (name, *token, "" if expected is None else expected, author, reason)
        await self._ask("label", asked, [str(arg) for arg in args], self._keys.request(session))
        return token

    async def unlabel(self, session: str, name: str) -> None:
        """See ``SnapshotStore.unlabel``."""
        await self._ask("unlabel", SessionQuery(session), (name,))

    async def labels(self, session: str) -> dict[str, Label]:
        """See ``SnapshotStore.labels``."""
        return replies.labels(await self._ask("labels", SessionQuery(session)))

    async def declare_checks(self, session: str, checks: Mapping[str, Check | None], *, publisher: str = STORE) -> None:
        """See ``SnapshotStore.declare_checks``."""
        await self._committer.declare(SessionQuery(session, publisher), checks)

    async def checks(self, session: str) -> dict[str, Check]:
        """See ``SnapshotStore.checks``."""
        return dict((await self._committer.look(session)).checks)

    async def retain(self, session: str, retention: Retention | None) -> None:
        """See ``SnapshotStore.retain``."""
        own = "" if retention is None else str(retention)
        await self._ask("retain", SessionQuery(session), (own, str(self._retention)))

    async def retention(self, session: str) -> Retention | None:
        """See ``SnapshotStore.retention``."""
        reply = await self._ask("retain", SessionQuery(session))
        return Retention.parse(reply[1].decode()) if reply[1] else None

    async def raise_fence(self, session: str, *, publisher: str) -> int:
        """See ``SnapshotStore.raise_fence``."""
        reply = await self._ask("fence", SessionQuery(session, publisher), (publisher,))
        return int(reply[1])

    async def sessions(self) -> dict[str, Head]:
        """See ``SnapshotStore.sessions``."""
        connection = self._connection
        found: Any = await connection.bounded(connection.client.zrange(self._keys.index, 0, -1, withscores=True))
        begun: dict[str, float] = {name.decode(): float(at) for name, at in found}
        heads = await self.heads(sorted(begun))
        latest = time.time() - _BEGUN_BY_NOW_S
        gone = [name for name, at in begun.items() if name not in heads and at < latest][:_AT_ONCE]
        if gone:
            await connection.run(SCRIPTS["prune"], (self._keys.index,), (latest, *gone))
        return heads

    async def heads(self, sessions: Iterable[str]) -> dict[str, Head]:
        """See ``SnapshotStore.heads``."""
        names = list(sessions)
        heads: dict[str, Head] = {}
        for start in range(0, len(names), _AT_ONCE):
            heads |= await self._heads(names[start : start + _AT_ONCE])
        return heads

    async def _heads(self, names: Sequence[str]) -> dict[str, Head]:
        """Heads as they stand are cheap to ask for; only those of another run of the server have to be judged."""
        plain = await self._plain_heads(names)
        unsure = [name for name, head in plain.items() if head is None]
        calls = [(self._keys.session(name), ()) for name in unsure]
        answers = await self._connection.run_each(SCRIPTS["head"], calls) if unsure else []
        judged = {name: replies.head(reply) for name, reply in zip(unsure, answers, strict=True) if len(reply) > 1}
        return {name: head for name in names if (head := judged.get(name) or plain[name])}

    async def _plain_heads(self, names: Sequence[str]) -> dict[str, Head | None]:
        if self._connection.cluster:
            return dict.fromkeys(names)
        run, replid, seconds, microseconds, *heads = await self._connection.run(
            SCRIPTS["heads"], [self._keys.head(name) for name in names], replies.HEAD_FIELDS
        )
        server, now = [run, replid], int(seconds) + int(microseconds) / 1e6
        return {name: replies.plain_head(found, server, now) for name, found in zip(names, heads, strict=True)}

    def open_watch(self) -> Watch:
        """See ``SnapshotStore.open_watch``."""
        return RedisWatch(self._connection, self.channel)

    async def drop(self, session: str) -> None:
        """See ``SnapshotStore.drop``."""
        # Its name stays in the index until a look at it finds nothing: a session of that name may be begun right now.
        await self._ask("drop", SessionQuery(session), (self.channel(session),))

    async def aclose(self) -> None:
        """See ``SnapshotStore.aclose``."""
        await self._connection.aclose()

    async def _ask(self, script: str, asked: SessionQuery, args: Sequence[Any] = (), *keys: str) -> Reply:
        reply = await self._connection.run(SCRIPTS[script], (*self._keys.session(asked.session), *keys), args)
        return replies.accepted(reply, asked)
