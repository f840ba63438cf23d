"""Experiments of sessions on every store: what runs, what is kept for it, and what it can't run beside."""

from __future__ import annotations

import pytest

from snakepit_bridge.exceptions import (
    RevisionLostError,
    RevisionNotReachedError,
    RolloutMovedError,
    RolloutOverlapError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.rollouts.experiments import Experiment, encode_experiments
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.replica import Replica
from tests.contract.conftest import OpenStore
from tests.contract.sample import declared, state
from tests.contract.test_rollouts import RolloutState, step, with_policy
from tests.harness.waiting import eventually


def experiment(*tokens: Token) -> Experiment:
    arms = [
        {"name": f"arm{number}", "weight": 1 / len(tokens), "revision": str(token)}
        for number, token in enumerate(tokens)
    ]
    return Experiment.model_validate({"name": "tone", "id": "e1", "arms": arms})


async def run(store: SnapshotStore, *tokens: Token, before: str = "") -> str:
    """Start an experiment with these revisions and return the text of what runs."""
    started = experiment(*tokens)
    text = encode_experiments([started])
    await store.change_experiments("s", before, text, ExperimentEvent("started", started, "ann", "try"))
    return text


async def test_what_runs_comes_with_each_read(store: SnapshotStore) -> None:
    tokens = [await store.publish("s", declared(a=number)) for number in (1, 2)]
    have = await store.read("s")
    assert await store.staged_sessions() == {}
    text = await run(store, *tokens)
    assert list(await store.staged_sessions()) == ["s"]
    assert (await store.head("s")).experiments == (await store.read("s")).experiments == text
    again = await store.read("s", have)
    assert (again.experiments, again.is_staged, have.is_staged) == (text, True, False)
    (event,) = await store.experiment_events("s")
    assert (event.kind, event.author, event.reason, event.experiment) == ("started", "ann", "try", experiment(*tokens))


async def test_of_two_changes_of_one_text_one_is_made(store: SnapshotStore) -> None:
    tokens = [await store.publish("s", declared(a=number)) for number in (1, 2)]
    await run(store, *tokens)
    with pytest.raises(RolloutMovedError):
        await run(store, *tokens)
    assert len(await store.experiment_events("s")) == 1


async def test_its_revisions_outlive_the_history_until_it_ends(open_one: OpenStore) -> None:
    store = open_one(retention=2)
    tokens = [await store.publish("s", declared(a=number)) for number in (1, 2)]
    text = await run(store, *tokens)
    for number in range(3, 9):
        await store.publish("s", declared(a=number))
    assert [await state(store, at=token) for token in tokens] == [{"a": 1}, {"a": 2}]
    ended = experiment(*tokens)
    await store.change_experiments("s", text, "", ExperimentEvent("stopped", ended))
    assert await store.staged_sessions() == {}
    with pytest.raises(RevisionLostError):
        await state(store, at=tokens[0])
    assert [event.kind for event in await store.experiment_events("s")] == ["started", "stopped"]


async def test_a_revision_that_can_not_be_read_is_no_arm(open_one: OpenStore) -> None:
    store = open_one(retention=1)
    tokens = [await store.publish("s", declared(a=number)) for number in range(1, 6)]
    with pytest.raises((RevisionLostError, RevisionNotReachedError)):
        await run(store, tokens[0], tokens[4])
    assert (await store.head("s")).experiments == ""


async def test_an_open_rollout_takes_none_beside_it(store: SnapshotStore) -> None:
    first = await with_policy(store, a=1)
    second = await store.publish("s", declared(a=2))
    with pytest.raises(RolloutOverlapError, match="session:s is staged by rollout"):
        await run(store, first, second)
    await step(store, RolloutState.PROMOTED)
    assert await run(store, first, second)


async def test_a_replica_hears_of_what_runs(store: SnapshotStore) -> None:
    tokens = [await store.publish("s", declared(a=number)) for number in (1, 2)]
    replica = Replica(store, watch_lease_s=1.0)
    try:
        await replica.snapshot("s")
        text = await run(store, *tokens)

        async def shown() -> bool:
            return (await replica.snapshot("s")).experiments == text

        await eventually(shown, "the replica to show the experiment")
    finally:
        await replica.aclose()
