"""Rollouts on every store: which publishes begin one, what is kept for it, and steps that are taken once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from snakepit_bridge.exceptions import RolloutMovedError, SessionNotFoundError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutRecord, RolloutState
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable
from tests.contract.conftest import OpenStore
from tests.contract.sample import ELIXIR, declared, plain, state
from tests.harness.waiting import eventually

POLICY: dict[str, Variable | None] = {
    POLICY_VARIABLE: Variable.declare(POLICY_VARIABLE, '{"stages": [{"share": 0.1}]}')
}


async def with_policy(store: SnapshotStore, **values: Any) -> Token:
    return await store.publish("s", {**declared(**values), **POLICY})


async def rollout(store: SnapshotStore) -> RolloutRecord:
    record = (await store.head("s")).rollout
    assert record is not None
    return record


async def step(store: SnapshotStore, state: RolloutState, **changes: Any) -> RolloutRecord:
    before = await rollout(store)
    return await store.step_rollout("s", before, RolloutEvent("stage", before.change(state, **changes), "ann", "try"))


def tokens(record: RolloutRecord) -> tuple[str, str]:
    return record.baseline, record.candidate


class TestWhatBeginsOne:
    async def test_a_publish_under_a_policy_is_a_candidate_beside_what_was_there(self, store: SnapshotStore) -> None:
        first = await with_policy(store, a=1)
        assert (await store.head("s")).rollout is None, "a first revision has nothing to be compared with"
        second = await store.publish("s", declared(a=2), author="ann", reason="warmer")
        shot = await store.read("s")
        record = await rollout(store)
        assert shot.rollout == record
        assert (record.state, tokens(record)) == (RolloutState.NEW, (str(first), str(second)))
        assert shot.baseline is not None
        assert (shot.baseline.token, shot.value("a"), shot.baseline.value("a")) == (first, 2, 1)
        (event,) = await store.rollout_events("s")
        assert (event.kind, event.author, event.reason, event.record) == ("started", "ann", "warmer", record)
        assert event.at == pytest.approx((await store.head("s")).now, abs=5)

    async def test_without_a_policy_there_is_none(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1))
        await store.publish("s", declared(a=2))
        shot = await store.read("s")
        assert (shot.rollout, shot.baseline, await store.rollout_events("s")) == (None, None, [])

    async def test_the_first_policy_stages_what_is_published_with_it(self, store: SnapshotStore) -> None:
        first = await store.publish("s", declared(a=1))
        second = await with_policy(store, a=2)
        assert tokens(await rollout(store)) == (str(first), str(second))

    async def test_what_changes_reserved_variables_alone_is_everybodys(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1))
        await with_policy(store)
        assert (await store.read("s")).rollout is None
        await store.publish("s", declared(a=2))
        before = await rollout(store)
        token = await store.publish("s", declared(**{"dspex.limits.concurrency": 3.0}))
        after = await rollout(store)
        assert (after.id, tokens(after)) == (before.id, (before.baseline, str(token)))

    async def test_another_publish_begins_anew_with_the_same_baseline(self, store: SnapshotStore) -> None:
        first = await with_policy(store, a=1)
        await store.publish("s", declared(a=2))
        before = await step(store, RolloutState.RUNNING, stage=1, share=10_000)
        third = await store.publish("s", declared(a=3))
        after = await rollout(store)
        assert after.id != before.id
        assert (after.state, after.stage, tokens(after)) == (RolloutState.NEW, 0, (str(first), str(third)))

    async def test_an_identical_publish_begins_none(self, store: SnapshotStore) -> None:
        await with_policy(store, a=1)
        await store.publish("s", declared(a=2))
        before = await rollout(store)
        await store.publish("s", declared(a=2))
        assert await rollout(store) == before

    async def test_after_a_promotion_the_promoted_revision_is_the_next_baseline(self, store: SnapshotStore) -> None:
        await with_policy(store, a=1)
        second = await store.publish("s", declared(a=2))
        await step(store, RolloutState.PROMOTED)
        assert (await store.read("s")).baseline is None
        third = await store.publish("s", declared(a=3))
        assert tokens(await rollout(store)) == (str(second), str(third))

    async def test_after_a_rollback_the_baseline_stays(self, store: SnapshotStore) -> None:
        first = await with_policy(store, a=1)
        await store.publish("s", declared(a=2))
        await step(store, RolloutState.ROLLED_BACK)
        third = await store.publish("s", declared(a=3))
        assert tokens(await rollout(store)) == (str(first), str(third))

    async def test_a_followed_session_is_staged_as_well(self, store: SnapshotStore) -> None:
        fence = await store.raise_fence("s", publisher=ELIXIR)
        await store.publish("s", {**declared(a=1), **POLICY}, replace=True, fence=fence, publisher=ELIXIR)
        await store.publish("s", {**declared(a=2), **POLICY}, replace=True, fence=fence, publisher=ELIXIR)
        assert (await rollout(store)).is_open


class TestWhatEndsOne:
    async def test_the_baselines_values_again_end_it(self, store: SnapshotStore) -> None:
        await with_policy(store, a=1)
        await store.publish("s", declared(a=2))
        await step(store, RolloutState.ROLLED_BACK)
        await store.publish("s", declared(a=1), author="bob")
        assert (await store.read("s")).rollout is None
        last = (await store.rollout_events("s"))[-1]
        assert (last.kind, last.author) == ("superseded", "bob")

    async def test_a_rollback_to_a_past_revision_is_everybodys_at_once(self, store: SnapshotStore) -> None:
        first = await with_policy(store, a=1, b=1)
        await store.publish("s", declared(a=2))
        await store.publish("s", declared(b=2))
        await store.rollback("s", first)
        assert ((await store.read("s")).rollout, await state(store)) == (None, {**plain(POLICY), "a": 1, "b": 1})

    async def test_taking_the_policy_away_gives_the_candidate_to_nobody(self, store: SnapshotStore) -> None:
        first = await with_policy(store, a=1)
        await store.publish("s", declared(a=2))
        await step(store, RolloutState.ROLLED_BACK)
        await store.publish("s", {POLICY_VARIABLE: None})
        record = await rollout(store)
        assert (record.state, record.baseline) == (RolloutState.ROLLED_BACK, str(first))

    async def test_a_publish_of_values_without_a_policy_ends_it(self, store: SnapshotStore) -> None:
        await with_policy(store, a=1)
        await store.publish("s", declared(a=2))
        await store.publish("s", {**declared(a=3), POLICY_VARIABLE: None})
        assert (await store.read("s")).rollout is None

    async def test_the_policy_is_no_part_of_the_values_that_it_is_back_at(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1))
        await with_policy(store, a=2)
        await store.publish("s", declared(a=1))
        assert (await store.read("s")).rollout is None

    async def test_a_dropped_session_forgets_it(self, store: SnapshotStore) -> None:
        await with_policy(store, a=1)
        await store.publish("s", declared(a=2))
        await store.drop("s")
        await store.publish("s", declared(a=3))
        assert ((await store.read("s")).rollout, await store.rollout_events("s")) == (None, [])


class TestTheListOfStagedSessions:
    async def test_it_has_each_whose_rollout_gives_somebody_the_baseline(self, store: SnapshotStore) -> None:
        assert await store.staged_sessions() == {}  # from here on only what was begun is looked at
        await store.publish("other", declared(a=1))
        await with_policy(store, a=1)
        assert await store.staged_sessions() == {}
        await store.publish("s", declared(a=2))
        assert await store.staged_sessions() == {"s": await store.head("s")}
        await step(store, RolloutState.ROLLED_BACK)
        assert list(await store.staged_sessions()) == ["s"]
        await step(store, RolloutState.PROMOTED)
        assert await store.staged_sessions() == {}
        await store.publish("s", declared(a=3))
        assert list(await store.staged_sessions()) == ["s"]
        await store.drop("s")
        assert await store.staged_sessions() == {}


class TestSteps:
    async def test_of_two_steps_from_one_record_one_is_taken(self, store: SnapshotStore) -> None:
        await with_policy(store, a=1)
        await store.publish("s", declared(a=2))
        before = await rollout(store)
        after = [before.change(RolloutState.RUNNING, stage=1, share=share) for share in (1_000, 2_000)]
        done = await asyncio.gather(
            *(store.step_rollout("s", before, RolloutEvent("stage", record)) for record in after),
            return_exceptions=True,
        )
        assert [isinstance(each, RolloutMovedError) for each in done].count(True) == 1
        assert await rollout(store) in after

    async def test_steps_are_recorded_with_their_numbers(self, store: SnapshotStore) -> None:
        await with_policy(store, a=1)
        await store.publish("s", declared(a=2))
        before = await rollout(store)
        detail = {"guards": [{"metric": "error_rate", "harm": [0.1, 0.2]}], "of": "ünïcode"}
        record = before.change(RolloutState.RUNNING, stage=1, share=10_000, since_us=1_700_000_000_000_000)
        await store.step_rollout("s", before, RolloutEvent("stage", record, "controller", "first stage", detail))
        started, stage = await store.rollout_events("s")
        assert (stage.kind, stage.record, stage.author, stage.detail) == ("stage", record, "controller", detail)
        assert await store.rollout_events("s", after=started.position) == [stage]
        assert await store.rollout_events("s", limit=1) == [started]

    async def test_an_unknown_session_has_none(self, store: SnapshotStore) -> None:
        with pytest.raises(SessionNotFoundError):
            await store.rollout_events("none")
        record = RolloutRecord("a" * 16, 1, RolloutState.NEW, 0, 0, 0, 0, "1.1", "1.2")
        with pytest.raises(SessionNotFoundError):
            await store.step_rollout("none", None, RolloutEvent("started", record))


class TestTheBaseline:
    async def test_it_outlives_the_history_for_as_long_as_it_is_needed(self, open_one: OpenStore) -> None:
        store = open_one(retention=1)
        first = await with_policy(store, a=1)
        for number in range(2, 6):
            await store.publish("s", declared(a=number))
        assert await state(store, at=first) == {**plain(POLICY), "a": 1}
        assert (await store.read("s")).baseline == await store.read_at("s", first)

    async def test_a_label_that_goes_leaves_it(self, store: SnapshotStore) -> None:
        first = await with_policy(store, a=1)
        await store.publish("s", declared(a=2))
        await store.label("s", "stable", first)
        await store.unlabel("s", "stable")
        await store.retain("s", None)
        assert await state(store, at=first) == {**plain(POLICY), "a": 1}

    async def test_a_reader_that_was_at_it_reads_it_no_more(self, store: SnapshotStore) -> None:
        await with_policy(store, a=1)
        before = await store.read("s")
        await store.publish("s", declared(a=2))
        after = await store.read("s", before)
        assert after.baseline == before
        assert (await store.read("s", after)).baseline is after.baseline


async def test_a_replica_hears_of_each_step(store: SnapshotStore) -> None:
    replica = Replica(store, watch_lease_s=5.0)
    try:
        await with_policy(store, a=1)
        await replica.snapshot("s")
        await store.publish("s", declared(a=2))

        async def shows(state: RolloutState) -> Snapshot:
            async def seen() -> Snapshot | None:
                shot = await replica.snapshot("s")
                return shot if shot.rollout is not None and shot.rollout.state is state else None

            return await eventually(seen, f"the replica to show a rollout that is {state}", timeout_s=4)

        await shows(RolloutState.NEW)
        for next_state in (RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ROLLED_BACK):
            await step(store, next_state)
            shot = await shows(next_state)
            assert (shot.value("a"), shot.baseline and shot.baseline.value("a")) == (2, 1)
    finally:
        await replica.aclose()
