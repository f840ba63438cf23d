"""The controller on a store in memory: what it decides is stored once, whoever else moves the rollout meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from typing_extensions import override

from snakepit_bridge.exceptions import (
    RolloutMovedError,
    RolloutPolicyError,
    RolloutStateError,
    SessionNotFoundError,
    StoreUnavailableError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.releases import operations
from snakepit_bridge.releases.controller import RolloutController
from snakepit_bridge.releases.counts import StageCounts, StageCountsReader
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.releases.look_history import LookHistory
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.releases.targets import SessionTarget
from snakepit_bridge.rollouts.arm_counts import ArmCounts
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.guard_reports import GuardReport
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutRecord, RolloutState
from snakepit_bridge.snapshots import MemoryStore
from snakepit_bridge.variables import Variable

NAME = TargetName.parse("demo")
TARGET = "session:demo"
POLICY = {
    "stages": [
        {"share": 0.1, "min_s": 60, "min_predictions": 100},
        {"share": 0.5, "min_s": 60, "min_predictions": 100},
    ],
    "guards": [{"metric": "error_rate", "max_increase": 0.01}],
    "pause_after_s": 600,
}
BY_ANN: Any = {"author": "ann", "reason": "because"}


class MemoryIndex(RolloutIndex):
    """An index in memory."""

    def __init__(self, *targets: str) -> None:
        self.targets = set(targets)
        self.on_discard: Callable[[], Any] = lambda: None

    @override
    async def add(self, target: str) -> None:
        self.targets.add(target)

    @override
    async def discard(self, target: str) -> None:
        self.targets.discard(target)
        self.on_discard()

    @override
    async def list(self) -> list[str]:
        return sorted(self.targets)


class GivenCounts(StageCountsReader):
    """Counts that a test sets."""

    def __init__(self) -> None:
        self.now = StageCounts()
        self.read_of: list[tuple[int, float]] = []

    @override
    async def read(self, rollout: str, stage: int, since_s: float, now_s: float) -> StageCounts:
        self.read_of.append((stage, since_s))
        return self.now


class MemoryHistory(LookHistory):
    """The looks that a controller offers to be kept."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, bool]] = []
        self.is_away = False

    @override
    async def add(
        self, record: RolloutRecord, now_s: float, evidence: Sequence[GuardReport], *, is_decisive: bool
    ) -> None:
        if self.is_away:
            raise StoreUnavailableError("Redis", "it is away")
        self.seen.append((record.stage, evidence[0].verdict.value, is_decisive))


class Clock:
    """The time that the store sees."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Fleet:
    """A session with a rollout, and a controller."""

    clock: Clock
    store: MemoryStore = field(default_factory=MemoryStore)
    index: MemoryIndex = field(default_factory=lambda: MemoryIndex(TARGET))
    counts: GivenCounts = field(default_factory=GivenCounts)
    history: MemoryHistory = field(default_factory=MemoryHistory)

    def __post_init__(self) -> None:
        self.target = SessionTarget(NAME, self.store, None)
        self.controller = self.new_controller()

    def new_controller(self) -> RolloutController:
        return RolloutController(
            self.index, lambda name: SessionTarget(name, self.store, None), self.counts, history=self.history
        )

    async def publish(self, **values: Any) -> Token:
        return await self.store.publish("demo", {name: Variable.declare(name, value) for name, value in values.items()})

    async def publish_policy(self, policy: object = POLICY) -> None:
        text = policy if isinstance(policy, str) else json.dumps(policy)
        await self.store.publish("demo", {POLICY_VARIABLE: Variable.declare(POLICY_VARIABLE, text)})

    async def begin(self, policy: object = POLICY) -> None:
        await self.publish(a=1)
        await self.publish_policy(policy)
        await self.publish(a=2)

    async def look(self, *, after_s: float = 0.0) -> RolloutRecord:
        self.clock.tick(after_s)
        await self.controller.look()
        return await self.record()

    async def record(self) -> RolloutRecord:
        record = (await self.store.head("demo")).rollout
        assert record is not None
        return record

    async def kinds(self) -> list[str]:
        return [f"{event.kind} {event.record.stage}" for event in await self.store.rollout_events("demo")]

    def count(self, predictions: int, *, errors: int = 0) -> None:
        """Have so many predictions of each arm counted, the candidate's with errors."""
        self.counts.now = StageCounts(
            ArmCounts(predictions), ArmCounts(predictions, {"InputError": errors} if errors else {}), self.clock.now
        )


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return Fleet(clock)


