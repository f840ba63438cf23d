"""Commits to Redis: what a publish and a rollback have in common, checks included.

The server can't judge a session's checks, so the publisher holds the state that its changes lead to against them, and
says which set of checks and which token it did that with. The script refuses where either has moved on, and the
publisher looks again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from snakepit_bridge.exceptions import CheckFailedError, SessionNotFoundError, StaleTokenError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import checks as checking
from snakepit_bridge.snapshots import replies
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.lua import SCRIPTS
from snakepit_bridge.snapshots.records import Retention
from snakepit_bridge.snapshots.redis_keys import Keys
from snakepit_bridge.snapshots.replies import SessionQuery
from snakepit_bridge.snapshots.snapshot import Heard, Snapshot
from snakepit_bridge.variables import Variable

Variables = Mapping[str, Variable]

# Each further try means that somebody else's commit got through.
_TRIES = 100
# The number of no set of checks, so that the script refuses whatever comes with it.
_NOT_ANY = "none"
# Sessions whose checks this process remembers.
_REMEMBERED = 1_024


@dataclass(frozen=True, slots=True)
class CommitMetadata:
    """Who commits, and from which look at the authority."""

    author: str = ""
    reason: str = ""
    age_s: float = 0.0
    looked_at: float | None = None
    heard: Heard | None = None


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """One commit: the script, what is particular to it, and the state that it leads to.

    ``leads_to`` makes that state from the present one, on top of which the commit then has to be unless ``on_top`` says
    that the present state doesn't matter.
    """

    script: str
    asked: SessionQuery
    terms: CommitMetadata
    args: Sequence[Any]
    leads_to: Callable[[Variables], Awaitable[Variables]]
    on_top: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """The checks of a session as this process last saw them, and the state that it last held against them."""

    number: str = ""
    checks: Mapping[str, Check] = field(default_factory=dict[str, Check])
    snapshot: Snapshot | None = None


class Committer:
    """Commits to the sessions of one store.

    Args:
        connection, keys: where they are.
        retention: what is kept of a session that has no retention of its own.
        read: how a session is read, given what is known of it.
    """

    def __init__(
        self,
        connection: RedisConnection,
        keys: Keys,
        retention: Retention,
        read: Callable[[str, Snapshot | None], Awaitable[Snapshot]],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._retention = retention
        self._read = read
        self._known: dict[str, _Known] = {}

    async def commit(self, commit: CommitRequest) -> Token:
        """Returns the token of the committed state.

        Raises:
            CheckFailedError, and what the script refuses.
        """
        session, request, indexed = commit.asked.session, self._keys.request(commit.asked.session), ""
        keys, terms = (*self._keys.session(session), request), self.terms(commit.asked, commit.terms)
        known = self._known.get(session) or _Known()
        for _ in range(_TRIES):
            broken, base = await self._vetted(commit, known)
            number = _NOT_ANY if broken else known.number
            reply = await self._connection.run(
                SCRIPTS[commit.script], keys, (*terms, number, base, indexed, *commit.args)
            )
            if reply[0] == b"unindexed":
                await self._index(session)
                indexed = "1"
            elif reply[0] == b"unchecked":
                before, known = known, await self.look(session)
                if broken and before.number == known.number:
                    raise broken
            else:
                return replies.token(replies.accepted(reply, commit.asked)[1])
        raise StaleTokenError(session, "the state that was held against its checks", "a newer one each time")

    def terms(self, asked: SessionQuery, terms: CommitMetadata) -> tuple[Any, ...]:
        """Returns the first arguments of every script that commits."""
        expected = ("", "") if asked.expected is None else asked.expected
        who = (self._keys.channel(asked.session), asked.publisher, terms.author, terms.reason)
        looked_at = "" if terms.looked_at is None else round(terms.looked_at * 1e6)
        times = (round(terms.age_s * 1e6), looked_at, str(terms.heard or ""))
        return (*who, asked.fence or 0, *expected, str(self._retention), *times)

    async def declare(self, asked: SessionQuery, checks: Mapping[str, Check | None]) -> None:
        """Declares checks that the present state obeys.

        Raises:
            CheckFailedError, ValueError, and what the script refuses.
        """
        encoded = {name: b"" if check is None else checking.written(name, check) for name, check in checks.items()}
        declared = {name: checking.read(data) for name, data in encoded.items() if data}
        session, request = asked.session, self._keys.request(asked.session)
        keys, flat = (*self._keys.session(session), request), [part for item in encoded.items() for part in item]
        for _ in range(_TRIES):
            known = await self.look(session)
            snapshot = await self._present(session, known)
            if snapshot is not None:
                checking.hold(session, declared, snapshot.variables)
            base = str(Token(0, 0) if snapshot is None else snapshot.token)
            reply = await self._connection.run(SCRIPTS["declare"], keys, (asked.publisher, known.number, base, *flat))
            if reply[0] != b"unchecked":
                replies.accepted(reply, asked)
                return
        raise StaleTokenError(session, "the state that was held against the checks", "a newer one each time")

    async def look(self, session: str) -> _Known:
        """Returns the checks of a session, as they are now, and remembers them."""
        reply = await self._connection.run(SCRIPTS["checks"], self._keys.session(session), ())
        number, names, found = reply[1].decode(), reply[2::2], reply[3::2]
        checks = {name.decode(): checking.read(data) for name, data in sorted(zip(names, found, strict=True))}
        return self._remember(session, _Known(number, checks))

    async def _vetted(self, commit: CommitRequest, known: _Known) -> tuple[CheckFailedError | None, str]:
        """Returns the check that the commit breaks, and the token on top of which it does or doesn't.

        The token is ``""`` where it doesn't matter. The error isn't raised yet: the checks may be others by now, and a
        publisher who may not publish at all is to be told that.
        """
        if not known.checks:
            return None, ""
        session = commit.asked.session
        snapshot = await self._present(session, known) if commit.on_top else None
        base = str(Token(0, 0) if snapshot is None else snapshot.token) if commit.on_top else ""
        try:
            checking.hold(session, known.checks, await commit.leads_to({} if snapshot is None else snapshot.variables))
        except CheckFailedError as broken:
            return broken, base
        return None, base

    async def _present(self, session: str, known: _Known) -> Snapshot | None:
        try:
            snapshot = await self._read(session, known.snapshot)
        except SessionNotFoundError:
            return None
        self._remember(session, _Known(known.number, known.checks, snapshot))
        return snapshot

    def _remember(self, session: str, known: _Known) -> _Known:
        self._known.pop(session, None)
        if known.number:
            self._known[session] = known
        while len(self._known) > _REMEMBERED:
            self._known.pop(next(iter(self._known)), None)
        return known

    async def _index(self, session: str) -> None:
        adding = self._connection.client.zadd(self._keys.index, {session: time.time()})
        await self._connection.bounded(adding)
