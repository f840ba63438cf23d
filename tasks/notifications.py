"""What other processes tell this one over pub/sub: a cancellation, an answer. A hint to look, never the truth.

One connection serves all channels of a process. It opens again by itself, and then says so, since what was told in
between is lost.
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


class Signals:
    """The channels that a process listens to. Lives on the home loop.

    Args:
        connection: the way to the Redis that tells.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._handlers: dict[bytes, list[Handler]] = {}
        self._reconnect_handlers: list[Callable[[], None]] = []
        self._listener: asyncio.Task[None] | None = None

    def subscribe(self, channel: str, handler: Handler, on_reconnect: Callable[[], None]) -> None:
        """Calls back with each message of a channel, and whenever the connection is new. Before ``start`` only."""
        self._handlers.setdefault(channel.encode(), []).append(handler)
        self._reconnect_handlers.append(on_reconnect)

    def start(self) -> None:
        """Begins to listen, unless it does so already."""
        if self._listener is None or self._listener.done():
            self._listener = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _run(self) -> None:
        told = False
        while True:
            began = time.monotonic()
            try:
                await self._listen()
            except (StoreUnavailableError, RedisError, OSError) as away:
                # Once per outage: the tries in it come twice a second.
                if not told or time.monotonic() - began > _RECONNECT_S:
                    _log.warning("Signals of other processes aren't heard: %s", away)
                told = True
            await asyncio.sleep(_RECONNECT_S)

    async def _listen(self) -> None:
        line: AbstractConnection = await self._connection.open_connection()
        try:
            await line.send_command("SUBSCRIBE", *self._handlers, check_health=False)
            awaited = set(self._handlers)
            while True:
                # Each read may take for ever: nothing has to be told.
                self._dispatch(await line.read_response(timeout=float("inf"), push_request=True), awaited)
        finally:
            await line.disconnect(nowait=True)

    def _dispatch(self, told: Any, awaited: set[bytes]) -> None:
        kind, channel, said = told if isinstance(told, list) and len(told) == 3 else (None, b"", b"")
        if kind == b"subscribe":
            awaited.discard(channel)
            if not awaited:
                for on_reconnect in self._reconnect_handlers:
                    on_reconnect()
        elif kind == b"message" and channel in self._handlers:
            for handler in self._handlers[channel]:
                handler(said.decode(errors="replace"))
