"""Watches on the memory store: moves are passed to the watching event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from typing_extensions import override

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.watch import Moves, PendingMoves, Watch


class WatchRegistry:
    """The watches of one store, notified from the publishing thread."""

    def __init__(self) -> None:
        self._watches: tuple[MemoryWatch, ...] = ()

    def notify(self, session: str, token: Token | None) -> None:
        """Pass a move to every watch. Called under the store's lock, so moves stay in order."""
        for watch in self._watches:
            watch.notify(session, token)

    def add(self, watch: MemoryWatch) -> None:
        """Add a watch."""
        self._watches = (*self._watches, watch)

    def remove(self, watch: MemoryWatch) -> None:
        """Remove a watch."""
        self._watches = tuple(each for each in self._watches if each is not watch)


class MemoryWatch(Watch):
    """A watch on a memory store."""

    def __init__(self, registry: WatchRegistry) -> None:
        self._registry = registry
        self._sessions: frozenset[str] = frozenset()
        self._pending = PendingMoves()

    def notify(self, session: str, token: Token | None) -> None:
        """Record a move on the watch's own loop."""
        if session in self._sessions and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pending.put, session, token)

    @override
    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._registry.add(self)
        return self

    @override
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._registry.remove(self)
        self._pending.fail(StoreUnavailableError("memory://", "the watch was closed"))

    @override
    async def add(self, sessions: Iterable[str]) -> None:
        self._pending.check()
        self._sessions |= frozenset(sessions)

    @override
    async def discard(self, sessions: Iterable[str]) -> None:
        self._pending.check()
        self._sessions -= frozenset(sessions)

    @override
    async def ping(self) -> None:
        self._pending.check()

    @override
    async def moves(self, timeout_s: float | None = None) -> Moves:
        return await self._pending.take(timeout_s)
