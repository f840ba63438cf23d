"""Promotion: a label moves once everybody who holds the session applies the revision, and not before anything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.promotion import carry_out_move, plan_move, promote
from snakepit_bridge.exceptions import (
    LabelMovedError,
    LabelNotFoundError,
    RevisionLostError,
    RevisionNotAppliedError,
    RevisionNotReachedError,
    SessionNotFoundError,
)
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.snapshots.acknowledgements import AckReport, Acks, ProcessAck
from snakepit_bridge.variables import Variable
from tests.harness.waiting import PATIENCE_S, eventually

FOR_EVER = 3_600.0
"""Longer than a test may take: what ends well within it didn't wait for the time to pass."""
SOON = 0.05


@dataclass
class Watched(Acks):
    """Counts how often the processes were looked at, so that a test knows that somebody waits."""

    connection: RedisConnection
    looks: int = 0

    def __post_init__(self) -> None:
        super().__init__(self.connection)

    async def read_acks(self, session: str) -> list[ProcessAck]:
        found = await super().read_acks(session)
        self.looks += 1
        return found


@dataclass
class Stage:
    store: RedisStore
    acks: Watched

    async def publish(self, value: float) -> Token:
        return await self.store.publish("s", {"temp": Variable.declare("temp", value)})

    async def says(self, process: str, token: Token, error: str = "") -> None:
        await self.acks.heartbeat(process)
        await self.acks.report(process, {"s": AckReport(token, error)})

    async def promote(self, at: Token | str = "latest", wait_s: float = SOON) -> Token:
        return await asyncio.wait_for(promote(self.store, self.acks, "s", "stable", at, wait_s), PATIENCE_S)

    async def waiting(self, at: Token | str = "latest") -> asyncio.Task[Token]:
        """A promotion that has looked, and found that it has to wait."""
        before = self.acks.looks
        task = asyncio.create_task(self.promote(at, FOR_EVER))

        async def looked() -> bool:
            return self.acks.looks > before + 1

        await eventually(looked, "a second look")
        assert not task.done()
        return task

    async def label(self) -> Token | None:
        found = (await self.store.labels("s")).get("stable")
        return found.token if found else None


@pytest.fixture
async def stage(redis_url: str) -> AsyncIterator[Stage]:
    connection = RedisConnection(redis_url)
    stage = Stage(RedisStore(redis_url), Watched(connection))
    yield stage
    await stage.store.aclose()
    await connection.aclose()


async def test_a_revision_that_all_apply_is_promoted_at_once(stage: Stage) -> None:
    token = await stage.publish(0.1)
    await stage.says("w/1", token)
    await stage.says("w/2", token)
    assert await stage.promote(wait_s=0) == token == await stage.label()
    assert (await stage.store.labels("s"))["stable"].reason == "promoted"


async def test_who_applies_a_newer_revision_applies_this_one(stage: Stage) -> None:
    first = await stage.publish(0.1)
    await stage.says("w/1", await stage.publish(0.2))
    assert await stage.promote(first, wait_s=0) == first == await stage.label()


async def test_it_waits_for_the_last_process(stage: Stage) -> None:
    old, new = await stage.publish(0.1), await stage.publish(0.2)
    await stage.says("w/1", new)
    await stage.says("w/2", old)
    promotion = await stage.waiting()
    assert await stage.label() is None
    await stage.says("w/2", new)
    assert await promotion == new == await stage.label()


async def test_it_waits_for_a_first_process(stage: Stage) -> None:
    token = await stage.publish(0.1)
    promotion = await stage.waiting()
    await stage.says("w/1", token)
    assert await promotion == token


async def test_a_process_that_died_is_waited_for_no_more(stage: Stage, redis_url: str) -> None:
    old, new = await stage.publish(0.1), await stage.publish(0.2)
    await stage.says("w/1", new)
    await stage.says("dying/2", old)
    promotion = await stage.waiting()
    with Redis.from_url(redis_url) as client:
        client.zrem("dspex:processes", "dying/2")
    assert await promotion == new


async def test_latest_is_the_latest_of_the_beginning(stage: Stage) -> None:
    first = await stage.publish(0.1)
    promotion = await stage.waiting()
    second = await stage.publish(0.2)
    await stage.says("w/1", second)
    assert await promotion == first == await stage.label()


async def test_a_process_that_refuses_ends_the_wait_at_once(stage: Stage) -> None:
    token = await stage.publish(0.1)
    await stage.says("w/1", token)
    await stage.says("w/2", token, "Variable 'temp' = 9.0 is wrong")
    with pytest.raises(
        RevisionNotAppliedError, match=r"isn't applied everywhere: w/2 Variable 'temp' = 9\.0 is wrong\."
    ):
        await stage.promote(wait_s=FOR_EVER)
    assert await stage.label() is None


async def test_a_refusal_that_comes_while_it_waits_ends_the_wait(stage: Stage) -> None:
    token = await stage.publish(0.1)
    promotion = await stage.waiting()
    await stage.says("w/1", token, "no")
    with pytest.raises(RevisionNotAppliedError, match="w/1 no"):
        await promotion