class TestAHealthyCandidate:
    async def test_it_goes_through_each_stage_once_and_is_promoted(self, fleet: Fleet) -> None:
        await fleet.begin()
        first = await fleet.look()
        assert (first.state, first.stage, first.share) == (RolloutState.RUNNING, 1, 100_000)
        assert first.since_us == round((fleet.clock.now + 2) * 1e6), "every worker knows of the stage by then"
        fleet.count(1_000)
        assert await fleet.look(after_s=61) == first, "the stage lasts a minute from its beginning"
        second = await fleet.look(after_s=1)
        assert (second.stage, second.share, second.previous_share) == (2, 500_000, 100_000)
        fleet.count(1_000)
        last = await fleet.look(after_s=62)
        assert last.state is RolloutState.PROMOTED
        assert await fleet.kinds() == ["started 0", "stage 1", "stage 2", "promoted 2"]
        assert [stage for stage, _ in fleet.counts.read_of] == [1, 1, 2]

    async def test_each_step_says_who_took_it_and_why(self, fleet: Fleet) -> None:
        await fleet.begin()
        await fleet.look()
        fleet.count(1_000)
        await fleet.look(after_s=70)
        event = (await fleet.store.rollout_events("demo"))[-1]
        assert event.author == "controller"
        assert "1000 predictions" in event.reason
        assert event.detail["guards"][0]["guard"] == "error_rate max_increase 0.01"

    async def test_too_few_predictions_hold_it(self, fleet: Fleet) -> None:
        await fleet.begin()
        first = await fleet.look()
        fleet.count(99)
        assert await fleet.look(after_s=500) == first

    async def test_no_prediction_for_long_pauses_it_and_it_doesnt_pause_again_once_resumed(self, fleet: Fleet) -> None:
        await fleet.begin()
        await fleet.look()
        paused = await fleet.look(after_s=603)
        assert (paused.state, paused.share) == (RolloutState.PAUSED, 100_000)
        await operations.resume(fleet.target, **BY_ANN)
        assert (await fleet.look(after_s=590)).state is RolloutState.RUNNING
        assert (await fleet.look(after_s=20)).state is RolloutState.PAUSED


