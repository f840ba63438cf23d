"""Publish a client's changes at the session's authority, exactly once per request id."""

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
from snakepit_bridge.redis.lease import LeaseLostError
from snakepit_bridge.snapshots import Change, Changes, SnapshotStore
from snakepit_bridge.snapshots.optimistic import retry_on_conflict
from snakepit_bridge.variables import Variable
from workers.gateway.api.request_ids import Attempt, RequestIds

_log = logging.getLogger(__name__)

_UNPUBLISHED = Token(0, 0)
_HISTORY_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class PublishCommand:
    """Changes to publish.

    Attributes:
        session: the session's name.
        names: the variables that ``build_changes`` needs to see; all of them if None.
        build_changes: builds the changes from the current variables.
        expected: the token that the session must be at; any if None.
        author, reason: recorded in the history.
    """

    session: str
    names: frozenset[str] | None
    build_changes: Callable[[Mapping[str, Variable]], Changes]
    expected: Token | None
    author: str
    reason: str


class IdempotentPublisher:
    """Publishes changes to a fleet's sessions.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._store: SnapshotStore = fleet.store
        self._elixir: ElixirAuthority | None = fleet.elixir
        self._ids = RequestIds(fleet.connection, fleet.namespace)

    async def publish(self, owner: str, request_id: str, content: bytes, commit: PublishCommand) -> Token:
        """Commit the changes unless the same request was committed before; return the token of the commit.

        Errors of ``SnapshotStore.publish`` and ``ElixirAuthority.change`` pass through.

        Args:
            owner: the name of the client's grant.
            request_id: the request's id; if empty, the changes are committed on each call.
            content: the serialized request, to detect the reuse of an id for another one.
            commit: the changes.

        Raises:
            RequestIdConflictError: the id belongs to another request.
            StaleTokenError: the session isn't at ``expected``.
            SessionOwnedElsewhereError: another publisher is the session's authority.
            ElixirMethodNotServedError: ``expected`` was given for a session of Elixir, which can't compare.
        """
        if not request_id:
            return await self._commit(commit, None)
        while True:
            try:
                async with self._ids.attempt(owner, request_id, content) as attempt:
                    return await self._commit_once(commit, attempt)
            except LeaseLostError:
                _log.warning("request %r lost its lease; another attempt continues it", request_id)

    async def _commit_once(self, commit: PublishCommand, attempt: Attempt) -> Token:
        if attempt.answer is not None:
            return Token.parse(attempt.answer)
        token = await self._commit(commit, attempt)
        await attempt.record_answer(str(token))
        return token

    async def _commit(self, commit: PublishCommand, attempt: Attempt | None) -> Token:
        if self._elixir is None or not await self._elixir.owns(commit.session):
            return await self._publish(commit, attempt)
        if commit.expected is not None:
            raise ElixirMethodNotServedError(self._elixir.address, "publishing on top of an expected state")
        return await self._elixir.change(
            commit.session, commit.names, commit.build_changes, author=commit.author, reason=commit.reason
        )

    async def _publish(self, commit: PublishCommand, attempt: Attempt | None) -> Token:
        async def publish() -> Token:
            # Checked on each retry: an earlier attempt that was paused may have committed in the meantime.
            if attempt is not None and attempt.base is not None:
                token = await self._find_commit(commit, Token.parse(attempt.base))
                if token is not None:
                    return token
            base, now = await self._read_current(commit.session)
            changes = await asyncio.to_thread(_build_changes, commit, now)
            expected = base if commit.expected is None else commit.expected
            if attempt is not None:
                await attempt.record_base(str(expected))
            return await self._store.publish(
                commit.session, changes, expected=expected, author=commit.author, reason=commit.reason
            )

        # Without an expected token, a conflict with another publisher is retried instead of reported.
        return await (publish() if commit.expected is not None else retry_on_conflict(publish))

    async def _read_current(self, session: str) -> tuple[Token, Mapping[str, Variable]]:
        try:
            snapshot = await self._store.read(session)
        except SessionNotFoundError:
            return _UNPUBLISHED, {}
        return snapshot.token, snapshot.variables

    async def _find_commit(self, commit: PublishCommand, base: Token) -> Token | None:
        """Return the token of an earlier attempt that was about to commit on top of ``base``, if it did."""
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
    """Return the changes with their values encoded; with thousands that takes long, so it runs in a thread."""
    changes = commit.build_changes(now)
    for variable in changes.values():
        if variable is not None:
            variable.encode()
    return changes


def _is_commit_of(change: Change, commit: PublishCommand, changes: Changes, before: Mapping[str, Variable]) -> bool:
    """Check whether a change of the history is the result of these changes."""
    expected = {name: variable for name, variable in changes.items() if before.get(name) != variable}
    recorded = {name: change.after.get(name) for name in {*change.before, *change.after}}
    return (change.author, change.reason, recorded) == (commit.author, commit.reason, expected)
