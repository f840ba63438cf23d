"""Convert local times to the store's clock, never ahead of it: nothing may be confirmed as newer than it is."""

from __future__ import annotations

from snakepit_bridge.redis.connection import RedisConnection
from workers.refresher.schedule import boot_clock


class StoreClock:
    """Converts times of ``boot_clock`` to the store's clock.

    Args:
        connection: the connection to Redis.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._offset_s: float | None = None

    @property
    def is_synced(self) -> bool:
        """Whether the store's time has been read at least once."""
        return self._offset_s is not None

    async def sync(self) -> None:
        """Read the store's time.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        seconds, microseconds = (await self._connection.send_each([("TIME",)]))[0]
        # Measured after the answer has come: the store's time has advanced since, so this offset is never too large.
        self._offset_s = int(seconds) + int(microseconds) / 1e6 - boot_clock()

    def to_store_time(self, moment: float) -> float:
        """Return a lower bound of the store's time at a moment of ``boot_clock``.

        Raises:
            RuntimeError: ``sync`` was never called.
        """
        if self._offset_s is None:
            raise RuntimeError("the store's clock is unknown; call sync() first")
        return moment + self._offset_s
