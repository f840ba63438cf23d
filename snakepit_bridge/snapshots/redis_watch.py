"""A watch on Redis pub/sub, over a connection of its own.

Not redis-py's PubSub: that one connects again by itself and says nothing of the gap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from snakepit_bridge.exceptions import StoreUnavailableError, fresh_error
from snakepit_bridge.process.home_loop import share
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots.watch import Moves, Noticed, Watch


class RedisWatch(Watch):
    """Hints from one server.

    Args:
        connection: the way to it.
        channel: the name of a session's channel.
    """

    def __init__(self, connection: RedisConnection, channel: Callable[[str], str]) -> None:
        self._connection = connection
        self._channel = channel
        self._sessions: dict[bytes, str] = {}
        self._confirming: dict[bytes, asyncio.Future[None]] = {}
        self._pinging: deque[asyncio.Future[None]] = deque()
        self._noticed = Noticed()

    async def __aenter__(self) -> Self:
        """See ``Watch.__aenter__``."""
        self._line: AbstractConnection = await self._connection.open_connection()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See ``Watch.__aexit__``."""
        self._reading.cancel()
        self._break("the watch was closed")
        await self._line.disconnect(nowait=True)

    async def add(self, sessions: Iterable[str]) -> None:
        """See ``Watch.add``."""
        loop = asyncio.get_running_loop()
        channels = {self._channel(session).encode(): session for session in sessions}
        if not channels:
            return
        self._sessions |= channels
        asked = [self._confirming.setdefault(channel, loop.create_future()) for channel in channels]
        await self._send("SUBSCRIBE", *channels)
        await self._connection.bounded(asyncio.gather(*map(share, asked)))

    async def discard(self, sessions: Iterable[str]) -> None:
        """See ``Watch.discard``."""
        channels = [self._channel(session).encode() for session in sessions]
        for channel in channels:
            self._sessions.pop(channel, None)
        if channels:
            await self._send("UNSUBSCRIBE", *channels)

    async def ping(self) -> None:
        """See ``Watch.ping``."""
        pong = asyncio.get_running_loop().create_future()
        self._pinging.append(pong)
        await self._send("PING")
        await self._connection.bounded(pong)

    async def moves(self, timeout_s: float | None = None) -> Moves:
        """See ``Watch.moves``."""
        return await self._noticed.take(timeout_s)

    async def _send(self, *words: Any) -> None:
        # A broken connection would open itself again, without its subscriptions.
        self._noticed.check()
        await self._connection.bounded(self._line.send_command(*words, check_health=False))

    async def _read(self) -> None:
        try:
            while True:
                # The read has no end of its own: whoever needs one pings.
                self._take(await self._line.read_response(timeout=float("inf"), push_request=True))
        except (RedisError, OSError) as error:
            self._break(str(error).rstrip(".") or type(error).__name__)

    def _take(self, told: Any) -> None:
        kind: Any = told[0] if isinstance(told, list) else told
        if kind == b"message":
            session = self._sessions.get(told[1])
            if session is not None:
                self._noticed.put(session, Token.parse(told[2].decode()) if told[2] else None)
        elif kind == b"subscribe":
            confirmed = self._confirming.pop(told[1], None)
            if confirmed is not None and not confirmed.done():
                confirmed.set_result(None)
        elif kind in (b"pong", b"PONG", "PONG") and self._pinging:
            pong = self._pinging.popleft()
            if not pong.done():
                pong.set_result(None)

    def _break(self, problem: str) -> None:
        error = StoreUnavailableError(self._connection.url, problem)
        self._noticed.fail(error)
        for waiting in (*self._confirming.values(), *self._pinging):
            if not waiting.done():
                waiting.set_exception(fresh_error(error))
                waiting.exception()  # nobody may be waiting for it any more
        self._confirming.clear()
        self._pinging.clear()
