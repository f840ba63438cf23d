"""The snapshot store on Redis 7+ or Valkey: every write and every read is one Lua script.

Sessions have no TTL by default and exist until they are dropped: ``RedisStore.permanent`` lists their keys.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

from typing_extensions import override

from snakepit_bridge.audit.change_control import ChangeControl, ControlledChange, open_change_control, read_nothing
from snakepit_bridge.audit.entries import AuditSource
from snakepit_bridge.audit.trail import RedisAuditTrail
from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.exceptions import BridgeError, ConfigurationError, RevisionLostError, SessionNotFoundError
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.replication import Replication
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.snapshots import replies
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.controlled import (
    Attribution,
    describe_checks,
    describe_drop,
    describe_experiment,
    describe_label,
    describe_publish,
    describe_retention,
    describe_rollback,
    describe_rollout_step,
)
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
from snakepit_bridge.snapshots.redis_confirmations import RedisConfirmations
from snakepit_bridge.snapshots.redis_heads import RedisHeads
from snakepit_bridge.snapshots.redis_kept import KeptSnapshots
from snakepit_bridge.snapshots.redis_keys import Keys
from snakepit_bridge.snapshots.redis_staged import StagedSessions
from snakepit_bridge.snapshots.redis_watch import RedisWatch
from snakepit_bridge.snapshots.reencryption import reencrypt_session
from snakepit_bridge.snapshots.replies import Reply, SessionQuery
from snakepit_bridge.snapshots.snapshot import AuthoritySign, Snapshot
from snakepit_bridge.snapshots.store import SnapshotStore
from snakepit_bridge.snapshots.stored_variables import StoredVariables
from snakepit_bridge.snapshots.watch import Watch

T = TypeVar("T")

# Changes that rules are for only where the fleet publishes the session itself, as scripts have it: what an Elixir
# server owns is changed there, and a request for it could never be applied.
_OF_OWN_SESSIONS = ("publish", "rollback", "drop_session")


class RedisStore(SnapshotStore):
    """Sessions on Redis or Valkey: one server, one behind Sentinel, or a cluster.

    Args:
        url: see ``RedisConnection``.
        namespace: prefix of every key and channel.
        retention: default retention of sessions; a number is that of revisions.
        source: where this process's changes come from, for the audit trail.
        timeout_s: maximum seconds for every call.
        cipher: encrypts the variables of every revision.

    Raises:
        ConfigurationError: the URL is invalid.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        retention: Retention | int = DEFAULT_REVISIONS,
        source: AuditSource = AuditSource.CLIENT,
        timeout_s: float = 5.0,
        cipher: Cipher = PLAIN,
    ) -> None:
        self._connection = RedisConnection(url, timeout_s=timeout_s, namespace=namespace)
        self._keys = Keys(namespace)
        self._retention = Retention.of(retention)
        self._control = open_change_control(self._connection, namespace, source, cipher)
        self._trail = RedisAuditTrail(self._connection, namespace=namespace, source=source)
        self._committer = Committer(self._connection, self._keys, self._retention, self.read, self._trail)
        self._kept = KeptSnapshots(self._connection, self._keys, cipher)
        self._heads = RedisHeads(self._connection, self._keys)
        self._staged = StagedSessions(self._connection, self._keys, self._heads)
        self._confirmations = RedisConfirmations(self._connection, self._keys, self._committer)
        self._stored = StoredVariables(cipher)
        self._cipher = cipher

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.url!r}, namespace={self._keys.namespace!r})"

    @property
    def permanent(self) -> tuple[str, ...]:
        """Patterns of the keys without TTL: the indexes of sessions, and each session until it is dropped."""
        return self._keys.permanent

    @override
    def with_durability(self, durability: str) -> RedisStore:
        replication = Replication.parse(durability)
        if replication.waits and self._connection.cluster:
            raise ConfigurationError(
                f"A write to {self._connection.url} can't wait for replicas: each node of a cluster has its own. "
                "Use durability 'primary' there."
            )
        durable = copy(self)
        durable._committer = Committer(
            self._connection, self._keys, self._retention, self.read, self._trail, replication
        )
        return durable

    @property
    @override
    def change_control(self) -> ChangeControl:
        return self._control

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
        approval: str = "",
    ) -> Token:
        updates = self._stored.script_arguments(session, check_changes(changes, publisher))

        async def apply(current: Variables) -> Variables:
            after = dict(changes) if replace else {**current, **changes}
            return {name: variable for name, variable in after.items() if variable is not None}

        query = SessionQuery(session, publisher, expected, fence, approval=approval)
        metadata = CommitMetadata(author, reason, age_s, looked_at, heard, approval)
        commit = CommitRequest("publish", query, metadata, (int(replace), *updates), apply, on_top=not replace)
        by = Attribution(author, reason, approval, publisher)
        change = describe_publish(session, changes, by, expected, fence, replace=replace)
        return await self._carry_out(session, change, lambda: self._committer.commit(commit))

    async def _rollback(
        self,
        session: str,
        to: Token,
        expected: Token | None,
        fence: int | None,
        publisher: str,
        author: str,
        reason: str,
        approval: str,
    ) -> Token:
        async def apply(_: Variables) -> Variables:
            return (await self._read_at(session, to)).variables

        query = SessionQuery(session, publisher, expected, fence, to, approval=approval)
        metadata = CommitMetadata(author, reason, approval=approval)
        commit = CommitRequest("rollback", query, metadata, to, apply, on_top=False)
        change = describe_rollback(session, to, Attribution(author, reason, approval, publisher), expected, fence)
        return await self._carry_out(session, change, lambda: self._committer.commit(commit))

    async def _carry_out(self, session: str, change: ControlledChange, work: Callable[[], Awaitable[T]]) -> T:
        async def read_found() -> str:
            with suppress(SessionNotFoundError):
                return str((await self.head(session)).token)
            return "0.0"

        if not self._trail.in_scripts and change.operation in _OF_OWN_SESSIONS:
            with suppress(SessionNotFoundError):
                if (await self.head(session)).authority != STORE:
                    change = replace(change, kind=None)
        return await self._control.carry_out(change, work, read_found)

    @override
    async def confirm(self, looks: Mapping[str, Confirmation], *, publisher: str) -> dict[str, BridgeError]:
        return await self._confirmations.confirm(looks, publisher)

    @override
    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        reply = await self._run("read", SessionQuery(session), ("", "") if have is None else have.token)
        return await self.with_baseline(replies.parse_snapshot(reply, session, have, self._stored), have)

    async def _read_at(self, session: str, token: Token) -> Snapshot:
        try:
            reply = await self._run("read_at", SessionQuery(session, token=token), token)
        except (RevisionLostError, SessionNotFoundError):
            kept = await self._kept.read(session, token)
            if kept is None:
                raise
            return kept
        return replies.parse_snapshot(reply, session, None, self._stored)

    @override
    async def keep(self, snapshot: Snapshot, seconds: float) -> None:
        await self._kept.keep(snapshot, seconds)

    @override
    async def head(self, session: str) -> Head:
        return replies.parse_head(await self._run("head", SessionQuery(session)))

    @override
    async def history(self, session: str, limit: int = 20) -> list[Change]:
        reply = await self._run("history", SessionQuery(session), (limit,))
        return [replies.parse_change(entry, session, self._stored) for entry in reply[1:]]

    async def _label(
        self, session: str, name: str, token: Token, expected: Token | None, author: str, reason: str, approval: str
    ) -> Token:
        query = SessionQuery(session, expected=expected, token=token, label=name, approval=approval)
        args = (name, *token, "" if expected is None else expected, author, reason)
        change = describe_label(session, name, token, Attribution(author, reason, approval), expected)
        await self._change_label("label", query, [str(arg) for arg in args], change, token)
        return token

    async def _change_label(
        self, script: str, query: SessionQuery, args: Sequence[Any], change: ControlledChange, at: Token | None
    ) -> None:
        async def read_found() -> str:
            label = (await self.labels(query.session)).get(query.label)
            return str(Token(0, 0) if label is None else label.token)

        async def work() -> Token | None:
            tail = self._trail.build_args(change.target, change.approval)
            await self._run(script, query, (*args, *tail), self._keys.request(query.session))
            return at

        await self._control.carry_out(change, work, read_found)

    @override
    async def unlabel(self, session: str, name: str, *, author: str = "", reason: str = "", approval: str = "") -> None:
        query = SessionQuery(session, label=name, approval=approval)
        change = describe_label(session, name, None, Attribution(author, reason, approval))
        await self._change_label("unlabel", query, (name, author, reason), change, None)

    @override
    async def labels(self, session: str) -> dict[str, Label]:
        return replies.parse_labels(await self._run("labels", SessionQuery(session)))

    @override
    async def declare_checks(
        self,
        session: str,
        checks: Mapping[str, Check | None],
        *,
        publisher: str = STORE,
        author: str = "",
        reason: str = "",
    ) -> None:
        change = describe_checks(session, checks, Attribution(author, reason, publisher=publisher))
        query = SessionQuery(session, publisher)
        await self._control.carry_out(
            change, lambda: self._committer.declare(query, checks, author, reason), read_nothing
        )

    @override
    async def checks(self, session: str) -> dict[str, Check]:
        return dict((await self._committer.load_checks(session)).checks)

    @override
    async def retain(self, session: str, retention: Retention | None, *, author: str = "", reason: str = "") -> None:
        own, change = str(retention or ""), describe_retention(session, Attribution(author, reason))
        args = (own, str(self._retention), author, reason, *self._trail.build_args(change.target))
        await self._carry_out(session, change, lambda: self._run("retain", SessionQuery(session), args))

    @override
    async def retention(self, session: str) -> Retention | None:
        reply = await self._run("retain", SessionQuery(session))
        return Retention.parse(reply[1].decode()) if reply[1] else None

    async def _step_rollout(self, session: str, before: str, event: RolloutEvent) -> None:
        query, detail = SessionQuery(session, rollout=before), event.encode_detail()
        args = (self.channel(session), before, str(event.record), event.kind, event.author, event.reason, detail)
        change = describe_rollout_step(session, event)
        tail, request = self._trail.build_args(change.target), self._keys.request(session)
        if not before:
            await self._staged.add(session)
        await self._carry_out(session, change, lambda: self._run("rollout", query, (*args, *tail), request))

    @override
    async def rollout_events(self, session: str, after: str = "", limit: int = 100) -> list[RolloutEvent]:
        entries = await self._read_events(session, "rollouts", after, limit)
        return [RolloutEvent.decode(position, fields) for position, fields in entries]

    async def _change_experiments(
        self, session: str, before: str, after: str, event: ExperimentEvent, approval: str
    ) -> None:
        query = SessionQuery(session, rollout=before, approval=approval)
        change = describe_experiment(session, before, after, event, approval)
        details = (event.kind, event.encode_experiment(), event.author, event.reason, event.experiment.name)
        args = (self.channel(session), before, after, *details, *self._trail.build_args(change.target, approval))
        request = self._keys.request(session)
        if after:
            await self._staged.add(session)
        await self._carry_out(session, change, lambda: self._run("change_experiments", query, args, request))

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
    async def session_names(self) -> list[str]:
        return await self._heads.read_names()

    @override
    async def sessions(self) -> dict[str, Head]:
        return await self._heads.read_all()

    @override
    async def heads(self, sessions: Iterable[str]) -> dict[str, Head]:
        return await self._heads.read(sessions)

    @override
    async def staged_sessions(self) -> dict[str, Head]:
        return await self._staged.read()

    @override
    def open_watch(self) -> Watch:
        return RedisWatch(self._connection, self.channel)

    @override
    async def drop(self, session: str, *, author: str = "", reason: str = "", approval: str = "") -> None:
        # The name stays in the index until it is pruned, since a session of that name may be just being created.
        change = describe_drop(session, Attribution(author, reason, approval))
        query = SessionQuery(session, approval=approval)
        args = (self.channel(session), author, reason, *self._trail.build_args(change.target, approval))
        await self._carry_out(session, change, lambda: self._run("drop", query, args))

    async def reencrypt(self, session: str) -> int:
        """Encrypt a session's variables, kept states and history by the newest key, and return how many values.

        Raises:
            SessionNotFoundError: there is no such session.
            DecryptionError: a value can't be decrypted; nothing was changed.
            StoreUnavailableError: Redis is away.
        """
        return await reencrypt_session(self._connection, self._keys, self._cipher, session)

    @override
    async def aclose(self) -> None:
        await self._connection.aclose()

    async def _run(self, script: str, query: SessionQuery, args: Sequence[Any] = (), *keys: str) -> Reply:
        reply = await self._connection.run(SCRIPTS[script], (*self._keys.session(query.session), *keys), args)
        return replies.raise_if_refused(reply, query)
