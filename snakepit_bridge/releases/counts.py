"""Read what was counted of the arms of a stage or an experiment.

That is the sum of its minutes, of which those that are over are read once. Counts are written in the minute in
which a prediction or a score is committed, by the server's clock, so a minute that is over doesn't change any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cachetools import LRUCache

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.scores import COUNTS_TTL_S
from snakepit_bridge.rollouts.arm_counts import ArmCounts
from snakepit_bridge.rollouts.records import BASELINE, CANDIDATE

MINUTE_S = 60
_ARMS = (BASELINE, CANDIDATE)
# Minutes after which one is never read again: a commit names the minute of its first try, and tries for up to ten.
_OPEN_MINUTES = 12
_MAX_STAGES = 10_000
# Hashes of one round trip.
_BATCH_SIZE = 500


@dataclass(frozen=True, slots=True)
class StageCounts:
    """What was counted of the arms of one stage.

    Attributes:
        baseline, candidate: of each arm.
        last_counted_s: when they were last seen to grow, in Unix seconds of the server's clock; 0 for never.
    """

    baseline: ArmCounts = field(default_factory=ArmCounts)
    candidate: ArmCounts = field(default_factory=ArmCounts)
    last_counted_s: float = 0.0


@dataclass(slots=True)
class _Known:
    """What this process knows of a stage: the sums of the minutes before one, and what it saw last."""

    next_minute: int
    sums: dict[str, ArmCounts]
    last_minute: int = -1
    predictions: int | None = None
    grew_at: float = 0.0


class StageCountsReader:
    """Reads the counts of stages and experiments, and remembers their minutes that are over.

    Args:
        connection: to the fleet's Redis.
        keys: the fleet's.
    """

    def __init__(self, connection: RedisConnection, keys: FleetKeys) -> None:
        self._connection = connection
        self._keys = keys
        self._known: LRUCache[tuple[str, int, int], _Known] = LRUCache(_MAX_STAGES)

    async def read(self, rollout: str, stage: int, since_s: float, now_s: float) -> StageCounts:
        """Return the counts of a stage from its beginning until now.

        Args:
            rollout: its id.
            stage: its number.
            since_s: its beginning, in Unix seconds of the server's clock.
            now_s: the time by that clock.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        known, sums = await self._read(rollout, stage, _ARMS, since_s, now_s)
        return StageCounts(sums[BASELINE], sums[CANDIDATE], _note_growth(known, sums, now_s))

    async def read_arms(
        self, experiment: str, arms: Sequence[str], since_s: float, now_s: float
    ) -> dict[str, ArmCounts]:
        """Return the counts of an experiment's arms, by arm.

        Args:
            experiment: its id.
            arms: their names.
            since_s: its beginning, in Unix seconds of the server's clock.
            now_s: the time by that clock.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        _, sums = await self._read(experiment, 0, arms, since_s, now_s)
        return sums

    async def _read(
        self, rollout: str, stage: int, arms: Sequence[str], since_s: float, now_s: float
    ) -> tuple[_Known, dict[str, ArmCounts]]:
        current = int(now_s) // MINUTE_S
        first = max(int(since_s) // MINUTE_S, current - COUNTS_TTL_S // MINUTE_S)
        at = rollout, stage, int(since_s)
        known = self._known.get(at)
        if known is None:
            known = self._known[at] = _Known(first, {arm: ArmCounts() for arm in arms})
        sums = dict(known.sums)
        # One more minute, since the time was read some time ago.
        for batch in _split(range(known.next_minute, current + 2), len(arms)):
            for minute, found in zip(batch, await self._read_minutes(rollout, stage, arms, batch), strict=True):
                if any(counts.predictions for counts in found.values()):
                    known.last_minute = max(known.last_minute, minute)
                sums = {arm: sums[arm] + found[arm] for arm in arms}
                if minute < current - _OPEN_MINUTES:
                    known.sums, known.next_minute = sums, minute + 1
        return known, sums

    async def _read_minutes(
        self, rollout: str, stage: int, arms: Sequence[str], minutes: Sequence[int]
    ) -> list[dict[str, ArmCounts]]:
        keys = [self._keys.arm_counts(rollout, stage, arm, minute) for minute in minutes for arm in arms]
        replies = await self._connection.send_each([("HGETALL", key) for key in keys])
        counts = iter([_parse(fields) for fields in replies])
        return [{arm: next(counts) for arm in arms} for _ in minutes]


def _note_growth(known: _Known, sums: Mapping[str, ArmCounts], now_s: float) -> float:
    """Return when the counts last grew: exactly if this process saw it, else the end of the last minute with any."""
    predictions = sum(counts.predictions for counts in sums.values())
    if known.predictions is None:
        known.grew_at = min(now_s, (known.last_minute + 1.0) * MINUTE_S)
    elif predictions != known.predictions:
        known.grew_at = now_s
    known.predictions = predictions
    return known.grew_at


def _parse(fields: Mapping[bytes, bytes]) -> ArmCounts:
    return ArmCounts.parse({name.decode(): int(value) for name, value in fields.items()})


def _split(minutes: range, arms: int) -> list[range]:
    size = _BATCH_SIZE // arms
    return [minutes[start : start + size] for start in range(0, len(minutes), size)]
