"""The snapshot store in this process's memory: for tests, examples and programs that need no fleet.

It keeps every promise of the contract but one: its sessions end with the process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from snakepit_bridge.exceptions import (
    FencedError,
    RevisionLost,
    RevisionNotReached,
    SessionNotFoundError,
    SessionOwnedElsewhereError,
    StaleTokenError,
)
from snakepit_bridge.revision import Token
from snakepit_bridge.snapshot import Lineage, Snapshot
from snakepit_bridge.stores.contract import RETENTION, STORE, Change, Changes, Head, SnapshotStore, checked
from snakepit_bridge.variables import Variable


@dataclass(slots=True)
class _Session:
    lineage: Lineage
    history: deque[Change]
    token: Token
    variables: Mapping[str, Variable] = field(default_factory=lambda: MappingProxyType({}))
    authority: str = ""
    fence: int = 0
    confirmed_at: float = 0.0

    @property
    def published(self) -> bool:
        """A session can stand before its first publish, for its fence."""
        return self.token.revision > 0

    def oldest(self) -> Token:
        """The oldest token that can be read again: undoing the oldest change gives the state before it."""
        return self.lineage.token(max(1, self.history[0].token.revision - 1))


class MemoryStore(SnapshotStore):
    """Sessions in memory, shared by every thread and event loop of the process.

    Args:
        retention: how many past revisions of a session can be read again.
    """

    def __init__(self, *, retention: int = RETENTION) -> None:
        self._retention = retention
        self._sessions: dict[str, _Session] = {}
        self._last_epoch = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._sessions)} sessions)"

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
        checked(changes)
        with self._lock:
            state = self._sessions.get(session) or self._opened()
            _admit(session, state, publisher, fence, expected)
            self._sessions[session] = state
            gone: Changes = dict.fromkeys(state.variables) if replace else {}
            return _commit(state, publisher, {**gone, **changes}, author, reason, age_s)

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
        with self._lock:
            state = self._found(session)
            _admit(session, state, publisher, fence, expected)
            past = {**dict.fromkeys(state.variables), **_state_at(session, state, to)}
            return _commit(state, publisher, past, author, reason or f"rollback to {to}", 0.0)

    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        """See ``SnapshotStore.read``."""
        with self._lock:
            state = self._found(session)
            if have is not None and have.token == state.token:
                return have.confirmed(state.confirmed_at)
            return Snapshot(session, state.token, state.variables, state.confirmed_at, state.lineage)

    async def read_at(self, session: str, token: Token) -> Snapshot:
        """See ``SnapshotStore.read_at``."""
        with self._lock:
            state = self._found(session)
            return Snapshot(session, token, _state_at(session, state, token), state.confirmed_at, state.lineage)

    async def head(self, session: str) -> Head:
        """See ``SnapshotStore.head``."""
        with self._lock:
            return _head(self._found(session))

    async def history(self, session: str, limit: int = 20) -> list[Change]:
        """See ``SnapshotStore.history``."""
        with self._lock:
            return list(reversed(self._found(session).history))[:limit]

    async def raise_fence(self, session: str, *, publisher: str) -> int:
        """See ``SnapshotStore.raise_fence``."""
        with self._lock:
            state = self._sessions.get(session) or self._opened()
            if state.authority not in ("", publisher):
                raise SessionOwnedElsewhereError(session, state.authority, publisher)
            self._sessions[session] = state
            state.authority = publisher
            state.fence = max(_now_us(), state.fence + 1)
            return state.fence

    async def sessions(self) -> dict[str, Head]:
        """See ``SnapshotStore.sessions``."""
        with self._lock:
            return {name: _head(state) for name, state in sorted(self._sessions.items()) if state.published}

    async def drop(self, session: str) -> None:
        """See ``SnapshotStore.drop``."""
        with self._lock:
            self._sessions.pop(session, None)

    async def aclose(self) -> None:
        """See ``SnapshotStore.aclose``; there is nothing to close."""

    def _found(self, session: str) -> _Session:
        state = self._sessions.get(session)
        if state is None or not state.published:
            raise SessionNotFoundError(session)
        return state

    def _opened(self) -> _Session:
        # Larger than any before, so that tokens of a dropped session never name a state of its successor.
        self._last_epoch = max(_now_us(), self._last_epoch + 1)
        lineage = Lineage().opened(self._last_epoch, 0)
        return _Session(lineage, deque(maxlen=self._retention), Token(self._last_epoch, 0))


def _admit(session: str, state: _Session, publisher: str, fence: int | None, expected: Token | None) -> None:
    if state.authority not in ("", publisher):
        raise SessionOwnedElsewhereError(session, state.authority, publisher)
    if (fence or 0) != state.fence:
        raise FencedError(session, fence or 0, state.fence)
    found = state.token if state.published else Token(0, 0)
    if expected is not None and expected != found:
        raise StaleTokenError(session, str(expected), str(found))


def _commit(state: _Session, publisher: str, updates: Changes, author: str, reason: str, age_s: float) -> Token:
    now = time.time()
    before = {name: state.variables.get(name) for name in updates}
    changed = [name for name, variable in updates.items() if variable != before[name]]
    state.authority = publisher
    if now - age_s > state.confirmed_at or state.confirmed_at > now:
        state.confirmed_at = now - age_s
    if changed or not state.published:
        state.token = Token(state.token.epoch, state.token.revision + 1)
        old, new = ({name: side[name] for name in changed} for side in (before, updates))
        state.history.append(Change(state.token, now, author, reason, old, new))
        state.variables = MappingProxyType(_present({**state.variables, **new}))
    return state.token


def _state_at(session: str, state: _Session, token: Token) -> Mapping[str, Variable]:
    if token > state.token:
        raise RevisionNotReached(session, str(token), str(state.token), 0.0)
    if not state.lineage.holds(token) or token.revision < state.oldest().revision:
        raise RevisionLost(session, str(token), str(state.oldest()))
    past: dict[str, Variable | None] = dict(state.variables)
    for change in reversed(state.history):
        if change.token.revision > token.revision:
            past.update(change.before)
    return _present(past)


def _present(variables: Changes) -> dict[str, Variable]:
    return {name: variable for name, variable in variables.items() if variable is not None}


def _head(state: _Session) -> Head:
    return Head(state.token, state.authority, state.fence, state.confirmed_at)


def _now_us() -> int:
    return time.time_ns() // 1_000
