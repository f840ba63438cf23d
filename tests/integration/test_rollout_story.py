"""Elixir sets a harmful temperature: a part of the traffic sees it, its score falls, and the fleet rolls it back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import dspy
import pytest

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.rollouts.records import POLICY_VARIABLE
from snakepit_bridge.testing import BridgeServer
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S
from tests.integration.gateway_clients import Client, connected, gateway
from workers.refresher import Refresher, RefresherSettings

FINE, HARMFUL = 0.2, 1.9
POLICY = json.dumps({
    "stages": [{"share": 0.5, "min_s": 5, "min_predictions": 500}],
    "guards": [{"metric": "score", "name": "helpful", "max_decrease": 0.1}],
})  # fmt: skip


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("story")) as playing:
        playing.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "llm_temperature"})
        yield playing


async def predict(client: Client, session: str, user: str) -> pb.Prediction:
    task_id = await client.submit("qa", session, {"question": fresh("q")}, key=user)
    return await client.predictions.Await(pb.AwaitRequest(id=task_id, timeout_s=30), metadata=client.metadata)


def temperature(prediction: pb.Prediction) -> float:
    return json.loads(prediction.provenance.record_json)["variables"]["llm_temperature"]


async def answer_users(client: Client, session: str, seen: set[float]) -> None:
    """Have users ask, of whom those find an answer helpful that was made at a low temperature."""
    for number in count():
        users = [f"user-{number}-{n}" for n in range(20)]
        predictions = await asyncio.gather(*(predict(client, session, user) for user in users))
        seen.update(map(temperature, predictions))
        scores = [
            pb.ScoreRequest(id=each.id, name="helpful", value_json=b"true" if temperature(each) < 1 else b"false")
            for each in predictions
        ]
        await asyncio.gather(*(client.scores.Score(score, metadata=client.metadata) for score in scores))


async def until_rolled_back(client: Client, session: str) -> list[pb.RolloutEvent]:
    """Return what the watcher of the session's rollout is told until its end, while users ask."""
    seen: set[float] = set()
    traffic = asyncio.create_task(answer_users(client, session, seen))
    try:
        events = []
        watching = client.rollouts.Watch(pb.WatchRolloutRequest(target=session), metadata=client.metadata)
        async with asyncio.timeout(PATIENCE_S):
            async for event in watching:
                events.append(event)
                if event.kind == pb.ROLLOUT_EVENT_KIND_ROLLED_BACK:
                    break
        watching.cancel()
        assert seen == {FINE, HARMFUL}, "a part of the traffic has seen it"
        return events
    finally:
        traffic.cancel()
        await asyncio.gather(traffic, return_exceptions=True)


def check_events(events: list[pb.RolloutEvent]) -> None:
    started, begun, ended = events
    assert (started.kind, begun.kind) == (pb.ROLLOUT_EVENT_KIND_STARTED, pb.ROLLOUT_EVENT_KIND_STAGE)
    assert (ended.author, ended.rollout.state, ended.rollout.share) == ("controller", pb.ROLLOUT_STATE_ROLLED_BACK, 0)
    assert "helpful" in ended.reason
    assert json.loads(ended.detail_json), "the numbers"


async def check_everybody_is_back(client: Client, session: str) -> None:
    """Check that all get the baseline, once every worker knows of it."""
    async with asyncio.timeout(PATIENCE_S):
        while {temperature(await predict(client, session, f"later-{n}")) for n in range(10)} != {FINE}:
            pass


@asynccontextmanager
async def followed(play: Stage, elixir: BridgeServer, session: str) -> AsyncGenerator[Client]:
    """A gateway of a fleet that follows a session of Elixir."""
    settings = RefresherSettings(elixir.address, play.url, sessions=(session,), poll_s=0.05, poll_max_s=0.2)
    stop = asyncio.Event()
    following = asyncio.create_task(Refresher(settings).run(stop))
    try:
        async with gateway(play.url, bridge=elixir.address) as served, connected(served.grpc_address) as client:
            yield client
    finally:
        stop.set()
        await following


async def test_a_harmful_value_that_is_published_through_the_gateway_is_rolled_back(play: Stage) -> None:
    session = fresh("support")
    async with gateway(play.url) as served, connected(served.grpc_address) as client:
        await client.publish(session, **{"llm_temperature": FINE, POLICY_VARIABLE: POLICY})
        candidate = await client.publish(session, llm_temperature=HARMFUL)
        check_events(await until_rolled_back(client, session))
        await check_everybody_is_back(client, session)
        now = await client.get(session)
        assert now.token == candidate, "nothing was published since"
        assert {each.name: each.value_json for each in now.variables}["llm_temperature"] == b"1.9"
        assert (now.rollout.state, now.staged[0].before.value_json) == (pb.ROLLOUT_STATE_ROLLED_BACK, b"0.2")


async def test_a_harmful_value_that_elixir_owns_is_rolled_back_and_stays_as_it_is_there(play: Stage) -> None:
    session = fresh("support")
    with BridgeServer() as elixir:
        elixir.begin(session)
        elixir.register(session, "llm_temperature", "float", FINE)
        elixir.register(session, POLICY_VARIABLE, "string", POLICY)
        async with followed(play, elixir, session) as client:
            await value_in_the_fleet(client, session, FINE)
            elixir.set(session, "llm_temperature", HARMFUL)
            await value_in_the_fleet(client, session, HARMFUL)
            check_events(await until_rolled_back(client, session))
            await check_everybody_is_back(client, session)
            assert elixir.value(session, "llm_temperature") == HARMFUL


async def value_in_the_fleet(client: Client, session: str, value: float) -> None:
    """Wait until the fleet has a value of Elixir."""
    watching: Any = client.variables.Watch(pb.WatchRequest(session=session), metadata=client.metadata)
    async with asyncio.timeout(PATIENCE_S):
        async for snapshot in watching:
            if {each.name: each.value_json for each in snapshot.variables}["llm_temperature"] == str(value).encode():
                break
    watching.cancel()
