"""Committing a client's changes: at the session's authority, on top of what is there, and once per request id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.errors import ElixirMethodNotServedError
from snakepit_bridge.elixir.write_back import ElixirAuthority
from snakepit_bridge.exceptions import SessionNotFoundError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.lease import TurnLostError
from snakepit_bridge.snapshots import Change, Changes, SnapshotStore
from snakepit_bridge.snapshots.optimistic import retry_on_conflict
from snakepit_bridge.variables import Variable
from workers.gateway.api.request_ids import Attempt, RequestIds

_log = logging.getLogger(__name__)

_UNPUBLISHED = Token(0, 0)
_HISTORY_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class PublishCommand:
    """What is to be committed.

    Attributes:
        session: the session.
        names: the variables that the proposal has to see; all of them if None.
        proposal: makes the changes from the variables that are there.
        expected: commit only on top of this state.
        author, reason: for the history.
    """

    session: str
    names: frozenset[str] | None
    build_changes: Callable[[Mapping[str, Variable]], Changes]
    expected: Token | None
    author: str
    reason: str


class IdempotentPublisher:
    """The way of changes to their sessions.

    Args:
        fleet: whose sessions they are.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._store: SnapshotStore = fleet.store
        self._elixir: ElixirAuthority | None = fleet.elixir
        self._ids = RequestIds(fleet.connection, fleet.namespace)

    async def publish(self, owner: str, request_id: str, content: bytes, commit: PublishCommand) -> Token:
        """Commits, unless the same request has been committed before, and returns the token.

        Args:
            owner: whose request it is.
            request_id: its id; without one it is committed each time.
            content: the request itself, which an id belongs to.
            commit: what is to be committed.

        Raises:
            RequestIdConflictError: the id belongs to another request.
            StaleTokenError: the session isn't at ``expected``.
            SessionOwnedElsewhereError: another publisher is the authority.
            ElixirMethodNotServedError: ``expected`` on a session of Elixir, which compares nothing.
            what ``SnapshotStore.publish`` and ``ElixirAuthority.change`` raise.
        """
        if not request_id:
            return await self._commit(commit, None)
        while True:
            try:
                async with self._ids.attempt(owner, request_id, content) as tried:
                    return await self._commit_once(commit, tried)
            except TurnLostError:
                _log.warning("request %r stood still for too long; its next try goes on with it", request_id)

    async def _commit_once(self, commit: PublishCommand, tried: Attempt) -> Token:
        if tried.answer is not None:
            return tried.answer
        token = await self._commit(commit, tried)
        await tried.record_answer(token)
        return token

    async def _commit(self, commit: PublishCommand, tried: Attempt | None) -> Token:
        if self._elixir is None or not await self._elixir.owns(commit.session):
            return await self._publish(commit, tried)
        if commit.expected is not None:
            raise ElixirMethodNotServedError(self._elixir.address, "publishing on top of an expected state")
        return await self._elixir.change(
            commit.session, commit.names, commit.build_changes, author=commit.author, reason=commit.reason
        )

    async def _publish(self, commit: PublishCommand, tried: Attempt | None) -> Token:
        async def publish() -> Token:
            # Asked each time: an earlier try that was paused may commit as late as now, on top of what it noted.
            if tried is not None and tried.base is not None:
                token = await self._find_commit(commit, tried.base)
                if token is not None:
                    return token
            base, now = await self._read_current(commit.session)
            changes = await asyncio.to_thread(_build_changes, commit, now)
            expected = base if commit.expected is None else commit.expected
            if tried is not None:
                await tried.record_base(expected)
            return await self._store.publish(
                commit.session, changes, expected=expected, author=commit.author, reason=commit.reason
            )

        # A caller that expects nothing can't be told that somebody else was faster.
        return await (publish() if commit.expected is not None else retry_on_conflict(publish))

    async def _read_current(self, session: str) -> tuple[Token, Mapping[str, Variable]]:
        try:
            snapshot = await self._store.read(session)
        except SessionNotFoundError:
            return _UNPUBLISHED, {}
        return snapshot.token, snapshot.variables

    async def _find_commit(self, commit: PublishCommand, base: Token) -> Token | None:
        """Returns the token of an earlier try that was about to commit on top of ``base``, if it did."""
        try:
            history = await self._store.history(commit.session, _HISTORY_LIMIT)
        except SessionNotFoundError:
            return None
        later = [change for change in history if change.token > base]
        if not later:
            return None
        before = {} if base == _UNPUBLISHED else (await self._store.read_at(commit.session, base)).variables
        return later[-1].token if _is_commit_of(later[-1], commit, commit.build_changes(before), before) else None


def _build_changes(commit: PublishCommand, now: Mapping[str, Variable]) -> Changes:
    """Return the changes, ready to be sent: of thousands that takes long, so it runs in a thread."""
    changes = commit.build_changes(now)
    for variable in changes.values():
        if variable is not None:
            variable.encode()
    return changes


def _is_commit_of(change: Change, commit: PublishCommand, changes: Changes, before: Mapping[str, Variable]) -> bool:
    """Tells whether a change of the history is what these changes made."""
    made = {name: variable for name, variable in changes.items() if before.get(name) != variable}
    found = {name: change.after.get(name) for name in {*change.before, *change.after}}
    return (change.author, change.reason, found) == (commit.author, commit.reason, made)
