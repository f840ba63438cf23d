"""A watch by Redis pub/sub, over its own connection.

Not redis-py's PubSub, which reconnects silently, so that messages may be lost unnoticed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError
from typing_extensions import override

from snakepit_bridge.exceptions import StoreUnavailableError, copy_error
from snakepit_bridge.process.home_loop import share_future
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots.watch import Moves, PendingMoves, Watch


class RedisWatch(Watch):
    """A watch on a Redis store.

    Args:
        connection: the Redis.
        channel: returns the channel of a session.
    """

    def __init__(self, connection: RedisConnection, channel: Callable[[str], str]) -> None:
        self._connection = connection
        self._channel = channel
        self._sessions: dict[bytes, str] = {}
        self._confirming: dict[bytes, asyncio.Future[None]] = {}
        self._pinging: deque[asyncio.Future[None]] = deque()
        self._pending = PendingMoves()

    @override
    async def __aenter__(self) -> Self:
        self._link: AbstractConnection = await self._connection.open_connection()
        self._reading = asyncio.create_task(self._read())
        return self

    @override
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.cancel()
        self._fail("the watch was closed")
        await self._link.disconnect(nowait=True)

    @override
    async def add(self, sessions: Iterable[str]) -> None:
        loop = asyncio.get_running_loop()
        channels = {self._channel(session).encode(): session for session in sessions}
        if not channels:
            return
        self._sessions |= channels
        confirmations = [self._confirming.setdefault(channel, loop.create_future()) for channel in channels]
        await self._send("SUBSCRIBE", *channels)
        await self._connection.wait_bounded(asyncio.gather(*map(share_future, confirmations)))

    @override
    async def discard(self, sessions: Iterable[str]) -> None:
        channels = [self._channel(session).encode() for session in sessions]
        for channel in channels:
            self._sessions.pop(channel, None)
        if channels:
            await self._send("UNSUBSCRIBE", *channels)

    @override
    async def ping(self) -> None:
        pong = asyncio.get_running_loop().create_future()
        self._pinging.append(pong)
        await self._send("PING")
        await self._connection.wait_bounded(pong)

    @override
    async def moves(self, timeout_s: float | None = None) -> Moves:
        return await self._pending.take(timeout_s)

    async def _send(self, *command: Any) -> None:
        # redis-py would reconnect a broken connection without its subscriptions.
        self._pending.check()
        await self._connection.wait_bounded(self._link.send_command(*command, check_health=False))

    async def _read(self) -> None:
        try:
            while True:
                # The read has no timeout: callers detect a dead connection by `ping`.
                self._dispatch(await self._link.read_response(timeout=float("inf"), push_request=True))
        except (RedisError, OSError) as exc:
            self._fail(str(exc).rstrip(".") or type(exc).__name__)

    def _dispatch(self, message: Any) -> None:
        kind: Any = message[0] if isinstance(message, list) else message
        if kind == b"message":
            session = self._sessions.get(message[1])
            if session is not None:
                self._pending.put(session, Token.parse(message[2].decode()) if message[2] else None)
        elif kind == b"subscribe":
            confirmed = self._confirming.pop(message[1], None)
            if confirmed is not None and not confirmed.done():
                confirmed.set_result(None)
        elif kind in (b"pong", b"PONG", "PONG") and self._pinging:
            pong = self._pinging.popleft()
            if not pong.done():
                pong.set_result(None)

    def _fail(self, problem: str) -> None:
        error = StoreUnavailableError(self._connection.url, problem)
        self._pending.fail(error)
        for waiting in (*self._confirming.values(), *self._pinging):
            if not waiting.done():
                waiting.set_exception(copy_error(error))
                waiting.exception()  # marks it as retrieved, since the caller may have gone
        self._confirming.clear()
        self._pinging.clear()
