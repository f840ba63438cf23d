"""One controller of many works, another one takes over within the lease, and refusals end a rollout at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.lease import Leases
from snakepit_bridge.releases.controller import RolloutController
from snakepit_bridge.releases.counts import StageCountsReader
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.releases.targets import SessionTarget
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutRecord, RolloutState
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.snapshots.acknowledgements import AckReport, Acks
from snakepit_bridge.variables import Variable
from tests.harness.waiting import eventually, within

KEYS = FleetKeys()
LEASE_S = 1.0
POLICY = Variable.declare(POLICY_VARIABLE, json.dumps({"stages": [{"share": 0.1}]}))


class Fleet:
    """A session with a rollout, and as many controllers as a test starts."""

    def __init__(self, url: str) -> None:
        self.connection = RedisConnection(url)
        self.store = RedisStore(url)
        self.acks = Acks(self.connection)
        self.index = RolloutIndex(self.connection, KEYS)
        self.controllers: list[RolloutController] = []

    def start(self) -> RolloutController:
        controller = RolloutController(
            self.index,
            lambda name: SessionTarget(name, self.store, self.acks),
            StageCountsReader(self.connection, KEYS),
            Leases(self.connection, LEASE_S).prepare(KEYS.rollout_lease),
        )
        self.controllers.append(controller)
        controller.start()
        return controller

    async def publish(self, session: str, value: float) -> None:
        await self.store.publish(session, {"a": Variable.declare("a", value)})

    async def begin(self, session: str = "s") -> None:
        await self.store.publish(session, {"a": Variable.declare("a", 1.0), POLICY_VARIABLE: POLICY})
        await self.publish(session, 2.0)
        await self.index.add(f"session:{session}")

    async def shows(self, state: RolloutState, session: str = "s") -> RolloutRecord:
        async def seen() -> RolloutRecord | None:
            record = (await self.store.head(session)).rollout
            return record if record is not None and record.state is state else None

        return await eventually(seen, f"a rollout that is {state}")

    async def leader(self) -> Any:
        return await self.connection.client.get(KEYS.rollout_lease)


@pytest.fixture
async def fleet(redis_url: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(redis_url)
    yield fleet
    for controller in fleet.controllers:
        await controller.aclose()
    for session in await fleet.store.sessions():
        await fleet.store.drop(session)
    await fleet.store.aclose()
    await fleet.connection.aclose()


async def test_of_many_controllers_one_moves_each_rollout_on(fleet: Fleet) -> None:
    for _ in range(4):
        fleet.start()
    for session in ("s", "t", "u"):
        await fleet.begin(session)
    for session in ("s", "t", "u"):
        await fleet.shows(RolloutState.RUNNING, session)
        kinds = [event.kind for event in await fleet.store.rollout_events(session)]
        assert kinds == ["started", "stage"]


async def test_a_controller_that_dies_is_replaced_within_seconds(fleet: Fleet) -> None:
    first = fleet.start()
    await fleet.begin()
    await fleet.shows(RolloutState.RUNNING)
    held_by = await fleet.leader()
    second = fleet.start()
    running = first._running  # pyright: ignore[reportPrivateUsage]
    assert running is not None
    running.cancel()  # without a release, as kill -9 ends it
    await asyncio.wait([running])
    await fleet.begin("t")
    with within(LEASE_S + 4):
        await fleet.shows(RolloutState.RUNNING, "t")
    assert await fleet.leader() not in (None, held_by)
    assert second in fleet.controllers


async def test_one_that_stops_hands_over_at_once(fleet: Fleet) -> None:
    first = fleet.start()
    await fleet.begin()
    await fleet.shows(RolloutState.RUNNING)
    await first.aclose()
    assert await fleet.leader() is None


async def test_a_candidate_that_a_worker_refuses_is_rolled_back(fleet: Fleet) -> None:
    await fleet.begin()
    head = await fleet.store.head("s")
    assert head.rollout is not None
    await fleet.acks.heartbeat("w/1")
    await fleet.acks.report("w/1", {"s": AckReport(head.token, "qa:1: temperature is too hot")})
    fleet.start()
    await fleet.shows(RolloutState.ROLLED_BACK)
    event = (await fleet.store.rollout_events("s"))[-1]
    assert event.reason == "the candidate is refused: w/1: qa:1: temperature is too hot"


async def test_what_was_refused_earlier_says_nothing_of_the_candidate(fleet: Fleet) -> None:
    await fleet.publish("s", 0.0)
    refused = (await fleet.store.head("s")).token
    await fleet.begin()
    await fleet.acks.heartbeat("w/1")
    await fleet.acks.report("w/1", {"s": AckReport(refused, "qa:1: temperature is too hot")})
    fleet.start()
    await fleet.shows(RolloutState.RUNNING)


async def test_the_index_lists_what_was_added_and_not_discarded(fleet: Fleet) -> None:
    assert await fleet.index.list() == []
    for target in ("session:b", "program:qa@prod", "session:b"):
        await fleet.index.add(target)
    assert await fleet.index.list() == ["program:qa@prod", "session:b"]
    await fleet.index.discard("session:b")
    assert await fleet.index.list() == ["program:qa@prod"]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("demo", "session:demo"),
        ("qa@prod", "program:qa@prod"),
        ("session:qa@prod", "session:qa@prod"),
        ("program:qa@prod", "program:qa@prod"),
        ("a b@c", "session:a b@c"),
        ("team:demo", "session:team:demo"),
    ],
)
def test_targets_are_named_as_people_call_them(text: str, canonical: str) -> None:
    assert str(TargetName.parse(text)) == canonical
    assert TargetName.parse(canonical) == TargetName.parse(text)
