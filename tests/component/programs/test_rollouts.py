"""Rollouts of labels on a real server: started, stepped, decided, ended by hand, and refused where they would clash."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.exceptions import (
    ProgramNotFoundError,
    ProgramSpecError,
    RolloutCandidateError,
    RolloutMovedError,
    RolloutOverlapError,
    StoreUnavailableError,
)
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.programs.rollouts import ProgramRollouts
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.rollouts.assignment import MILLION, is_candidate
from snakepit_bridge.rollouts.events import RolloutEvent, RolloutEventKind
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState

POLICY = '{"stages":[{"share":0.5}]}'
VERSIONS = "dspex:{p:qa}:versions"
EVENTS = "dspex:{p:qa}:rollouts:prod"


@pytest.fixture
def rollouts(registry: ProgramRegistry) -> ProgramRollouts:
    return ProgramRollouts(registry)


async def step(
    rollouts: ProgramRollouts, before: RolloutRecord, after: RolloutRecord, kind: RolloutEventKind, **detail: Any
) -> RolloutRecord:
    event = RolloutEvent(kind, after, "controller", "as decided", detail)
    return await rollouts.step("qa", "prod", before, event)


async def begin(rollouts: ProgramRollouts, share: int = MILLION // 2) -> RolloutRecord:
    """Start the rollout of version 2, and its first stage."""
    record = await rollouts.start("qa", "prod", 2, POLICY)
    return await step(rollouts, record, record.change(RolloutState.RUNNING, stage=1, share=share), "stage")


async def kinds(rollouts: ProgramRollouts) -> list[str]:
    return [event.kind for event in await rollouts.events("qa", "prod")]


# ---------------------------------------------------------------- start


async def test_a_rollout_starts_with_the_baseline_alone(registry: ProgramRegistry, rollouts: ProgramRollouts) -> None:
    record = await rollouts.start("qa", "prod", 2, POLICY, author="ann", reason="cheaper")
    old, new = await registry.get("qa:1"), await registry.get("qa:2")

    assert (record.state, record.stage, record.share, record.sequence) == (RolloutState.NEW, 0, 0, 1)
    assert (record.baseline, record.candidate) == (f"1:{old.digest}", f"2:{new.digest}")
    stored = await rollouts.read("qa", "prod")
    assert stored is not None
    assert (stored.record, stored.policy) == (record, POLICY)
    assert await registry.resolve("qa@prod", "user-1", stored.now_s) == (old, None)


async def test_its_start_is_an_event_with_author_and_reason_by_the_servers_clock(
    rollouts: ProgramRollouts, client: Redis
) -> None:
    record = await rollouts.start("qa", "prod", 2, POLICY, author="ann", reason="cheaper, says \N{EURO SIGN}")

    [event] = await rollouts.events("qa", "prod")
    assert (event.kind, event.record) == ("started", record)
    assert (event.author, event.reason, event.detail) == ("ann", "cheaper, says \N{EURO SIGN}", {})
    seconds: Any = client.time()
    assert seconds[0] - 60 < event.at <= seconds[0] + 1
    stored = await rollouts.read("qa", "prod")
    assert stored is not None
    assert event.at <= stored.now_s < event.at + 60
    assert client.smembers("dspex:rollouts") == {b"program:qa@prod"}


async def test_a_label_without_a_rollout_has_none(registry: ProgramRegistry, rollouts: ProgramRollouts) -> None:
    assert await rollouts.read("qa", "prod") is None
    assert await rollouts.read("nothing", "prod") is None
    assert await rollouts.events("qa", "prod") == []
    assert await registry.resolve("qa@prod", "user-1", 0.0) == (await registry.get("qa:1"), None)


async def test_rollouts_have_ids_of_their_own_so_each_tries_other_keys_first(rollouts: ProgramRollouts) -> None:
    first = await rollouts.start("qa", "prod", 2, POLICY)
    await step(rollouts, first, first.change(RolloutState.ROLLED_BACK, share=0), "rolled_back")

    assert (await rollouts.start("qa", "prod", 2, POLICY)).id != first.id


@pytest.mark.parametrize(("label", "version"), [("prod", 9), ("canary", 2), ("", 2), ("a b", 2), ("prod", -1)])
async def test_what_is_not_registered_is_not_rolled_out(
    rollouts: ProgramRollouts, client: Redis, label: str, version: int
) -> None:
    with pytest.raises(ProgramNotFoundError):
        await rollouts.start("qa", label, version, POLICY)
    assert client.exists("dspex:rollouts", f"dspex:{{p:qa}}:rollouts:{label}") == 0


async def test_the_version_that_a_label_points_at_is_no_candidate(rollouts: ProgramRollouts) -> None:
    with pytest.raises(RolloutCandidateError, match=r"qa:1 can't be rolled out for program:qa@prod"):
        await rollouts.start("qa", "prod", 1, POLICY)
    assert await rollouts.read("qa", "prod") is None


async def test_a_candidate_that_can_not_be_read_is_refused_before_anybody_gets_it(
    registry: ProgramRegistry, client: Redis, redis_url: str
) -> None:
    client.delete(f"dspex:{{p:qa}}:spec:{(await registry.get('qa:2')).digest}")
    other = ProgramRollouts(ProgramRegistry(RedisConnection(redis_url)))

    with pytest.raises(ProgramSpecError, match="register it again"):
        await other.start("qa", "prod", 2, POLICY)
    assert await other.read("qa", "prod") is None


async def test_a_label_has_one_open_rollout(rollouts: ProgramRollouts) -> None:
    running = await begin(rollouts)

    with pytest.raises(RolloutOverlapError, match=f"staged by rollout {running.id} already"):
        await rollouts.start("qa", "prod", 3, POLICY)
    stored = await rollouts.read("qa", "prod")
    assert stored is not None
    assert stored.record == running


async def test_of_many_starts_at_once_one_succeeds(rollouts: ProgramRollouts) -> None:
    starts = (rollouts.start("qa", "prod", 2 + number % 2, POLICY) for number in range(10))
    results = await asyncio.gather(*starts, return_exceptions=True)

    assert sum(isinstance(result, RolloutRecord) for result in results) == 1
    assert sum(isinstance(result, RolloutOverlapError) for result in results) == 9
    assert await kinds(rollouts) == ["started"]


async def test_labels_are_rolled_out_independently(registry: ProgramRegistry, rollouts: ProgramRollouts) -> None:
    await registry.label("qa", "canary", 1)
    await begin(rollouts, MILLION)
    other = await rollouts.start("qa", "canary", 3, POLICY)

    assert (await registry.resolve("qa@prod", "user-1", 1e10))[0].version == 2
    assert (await registry.resolve("qa@canary", "user-1", 1e10))[0].version == 1
    assert [event.record for event in await rollouts.events("qa", "canary")] == [other]


# ---------------------------------------------------------------- steps


async def test_the_keys_of_a_stage_get_the_candidate_and_a_larger_one_only_adds(
    registry: ProgramRegistry, rollouts: ProgramRollouts
) -> None:
    before: set[str] = set()
    record = await rollouts.start("qa", "prod", 2, POLICY)
    for stage, share in enumerate((100_000, 500_000, MILLION), 1):
        record = await step(rollouts, record, record.change(RolloutState.RUNNING, stage=stage, share=share), "stage")
        tried: set[str] = set()
        for key in (f"user-{number}" for number in range(60)):
            program, assignment = await registry.resolve("qa@prod", key, 1.0)
            assert assignment is not None
            assert (assignment.rollout, assignment.stage) == (record.id, stage)
            assert (program.version == 2) == (assignment.arm == "candidate") == is_candidate(record.id, key, share)
            tried |= {key} if program.version == 2 else set()
        assert before <= tried
        before = tried
    assert len(before) == 60


async def test_a_stage_changes_nothing_for_other_references(
    registry: ProgramRegistry, rollouts: ProgramRollouts
) -> None:
    await begin(rollouts, MILLION)

    assert (await registry.get("qa@prod")).version == 1
    for reference, version in (("qa", 3), ("qa:1", 1)):
        assert await registry.resolve(reference, "user-1", 1e10) == (await registry.get(reference), None)
        assert (await registry.get(reference)).version == version
    with pytest.raises(ProgramNotFoundError, match="Did you mean 'qa@prod'"):
        await registry.resolve("qa@prd", "user-1", 1e10)
    with pytest.raises(ProgramNotFoundError) as missing:
        await registry.get("qa:9")
    assert sorted(missing.value.available) == ["qa", "qa:1", "qa:2", "qa:3", "qa@prod"]


async def test_a_step_on_an_outdated_record_is_refused(rollouts: ProgramRollouts) -> None:
    record = await rollouts.start("qa", "prod", 2, POLICY)
    running = await step(rollouts, record, record.change(RolloutState.RUNNING, stage=1, share=1), "stage")

    with pytest.raises(RolloutMovedError, match=f"expected {record.id} 1 new .* found {record.id} 2 running"):
        await step(rollouts, record, record.change(RolloutState.PAUSED), "paused")
    stored = await rollouts.read("qa", "prod")
    assert stored is not None
    assert stored.record == running
    assert await kinds(rollouts) == ["started", "stage"]


async def test_of_many_steps_at_once_one_succeeds(rollouts: ProgramRollouts) -> None:
    record = await rollouts.start("qa", "prod", 2, POLICY)
    steps = (
        step(rollouts, record, record.change(RolloutState.RUNNING, stage=1, share=share), "stage")
        for share in range(1, 11)
    )
    results = await asyncio.gather(*steps, return_exceptions=True)

    assert sum(isinstance(result, RolloutRecord) for result in results) == 1
    assert sum(isinstance(result, RolloutMovedError) for result in results) == 9
    assert await kinds(rollouts) == ["started", "stage"]


async def test_a_step_that_is_sent_again_counts_once(rollouts: ProgramRollouts) -> None:
    record = await rollouts.start("qa", "prod", 2, POLICY)
    after = record.change(RolloutState.RUNNING, stage=1, share=10)

    for _ in range(2):
        assert await step(rollouts, record, after, "stage") == after
    assert await kinds(rollouts) == ["started", "stage"]


async def test_a_promotion_moves_the_label(registry: ProgramRegistry, rollouts: ProgramRollouts) -> None:
    record = await begin(rollouts)
    promoted = await step(rollouts, record, record.change(RolloutState.PROMOTED, share=MILLION), "promoted")

    assert (await registry.get("qa@prod")).version == 2
    assert await registry.resolve("qa@prod", "user-1", 1e10) == (await registry.get("qa:2"), None)
    stored = await rollouts.read("qa", "prod")
    assert stored is not None
    assert stored.record == promoted
    assert await kinds(rollouts) == ["started", "stage", "promoted"]
    assert (await rollouts.start("qa", "prod", 3, POLICY)).baseline == record.candidate


async def test_a_rollback_leaves_the_label_and_can_be_looked_at(
    registry: ProgramRegistry, rollouts: ProgramRollouts
) -> None:
    record = await begin(rollouts, MILLION)
    after = record.change(RolloutState.ROLLED_BACK, share=0)
    await step(rollouts, record, after, "rolled_back", metric="error_rate", low=0.031)

    assert await registry.resolve("qa@prod", "user-1", 1e10) == (await registry.get("qa:1"), None)
    stored = await rollouts.read("qa", "prod")
    assert stored is not None
    assert stored.record == after
    assert (await rollouts.events("qa", "prod"))[-1].detail == {"metric": "error_rate", "low": 0.031}


# ---------------------------------------------------------------- the label is moved by hand


async def test_a_label_that_is_moved_by_hand_ends_its_rollout(
    registry: ProgramRegistry, rollouts: ProgramRollouts
) -> None:
    record = await begin(rollouts, MILLION)
    assert await registry.label("qa", "prod", 3, author="ann", reason="urgent") == record

    assert await registry.resolve("qa@prod", "user-1", 1e10) == (await registry.get("qa:3"), None)
    assert await rollouts.read("qa", "prod") is None
    event = (await rollouts.events("qa", "prod"))[-1]
    assert (event.kind, event.record, event.author, event.reason) == ("superseded", record, "ann", "urgent")
    with pytest.raises(RolloutMovedError, match="found none"):
        await step(rollouts, record, record.change(RolloutState.PROMOTED, share=MILLION), "promoted")
    assert (await registry.get("qa@prod")).version == 3


async def test_a_label_that_is_set_to_the_baseline_ends_its_rollout_once(
    registry: ProgramRegistry, rollouts: ProgramRollouts
) -> None:
    record = await begin(rollouts, MILLION)
    assert await registry.label("qa", "prod", 1, author="ann", reason="panic") == record

    assert await registry.resolve("qa@prod", "user-1", 1e10) == (await registry.get("qa:1"), None)
    assert await rollouts.read("qa", "prod") is None
    assert await registry.label("qa", "prod", 1) is None
    assert await kinds(rollouts) == ["started", "stage", "superseded"]


async def test_a_decided_rollout_stays_readable_while_the_label_stays(
    registry: ProgramRegistry, rollouts: ProgramRollouts
) -> None:
    record = await begin(rollouts)
    back = await step(rollouts, record, record.change(RolloutState.ROLLED_BACK, share=0), "rolled_back")
    assert await registry.label("qa", "prod", 1) is None

    stored = await rollouts.read("qa", "prod")
    assert stored is not None
    assert stored.record == back


async def test_a_decided_rollout_goes_with_the_next_move_without_an_event(
    registry: ProgramRegistry, rollouts: ProgramRollouts, client: Redis
) -> None:
    record = await begin(rollouts)
    await step(rollouts, record, record.change(RolloutState.ROLLED_BACK, share=0), "rolled_back")
    await registry.label("qa", "prod", 2)

    assert await rollouts.read("qa", "prod") is None
    assert not client.hexists(VERSIONS, "rollout_policy:prod")
    assert await kinds(rollouts) == ["started", "stage", "rolled_back"]


async def test_a_label_that_can_not_be_moved_ends_nothing(registry: ProgramRegistry, rollouts: ProgramRollouts) -> None:
    record = await begin(rollouts)

    with pytest.raises(ProgramNotFoundError):
        await registry.label("qa", "prod", 9)
    stored = await rollouts.read("qa", "prod")
    assert stored is not None
    assert stored.record == record


async def test_a_start_that_lost_to_a_move_of_the_label_is_refused(
    registry: ProgramRegistry, rollouts: ProgramRollouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = await registry.get("qa@prod")
    await registry.label("qa", "prod", 3)
    read = registry.get

    async def read_before_the_move(reference: str) -> Any:
        return stale if reference == "qa@prod" else await read(reference)

    monkeypatch.setattr(registry, "get", read_before_the_move)
    with pytest.raises(RolloutMovedError, match="expected 1 .* found 3 "):
        await rollouts.start("qa", "prod", 2, POLICY)
    assert await rollouts.read("qa", "prod") is None


# ---------------------------------------------------------------- events, and what Redis holds


async def test_events_are_read_from_a_position_on_and_in_parts(rollouts: ProgramRollouts) -> None:
    record = await begin(rollouts)
    for share in (600_000, 700_000, 800_000):
        record = await step(rollouts, record, record.change(RolloutState.RUNNING, share=share), "stage")
    events = await rollouts.events("qa", "prod")

    assert [event.kind for event in events] == ["started", "stage", "stage", "stage", "stage"]
    assert await rollouts.events("qa", "prod", after=events[1].position) == events[2:]
    assert await rollouts.events("qa", "prod", after=events[1].position, limit=2) == events[2:4]
    assert await rollouts.events("qa", "prod", after=events[-1].position) == []


async def test_the_latest_thousand_events_are_kept(rollouts: ProgramRollouts, client: Redis) -> None:
    record = await begin(rollouts)
    for _ in range(1_300):
        after = record.change(RolloutState.RUNNING)
        record = await step(rollouts, record, after, "stage")

    length: Any = client.xlen(EVENTS)
    assert 1_000 <= length <= 1_200


async def test_a_record_that_is_none_of_ours_is_a_named_error(
    registry: ProgramRegistry, rollouts: ProgramRollouts, client: Redis
) -> None:
    client.hset(VERSIONS, "rollout:prod", "what is this")

    for attempt in (rollouts.read("qa", "prod"), registry.resolve("qa@prod", "user-1", 0.0)):
        with pytest.raises(ProgramSpecError, match="restore that key"):
            await attempt
    assert (await registry.get("qa@prod")).version == 1


async def test_a_key_that_is_too_long_is_refused(registry: ProgramRegistry, rollouts: ProgramRollouts) -> None:
    await begin(rollouts)

    with pytest.raises(ValueError, match="1024 bytes"):
        await registry.resolve("qa@prod", "x" * 2_000_000, 1e10)


async def test_redis_away_is_a_named_error_within_its_bound() -> None:
    registry = ProgramRegistry(RedisConnection("redis://127.0.0.1:1/0", timeout_s=0.5))
    unreachable = ProgramRollouts(registry)

    for attempt in (
        registry.resolve("qa@prod", "user-1", 0.0),
        unreachable.start("qa", "prod", 2, POLICY),
        unreachable.read("qa", "prod"),
        unreachable.events("qa", "prod"),
    ):
        with pytest.raises(StoreUnavailableError, match="is away"):
            await attempt
