"""Stalls: workers with a blocked event loop, and those that were killed for it, for a fleet's operators.

A hung worker can't answer remote control, so its watchdog reports the stall in Redis.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.key_names import FleetKeys

if TYPE_CHECKING:  # a watchdog names stalls without a connection
    from snakepit_bridge.redis.connection import RedisConnection

_KEPT_S = 86_400


@dataclass(frozen=True, slots=True)
class Stall:
    """A worker process whose event loop is blocked.

    Attributes:
        worker: name of the Celery node.
        pid: of the process.
        since: Unix time in seconds of the loop's last iteration.
        place: description of the blocking code; empty if unknown.
        task_id: of the prediction that blocks; empty if unknown.
        ended_at: Unix time in seconds at which the watchdog killed the process, 0 while it lives.
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
        connection: the Redis.
        namespace: prefix of every key.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._connection = connection
        self._key = FleetKeys(namespace).stalls

    async def report(self, stall: Stall) -> None:
        """Report that a process is blocked, or was killed for it.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        await self._connection.send_each([
            ("HSET", self._key, f"{stall.worker}/{stall.pid}", json.dumps(asdict(stall))),
            ("EXPIRE", self._key, _KEPT_S),
        ])  # fmt: skip

    async def clear(self, worker: str, pid: int) -> None:
        """Clear a process's stall, once its loop runs again.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        await self._connection.send_each([("HDEL", self._key, f"{worker}/{pid}")])

    async def list_recent(self) -> list[Stall]:
        """Return current stalls and processes killed in the last day, the latest first.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        (entries,) = await self._connection.send_each([("HVALS", self._key)])
        return sorted((Stall(**json.loads(entry)) for entry in entries), key=lambda stall: -stall.since)
