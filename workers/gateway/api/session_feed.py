"""Distribute the newest snapshots of sessions to any number of streams, reading each change once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress

from snakepit_bridge.exceptions import SessionNotFoundError, StoreUnavailableError
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.snapshots.watch import Watch

_log = logging.getLogger(__name__)

_RETRY_S = 0.2


class _FollowedSession:
    """One session: its newest snapshot, and an event for each stream that follows it."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.listeners: set[asyncio.Event] = set()


class SessionFeed:
    """Follows sessions over a single watch, on one event loop.

    Args:
        store: the snapshot store.
        interval_s: seconds after which all sessions are compared even without a notification.
    """

    def __init__(self, store: SnapshotStore, interval_s: float = 1.0) -> None:
        self._store = store
        self._interval_s = interval_s
        self._followed: dict[str, _FollowedSession] = {}
        self._watch: Watch | None = None
        self._task: asyncio.Task[None] | None = None

    async def follow(self, session: str) -> AsyncGenerator[Snapshot]:
        """Yield the session's newest snapshot and then each newer one; a slow reader skips some, never the last.

        The session need not exist yet. While the store is unavailable, nothing is yielded.
        """
        followed, changed = self._followed.setdefault(session, _FollowedSession()), asyncio.Event()
        followed.listeners.add(changed)
        try:
            await self._join(session, followed)
            seen: Snapshot | None = None
            while True:
                changed.clear()
                newest = followed.snapshot
                if newest is not None and (seen is None or newest.token > seen.token):
                    seen = newest
                    yield newest
                else:
                    await changed.wait()
        finally:
            followed.listeners.discard(changed)
            await self._leave(session, followed)

    async def aclose(self) -> None:
        """Stop following all sessions."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _join(self, session: str, followed: _FollowedSession) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="dspex-gateway-feed")
        if self._watch is not None:
            with suppress(StoreUnavailableError):  # the next watch includes it
                await self._watch.add([session])
        with suppress(StoreUnavailableError):
            await self._read(session, followed)

    async def _leave(self, session: str, followed: _FollowedSession) -> None:
        if followed.listeners or self._followed.get(session) is not followed:
            return
        del self._followed[session]
        if self._watch is not None:
            with suppress(StoreUnavailableError):
                await self._watch.discard([session])
        if session in self._followed and self._watch is not None:
            with suppress(StoreUnavailableError):  # a stream joined meanwhile
                await self._watch.add([session])

    async def _run(self) -> None:
        while True:
            try:
                async with self._store.open_watch() as self._watch:
                    await self._watch.add(list(self._followed))
                    while True:
                        await self._read_outdated()
                        await self._read_all((await self._watch.moves(self._interval_s)).keys())
            except StoreUnavailableError:
                self._watch = None
            except Exception:  # noqa: BLE001 - logged, then retried: the streams depend on this task
                self._watch = None
                _log.exception("following sessions failed; retrying")
            await asyncio.sleep(_RETRY_S)

    async def _read_outdated(self) -> None:
        """Compare all heads and read the sessions that changed, since notifications may be lost."""
        heads = await self._store.heads(list(self._followed))
        known = {name: followed.snapshot for name, followed in self._followed.items()}
        await self._read_all(
            name for name, head in heads.items() if (held := known.get(name)) is None or held.token != head.token
        )

    async def _read_all(self, sessions: Iterable[str]) -> None:
        known = [(name, self._followed[name]) for name in sessions if name in self._followed]
        await asyncio.gather(*(self._read(name, followed) for name, followed in known))

    async def _read(self, session: str, followed: _FollowedSession) -> None:
        try:
            snapshot = await self._store.read(session, followed.snapshot)
        except SessionNotFoundError:
            return
        # Concurrent reads may complete out of order.
        if followed.snapshot is None or snapshot.token > followed.snapshot.token:
            followed.snapshot = snapshot
            for listener in followed.listeners:
                listener.set()