class TestAHarmfulCandidate:
    async def test_it_is_rolled_back_at_once(self, fleet: Fleet) -> None:
        await fleet.begin()
        await fleet.look()
        fleet.count(400, errors=100)
        record = await fleet.look(after_s=3)
        assert (record.state, record.share_at(fleet.clock.now)) == (RolloutState.ROLLED_BACK, 0)
        event = (await fleet.store.rollout_events("demo"))[-1]
        assert event.reason.startswith("breached: error_rate max_increase 0.01: candidate 25 % (")
        assert event.detail["guards"][0]["verdict"] == "breached"

    async def test_a_pause_doesnt_protect_it(self, fleet: Fleet) -> None:
        await fleet.begin()
        await fleet.look()
        await operations.pause(fleet.target, **BY_ANN)
        fleet.count(400, errors=100)
        assert (await fleet.look(after_s=3)).state is RolloutState.ROLLED_BACK

    async def test_a_refusal_is_enough(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        async def refuse(*_: object) -> tuple[str, ...]:
            return ("w1: temperature is too hot",)

        monkeypatch.setattr(SessionTarget, "_read_refusals", refuse)
        await fleet.begin()
        assert (await fleet.look()).state is RolloutState.ROLLED_BACK
        assert await fleet.kinds() == ["started 0", "rolled_back 0"]


class TestTime:
    async def test_a_pause_doesnt_count_as_time_of_the_stage(self, fleet: Fleet) -> None:
        await fleet.begin()
        await fleet.look()
        fleet.count(1_000)
        fleet.clock.tick(32)
        await operations.pause(fleet.target, **BY_ANN)
        fleet.clock.tick(10_000)
        await operations.resume(fleet.target, **BY_ANN)
        assert (await fleet.look(after_s=29)).stage == 1
        assert (await fleet.look(after_s=1)).stage == 2

    async def test_counts_are_read_from_the_stages_beginning_whatever_was_paused(self, fleet: Fleet) -> None:
        await fleet.begin()
        first = await fleet.look()
        await operations.pause(fleet.target, **BY_ANN)
        fleet.clock.tick(10_000)
        await operations.resume(fleet.target, **BY_ANN)
        await fleet.look()
        assert fleet.counts.read_of == [(1, first.since_us / 1e6)]

    async def test_another_controller_measures_the_same(self, fleet: Fleet) -> None:
        await fleet.begin()
        await fleet.look()
        fleet.count(1_000)
        await operations.pause(fleet.target, **BY_ANN)
        fleet.clock.tick(100)
        await operations.resume(fleet.target, **BY_ANN)
        fleet.controller = fleet.new_controller()
        assert (await fleet.look(after_s=59)).stage == 1
        fleet.controller = fleet.new_controller()
        assert (await fleet.look(after_s=1)).stage == 2


class TestConcurrentSteps:
    async def test_of_two_controllers_one_takes_each_step(self, fleet: Fleet) -> None:
        await fleet.begin()
        other = fleet.new_controller()
        for seconds in (0, 70, 70, 70):
            fleet.count(1_000)
            fleet.clock.tick(seconds)
            await asyncio.gather(fleet.controller.look(), other.look())
        assert await fleet.kinds() == ["started 0", "stage 1", "stage 2", "promoted 2"]

    async def test_what_was_decided_on_an_older_record_changes_nothing(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fleet.begin()
        steps = SessionTarget.step

        async def beaten(target: SessionTarget, before: RolloutRecord, event: RolloutEvent) -> RolloutRecord:
            monkeypatch.setattr(SessionTarget, "step", steps)
            await operations.abort(fleet.target, **BY_ANN)
            return await steps(target, before, event)

        monkeypatch.setattr(SessionTarget, "step", beaten)
        assert (await fleet.look()).state is RolloutState.ROLLED_BACK
        assert await fleet.kinds() == ["started 0", "rolled_back 0"]

    async def test_a_controller_that_dies_before_its_step_is_replaced(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fleet.begin()
        await fleet.look()
        fleet.count(1_000)
        reached = asyncio.Event()

        async def hang(*_: object) -> RolloutRecord:
            reached.set()
            await asyncio.Event().wait()
            raise AssertionError

        with monkeypatch.context() as patch:
            patch.setattr(SessionTarget, "step", hang)
            looking = asyncio.create_task(fleet.look(after_s=70))
            await reached.wait()
            looking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await looking
        fleet.controller = fleet.new_controller()
        assert (await fleet.look()).stage == 2
        assert await fleet.kinds() == ["started 0", "stage 1", "stage 2"]

    async def test_a_publish_in_the_middle_begins_at_stage_one(self, fleet: Fleet) -> None:
        await fleet.begin()
        first = await fleet.look()
        await fleet.publish(a=3)
        second = await fleet.look()
        assert (second.stage, second.id != first.id, second.baseline) == (1, True, first.baseline)


class TestPolicies:
    async def test_an_invalid_one_leaves_everybody_with_the_baseline(self, fleet: Fleet) -> None:
        await fleet.begin()
        await fleet.look()
        # As an Elixir server may publish it; whoever publishes to the store is refused.
        await publish_unchecked(fleet, "{")
        record = await fleet.look(after_s=30)
        assert (record.state, record.share_at(fleet.clock.now)) == (RolloutState.PAUSED, 0)
        assert "isn't JSON" in (await fleet.store.rollout_events("demo"))[-1].reason
        assert await fleet.look() == record, "it is said once"
        with pytest.raises(RolloutPolicyError):
            await operations.resume(fleet.target, **BY_ANN)
        await fleet.publish_policy()
        resumed = await operations.resume(fleet.target, **BY_ANN)
        assert (resumed.state, resumed.stage, resumed.share) == (RolloutState.RUNNING, 1, 100_000)
        fleet.count(1_000)
        assert (await fleet.look(after_s=61)).stage == 1, "the stage has begun anew"
        assert (await fleet.look(after_s=2)).stage == 2

    async def test_an_invalid_one_before_the_first_stage(self, fleet: Fleet) -> None:
        await fleet.begin()
        await publish_unchecked(fleet, '{"stages": []}')
        assert (await fleet.look()).state is RolloutState.PAUSED
        await fleet.publish_policy()
        assert (await operations.resume(fleet.target, **BY_ANN)).state is RolloutState.NEW
        assert (await fleet.look()).stage == 1


async def publish_unchecked(fleet: Fleet, policy: str) -> None:
    """Have the session hold a policy that nobody has checked."""
    await fleet.publish_policy()
    session = fleet.store._require("demo")  # pyright: ignore[reportPrivateUsage]
    session.commit({POLICY_VARIABLE: Variable.declare(POLICY_VARIABLE, policy)}, "store", "", "")


class TestTheIndex:
    async def test_a_decided_rollout_leaves_it(self, fleet: Fleet) -> None:
        await fleet.begin()
        await fleet.look()
        assert fleet.index.targets == {TARGET}
        await operations.abort(fleet.target, **BY_ANN)
        await fleet.look()
        assert fleet.index.targets == set()

    async def test_what_isnt_there_leaves_it(self, fleet: Fleet) -> None:
        fleet.index.targets = {"session:unknown"}
        await fleet.controller.look()
        assert fleet.index.targets == set()

    async def test_a_rollout_that_begins_while_it_is_removed_stays(self, fleet: Fleet) -> None:
        await fleet.publish(a=1)
        await fleet.publish_policy()
        fleet.index.on_discard = lambda: asyncio.ensure_future(fleet.publish(a=2))
        original = fleet.store.head
        looked: list[str] = []

        async def head(session: str) -> Any:
            looked.append(session)
            await asyncio.sleep(0)  # what was scheduled meanwhile comes first
            return await original(session)

        fleet.store.head = head
        assert (await fleet.look()).stage == 1
        assert fleet.index.targets == {TARGET}
        assert len(looked) > 2

    async def test_a_target_that_cant_be_read_hinders_no_other(
        self, fleet: Fleet, caplog: pytest.LogCaptureFixture
    ) -> None:
        await fleet.begin()
        broken = SessionTarget(TargetName.parse("broken"), fleet.store, None)

        async def fail() -> None:
            raise RuntimeError("no")

        broken.load = fail
        fleet.index.targets.add("session:broken")
        fleet.controller = RolloutController(
            fleet.index, lambda name: broken if name.name == "broken" else fleet.target, fleet.counts
        )
        assert (await fleet.look()).stage == 1
        await fleet.look()
        assert [record.message for record in caplog.records if record.exc_info] == [
            "Can't look after the rollout of session:broken; retrying"
        ]


async def test_an_entry_that_is_no_target_leaves_the_index_and_holds_no_other_up(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    await fleet.begin()
    fleet.index.targets |= {"program:no label", "session: "}
    assert (await fleet.look()).stage == 1
    assert fleet.index.targets == {TARGET}
    assert caplog.text.count("no target, and loses it") == 2


async def test_deciding_takes_a_tenth_of_the_processs_time_at_most(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.begin()
    await fleet.look()
    slow = Clock()

    def pass_half_a_second() -> float:
        slow.tick(0.5)  # it is read before and after
        return slow.now

    monkeypatch.setattr("snakepit_bridge.releases.controller.time", SimpleNamespace(
        monotonic=lambda: slow.now, perf_counter=pass_half_a_second
    ))  # fmt: skip
    looks = len(fleet.counts.read_of)
    seen: list[int] = []
    for _ in range(12):
        await fleet.controller._work()  # pyright: ignore[reportPrivateUsage]
        seen.append(len(fleet.counts.read_of) - looks)
        slow.tick(0.5)
    assert seen == [1] * 9 + [2] * 3


class TestOperations:
    async def test_advance_goes_through_the_stages_and_promotes(self, fleet: Fleet) -> None:
        await fleet.begin()
        records = [await operations.advance(fleet.target, **BY_ANN) for _ in range(3)]
        assert [(record.state, record.stage) for record in records] == [
            (RolloutState.RUNNING, 1),
            (RolloutState.RUNNING, 2),
            (RolloutState.PROMOTED, 2),
        ]
        events = await fleet.store.rollout_events("demo")
        assert {(event.author, event.reason) for event in events[1:]} == {("ann", "because")}
        assert (await fleet.store.read("demo")).baseline is None

    async def test_advancing_whats_been_moved_on_meanwhile_would_skip_a_stage(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fleet.begin()
        load = fleet.target.load

        async def load_and_be_late() -> Any:
            state = await load()
            await fleet.look()
            return state

        monkeypatch.setattr(fleet.target, "load", load_and_be_late)
        with pytest.raises(RolloutMovedError):
            await operations.advance(fleet.target, **BY_ANN)
        assert (await fleet.record()).stage == 1

    async def test_an_abort_that_another_step_precedes_is_taken_all_the_same(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fleet.begin()
        load = fleet.target.load

        async def load_and_be_late() -> Any:
            monkeypatch.undo()
            monkeypatch.setattr(time, "time", fleet.clock)
            state = await load()
            await fleet.look()
            return state

        monkeypatch.setattr(fleet.target, "load", load_and_be_late)
        assert (await operations.abort(fleet.target, **BY_ANN)).state is RolloutState.ROLLED_BACK
        assert await fleet.kinds() == ["started 0", "stage 1", "rolled_back 1"]

    @pytest.mark.parametrize("step", [operations.advance, operations.pause, operations.resume, operations.abort])
    async def test_what_the_state_doesnt_allow_is_refused(self, fleet: Fleet, step: Callable[..., Any]) -> None:
        with pytest.raises(SessionNotFoundError):
            await step(fleet.target, **BY_ANN)
        await fleet.begin()
        await operations.abort(fleet.target, **BY_ANN)
        with pytest.raises(RolloutStateError, match="it is rolled back"):
            await step(fleet.target, **BY_ANN)

    @pytest.mark.parametrize("missing", ["author", "reason"])
    async def test_each_needs_author_and_reason(self, fleet: Fleet, missing: str) -> None:
        await fleet.begin()
        with pytest.raises(ValueError, match=missing):
            await operations.abort(fleet.target, **{**BY_ANN, missing: " "})
        assert await fleet.kinds() == ["started 0"]

    async def test_a_paused_one_isnt_paused_again_and_only_a_paused_one_is_resumed(self, fleet: Fleet) -> None:
        await fleet.begin()
        with pytest.raises(RolloutStateError, match="it is new"):
            await operations.resume(fleet.target, **BY_ANN)
        await operations.pause(fleet.target, **BY_ANN)
        with pytest.raises(RolloutStateError, match="it is paused"):
            await operations.pause(fleet.target, **BY_ANN)
        assert (await fleet.look()).state is RolloutState.PAUSED


async def test_what_the_guards_say_is_kept_for_people_once_the_step_that_follows_is_stored(fleet: Fleet) -> None:
    await fleet.begin()
    await fleet.look()
    assert fleet.history.seen == [], "before the first stage there is nothing to look at"
    fleet.count(200)
    await fleet.look(after_s=3)
    fleet.count(400, errors=100)
    fleet.history.is_away = True
    assert (await fleet.look(after_s=3)).state is RolloutState.ROLLED_BACK, "no step waits for it"
    assert fleet.history.seen == [(1, "open", False)]


async def test_the_look_that_decides_is_marked(fleet: Fleet) -> None:
    await fleet.begin()
    await fleet.look()
    fleet.count(400, errors=100)
    assert (await fleet.look(after_s=3)).state is RolloutState.ROLLED_BACK
    assert fleet.history.seen == [(1, "breached", True)]
