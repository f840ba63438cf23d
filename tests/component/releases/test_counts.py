"""Counts of a stage: the sum of its minutes on a real server, of which those that are over are read once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.counts import MINUTE_S, StageCountsReader
from snakepit_bridge.rollouts.arm_counts import ScoreSum

BEGAN_S = 28_000_000 * MINUTE_S + 30.0
KEYS = FleetKeys("ns")


class Counts:
    """The counts of a rollout, as commits write them."""

    def __init__(self, connection: RedisConnection) -> None:
        self.connection = connection
        self.commands: list[str] = []
        self.reader = StageCountsReader(connection, KEYS)

    async def add(
        self,
        minute: int,
        arm: str = "candidate",
        fields: Mapping[str, int] | None = None,
        *,
        stage: int = 1,
        rollout: str = "r",
    ) -> None:
        """Count in a minute after the stage's first."""
        key = KEYS.arm_counts(rollout, stage, arm, int(BEGAN_S) // MINUTE_S + minute)
        fields = {"n": 1, **(fields or {})}
        commands = [("HINCRBY", key, name, value) for name, value in fields.items()]
        await self.connection.send_each([*commands, ("EXPIRE", key, 60)])

    async def read(self, minute: int, *, stage: int = 1) -> Any:
        return await self.reader.read("r", stage, BEGAN_S, BEGAN_S + minute * MINUTE_S)


@pytest.fixture
async def counts(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Counts]:
    connection = RedisConnection(redis_url)
    counts, send = Counts(connection), connection.send_each

    async def record(commands: Any) -> Any:
        counts.commands += [command[1] for command in commands if command[0] == "HGETALL"]
        return await send(commands)

    monkeypatch.setattr(connection, "send_each", record)
    yield counts
    await connection.aclose()


async def test_all_minutes_of_both_arms_are_summed(counts: Counts) -> None:
    await counts.add(0, fields={"lat:200": 1, "usd:3": 1, "pico": 5, "in": 10, "out": 2})
    scored = {"s:helpful:n": 1, "s:helpful:m": 250_000}
    await counts.add(1, fields={"lat:200": 1, "lat:z": 2, "e:InputError": 1, **scored})
    await counts.add(1, "baseline", {"n": 7})
    found = await counts.read(1)
    assert (found.candidate.predictions, found.baseline.predictions) == (2, 7)
    assert found.candidate.errors == {"InputError": 1}
    assert found.candidate.latency == {"200": 2, "z": 2}
    assert (found.candidate.input_tokens, found.candidate.output_tokens, found.candidate.cost_pico) == (10, 2, 5)
    assert found.candidate.scores == {"helpful": ScoreSum(1, 250_000)}


async def test_other_stages_and_rollouts_and_earlier_minutes_count_for_themselves(counts: Counts) -> None:
    await counts.add(0, stage=2)
    await counts.add(0, rollout="q")
    await counts.add(-1)
    assert (await counts.read(3)).candidate.predictions == 0
    assert (await counts.read(3, stage=2)).candidate.predictions == 1


async def test_minutes_that_are_over_are_read_once_and_the_open_ones_again(counts: Counts) -> None:
    for minute in range(20):
        await counts.add(minute)
    assert (await counts.read(19)).candidate.predictions == 20
    assert len(counts.commands) == 2 * 21, "and the minute after, whose clock may be ahead"
    counts.commands.clear()
    await counts.add(19)
    await counts.add(8)
    assert (await counts.read(19)).candidate.predictions == 22
    assert len(counts.commands) == 2 * 14, "a commit that was tried for long names an earlier minute"
    assert (await counts.read(60)).candidate.predictions == 22


async def test_the_arms_of_an_experiment_are_summed_by_name(counts: Counts) -> None:
    arms = [f"arm{number}" for number in range(20)]
    for minute, arm in ((0, "arm0"), (1, "arm0"), (100, "arm19")):
        await counts.add(minute, arm, stage=0)
    await counts.add(1, "arm1", stage=1)
    found = await counts.reader.read_arms("r", arms, BEGAN_S, BEGAN_S + 100 * MINUTE_S)
    assert {arm: each.predictions for arm, each in found.items()} == dict.fromkeys(arms, 0) | {"arm0": 2, "arm19": 1}


async def test_a_stage_of_days_takes_few_round_trips(counts: Counts) -> None:
    await counts.add(0)
    await counts.add(3_000)
    assert (await counts.read(3_000)).candidate.predictions == 2


async def test_growth_is_seen_at_once_and_guessed_by_the_minute_before_the_first_look(counts: Counts) -> None:
    assert (await counts.read(0)).last_counted_s == 0
    await counts.add(2)
    assert (await counts.read(5)).last_counted_s == BEGAN_S + 5 * MINUTE_S
    assert (await counts.read(9)).last_counted_s == BEGAN_S + 5 * MINUTE_S
    other = StageCountsReader(counts.connection, KEYS)
    found = await other.read("r", 1, BEGAN_S, BEGAN_S + 9 * MINUTE_S)
    assert found.last_counted_s == int(BEGAN_S) + 2.5 * MINUTE_S, "the end of the last minute with a prediction"


async def test_what_has_expired_isnt_looked_for(counts: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snakepit_bridge.releases.counts.COUNTS_TTL_S", 10 * MINUTE_S)
    await counts.add(0)
    found = await counts.reader.read("r", 1, 1e-6, BEGAN_S)
    assert found.candidate.predictions == 1
    assert len(counts.commands) == 2 * 12