async def test_a_refusal_of_an_older_revision_may_yet_be_mended(stage: Stage) -> None:
    old, new = await stage.publish(9.0), await stage.publish(0.2)
    await stage.says("w/1", old, "no")
    promotion = await stage.waiting()
    await stage.says("w/1", new)
    assert await promotion == new


async def test_those_who_are_late_are_named_with_where_they_are(stage: Stage) -> None:
    old, new = await stage.publish(0.1), await stage.publish(0.2)
    await stage.says("w/1", old)
    await stage.says("w/2", new)
    await stage.says("w/3", old)
    with pytest.raises(RevisionNotAppliedError) as raised:
        await stage.promote()
    assert (raised.value.session, raised.value.token) == ("s", str(new))
    assert raised.value.waiting == f"w/1 is at {old}; w/3 is at {old}"
    assert await stage.label() is None


async def test_a_session_that_nobody_holds_is_not_promoted(stage: Stage) -> None:
    await stage.publish(0.1)
    with pytest.raises(
        RevisionNotAppliedError, match="no worker process holds the session; make a prediction under it"
    ):
        await stage.promote()


# ---------------------------------------------------------------- the label


async def test_a_label_moves_on_and_back(stage: Stage) -> None:
    first, second = await stage.publish(0.1), await stage.publish(0.2)
    await stage.says("w/1", second)
    for at in (first, second, first):
        assert await stage.promote(at) == at == await stage.label()


async def test_another_label_can_be_promoted(stage: Stage) -> None:
    first, second = await stage.publish(0.1), await stage.publish(0.2)
    await stage.store.label("s", "canary", first)
    await stage.says("w/1", second)
    assert await stage.promote("canary") == first == await stage.label()


@pytest.mark.parametrize("before", [True, False])
async def test_a_label_that_somebody_moved_meanwhile_stays_where_they_put_it(before: bool, stage: Stage) -> None:
    first, second, third = [await stage.publish(n) for n in (0.1, 0.2, 0.3)]
    if before:
        await stage.store.label("s", "stable", first)
    promotion = await stage.waiting(third)
    await stage.store.label("s", "stable", second)
    await stage.says("w/1", third)
    with pytest.raises(LabelMovedError) as raised:
        await promotion
    assert raised.value.found == str(second)
    assert await stage.label() == second


async def test_a_label_that_was_taken_away_meanwhile_is_not_brought_back(stage: Stage) -> None:
    first, second = await stage.publish(0.1), await stage.publish(0.2)
    await stage.store.label("s", "stable", first)
    promotion = await stage.waiting(second)
    await stage.store.unlabel("s", "stable")
    await stage.says("w/1", second)
    with pytest.raises(LabelMovedError):
        await promotion
    assert await stage.label() is None


async def test_what_is_not_there_is_told_before_any_wait(stage: Stage) -> None:
    with pytest.raises(SessionNotFoundError):
        await stage.promote(wait_s=FOR_EVER)
    token = await stage.publish(0.1)
    with pytest.raises(LabelNotFoundError):
        await stage.promote("canary", wait_s=FOR_EVER)
    with pytest.raises(RevisionNotReachedError):
        await stage.promote(Token(token.epoch, token.revision + 1), wait_s=FOR_EVER)
    assert stage.acks.looks == 0


async def test_a_revision_that_was_trimmed_is_told_before_any_wait(stage: Stage, redis_url: str) -> None:
    brief = RedisStore(redis_url, retention=1)
    tokens = [await brief.publish("s", {"temp": Variable.declare("temp", n / 10)}) for n in range(5)]
    await stage.says("w/1", tokens[-1])
    with pytest.raises(RevisionLostError):
        await stage.promote(tokens[0], wait_s=FOR_EVER)
    assert stage.acks.looks == 0
    await brief.aclose()


def test_a_fleet_promotes_within_its_own_namespace(redis_url: str) -> None:
    fleet, other = Fleet(redis_url, namespace="one"), Fleet(redis_url, namespace="two")
    token = fleet.session("s").blocking.set_variables({"temp": 0.1})
    assert other.session("s").blocking.set_variables({"temp": 0.1})
    run_blocking(fleet.acks.heartbeat("w/1"))
    run_blocking(fleet.acks.report("w/1", {"s": AckReport(token)}))
    assert [ack.token for ack in fleet.applied("s")] == [token]
    assert fleet.promote("s", "stable", wait_s=0) == token
    with pytest.raises(RevisionNotAppliedError):
        other.promote("s", "stable", wait_s=0)


async def test_a_move_is_carried_out_to_the_revision_that_was_checked_and_only_from_where_the_label_was(
    stage: Stage,
) -> None:
    """Between plan and move a release is evaluated, which takes minutes."""
    first = await stage.publish(0.1)
    move = await plan_move(stage.store, "s", "stable", "latest")
    second = await stage.publish(0.2)
    await stage.says("w/1", second)
    assert await carry_out_move(stage.store, stage.acks, move, 0) == first == await stage.label()

    late = await plan_move(stage.store, "s", "stable", "latest")
    third = await stage.publish(0.3)
    await stage.store.label("s", "stable", third)
    with pytest.raises(LabelMovedError):
        await carry_out_move(stage.store, stage.acks, late, 0)
    assert await stage.label() == third
