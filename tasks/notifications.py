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

_AGAIN_S = 0.5

_log = logging.getLogger(__name__)

Heard = Callable[[str], None]


class Signals:
    """The channels that a process listens to. Lives on the home loop.

    Args:
        connection: the way to the Redis that tells.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._heard: dict[bytes, list[Heard]] = {}
        self._resumed: list[Callable[[], None]] = []
        self._listening: asyncio.Task[None] | None = None

    def on(self, channel: str, heard: Heard, resumed: Callable[[], None]) -> None:
        """Calls back with each message of a channel, and whenever the connection is new. Before ``start`` only."""
        self._heard.setdefault(channel.encode(), []).append(heard)
        self._resumed.append(resumed)

    def start(self) -> None:
        """Begins to listen, unless it does so already."""
        if self._listening is None or self._listening.done():
            self._listening = asyncio.get_running_loop().create_task(self._listen_on())

    async def aclose(self) -> None:
        """Stops listening."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen_on(self) -> None:
        told = False
        while True:
            began = time.monotonic()
            try:
                await self._listen()
            except (StoreUnavailableError, RedisError, OSError) as away:
                # Once per outage: the tries in it come twice a second.
                if not told or time.monotonic() - began > _AGAIN_S:
                    _log.warning("Signals of other processes aren't heard: %s", away)
                told = True
            await asyncio.sleep(_AGAIN_S)

    async def _listen(self) -> None:
        line: AbstractConnection = await self._connection.open_connection()
        try:
            await line.send_command("SUBSCRIBE", *self._heard, check_health=False)
            awaited = set(self._heard)
            while True:
                # Each read may take for ever: nothing has to be told.
                self._take(await line.read_response(timeout=float("inf"), push_request=True), awaited)
        finally:
            await line.disconnect(nowait=True)

    def _take(self, told: Any, awaited: set[bytes]) -> None:
        kind, channel, said = told if isinstance(told, list) and len(told) == 3 else (None, b"", b"")
        if kind == b"subscribe":
            awaited.discard(channel)
            if not awaited:
                for resumed in self._resumed:
                    resumed()
        elif kind == b"message" and channel in self._heard:
            for heard in self._heard[channel]:
                heard(said.decode(errors="replace"))
