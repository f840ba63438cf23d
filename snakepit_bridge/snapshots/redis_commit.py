"""Commits to Redis: the common part of publish and rollback, including checks.

The server can't evaluate a session's checks, so the publisher evaluates them on the resulting state and sends the
version of the checks and the token that it used. The script rejects the commit if either has changed, and the publisher
retries.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from snakepit_bridge.audit.trail import RedisAuditTrail
from snakepit_bridge.exceptions import (
    CheckFailedError,
    SessionNotFoundError,
    StaleTokenError,
)
from snakepit_bridge.process.lru_cache import ThreadSafeLRUCache
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.replication import ON_PRIMARY, Replication
from snakepit_bridge.snapshots import checks as checking
from snakepit_bridge.snapshots import replies
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.lua import SCRIPTS
from snakepit_bridge.snapshots.records import Retention
from snakepit_bridge.snapshots.redis_keys import Keys
from snakepit_bridge.snapshots.replies import SessionQuery
from snakepit_bridge.snapshots.snapshot import AuthoritySign, Snapshot
from snakepit_bridge.variables import Variable

Variables = Mapping[str, Variable]

# Every further attempt means that another commit succeeded.
_MAX_ATTEMPTS = 100
# A version that no set of checks has, so that the script rejects the commit.
_NO_CHECKS = "none"
# Seconds for which a request's reply is kept, as request.lua has it.
_REQUEST_KEPT_S = 300
# Maximum number of sessions whose checks are cached.
_MAX_CACHED = 1_024


@dataclass(frozen=True, slots=True)
class CommitMetadata:
    """Author, reason and approval of a commit, and the time and heartbeat of the read that it is based on."""

    author: str = ""
    reason: str = ""
    age_s: float = 0.0
    looked_at: float | None = None
    heard: AuthoritySign | None = None
    approval: str = ""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """One commit: the script with its arguments, and the function that computes the resulting state.

    ``apply`` computes it from the current state. If ``on_top`` is true, the commit must be made on exactly that state;
    otherwise the current state doesn't matter.
    """

    script: str
    query: SessionQuery
    metadata: CommitMetadata
    args: Sequence[Any]
    apply: Callable[[Variables], Awaitable[Variables]]
    on_top: bool


@dataclass(frozen=True, slots=True)
class _CachedChecks:
    """The cached checks of a session, their version, and the last state that they were evaluated on."""

    number: str = ""
    checks: Mapping[str, Check] = field(default_factory=dict[str, Check])
    snapshot: Snapshot | None = None


class Committer:
    """Commits to the sessions of one store.

    Args:
        connection: the Redis.
        keys: of the store.
        retention: the default retention.
        read: reads a session, given the snapshot that is known already.
        trail: records the commits.
        replication: what a commit waits for.
    """

    def __init__(
        self,
        connection: RedisConnection,
        keys: Keys,
        retention: Retention,
        read: Callable[[str, Snapshot | None], Awaitable[Snapshot]],
        trail: RedisAuditTrail,
        replication: Replication = ON_PRIMARY,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._retention = retention
        self._read = read
        self._replication = replication
        self._trail = trail
        self._known: ThreadSafeLRUCache[str, _CachedChecks] = ThreadSafeLRUCache(_MAX_CACHED)

    async def commit(self, commit: CommitRequest) -> Token:
        """Commit and return the new token.

        Raises:
            CheckFailedError: the new state fails a check.
            StaleTokenError: the session isn't at the expected token, or kept changing.
            NotReplicatedError: the commit is in force, but not on as many servers as it was to wait for.
            BridgeError: another refusal of the script, see ``replies``.
        """
        session, request, indexed = commit.query.session, self._keys.request(commit.query.session), list[str]()
        keys, args = (*self._keys.session(session), request), self.build_args(commit.query, commit.metadata)
        tail = self._trail.build_args(f"session:{session}", commit.metadata.approval)
        known = self._known.get(session) or _CachedChecks()
        for _ in range(_MAX_ATTEMPTS):
            violation, base = await self._find_violation(commit, known)
            number = _NO_CHECKS if violation else known.number
            checked = (number, base, " ".join(indexed))
            reply, confirmed = await self._run(commit.script, keys, (*args, *checked, *commit.args, *tail))
            if reply[0] == b"unindexed":
                indexed.append(await self._index(session, reply[1].decode()))
            elif reply[0] == b"unchecked":
                before, known = known, await self.load_checks(session)
                if violation and before.number == known.number:
                    raise violation
            else:
                token = replies.parse_token(replies.raise_if_refused(reply, commit.query)[1])
                self._replication.check(confirmed, f"Revision {token} of session '{session}'", token=str(token))
                return token
        raise StaleTokenError(session, "the state that was held against its checks", "a newer one each time")

    async def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> tuple[Any, int]:
        """Run a commit's script and return its reply, and how many servers have confirmed what it wrote."""
        if not self._replication.waits:
            return await self._connection.run(SCRIPTS[script], keys, args), 0
        touch = ("EXPIRE", keys[-1], _REQUEST_KEPT_S)
        return await self._connection.durable.run(SCRIPTS[script], keys, args, self._replication, touch)

    def build_args(self, query: SessionQuery, metadata: CommitMetadata) -> tuple[Any, ...]:
        """Return the leading arguments of every commit script."""
        expected = ("", "") if query.expected is None else query.expected
        who = (self._keys.channel(query.session), query.publisher, metadata.author, metadata.reason)
        looked_at = "" if metadata.looked_at is None else round(metadata.looked_at * 1e6)
        times = (round(metadata.age_s * 1e6), looked_at, str(metadata.heard or ""))
        return (*who, query.fence or 0, *expected, str(self._retention), *times)

    async def declare(self, query: SessionQuery, checks: Mapping[str, Check | None], author: str, reason: str) -> None:
        """Declare checks that the current state passes.

        Raises:
            CheckFailedError: the current state fails one.
            ValueError: one is neither a JSON schema nor the name of a function.
            StaleTokenError: the session kept changing.
            BridgeError: another refusal of the script, see ``replies``.
        """
        encoded = {name: b"" if check is None else checking.encode_check(name, check) for name, check in checks.items()}
        declared = {name: checking.decode_check(data) for name, data in encoded.items() if data}
        session, request = query.session, self._keys.request(query.session)
        keys, flat = (*self._keys.session(session), request), [part for item in encoded.items() for part in item]
        tail = (author, reason, *self._trail.build_args(f"session:{session}"))
        for _ in range(_MAX_ATTEMPTS):
            known = await self.load_checks(session)
            snapshot = await self._read_current(session, known)
            if snapshot is not None:
                checking.enforce_checks(session, declared, snapshot.variables)
            base = str(Token(0, 0) if snapshot is None else snapshot.token)
            args = (query.publisher, known.number, base, *flat, *tail)
            reply = await self._connection.run(SCRIPTS["declare"], keys, args)
            if reply[0] != b"unchecked":
                replies.raise_if_refused(reply, query)
                return
        raise StaleTokenError(session, "the state that was held against the checks", "a newer one each time")

    async def load_checks(self, session: str) -> _CachedChecks:
        """Read the current checks of a session and cache them."""
        reply = await self._connection.run(SCRIPTS["checks"], self._keys.session(session), ())
        number, names, encoded = reply[1].decode(), reply[2::2], reply[3::2]
        checks = {name.decode(): checking.decode_check(data) for name, data in sorted(zip(names, encoded, strict=True))}
        return self._remember(session, _CachedChecks(number, checks))

    async def _find_violation(self, commit: CommitRequest, known: _CachedChecks) -> tuple[CheckFailedError | None, str]:
        """Return the error of a failed check, if any, and the token of the state that was checked.

        The token is ``""`` if it doesn't matter. The error isn't raised yet: the checks may have changed, and a refusal
        of the publisher itself takes precedence.
        """
        if not known.checks:
            return None, ""
        session = commit.query.session
        snapshot = await self._read_current(session, known) if commit.on_top else None
        base = str(Token(0, 0) if snapshot is None else snapshot.token) if commit.on_top else ""
        try:
            checking.enforce_checks(
                session, known.checks, await commit.apply({} if snapshot is None else snapshot.variables)
            )
        except CheckFailedError as exc:
            return exc, base
        return None, base

    async def _read_current(self, session: str, known: _CachedChecks) -> Snapshot | None:
        try:
            snapshot = await self._read(session, known.snapshot)
        except SessionNotFoundError:
            return None
        self._remember(session, _CachedChecks(known.number, known.checks, snapshot))
        return snapshot

    def _remember(self, session: str, known: _CachedChecks) -> _CachedChecks:
        if known.number:
            self._known.put(session, known)
        else:
            self._known.drop(session)
        return known

    async def _index(self, session: str, index: str) -> str:
        """Write a session's name to an index, ``sessions`` or ``staged``, and return what the index is called."""
        key = self._keys.staged if index == "staged" else self._keys.index
        await self._connection.execute("ZADD", key, time.time(), session)
        return index
