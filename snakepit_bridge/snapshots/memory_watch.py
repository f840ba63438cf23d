"""A watch on sessions in memory: each move is handed to the event loops that watch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.watch import Moves, Noticed, Watch


class Listeners:
    """The watches of one store, told from whichever thread publishes."""

    def __init__(self) -> None:
        self._watches: tuple[MemoryWatch, ...] = ()

    def tell(self, session: str, token: Token | None) -> None:
        """Hands a move to every watch on the session. Called under the store's lock, so moves keep their order."""
        for watch in self._watches:
            watch.tell(session, token)

    def join(self, watch: MemoryWatch) -> None:
        """Adds a watch."""
        self._watches = (*self._watches, watch)

    def leave(self, watch: MemoryWatch) -> None:
        """Takes a watch out."""
        self._watches = tuple(one for one in self._watches if one is not watch)


class MemoryWatch(Watch):
    """Hints from a store in memory."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self._sessions: frozenset[str] = frozenset()
        self._noticed = Noticed()

    def tell(self, session: str, token: Token | None) -> None:
        """Notes a move on the watch's own loop."""
        if session in self._sessions and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._noticed.put, session, token)

    async def __aenter__(self) -> Self:
        """See ``Watch.__aenter__``."""
        self._loop = asyncio.get_running_loop()
        self._listeners.join(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See ``Watch.__aexit__``."""
        self._listeners.leave(self)
        self._noticed.fail(StoreUnavailableError("memory://", "the watch was closed"))

    async def add(self, sessions: Iterable[str]) -> None:
        """See ``Watch.add``."""
        self._noticed.check()
        self._sessions |= frozenset(sessions)

    async def discard(self, sessions: Iterable[str]) -> None:
        """See ``Watch.discard``."""
        self._noticed.check()
        self._sessions -= frozenset(sessions)

    async def ping(self) -> None:
        """See ``Watch.ping``."""
        self._noticed.check()

    async def moves(self, timeout_s: float | None = None) -> Moves:
        """See ``Watch.moves``."""
        return await self._noticed.take(timeout_s)
