"""The looks at a rollout that are kept: a stream of each rollout, which the controller appends to."""

from __future__ import annotations

from collections.abc import Sequence

from cachetools import LRUCache

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.scores import COUNTS_TTL_S
from snakepit_bridge.rollouts.guard_reports import GuardReport
from snakepit_bridge.rollouts.looks import MAX_LOOKS, RolloutLook, look_interval, thin
from snakepit_bridge.rollouts.records import RolloutRecord

_MAX_ROLLOUTS = 10_000
_FIELD = b"look"


class LookHistory:
    """Keeps looks at rollouts, and reads them.

    Args:
        connection: to the fleet's Redis.
        keys: the fleet's.
    """

    def __init__(self, connection: RedisConnection, keys: FleetKeys) -> None:
        self._connection = connection
        self._keys = keys
        self._kept: LRUCache[str, RolloutLook] = LRUCache(_MAX_ROLLOUTS)

    async def add(
        self, record: RolloutRecord, now_s: float, evidence: Sequence[GuardReport], *, is_decisive: bool
    ) -> None:
        """Keep a look, unless the last one was just before it, or said the same.

        Args:
            record: the rollout that was looked at.
            now_s: the time by the store's clock, in Unix seconds.
            evidence: what each guard said.
            is_decisive: whether a step follows from it, so that it is kept however short the time is.
        """
        look, before = RolloutLook.of(now_s, record.stage, evidence), self._kept.get(record.id)
        if before is not None and before.stage == look.stage:
            is_early = look.at - before.at < look_interval(now_s - record.since_us / 1e6)
            if look.guards == before.guards or (is_early and not is_decisive):
                return
        self._kept[record.id] = look
        key = self._keys.rollout_looks(record.id)
        add = ("XADD", key, "MAXLEN", "=", MAX_LOOKS, "*", _FIELD, look.encode())
        await self._connection.send_each([add, ("EXPIRE", key, COUNTS_TTL_S)])

    async def read(self, rollout: str, limit: int) -> tuple[RolloutLook, ...]:
        """Return the looks at a rollout, oldest first.

        Args:
            rollout: its id.
            limit: how many at most, at least one; what is left out is spread evenly.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        entries: list[tuple[bytes, dict[bytes, bytes]]] = await self._connection.execute_read(
            "XRANGE", self._keys.rollout_looks(rollout), "-", "+"
        )
        return tuple(RolloutLook.decode(fields[_FIELD]) for _, fields in thin(entries, limit))
