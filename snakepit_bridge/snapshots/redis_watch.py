"""A watch by Redis pub/sub, over its own connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from typing_extensions import override

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.pubsub_connection import PubSubConnection
from snakepit_bridge.snapshots.watch import Moves, PendingMoves, Watch


class RedisWatch(Watch):
    """A watch on a Redis store.

    Args:
        connection: the Redis.
        channel: returns the channel of a session.
    """

    def __init__(self, connection: RedisConnection, channel: Callable[[str], str]) -> None:
        self._url = connection.url
        self._channel = channel
        self._sessions: dict[bytes, str] = {}
        self._pending = PendingMoves()
        self._link = PubSubConnection(connection, self._handle)

    @override
    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        self._link.lost.add_done_callback(self._handle_lost)
        return self

    @override
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.lost.remove_done_callback(self._handle_lost)
        self._pending.fail(StoreUnavailableError(self._url, "the watch was closed"))
        await self._link.__aexit__(kind, error, trace)

    @override
    async def add(self, sessions: Iterable[str]) -> None:
        self._pending.check()
        channels = {self._channel(session).encode(): session for session in sessions}
        self._sessions |= channels
        if channels:
            await self._link.subscribe(*channels)

    @override
    async def discard(self, sessions: Iterable[str]) -> None:
        self._pending.check()
        channels = [self._channel(session).encode() for session in sessions]
        for channel in channels:
            self._sessions.pop(channel, None)
        if channels:
            await self._link.unsubscribe(*channels)

    @override
    async def ping(self) -> None:
        self._pending.check()
        await self._link.ping()

    @override
    async def moves(self, timeout_s: float | None = None) -> Moves:
        return await self._pending.take(timeout_s)

    def _handle(self, channel: bytes, message: bytes | None) -> None:
        session = self._sessions.get(channel)
        if session is not None and message is not None:
            with suppress(ValueError):  # not a store's message; a comparison finds what was published
                self._pending.put(session, Token.parse(message.decode()) if message else None)

    def _handle_lost(self, lost: asyncio.Future[None]) -> None:
        error = lost.exception()
        assert isinstance(error, StoreUnavailableError)
        self._pending.fail(error)
