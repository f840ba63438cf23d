"""Looks at a rollout on a real server: which are kept, for how long, and how they come back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.look_history import LookHistory
from snakepit_bridge.rollouts.arm_counts import ArmCounts
from snakepit_bridge.rollouts.guard_reports import evaluate
from snakepit_bridge.rollouts.looks import MAX_LOOKS
from snakepit_bridge.rollouts.policy import parse_policy
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState

KEYS = FleetKeys("ns")
BEGAN_S = 1_700_000_000.0
POLICY = parse_policy({"guards": [{"metric": "error_rate", "max_increase": 0.01}]})
RECORD = RolloutRecord("r", 2, RolloutState.RUNNING, 1, 100_000, 0, round(BEGAN_S * 1e6), "1.1", "1.2")


class Looks:
    """What a controller does at each look."""

    def __init__(self, connection: RedisConnection) -> None:
        self.connection = connection
        self.history = LookHistory(connection, KEYS)

    async def look(
        self, after_s: float, predictions: int, record: RolloutRecord = RECORD, *, step: bool = False
    ) -> None:
        report = evaluate(POLICY.guards[0], ArmCounts(predictions), ArmCounts(predictions), POLICY.alpha)
        await self.history.add(record, BEGAN_S + after_s, [report], is_decisive=step)

    async def kept(self, limit: int = MAX_LOOKS) -> list[tuple[float, int, int]]:
        found = await LookHistory(self.connection, KEYS).read("r", limit)
        return [(look.at - BEGAN_S, look.stage, look.guards[0]["candidate"]["count"]) for look in found]


@pytest.fixture
async def looks(redis_url: str) -> AsyncIterator[Looks]:
    connection = RedisConnection(redis_url)
    yield Looks(connection)
    await connection.aclose()


async def test_a_look_is_kept_if_it_is_new_and_not_too_soon(looks: Looks) -> None:
    for after_s, predictions in ((0, 0), (0.5, 1), (1, 2), (5, 2), (6, 3), (400, 500), (410, 510), (422, 520)):
        await looks.look(after_s, predictions)
    assert await looks.kept() == [(0, 1, 0), (1, 1, 2), (6, 1, 3), (400, 1, 500), (422, 1, 520)]


async def test_what_a_step_follows_from_is_kept_and_a_stage_begins_anew(looks: Looks) -> None:
    await looks.look(400, 500)
    await looks.look(400.5, 501, step=True)
    second = RECORD.change(RolloutState.RUNNING, stage=2, share=500_000, since_us=round((BEGAN_S + 402.5) * 1e6))
    await looks.look(401, 0, second)
    assert await looks.kept() == [(400, 1, 500), (400.5, 1, 501), (401, 2, 0)]


async def test_the_looks_are_bounded_expire_and_belong_to_one_rollout(looks: Looks) -> None:
    for number in range(MAX_LOOKS + 5):
        await looks.look(float(number), number, step=True)
    found = await looks.kept()
    assert (len(found), found[0][2], found[-1][2]) == (MAX_LOOKS, 5, MAX_LOOKS + 4)
    assert [count for _, _, count in await looks.kept(3)] == [5, 305, 604]
    assert 34 * 86_400 < await looks.connection.execute("TTL", KEYS.rollout_looks("r")) <= 35 * 86_400
    assert await looks.history.read("another", 10) == ()
