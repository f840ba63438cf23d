"""Experiments with a program's versions on a real server: started, decided, stopped, and apart from rollouts."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.exceptions import (
    ExperimentError,
    ExperimentNotFoundError,
    ProgramNotFoundError,
    ProgramSpecError,
    RolloutMovedError,
    RolloutOverlapError,
    StoreUnavailableError,
)
from snakepit_bridge.programs.experiments import LabelExperiments
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.programs.rollouts import ProgramRollouts
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.experiments import Experiment, ExperimentState
from snakepit_bridge.rollouts.records import RolloutState

VERSIONS = "dspex:{p:qa}:versions"


@pytest.fixture
def experiments(registry: ProgramRegistry) -> LabelExperiments:
    return LabelExperiments(registry, "qa", "prod")


def plan(name: str = "tone", **changed: Any) -> dict[str, Any]:
    arms = [
        {"name": "formal", "weight": 0.5, "revision": "2"},
        {"name": "casual", "weight": 0.5, "revision": "3"},
    ]
    return {"name": name, "arms": arms} | changed


async def versions(registry: ProgramRegistry, count: int = 60, **attributes: Any) -> Counter[int]:
    """Return how many of the keys get which version."""
    found = [(await registry.resolve("qa@prod", f"user-{n}", 1.0, attributes))[0].version for n in range(count)]
    return Counter(found)


async def test_requests_get_the_versions_of_the_arms(registry: ProgramRegistry, experiments: LabelExperiments) -> None:
    started = await experiments.start(plan(), author="ann", reason="which tone")

    assert (await versions(registry)).keys() == {2, 3}
    program, assignment = await registry.resolve("qa@prod", "user-1", 1.0)
    assert assignment is not None
    assert (assignment.rollout, assignment.target) == (started.id, "program:qa@prod")
    assert assignment.arm == ("formal" if program.version == 2 else "casual")
    assert await registry.resolve("qa@prod", "user-1", 9.0) == (program, assignment)


async def test_the_rest_of_the_layer_and_other_references_are_untouched(
    registry: ProgramRegistry, experiments: LabelExperiments
) -> None:
    await experiments.start(plan(from_share=0.5, to_share=1))

    found = await versions(registry)
    assert found.keys() == {1, 2, 3}
    assert found[1] > 15
    assert (await registry.get("qa@prod")).version == 1
    assert await registry.resolve("qa:1", "user-1", 1.0) == (await registry.get("qa:1"), None)


async def test_a_segment_takes_the_requests_with_its_attributes(
    registry: ProgramRegistry, experiments: LabelExperiments
) -> None:
    segment = {"properties": {"plan": {"const": "pro"}}, "required": ["plan"]}
    await experiments.start(plan(segment=segment))

    assert (await versions(registry, 10)).keys() == {1}
    assert (await versions(registry, 10, plan="free")).keys() == {1}
    assert (await versions(registry, plan="pro")).keys() == {2, 3}


async def test_an_arm_is_the_version_with_its_digest(registry: ProgramRegistry, experiments: LabelExperiments) -> None:
    started = await experiments.start(plan())

    digests = [(await registry.get(f"qa:{version}")).digest for version in (2, 3)]
    assert [arm.revision for arm in started.arms] == [f"2:{digests[0]}", f"3:{digests[1]}"]
    assert await experiments.list() == (started,)


async def test_experiments_of_disjoint_ranges_run_together_and_end_apart(
    registry: ProgramRegistry, experiments: LabelExperiments
) -> None:
    first = await experiments.start(plan("first", to_share=0.5))
    second = await experiments.start(plan("second", from_share=0.5))
    assert await experiments.list() == (first, second)

    with pytest.raises(RolloutOverlapError, match="experiment 'first'"):
        await experiments.start(plan("third", from_share=0.4, to_share=0.5))
    await experiments.stop("first")
    assert await experiments.list() == (second,)
    assert (await versions(registry)).keys() == {1, 2, 3}


async def test_a_decision_moves_the_label(
    registry: ProgramRegistry, experiments: LabelExperiments, client: Redis
) -> None:
    started = await experiments.start(plan())
    ended = await experiments.decide("tone", "casual", author="ann", reason="clear")

    assert (ended.id, ended.state, ended.winner) == (started.id, ExperimentState.DECIDED, "casual")
    assert await registry.resolve("qa@prod", "user-1", 1.0) == (await registry.get("qa:3"), None)
    assert await experiments.list() == ()
    assert not client.hexists(VERSIONS, "experiments:prod")
    events = await experiments.events()
    assert [(event.kind, event.experiment) for event in events] == [("started", started), ("decided", ended)]
    assert (events[1].author, events[1].reason) == ("ann", "clear")
    seconds: Any = client.time()
    assert seconds[0] - 60 < events[0].at <= events[1].at <= seconds[0] + 1
    assert await experiments.events(after=events[0].position) == events[1:]


async def test_a_stop_leaves_the_label(registry: ProgramRegistry, experiments: LabelExperiments) -> None:
    await experiments.start(plan())
    ended = await experiments.stop("tone")

    assert ended.state is ExperimentState.STOPPED
    assert await registry.resolve("qa@prod", "user-1", 1.0) == (await registry.get("qa:1"), None)
    with pytest.raises(ExperimentNotFoundError, match="it was stopped"):
        await experiments.stop("tone")


async def test_a_label_that_is_moved_by_hand_leaves_its_experiments(
    registry: ProgramRegistry, experiments: LabelExperiments
) -> None:
    started = await experiments.start(plan(to_share=0.5))
    await registry.label("qa", "prod", 2)

    assert await experiments.list() == (started,)


# ---------------------------------------------------------------- refused


async def test_a_label_has_a_rollout_or_experiments(registry: ProgramRegistry, experiments: LabelExperiments) -> None:
    rollouts = ProgramRollouts(registry)
    record = await rollouts.start("qa", "prod", 2, "{}")
    with pytest.raises(RolloutOverlapError, match=f"program:qa@prod is staged by rollout {record.id} already"):
        await experiments.start(plan())
    assert await experiments.list() == ()

    after = record.change(RolloutState.ROLLED_BACK, share=0)
    await rollouts.step("qa", "prod", record, RolloutEvent("rolled_back", after))
    await experiments.start(plan())
    with pytest.raises(RolloutOverlapError, match="staged by experiment 'tone' already"):
        await rollouts.start("qa", "prod", 2, "{}")

    await experiments.decide("tone", "formal")
    assert await rollouts.read("qa", "prod") is None
    assert (await rollouts.start("qa", "prod", 3, "{}")).baseline.startswith("2:")


@pytest.mark.parametrize("revision", ["9", "x", "2 ", ""])
async def test_a_version_that_is_not_registered_is_refused(experiments: LabelExperiments, revision: str) -> None:
    arms = [{"name": "a", "weight": 0.5, "revision": "2"}, {"name": "b", "weight": 0.5, "revision": revision}]
    with pytest.raises(ExperimentError, match=r"arms\[1\].revision"):
        await experiments.start(plan(arms=arms))
    assert await experiments.events() == []


async def test_a_label_that_does_not_exist_takes_no_experiment(registry: ProgramRegistry) -> None:
    for name, label in (("qa", "canary"), ("nothing", "prod"), ("qa", "a b")):
        with pytest.raises(ProgramNotFoundError):
            await LabelExperiments(registry, name, label).start(plan())


async def test_an_unknown_arm_or_experiment_decides_nothing(
    registry: ProgramRegistry, experiments: LabelExperiments
) -> None:
    started = await experiments.start(plan())

    with pytest.raises(ExperimentError, match="Name one of them: formal, casual"):
        await experiments.decide("tone", "rude")
    with pytest.raises(ExperimentNotFoundError, match="Did you mean 'tone'"):
        await experiments.decide("ton", "formal")
    assert await experiments.list() == (started,)
    assert (await registry.get("qa@prod")).version == 1


# ---------------------------------------------------------------- at the same time, and what Redis holds


async def test_of_many_starts_at_once_all_that_fit_succeed(experiments: LabelExperiments) -> None:
    plans = [plan(f"e{n}", from_share=n / 8, to_share=(n + 1) / 8) for n in range(8)] + [plan("all")] * 3
    results = await asyncio.gather(*(experiments.start(each) for each in plans), return_exceptions=True)

    started = [result for result in results if isinstance(result, Experiment)]
    assert len(started) in (1, 8)
    assert {type(result) for result in results} == {Experiment, RolloutOverlapError}
    running = await experiments.list()
    assert {each.id for each in running} == {each.id for each in started}
    assert len(await experiments.events()) == len(started)


async def test_of_a_decision_and_a_stop_at_once_one_succeeds(
    registry: ProgramRegistry, experiments: LabelExperiments
) -> None:
    await experiments.start(plan())
    results = await asyncio.gather(
        experiments.decide("tone", "formal"),
        experiments.stop("tone"),
        return_exceptions=True,
    )

    [ended] = [result for result in results if isinstance(result, Experiment)]
    assert sum(isinstance(result, ExperimentNotFoundError) for result in results) == 1
    assert (await registry.get("qa@prod")).version == (2 if ended.winner else 1)
    assert [event.kind for event in await experiments.events()] == ["started", str(ended.state)]


async def test_a_change_whose_answer_was_lost_is_made_once(
    registry: ProgramRegistry, experiments: LabelExperiments, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = registry.connection.run

    async def run_twice(*args: Any) -> Any:
        await run(*args)
        return await run(*args)

    monkeypatch.setattr(registry.connection, "run", run_twice)
    started = await experiments.start(plan())
    assert await experiments.list() == (started,)
    await experiments.stop("tone")
    assert [event.kind for event in await experiments.events()] == ["started", "stopped"]


async def test_a_change_that_always_loses_is_refused(
    experiments: LabelExperiments, registry: ProgramRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(*_: Any) -> list[bytes]:
        return [b"moved"]

    monkeypatch.setattr(registry.connection, "run", lose)
    with pytest.raises(RolloutMovedError, match="found others"):
        await experiments.start(plan())


@pytest.mark.parametrize("planted", ["what is this", "[{}]", "7"])
async def test_experiments_that_are_none_of_ours_are_a_named_error(
    registry: ProgramRegistry, experiments: LabelExperiments, client: Redis, planted: str
) -> None:
    client.hset(VERSIONS, "experiments:prod", planted)

    for attempt in (experiments.list(), registry.resolve("qa@prod", "k", 0.0)):
        with pytest.raises(ProgramSpecError, match="restore that key"):
            await attempt
    assert (await registry.get("qa@prod")).version == 1


async def test_redis_away_is_a_named_error_within_its_bound() -> None:
    registry = ProgramRegistry(RedisConnection("redis://127.0.0.1:1/0", timeout_s=0.5))
    unreachable = LabelExperiments(registry, "qa", "prod")

    for attempt in (
        unreachable.start(plan()),
        unreachable.stop("tone"),
        unreachable.list(),
        unreachable.events(),
    ):
        with pytest.raises(StoreUnavailableError, match="is away"):
            await attempt
