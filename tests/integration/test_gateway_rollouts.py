"""Rollouts through the gateway: keys and attributes of predictions, what is said of arms."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from typing import Any

import dspy
import grpc
import pytest

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutRecord, RolloutState, assign
from tests.harness.stage import Stage, fresh, stage
from tests.integration.gateway_clients import Client, connected, first, gateway, grants, http, refusal
from workers.gateway import Gateway

POLICY = '{"stages": [{"share": 0.5, "min_s": 86400}]}'


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("rollouts")) as playing:
        playing.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "temp"})
        yield playing


@pytest.fixture
async def served(play: Stage) -> AsyncGenerator[Gateway]:
    async with gateway(play.url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address) as connected_client:
        yield connected_client


async def refused(call: Any) -> tuple[str, str, list[Any]]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)


async def staged(play: Stage, share: int) -> tuple[str, RolloutRecord]:
    """Return a session with a candidate, and its rollout at a stage that counts from now on."""
    session = fresh("user")
    context = play.fleet.session(session)
    await context.set_variables({"temp": 0.1, "tone": "dry", POLICY_VARIABLE: POLICY})
    await context.set_variables({"temp": 0.9})

    async def begin() -> RolloutRecord:
        record = (await play.fleet.store.head(session)).rollout
        assert record is not None
        after = replace(record.change(RolloutState.RUNNING, stage=1, share=share), since_us=1)
        return await play.fleet.store.step_rollout(session, record, RolloutEvent("stage", after))

    return session, await run_on_home_loop(begin())


async def ended(client: Client, task_id: str) -> pb.Prediction:
    return await client.predictions.Await(pb.AwaitRequest(id=task_id, timeout_s=30), metadata=client.metadata)


async def test_a_prediction_is_assigned_by_its_key_and_says_its_arm(play: Stage, client: Client) -> None:
    session, record = await staged(play, 500_000)
    for user in (f"user-{number}" for number in range(10)):
        sent = await client.submit("qa", session, {"question": fresh("q")}, key=user, attributes_json=b'{"plan":"pro"}')
        provenance = (await ended(client, sent)).provenance
        expected = assign(record, user, 2.0, f"session:{session}")
        assert list(provenance.arms) == [pb.Arm(**expected.encode())]
        assert provenance.token == (record.candidate if expected.arm == "candidate" else record.baseline)


async def test_requests_of_a_batch_keep_their_own_keys(play: Stage, client: Client) -> None:
    session, record = await staged(play, 500_000)
    users = [f"user-{number}" for number in range(12)]
    requests = [
        pb.SubmitRequest(program="qa", session=session, inputs_json=b'{"question": "%d"}' % number, key=user)
        for number, user in enumerate(users)
    ]
    batch = await client.predictions.SubmitBatch(pb.SubmitBatchRequest(requests=requests), metadata=client.metadata)
    for user, submitted in zip(users, batch.submitted, strict=True):
        (arm,) = (await ended(client, submitted.handle.id)).provenance.arms
        assert arm.arm == assign(record, user, 2.0, "").arm


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"key": "x" * 1_025}, "key"),
        ({"attributes_json": b"{"}, "attributes"),
        ({"attributes_json": b"[1]"}, "attributes"),
        ({"attributes_json": b'{"": 1}'}, "attributes"),
        ({"attributes_json": b'{"plan": [1]}'}, "attributes"),
        ({"attributes_json": b'{"plan": "%s"}' % (b"x" * 257)}, "attributes"),
        ({"attributes_json": b'{"plan": 1%s}' % (b"0" * 400)}, "attributes"),
        ({"attributes_json": json.dumps({str(n): n for n in range(33)}).encode()}, "attributes"),
    ],
)
async def test_a_key_or_an_attribute_out_of_bounds_is_refused_by_name(
    client: Client, given: dict[str, Any], field: str
) -> None:
    status, kind, fields = await refused(client.submit("qa", "user-1", {"question": "?"}, **given))
    assert (status, kind, fields[0]) == ("INVALID_ARGUMENT", "MalformedError", field)
    wrong = pb.SubmitRequest(program="qa", session="user-1", inputs_json=b'{"question": "?"}', **given)
    fine = pb.SubmitRequest(program="qa", session="user-1", inputs_json=b'{"question": "?"}', key="user-1")
    request = pb.SubmitBatchRequest(requests=[wrong, fine])
    answer = await client.predictions.SubmitBatch(request, metadata=client.metadata)
    assert [submitted.WhichOneof("outcome") for submitted in answer.submitted] == ["error", "handle"]


async def test_a_policy_is_checked_by_name_and_needs_the_control_scope(play: Stage, client: Client) -> None:
    session = fresh("user")
    policy = {"name": POLICY_VARIABLE, "value": POLICY}
    status, kind, fields = await refused(client.publish(session, **{POLICY_VARIABLE: POLICY}))
    assert (status, kind, fields[1]) == ("PERMISSION_DENIED", "NotGrantedError", "control")
    async with gateway(play.url) as without_tokens, http(without_tokens.http_address, None) as operator:
        publish = f"/v1/sessions/{session}/publish"
        assert (await operator.post(publish, json={"changes": [policy]})).status_code == 200
        shrinking = json.dumps({"stages": [{"share": 0.5}, {"share": 0.1}]})
        for value in (shrinking, "[]", "soon"):
            answer = await operator.post(publish, json={"changes": [{**policy, "value": value}]})
            assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "RolloutPolicyError")
        assert (await operator.post(publish, json={"changes": [{**policy, "value": 3}]})).status_code == 400
        kept = await operator.get(f"/v1/sessions/{session}/variables")
        assert [variable["value"] for variable in kept.json()["variables"]] == [POLICY]
        gone = {"changes": [{"name": POLICY_VARIABLE, "delete": True}]}
        assert (await operator.post(publish, json=gone)).status_code == 200


async def test_a_snapshot_shows_both_arms_and_which_is_which(play: Stage, served: Gateway, client: Client) -> None:
    session, record = await staged(play, 500_000)
    watching = client.variables.Watch(pb.WatchRequest(session=session), metadata=client.metadata)
    (watched,) = await first(watching, 1)
    watching.cancel()
    for snapshot in (await client.get(session), watched):
        assert snapshot.token == record.candidate
        assert snapshot.rollout == pb.Rollout(
            target=f"session:{session}", id=record.id, state=pb.ROLLOUT_STATE_RUNNING, stage=1, share=0.5,
            baseline=record.baseline, candidate=record.candidate, sequence=record.sequence,
        )  # fmt: skip
        assert [(each.name, each.before.value_json, each.after.value_json) for each in snapshot.staged] == [
            ("temp", b"0.1", b"0.9")
        ]
    assert not (await client.get(session, names=["tone"])).staged
    assert not (await client.get(session, exactly=record.baseline)).HasField("rollout")
    async with http(served.http_address) as over_http:
        found = (await over_http.get(f"/v1/sessions/{session}/variables")).json()
    assert (found["rollout"]["state"], found["rollout"]["share"]) == ("running", 0.5)
    assert [(each["name"], each["before"]["value"], each["after"]["value"]) for each in found["staged"]] == [
        ("temp", 0.1, 0.9)
    ]
