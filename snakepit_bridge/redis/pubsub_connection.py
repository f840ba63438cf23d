"""One connection for published messages: it confirms subscriptions, answers pings, and says when it is lost.

Not redis-py's PubSub: messages that are published while that one reconnects are lost silently.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from types import TracebackType
from typing import Any, Self, TypeVar

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from snakepit_bridge.exceptions import StoreUnavailableError, copy_error
from snakepit_bridge.process.home_loop import share_future
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import to_unavailable_error

T = TypeVar("T")

_PONGS = (b"pong", b"PONG", "PONG")


class PubSubConnection:
    """Channels over one connection of the running event loop; an async context manager.

    Once the connection is lost, every method raises, since messages may have been missed: open a new one.

    Args:
        redis: the server.
        on_event: called with a channel and each of its messages, and with None once the channel is confirmed;
            must not raise.
    """

    def __init__(self, redis: RedisConnection, on_event: Callable[[bytes, bytes | None], None]) -> None:
        self._redis = redis
        self._on_event = on_event
        # The confirmation of each channel's newest SUBSCRIBE, and of each that the server hasn't replied to yet.
        self._confirmations: dict[bytes, asyncio.Future[None]] = {}
        self._unanswered: dict[bytes, deque[asyncio.Future[None]]] = {}
        self._pings: deque[asyncio.Future[None]] = deque()
        # Commands are written in the order of their calls, whatever each has to wait for first.
        self._writes = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            StoreUnavailableError: the server is unreachable.
        """
        self._link: AbstractConnection = await self._redis.open_connection()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with a StoreUnavailableError once the connection is lost or closed."""
        self._reader = asyncio.create_task(self._read(), name="dspex-pubsub-reader", context=Context())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._reader.cancel()
        self._fail(StoreUnavailableError(self._redis.url, "the subscription was closed"))
        await self._link.disconnect(nowait=True)

    async def subscribe(self, *channels: bytes) -> None:
        """Subscribe to channels and wait for the server's confirmation of each.

        Raises:
            StoreUnavailableError: the connection was lost, or there is no confirmation within the timeout.
        """
        confirmations = await self._send(lambda: self._write_subscribe(channels))
        await self._redis.wait_bounded(asyncio.gather(*map(share_future, confirmations)))

    async def unsubscribe(self, *channels: bytes) -> None:
        """Unsubscribe from channels.

        Raises:
            StoreUnavailableError: the connection was lost.
        """
        await self._send(lambda: self._write_unsubscribe(channels))

    async def ping(self) -> None:
        """Wait for a reply of the server; messages that it sent before have arrived by then.

        Raises:
            StoreUnavailableError: the connection was lost, or there is no reply within the timeout.
        """
        await self._redis.wait_bounded(await self._send(self._write_ping))

    def _check(self) -> None:
        if self.lost.done() and (error := self.lost.exception()) is not None:
            raise copy_error(error)

    async def _send(self, write: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            async with self._writes:
                self._check()
                return await self._redis.wait_bounded(write())
        except StoreUnavailableError as exc:
            self._fail(exc)
            raise

    # What waits for a reply is noted as its command is written: none may come of a command that never was.

    async def _write_subscribe(self, channels: Sequence[bytes]) -> list[asyncio.Future[None]]:
        self._check()
        new = [channel for channel in channels if channel not in self._confirmations]
        for channel in new:
            confirmation = self._confirmations[channel] = asyncio.get_running_loop().create_future()
            self._unanswered.setdefault(channel, deque()).append(confirmation)
        confirmations = [self._confirmations[channel] for channel in channels]
        if new:
            await self._write("SUBSCRIBE", *new)
        return confirmations

    async def _write_unsubscribe(self, channels: Sequence[bytes]) -> None:
        for channel in channels:
            self._confirmations.pop(channel, None)
        await self._write("UNSUBSCRIBE", *channels)

    async def _write_ping(self) -> asyncio.Future[None]:
        pong = asyncio.get_running_loop().create_future()
        self._pings.append(pong)
        await self._write("PING")
        return pong

    async def _write(self, *command: bytes | str) -> None:
        # redis-py would reconnect a broken connection without its subscriptions.
        self._check()
        await self._link.send_command(*command, check_health=False)

    async def _read(self) -> None:
        try:
            while True:
                # The read has no timeout: there may be nothing to publish for hours, and pings detect a dead peer.
                self._dispatch(await self._link.read_response(timeout=float("inf"), push_request=True))
        except (RedisError, OSError) as exc:
            self._fail(to_unavailable_error(exc, self._redis.url, self._redis.user))

    def _dispatch(self, reply: Any) -> None:
        kind: Any = reply[0] if isinstance(reply, list) else reply
        if kind == b"message":
            self._on_event(reply[1], reply[2])
        elif kind == b"subscribe":
            self._confirm(reply[1])
        elif kind in _PONGS and self._pings:
            _resolve(self._pings.popleft())

    def _confirm(self, channel: bytes) -> None:
        unanswered = self._unanswered.get(channel)
        if not unanswered:
            return  # the connection has failed meanwhile
        confirmation = unanswered.popleft()
        _resolve(confirmation)
        if not unanswered:
            del self._unanswered[channel]
        if self._confirmations.get(channel) is confirmation:
            self._on_event(channel, None)

    def _fail(self, error: StoreUnavailableError) -> None:
        waiting = [*self._pings, *(each for unanswered in self._unanswered.values() for each in unanswered)]
        for future in (self.lost, *waiting):
            if not future.done():
                future.set_exception(copy_error(error))
                future.exception()  # marks it as retrieved, since the caller may have gone
        self._pings.clear()
        self._unanswered.clear()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
