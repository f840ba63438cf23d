"""The store's clock as it is read here: never ahead of it, so that nothing is confirmed as newer than it is."""

from __future__ import annotations

from snakepit_bridge.redis.connection import RedisConnection
from workers.refresher.schedule import boot_clock


class StoreClock:
    """Turns times of ``pace.clock`` into the store's, by its answer to when it is.

    Args:
        connection: the way to Redis.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._offset_s: float | None = None

    @property
    def is_synced(self) -> bool:
        """Whether the store has ever been asked."""
        return self._offset_s is not None

    async def sync(self) -> None:
        """Asks the store for its time.

        Raises:
            StoreUnavailableError
        """
        seconds, microseconds = (await self._connection.send_each([("TIME",)]))[0]
        # Taken after the answer came: the store's time has gone on since, so this is at most what it shows.
        self._offset_s = int(seconds) + int(microseconds) / 1e6 - boot_clock()

    def to_store_time(self, moment: float) -> float:
        """Returns what the store's clock showed, at least, at a moment of ours.

        Raises:
            RuntimeError: the store was never asked.
        """
        if self._offset_s is None:
            raise RuntimeError("the store's clock is not known; ask it first")
        return moment + self._offset_s
