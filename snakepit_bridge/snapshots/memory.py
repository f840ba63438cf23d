"""The snapshot store in this process's memory: for tests, examples and programs that need no fleet.

It keeps every promise of the contract but one: its sessions end with the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

from snakepit_bridge.exceptions import (
    BridgeError,
    RevisionLostError,
    SessionError,
    SessionNotFoundError,
)
from snakepit_bridge.protocol.token import Token, new_epoch
from snakepit_bridge.snapshots import checks as checking
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.memory_session import MemorySession
from snakepit_bridge.snapshots.memory_watch import Listeners, MemoryWatch
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
from snakepit_bridge.snapshots.snapshot import Heard, Lineage, Snapshot
from snakepit_bridge.snapshots.store import SnapshotStore
from snakepit_bridge.snapshots.watch import Watch


class MemoryStore(SnapshotStore):
    """Sessions in memory, shared by every thread and event loop of the process.

    Args:
        retention: what is kept of a session that has no retention of its own; a number is that of revisions.
    """

    def __init__(self, *, retention: Retention | int = RETENTION) -> None:
        self._retention = Retention.of(retention)
        self._sessions: dict[str, MemorySession] = {}
        self._kept: dict[tuple[str, Token], tuple[float, Snapshot]] = {}
        self._last_epoch = 0
        self._lock = threading.Lock()
        self._listeners = Listeners()

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
        looked_at: float | None = None,
        heard: Heard | None = None,
    ) -> Token:
        """See ``SnapshotStore.publish``."""
        checked(changes, publisher)
        with self._lock:
            state = self._get(session) or self._opened(session)
            state.admit(publisher, fence, expected)
            gone: Changes = dict.fromkeys(state.variables) if replace else {}
            self._commit(state, {**gone, **changes}, publisher, author, reason)
            state.confirm(time.time() - age_s if looked_at is None else looked_at, heard)
            return state.token

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
        with self._lock:
            state = self._found(session)
            state.admit(publisher, fence, expected)
            past = {**dict.fromkeys(state.variables), **state.state_at(to)}
            self._commit(state, past, publisher, author, reason)
            state.confirm(time.time(), None)
            return state.token

    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        """See ``SnapshotStore.read``."""
        with self._lock:
            state = self._found(session)
            if have is not None and have.token == state.token:
                return have.confirmed(state.confirmed_at, state.heard)
            return state.snapshot(state.token, state.variables)

    async def _read_at(self, session: str, token: Token) -> Snapshot:
        with self._lock:
            try:
                state = self._found(session)
                return state.snapshot(token, state.state_at(token))
            except (RevisionLostError, SessionNotFoundError):
                until, kept = self._kept.get((session, token), (0.0, None))
                if kept is None or until < time.time():
                    raise
                return kept

    async def confirm(self, looks: Mapping[str, Look], *, publisher: str) -> dict[str, BridgeError]:
        """See ``SnapshotStore.confirm``."""
        refused: dict[str, BridgeError] = {}
        with self._lock:
            for session, look in looks.items():
                try:
                    state = self._found(session)
                    state.admit(publisher, look.fence, look.expected)
                    state.confirm(look.looked_at, look.heard)
                except SessionError as error:
                    refused[session] = error
        return refused

    async def keep(self, snapshot: Snapshot, seconds: float) -> None:
        """See ``SnapshotStore.keep``."""
        with self._lock:
            now = time.time()
            self._kept = {key: kept for key, kept in self._kept.items() if kept[0] >= now}
            key = (snapshot.session, snapshot.token)
            until = max(now + seconds, self._kept.get(key, (0.0,))[0])
            self._kept[key] = (until, snapshot)

    async def head(self, session: str) -> Head:
        """See ``SnapshotStore.head``."""
        with self._lock:
            return self._found(session).head()

    async def history(self, session: str, limit: int = 20) -> list[Change]:
        """See ``SnapshotStore.history``."""
        with self._lock:
            state = self._found(session)
            state.trim()
            return list(reversed(state.history))[:limit]

    async def _label(
        self, session: str, name: str, token: Token, expected: Token | None, author: str, reason: str
    ) -> Token:
        with self._lock:
            self._found(session).label(name, token, expected, author, reason)
            return token

    async def unlabel(self, session: str, name: str) -> None:
        """See ``SnapshotStore.unlabel``."""
        with self._lock:
            state = self._found(session)
            state.labels.pop(name, None)
            state.forget_unlabelled()

    async def labels(self, session: str) -> dict[str, Label]:
        """See ``SnapshotStore.labels``."""
        with self._lock:
            return dict(sorted(self._found(session).labels.items()))

    async def declare_checks(self, session: str, checks: Mapping[str, Check | None], *, publisher: str = STORE) -> None:
        """See ``SnapshotStore.declare_checks``."""
        declared = {name: checking.read(checking.written(name, check)) for name, check in checks.items() if check}
        with self._lock:
            state = self._get(session) or self._opened(session)
            state.owned(publisher)
            kept = {name: check for name, check in state.checks.items() if name not in checks}
            if state.published:
                checking.hold(session, declared, state.variables)
            self._sessions[session] = state
            state.checks = kept | declared

    async def checks(self, session: str) -> dict[str, Check]:
        """See ``SnapshotStore.checks``."""
        with self._lock:
            state = self._get(session)
            return {} if state is None else dict(sorted(state.checks.items()))

    async def retain(self, session: str, retention: Retention | None) -> None:
        """See ``SnapshotStore.retain``."""
        with self._lock:
            state = self._found(session)
            state.own, state.usual = retention, self._retention
            state.trim()
            state.live()

    async def retention(self, session: str) -> Retention | None:
        """See ``SnapshotStore.retention``."""
        with self._lock:
            return self._found(session).own

    async def raise_fence(self, session: str, *, publisher: str) -> int:
        """See ``SnapshotStore.raise_fence``."""
        with self._lock:
            state = self._get(session) or self._opened(session)
            state.owned(publisher)
            self._sessions[session] = state
            state.authority = publisher
            state.fence = max(_now_us(), state.fence + 1)
            return state.fence

    async def sessions(self) -> dict[str, Head]:
        """See ``SnapshotStore.sessions``."""
        return await self.heads(sorted(self._sessions))

    async def heads(self, sessions: Iterable[str]) -> dict[str, Head]:
        """See ``SnapshotStore.heads``."""
        with self._lock:
            found = {name: self._get(name) for name in sessions}
            return {name: state.head() for name, state in found.items() if state is not None and state.published}

    async def drop(self, session: str) -> None:
        """See ``SnapshotStore.drop``."""
        with self._lock:
            if self._sessions.pop(session, None) is not None:
                self._listeners.tell(session, None)

    def open_watch(self) -> Watch:
        """See ``SnapshotStore.open_watch``."""
        return MemoryWatch(self._listeners)

    async def aclose(self) -> None:
        """See ``SnapshotStore.aclose``; there is nothing to close."""

    def _commit(self, state: MemorySession, updates: Changes, publisher: str, author: str, reason: str) -> None:
        before, state.usual = state.token, self._retention
        token = state.commit(updates, publisher, author, reason)
        self._sessions[state.name] = state
        if token != before:
            self._listeners.tell(state.name, token)

    def _get(self, session: str) -> MemorySession | None:
        state = self._sessions.get(session)
        if state is not None and state.expires_at is not None and state.expires_at <= time.time():
            del self._sessions[session]
            return None
        return state

    def _found(self, session: str) -> MemorySession:
        state = self._get(session)
        if state is None or not state.published:
            raise SessionNotFoundError(session)
        return state

    def _opened(self, session: str) -> MemorySession:
        # Larger than any before, so that tokens of a dropped session never name a state of its successor.
        self._last_epoch = new_epoch(self._last_epoch)
        return MemorySession(
            session, Lineage().opened(self._last_epoch, 0), Token(self._last_epoch, 0), self._retention
        )


def _now_us() -> int:
    return time.time_ns() // 1_000
