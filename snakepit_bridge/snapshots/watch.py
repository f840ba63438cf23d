"""Watching sessions: how a store tells that one moved, and what may be made of that.

A notification is a hint to look, never the truth: it can be lost, come late, or come twice. So whoever watches
subscribes, awaits the confirmation and then reads, and looks again after each hint, interval and new connection.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from snakepit_bridge.exceptions import SessionNotFoundError, StoreUnavailableError, fresh_error
from snakepit_bridge.protocol.token import Token

if TYPE_CHECKING:
    from snakepit_bridge.snapshots.store import SnapshotStore

Moves = Mapping[str, Token | None]
"""The newest token that was told of each session; None stands for one that was dropped."""

# Between two tries to reach a store that went away.
_AGAIN_S = 0.1


class Watch(ABC):
    """Hints about any number of sessions, over one connection; an async context manager, of one event loop.

    Once the connection breaks, every method raises: what was told since is unknown, and a new watch has to be opened.
    """

    @abstractmethod
    async def add(self, sessions: Iterable[str]) -> None:
        """Returns once the store has confirmed: what it publishes of these sessions from then on is told.

        Raises:
            StoreUnavailableError: the connection broke.
        """

    @abstractmethod
    async def discard(self, sessions: Iterable[str]) -> None:
        """Stops the hints about these sessions.

        Raises:
            StoreUnavailableError: the connection broke.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Returns once the store has answered on the connection of the hints.

        Those sent before it have come by then; on a cluster only those of the node that answers.

        Raises:
            StoreUnavailableError: the connection broke.
        """

    @abstractmethod
    async def moves(self, timeout_s: float | None = None) -> Moves:
        """Returns what has been told since the last call, as soon as there is something; nothing after ``timeout_s``.

        Raises:
            StoreUnavailableError: the connection broke.
        """

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connects.

        Raises:
            StoreUnavailableError: the store is away.
        """

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnects."""


class Noticed:
    """The moves that nobody has taken yet, newest per session: a slow reader costs no more than a quick one."""

    def __init__(self) -> None:
        self._moves: dict[str, Token | None] = {}
        self._some = asyncio.Event()
        self._broken: StoreUnavailableError | None = None

    def put(self, session: str, token: Token | None) -> None:
        """Notes a move."""
        self._moves[session] = token
        self._some.set()

    def fail(self, error: StoreUnavailableError) -> None:
        """Ends every wait, this one's and those to come, with an error."""
        self._broken = error
        self._some.set()

    def check(self) -> None:
        """Raises what ``fail`` was told."""
        if self._broken is not None:
            # Anew each time: an exception that is raised twice collects both tracebacks.
            raise fresh_error(self._broken)

    async def take(self, timeout_s: float | None) -> Moves:
        """Returns the moves and forgets them; waits for some for as long as ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._some.wait()
        except TimeoutError:
            return {}
        self.check()
        self._some.clear()
        taken, self._moves = self._moves, {}
        return taken


async def tokens(
    store: SnapshotStore, session: str, *, interval_s: float = 1.0, patience_s: float = 30.0
) -> AsyncGenerator[Token]:
    """Yields the session's token and then each newer one that is seen; several publishes at once may show as one.

    Args:
        interval_s: seconds after which the store is looked at although it told nothing.
        patience_s: seconds for which a store that is away is tried again.

    Raises:
        StoreUnavailableError: it stayed away for longer.
    """
    seen: Token | None = None
    heard_at = time.monotonic()
    while True:
        try:
            async with store.open_watch() as watch:
                await watch.add([session])
                while True:
                    token = await _current(store, session)
                    heard_at = time.monotonic()
                    if token is not None and (seen is None or token > seen):
                        seen = token
                        yield token
                    await watch.moves(interval_s)
        except StoreUnavailableError:
            if time.monotonic() - heard_at > patience_s:
                raise
            await asyncio.sleep(_AGAIN_S)


async def call_each(
    store: SnapshotStore,
    session: str,
    callback: Callable[[Token], Awaitable[None] | None],
    *,
    interval_s: float = 1.0,
    patience_s: float = 30.0,
) -> None:
    """Calls back with each token that ``tokens`` yields, until it is cancelled or the callback raises."""
    seen = tokens(store, session, interval_s=interval_s, patience_s=patience_s)
    try:
        async for token in seen:
            answer = callback(token)
            if inspect.isawaitable(answer):
                await answer
    finally:
        await seen.aclose()


async def _current(store: SnapshotStore, session: str) -> Token | None:
    try:
        return (await store.head(session)).token
    except SessionNotFoundError:
        return None
