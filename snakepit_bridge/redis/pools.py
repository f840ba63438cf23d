"""Pools of connections to Redis that stay closed once they are, and whose connections encode commands by hiredis.

redis-py encodes by hiredis only for connections that block. Encoding in Python is most of what a command in a pipeline
costs.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio import BlockingConnectionPool, Connection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import DataError

# Its type stub takes one word alone.
_pack = cast("Callable[[Sequence[Any]], bytes]", hiredis.pack_command)


@functools.cache
def pack_by_hiredis(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return a connection class that encodes commands by hiredis and is otherwise the same."""
    return type(connection_class.__name__, (_PackedConnection, connection_class), {})


class _PackedConnection(AbstractConnection):
    """Encodes commands by hiredis."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """Return a command as it is sent.

        Raises:
            DataError: an argument is neither text nor bytes nor a number.
        """
        name, *others = args
        words = (name.encode() if isinstance(name, str) else name).split()  # such as CONFIG GET
        encoded = [bytes(each) if isinstance(each, bytearray | memoryview) else each for each in others]
        try:
            return [_pack((*words, *encoded))]
        except TypeError as exc:
            raise DataError(str(exc)) from exc


class StayClosedPool(BlockingConnectionPool):
    """A blocking connection pool that stays closed: what a call still opens is closed once the call is done with it."""

    _is_closed = False

    def __init__(self, *args: Any, connection_class: type[AbstractConnection] = Connection, **options: Any) -> None:
        super().__init__(*args, connection_class=pack_by_hiredis(connection_class), **options)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections; only the idle ones unless the pool is closed for good."""
        self._is_closed = self._is_closed or inuse_connections
        await super().disconnect(inuse_connections)

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back, and close it if the pool was closed meanwhile."""
        if self._is_closed:
            connection.mark_for_reconnect()
        await super().release(connection)


class SentinelPrimaryPool(SentinelConnectionPool, StayClosedPool):
    """A blocking connection pool for the current primary, with the connections to Sentinel that find it."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections, those to Sentinel as well unless the ones in use stay open."""
        try:
            await super().disconnect(inuse_connections)
        finally:
            if inuse_connections:
                await asyncio.gather(*(sentinel.aclose() for sentinel in self.sentinel_manager.sentinels))
