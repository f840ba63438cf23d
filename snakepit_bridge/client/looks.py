"""Looks: reads of single keys that are made together, since a thousand waiters are woken at once.

One read is under way at a time; whoever asks meanwhile is in the next. Alone, a look costs one round trip as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.stores.connection import RedisConnection

# So that no answer grows past a few megabytes, however large the results are.
_TOGETHER = 250


class Looks:
    """Reads keys of one Redis, on the home loop.

    Args:
        connection: the way there.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._asked: dict[str, asyncio.Future[bytes | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def get(self, key: str) -> bytes | None:
        """Returns the value of a key as it is after this call, None if there is none.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        loop = asyncio.get_running_loop()
        if self._reading is not None and self._reading.get_loop() is not loop:
            self._asked, self._reading = {}, None  # a fork's parent goes on with those
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = loop.create_future()
        if self._reading is None or self._reading.done():
            self._reading = loop.create_task(self._read(), name="dspex-looks")
        return await asyncio.shield(asked)

    async def _read(self) -> None:
        while self._asked:
            keys = list(self._asked)[:_TOGETHER]
            asked = {key: self._asked.pop(key) for key in keys}
            try:
                found = await self._connection.bounded(self._connection.client.mget(keys))
            except Exception as failed:  # noqa: BLE001 - whatever it is, those who asked are told
                _fail(asked.values(), failed)
                continue
            for future, value in zip(asked.values(), cast("list[bytes | None]", found), strict=True):
                if not future.done():
                    future.set_result(value)


def _fail(asked: Iterable[asyncio.Future[bytes | None]], failed: Exception) -> None:
    for future in asked:
        if future.done():
            continue
        # Anew for each: an exception that is raised twice collects both tracebacks.
        away = isinstance(failed, StoreUnavailableError)
        future.set_exception(StoreUnavailableError(failed.url, failed.problem) if away else failed)
        future.exception()  # nobody may be waiting for it any more
