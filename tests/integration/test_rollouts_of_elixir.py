"""A session that Elixir owns is staged like any other, and what is rolled back isn't written there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import RolloutPolicyError
from snakepit_bridge.process.aio import cancel_tasks
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.controller import RolloutController
from snakepit_bridge.releases.counts import StageCountsReader
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.releases.report import RolloutReport
from snakepit_bridge.releases.target_opener import TargetOpener
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutState
from snakepit_bridge.snapshots.acknowledgements import Acks
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.waiting import PATIENCE_S, eventually
from workers.refresher import Refresher, RefresherSettings

POLICY = json.dumps({"stages": [{"share": 0.1}, {"share": 0.5}]})
BY_ANN: Any = {"author": "ann", "reason": "because"}
pytestmark = pytest.mark.keeps_keys(r"dspex:\{s:.*\}:rollouts")


@dataclass
class Followed:
    """A session of an Elixir server that a refresher follows, and a controller as a worker runs it."""

    elixir: BridgeServer
    fleet: Fleet

    async def shows(self, state: RolloutState, share: float) -> RolloutReport:
        """Wait until the session's rollout is in a state."""

        async def seen() -> RolloutReport | None:
            await RolloutIndex(self.fleet.connection, FleetKeys()).add("session:s")  # as workers that serve it do
            for staged in await self.fleet.rollouts.aio.list():
                if staged.record.state is state and staged.record.share == round(share * 1e6):
                    return await self.fleet.rollouts.aio.show("s")
            return None

        return await eventually(seen, f"a rollout that is {state}")


@pytest.fixture
async def followed(redis_url: str) -> AsyncGenerator[Followed]:
    with BridgeServer() as elixir:
        elixir.begin("s")
        elixir.register("s", "warmth", "float", 0.2)
        elixir.register("s", POLICY_VARIABLE, "string", POLICY)
        quick: dict[str, Any] = {"poll_s": 0.05, "poll_max_s": 0.1, "settle_s": 0.1, "heartbeat_s": 0.1}
        settings = RefresherSettings(elixir.address, redis_url, sessions=("s",), **quick)
        stop, fleet = asyncio.Event(), Fleet(redis_url, bridge=elixir.address)
        refreshing = asyncio.create_task(Refresher(settings, name="one").run(stop))
        opener = TargetOpener(fleet.store, Acks(fleet.connection), lambda: fleet.registry)
        keys = FleetKeys()
        controller = RolloutController(
            RolloutIndex(fleet.connection, keys), opener, StageCountsReader(fleet.connection, keys)
        )
        controller.start()

        async def is_there() -> bool:
            return "s" in await fleet.store.heads(["s"])

        await eventually(is_there, "the session to be published")
        yield Followed(elixir, fleet)
        await controller.aclose()
        stop.set()
        await asyncio.wait([refreshing], timeout=PATIENCE_S)
        await cancel_tasks(refreshing)
        await fleet.store.aclose()
        await fleet.connection.aclose()


async def test_what_elixir_sets_is_staged_and_a_rollback_leaves_elixir_as_it_is(followed: Followed) -> None:
    followed.elixir.set("s", "warmth", 0.9)
    report = await followed.shows(RolloutState.RUNNING, 0.1)
    assert [(event.kind, event.record.stage) for event in report.events] == [("started", 0), ("stage", 1)]
    await followed.fleet.rollouts.aio.abort("s", **BY_ANN)
    await followed.shows(RolloutState.ROLLED_BACK, 0)
    assert followed.elixir.value("s", "warmth") == 0.9
    snapshot = await followed.fleet.store.read("s")
    assert (snapshot.value("warmth"), snapshot.baseline and snapshot.baseline.value("warmth")) == (0.9, 0.2)


async def test_a_rollout_of_an_elixir_session_starts_in_elixir(followed: Followed) -> None:
    record = await followed.fleet.rollouts.aio.start("s", {"warmth": 0.7}, **BY_ANN)
    assert followed.elixir.value("s", "warmth") == 0.7
    assert (await followed.shows(RolloutState.RUNNING, 0.1)).record.id == record.id


async def test_an_invalid_policy_of_elixirs_leaves_everybody_with_the_baseline(followed: Followed) -> None:
    followed.elixir.set("s", "warmth", 0.9)
    await followed.shows(RolloutState.RUNNING, 0.1)
    followed.elixir.set("s", POLICY_VARIABLE, '{"stages": [{"share": 0.5}, {"share": 0.1}]}')
    report = await followed.shows(RolloutState.PAUSED, 0)
    assert "stages[1].share" in report.problem
    assert "stages[1].share" in report.events[-1].reason
    with pytest.raises(RolloutPolicyError):
        await followed.fleet.rollouts.aio.resume("s", **BY_ANN)
    followed.elixir.set("s", POLICY_VARIABLE, POLICY)

    async def is_mended() -> bool:
        return not (await followed.fleet.rollouts.aio.show("s")).problem

    await eventually(is_mended, "the valid policy to be published")
    await followed.fleet.rollouts.aio.resume("s", **BY_ANN)
    await followed.shows(RolloutState.RUNNING, 0.1)


async def test_a_policy_that_python_sends_to_elixir_is_refused_before(followed: Followed) -> None:
    with pytest.raises(RolloutPolicyError):
        await followed.fleet.session("s").set_variable(POLICY_VARIABLE, "{")
    assert followed.elixir.value("s", POLICY_VARIABLE) == POLICY
