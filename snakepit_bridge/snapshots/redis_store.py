"""The snapshot store on Redis 7+ or Valkey: every write and every read is one Lua script.

Sessions have no TTL by default and exist until they are dropped: ``RedisStore.permanent`` lists their keys.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from typing_extensions import override

from snakepit_bridge.exceptions import BridgeError, RevisionLostError, SessionNotFoundError
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.snapshots import replies
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.lua import SCRIPTS
from snakepit_bridge.snapshots.records import (
    DEFAULT_REVISIONS,
    STORE,
    Change,
    Changes,
    Confirmation,
    Head,
    Label,
    Retention,
    check_changes,
)
from snakepit_bridge.snapshots.redis_commit import CommitMetadata, CommitRequest, Committer, Variables
from snakepit_bridge.snapshots.redis_kept import KeptSnapshots
from snakepit_bridge.snapshots.redis_keys import Keys
from snakepit_bridge.snapshots.redis_watch import RedisWatch
from snakepit_bridge.snapshots.replies import Reply, SessionQuery
from snakepit_bridge.snapshots.snapshot import AuthoritySign, Snapshot
from snakepit_bridge.snapshots.store import SnapshotStore
from snakepit_bridge.snapshots.watch import Watch

# Sessions per pipeline.
_BATCH = 500
# A name in the index without a session is pruned after this time, since the session may be just being created.
_PRUNE_AFTER_S = 3_600.0


class RedisStore(SnapshotStore):
    """Sessions on Redis or Valkey: one server, one behind Sentinel, or a cluster.

    Args:
        url: see ``RedisConnection``.
        namespace: prefix of every key and channel.
        retention: default retention of sessions; a number is that of revisions.
        timeout_s: maximum seconds for every call.

    Raises:
        ConfigurationError: the URL is invalid.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        retention: Retention | int = DEFAULT_REVISIONS,
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
        """Patterns of the keys without TTL: the index of sessions, and each session until it is dropped."""
        return self._keys.permanent

    def channel(self, session: str) -> str:
        """Return the pub/sub channel of a session's new tokens; ``""`` is published when it is dropped."""
        return self._keys.channel(session)

    @override
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
        heard: AuthoritySign | None = None,
    ) -> Token:
        updates = [
            part
            for name, variable in check_changes(changes, publisher).items()
            for part in (name, b"" if variable is None else variable.encode())
        ]

        async def apply(current: Variables) -> Variables:
            after = dict(changes) if replace else {**current, **changes}
            return {name: variable for name, variable in after.items() if variable is not None}

        query = SessionQuery(session, publisher, expected, fence)
        metadata = CommitMetadata(author, reason, age_s, looked_at, heard)
        args = (int(replace), *updates)
        return await self._committer.commit(CommitRequest("publish", query, metadata, args, apply, on_top=not replace))

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
        async def apply(_: Variables) -> Variables:
            return (await self._read_at(session, to)).variables

        query, metadata = SessionQuery(session, publisher, expected, fence, to), CommitMetadata(author, reason)
        return await self._committer.commit(CommitRequest("rollback", query, metadata, to, apply, on_top=False))

    @override
    async def confirm(self, looks: Mapping[str, Confirmation], *, publisher: str) -> dict[str, BridgeError]:
        refused: dict[str, BridgeError] = {}
        items = list(looks.items()) if self._connection.cluster else await self._confirm_plain(looks, publisher)
        for start in range(0, len(items), _BATCH):
            batch = [
                (SessionQuery(name, publisher, look.expected, look.fence), look)
                for name, look in items[start : start + _BATCH]
            ]
            calls = [
                (
                    (*self._keys.session(query.session), self._keys.request(query.session)),
                    (
                        *self._committer.build_args(query, CommitMetadata(looked_at=look.looked_at, heard=look.heard)),
                        "",
                        "",
                        "",
                    ),
                )
                for query, look in batch
            ]
            for (query, _), reply in zip(
                batch, await self._connection.run_each(SCRIPTS["confirm"], calls), strict=True
            ):
                error = replies.parse_refusal(reply, query)
                if error is not None:
                    refused[query.session] = error
        return refused

    async def _confirm_plain(self, looks: Mapping[str, Confirmation], publisher: str) -> list[tuple[str, Confirmation]]:
        """Confirm plain cases in few calls, and return the others, which need a script of their own."""
        left: list[tuple[str, Confirmation]] = []
        plain: list[tuple[str, Confirmation, str]] = []
        for name, look in looks.items():
            if look.expected is None:
                left.append((name, look))
            else:
                at, (epoch, revision) = max(0, round(look.looked_at * 1e6)), look.expected
                plain.append((name, look, f"{look.fence or 0} {epoch} {revision} {at} {look.heard or ''}"))
        for start in range(0, len(plain), _BATCH):
            batch = plain[start : start + _BATCH]
            heads = [self._keys.head(name) for name, _, _ in batch]
            answers = await self._connection.run(
                SCRIPTS["confirm_all"], heads, [publisher, *(encoded for _, _, encoded in batch)]
            )
            left += [(name, look) for (name, look, _), done in zip(batch, answers, strict=True) if not done]
        return left

    @override
    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        reply = await self._run("read", SessionQuery(session), ("", "") if have is None else have.token)
        return await self.with_baseline(replies.parse_snapshot(reply, session, have), have)

    async def _read_at(self, session: str, token: Token) -> Snapshot:
        try:
            reply = await self._run("read_at", SessionQuery(session, token=token), token)
        except (RevisionLostError, SessionNotFoundError):
            kept = await self._kept.read(session, token)
            if kept is None:
                raise
            return kept
        return replies.parse_snapshot(reply, session, None)

    @override
    async def keep(self, snapshot: Snapshot, seconds: float) -> None:
        await self._kept.keep(snapshot, seconds)

    @override
    async def head(self, session: str) -> Head:
        return replies.parse_head(await self._run("head", SessionQuery(session)))

    @override
    async def history(self, session: str, limit: int = 20) -> list[Change]:
        reply = await self._run("history", SessionQuery(session), (limit,))
        return [replies.parse_change(entry) for entry in reply[1:]]

    async def _label(
        self, session: str, name: str, token: Token, expected: Token | None, author: str, reason: str
    ) -> Token:
        query = SessionQuery(session, expected=expected, token=token, label=name)
        args = (name, *token, "" if expected is None else expected, author, reason)
        await self._run("label", query, [str(arg) for arg in args], self._keys.request(session))
        return token

    @override
    async def unlabel(self, session: str, name: str) -> None:
        await self._run("unlabel", SessionQuery(session), (name,))

    @override
    async def labels(self, session: str) -> dict[str, Label]:
        return replies.parse_labels(await self._run("labels", SessionQuery(session)))

    @override
    async def declare_checks(self, session: str, checks: Mapping[str, Check | None], *, publisher: str = STORE) -> None:
        await self._committer.declare(SessionQuery(session, publisher), checks)

    @override
    async def checks(self, session: str) -> dict[str, Check]:
        return dict((await self._committer.load_checks(session)).checks)

    @override
    async def retain(self, session: str, retention: Retention | None) -> None:
        own = "" if retention is None else str(retention)
        await self._run("retain", SessionQuery(session), (own, str(self._retention)))

    @override
    async def retention(self, session: str) -> Retention | None:
        reply = await self._run("retain", SessionQuery(session))
        return Retention.parse(reply[1].decode()) if reply[1] else None

    async def _step_rollout(self, session: str, before: str, event: RolloutEvent) -> None:
        query, detail = SessionQuery(session, rollout=before), event.encode_detail()
        args = (self.channel(session), before, str(event.record), event.kind, event.author, event.reason, detail)
        await self._run("rollout", query, args, self._keys.request(session))

    @override
    async def rollout_events(self, session: str, after: str = "", limit: int = 100) -> list[RolloutEvent]:
        entries = await self._read_events(session, "rollouts", after, limit)
        return [RolloutEvent.decode(position, fields) for position, fields in entries]

    async def _change_experiments(self, session: str, before: str, after: str, event: ExperimentEvent) -> None:
        query, details = SessionQuery(session, rollout=before), (event.encode_experiment(), event.author, event.reason)
        args = (self.channel(session), before, after, event.kind, *details)
        await self._run("change_experiments", query, args, self._keys.request(session))

    @override
    async def experiment_events(self, session: str, after: str = "", limit: int = 100) -> list[ExperimentEvent]:
        entries = await self._read_events(session, "experiments", after, limit)
        return [ExperimentEvent.decode(position, fields) for position, fields in entries]

    async def _read_events(
        self, session: str, kind: str, after: str, limit: int
    ) -> list[tuple[bytes, dict[bytes, bytes]]]:
        args = (kind, f"({after}" if after else "-", limit)
        entries = (await self._run("rollout_events", SessionQuery(session), args))[1]
        return [(position, dict(zip(flat[::2], flat[1::2], strict=True))) for position, flat in entries]

    @override
    async def raise_fence(self, session: str, *, publisher: str) -> int:
        reply = await self._run("fence", SessionQuery(session, publisher), (publisher,))
        return int(reply[1])

    @override
    async def sessions(self) -> dict[str, Head]:
        connection = self._connection
        entries: Any = await connection.wait_bounded(connection.client.zrange(self._keys.index, 0, -1, withscores=True))
        created: dict[str, float] = {name.decode(): float(at) for name, at in entries}
        heads = await self.heads(sorted(created))
        latest = time.time() - _PRUNE_AFTER_S
        gone = [name for name, at in created.items() if name not in heads and at < latest][:_BATCH]
        if gone:
            await connection.run(SCRIPTS["prune"], (self._keys.index,), (latest, *gone))
        return heads

    @override
    async def heads(self, sessions: Iterable[str]) -> dict[str, Head]:
        names = list(sessions)
        heads: dict[str, Head] = {}
        for start in range(0, len(names), _BATCH):
            heads |= await self._read_heads(names[start : start + _BATCH])
        return heads

    async def _read_heads(self, names: Sequence[str]) -> dict[str, Head]:
        """Read heads directly, which is cheap, and by script only those written by another run of the server."""
        plain = await self._read_plain_heads(names)
        unsure = [name for name, head in plain.items() if head is None]
        calls = [(self._keys.session(name), ()) for name in unsure]
        answers = await self._connection.run_each(SCRIPTS["head"], calls) if unsure else []
        judged = {
            name: replies.parse_head(reply) for name, reply in zip(unsure, answers, strict=True) if len(reply) > 1
        }
        return {name: head for name in names if (head := judged.get(name) or plain[name])}

    async def _read_plain_heads(self, names: Sequence[str]) -> dict[str, Head | None]:
        if self._connection.cluster:
            return dict.fromkeys(names)
        run, replid, seconds, microseconds, *heads = await self._connection.run(
            SCRIPTS["heads"], [self._keys.head(name) for name in names], replies.HEAD_FIELDS
        )
        server, now = [run, replid], int(seconds) + int(microseconds) / 1e6
        return {name: replies.parse_plain_head(fields, server, now) for name, fields in zip(names, heads, strict=True)}

    @override
    def open_watch(self) -> Watch:
        return RedisWatch(self._connection, self.channel)

    @override
    async def drop(self, session: str) -> None:
        # The name stays in the index until it is pruned, since a session of that name may be just being created.
        await self._run("drop", SessionQuery(session), (self.channel(session),))

    @override
    async def aclose(self) -> None:
        await self._connection.aclose()

    async def _run(self, script: str, query: SessionQuery, args: Sequence[Any] = (), *keys: str) -> Reply:
        reply = await self._connection.run(SCRIPTS[script], (*self._keys.session(query.session), *keys), args)
        return replies.raise_if_refused(reply, query)
