"""The index of the targets that have a rollout, which tells the controller where to look.

A target may be in it without a rollout, which costs a look and nothing else. A rollout that isn't in it is never moved
on, so everybody who begins or meets one adds its target.
"""

from __future__ import annotations

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys


class RolloutIndex:
    """The targets with rollouts of one fleet.

    Args:
        connection: to the fleet's Redis.
        keys: the fleet's.
    """

    def __init__(self, connection: RedisConnection, keys: FleetKeys) -> None:
        self._connection = connection
        self._keys = keys

    async def add(self, target: str) -> None:
        """Add a target, ``session:NAME`` or ``program:NAME@LABEL``; call it once the rollout is stored.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._connection.execute("SADD", self._keys.rollouts, target)

    async def discard(self, target: str) -> None:
        """Remove a target, if it is there.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._connection.execute("SREM", self._keys.rollouts, target)

    async def list(self) -> list[str]:
        """Return the targets, sorted.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        found: set[bytes] = await self._connection.execute_read("SMEMBERS", self._keys.rollouts)
        return sorted(target.decode() for target in found)
