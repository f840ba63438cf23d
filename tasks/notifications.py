"""Pub/sub notifications from other processes, such as cancellations. They are hints to poll, never the truth.

All channels of a process share one connection. It reconnects by itself and then calls ``on_reconnect``, since messages
published in the meantime are lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.redis.connection import RedisConnection

_RECONNECT_S = 0.5

_log = logging.getLogger(__name__)

Handler = Callable[[str], None]


class Subscriptions:
    """The pub/sub channels of one process. Lives on the home loop.

    Args:
        connection: the Redis that publishes.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._handlers: dict[bytes, list[Handler]] = {}
        self._reconnect_handlers: list[Callable[[], None]] = []
        self._listener: asyncio.Task[None] | None = None

    def subscribe(self, channel: str, handler: Handler, on_reconnect: Callable[[], None]) -> None:
        """Register callbacks for each message of a channel and after each connect. Call before ``start``."""
        self._handlers.setdefault(channel.encode(), []).append(handler)
        self._reconnect_handlers.append(on_reconnect)

    def start(self) -> None:
        """Start listening, unless it is running already."""
        if self._listener is None or self._listener.done():
            self._listener = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """Stop listening and close the connection."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _run(self) -> None:
        is_logged = False
        while True:
            started = time.monotonic()
            try:
                await self._listen()
            except (StoreUnavailableError, RedisError, OSError) as exc:
                # Once per outage, not on every attempt to reconnect.
                if not is_logged or time.monotonic() - started > _RECONNECT_S:
                    _log.warning("Pub/sub connection lost; notifications of other processes are missed: %s", exc)
                is_logged = True
            await asyncio.sleep(_RECONNECT_S)

    async def _listen(self) -> None:
        connection: AbstractConnection = await self._connection.open_connection()
        try:
            await connection.send_command("SUBSCRIBE", *self._handlers, check_health=False)
            unconfirmed = set(self._handlers)
            while True:
                # No read timeout: there may be nothing to publish for hours.
                self._dispatch(await connection.read_response(timeout=float("inf"), push_request=True), unconfirmed)
        finally:
            await connection.disconnect(nowait=True)

    def _dispatch(self, message: Any, unconfirmed: set[bytes]) -> None:
        kind, channel, payload = message if isinstance(message, list) and len(message) == 3 else (None, b"", b"")
        if kind == b"subscribe":
            unconfirmed.discard(channel)
            if not unconfirmed:
                for on_reconnect in self._reconnect_handlers:
                    on_reconnect()
        elif kind == b"message" and channel in self._handlers:
            for handler in self._handlers[channel]:
                handler(payload.decode(errors="replace"))
