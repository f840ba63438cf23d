"""Stalls: the workers whose event loop stands still or did so until they were ended, for whoever looks after a fleet.

A worker that hangs answers nobody, so its watchdog says this of it, in the Redis that everybody asks.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from snakepit_bridge.redis.connection import RedisConnection

_KEPT_S = 86_400


@dataclass(frozen=True, slots=True)
class Stall:
    """A worker process whose event loop stands still.

    Attributes:
        worker: the Celery node.
        pid: the process.
        since: Unix time at which the loop turned last.
        place: where it stands, in words; empty if that isn't known.
        task_id: whose code it stands in; empty if that isn't known.
        ended_at: Unix time at which the watchdog ended the process, 0 while it lives.
    """

    worker: str
    pid: int
    since: float
    place: str = ""
    task_id: str = ""
    ended_at: float = 0.0


class Stalls:
    """The stalls of a fleet's workers.

    Args:
        connection: the way to Redis.
        namespace: prefix of every key.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str = "dspex") -> None:
        self._connection = connection
        self._key = f"{namespace}:stalls"

    async def report(self, stall: Stall) -> None:
        """Says that a process stands still, or was ended for that.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._connection.send_each([
            ("HSET", self._key, f"{stall.worker}/{stall.pid}", json.dumps(asdict(stall))),
            ("EXPIRE", self._key, _KEPT_S),
        ])  # fmt: skip

    async def over(self, worker: str, pid: int) -> None:
        """Says that a process goes on.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._connection.send_each([("HDEL", self._key, f"{worker}/{pid}")])

    async def all(self) -> list[Stall]:
        """Returns the stalls of the last day, the latest first; of those that are over, only the ones that ended badly.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        (found,) = await self._connection.send_each([("HVALS", self._key)])
        return sorted((Stall(**json.loads(one)) for one in found), key=lambda one: -one.since)
