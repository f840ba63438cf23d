"""Watches: notifications about sessions' new tokens.

Notifications can be lost, late or duplicated. So a watcher subscribes, awaits the confirmation and then reads, and
reads again after each notification, interval and reconnection.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from snakepit_bridge.exceptions import StoreUnavailableError, copy_error
from snakepit_bridge.process.aio import wait_for_event
from snakepit_bridge.protocol.token import Token

Moves = Mapping[str, Token | None]
"""The newest announced token by session; None for a dropped session."""


class Watch(ABC):
    """Notifications about sessions over one connection; an async context manager of one event loop.

    Once the connection is lost, every method raises, since notifications may have been lost: open a new watch.
    """

    @abstractmethod
    async def add(self, sessions: Iterable[str]) -> None:
        """Subscribe to sessions and wait for the store's confirmation.

        Raises:
            StoreUnavailableError: the connection was lost.
        """

    @abstractmethod
    async def discard(self, sessions: Iterable[str]) -> None:
        """Unsubscribe from sessions.

        Raises:
            StoreUnavailableError: the connection was lost.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Wait for a reply of the store on the connection of the notifications.

        Earlier notifications have arrived by then; on a cluster only those of the replying node.

        Raises:
            StoreUnavailableError: the connection was lost.
        """

    @abstractmethod
    async def moves(self, timeout_s: float | None = None) -> Moves:
        """Wait for moves and return those since the last call; an empty mapping after ``timeout_s`` seconds.

        Raises:
            StoreUnavailableError: the connection was lost.
        """

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            StoreUnavailableError: the store is unreachable.
        """

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""


class PendingMoves:
    """Moves that haven't been taken yet, only the newest per session, so that a slow reader needs no more memory."""

    def __init__(self) -> None:
        self._moves: dict[str, Token | None] = {}
        self._available = asyncio.Event()
        self._broken: StoreUnavailableError | None = None

    def put(self, session: str, token: Token | None) -> None:
        """Add a move."""
        self._moves[session] = token
        self._available.set()

    def fail(self, error: StoreUnavailableError) -> None:
        """Fail the current and all later calls of ``take`` with an error."""
        self._broken = error
        self._available.set()

    def check(self) -> None:
        """Raise the error of ``fail``, if any."""
        if self._broken is not None:
            # A new instance each time, since one that is raised twice accumulates tracebacks.
            raise copy_error(self._broken)

    async def take(self, timeout_s: float | None) -> Moves:
        """Remove and return the moves, waiting for some up to ``timeout_s`` seconds."""
        if not await wait_for_event(self._available, timeout_s):
            return {}
        self.check()
        self._available.clear()
        moves, self._moves = self._moves, {}
        return moves
