"""Rollouts through the gateway: keys and attributes of predictions, what is said of arms, and the service Rollouts."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Any

import dspy
import grpc.aio
import pytest

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutRecord, RolloutState, assign
from tests.harness.stage import Stage, fresh, stage
from tests.integration.gateway_clients import Client, connected, first, gateway, grants, http, refused
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


async def staged(play: Stage, share: int) -> tuple[str, RolloutRecord]:
    """Return a session with a candidate, and its rollout at a stage that counts from now on."""
    session = fresh("user")
    context = play.fleet.session(session)
    await context.set_variables({"temp": 0.1, "tone": "dry", POLICY_VARIABLE: POLICY})
    await context.set_variables({"temp": 0.9})

    async def begin() -> RolloutRecord:
        head = await play.fleet.store.head(session)
        record = head.rollout
        assert record is not None
        after = record.change(RolloutState.RUNNING, stage=1, share=share, since_us=round(head.now * 1e6))
        return await play.fleet.store.step_rollout(session, record, RolloutEvent("stage", after))

    return session, await run_on_home_loop(begin())


async def ended(client: Client, task_id: str) -> pb.Prediction:
    return await client.predictions.Await(pb.AwaitRequest(id=task_id, timeout_s=30), metadata=client.metadata)


async def test_a_prediction_is_assigned_by_its_key_and_says_its_arm(play: Stage, client: Client) -> None:
    session, record = await staged(play, 500_000)
    for user in (f"user-{number}" for number in range(10)):
        sent = await client.submit("qa", session, {"question": fresh("q")}, key=user, attributes_json=b'{"plan":"pro"}')
        provenance = (await ended(client, sent)).provenance
        expected = assign(record, user, math.inf, f"session:{session}")
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
        assert arm.arm == assign(record, user, math.inf, "").arm


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


def step(target: str, reason: str = "look", **fields: Any) -> pb.StepRolloutRequest:
    return pb.StepRolloutRequest(target=target, reason=reason, **fields)


async def started(client: Client, **fields: Any) -> tuple[str, pb.Rollout]:
    """Return a session, and its rollout once the first stage has begun."""
    session = fresh("user")
    await client.publish(session, temp=0.1, tone="dry")
    request = pb.StartRolloutRequest(
        target=session, values_json=b'{"temp": 0.9}', policy_json=POLICY.encode(), **fields
    )
    rollout = await client.rollouts.Start(request, metadata=client.metadata)
    watching = client.rollouts.Watch(pb.WatchRolloutRequest(target=session), metadata=client.metadata)
    begun = (await first(watching, 2))[-1]
    watching.cancel()
    assert (begun.kind, begun.rollout.id) == (pb.ROLLOUT_EVENT_KIND_STAGE, rollout.id)
    return session, begun.rollout


async def test_a_rollout_is_started_shown_steered_and_watched(client: Client) -> None:
    ours = client.with_token("releaser")
    session, begun = await started(client, author="ann", reason="warmer answers")
    target = f"session:{session}"
    assert (begun.target, begun.stage, begun.share) == (target, 1, 0.5)
    report = await ours.rollouts.Show(pb.ShowRolloutRequest(target=session), metadata=ours.metadata)
    shown = json.loads(report.report_json)
    assert (report.rollout.id, shown["rollout"]["state"], shown["arms"]["candidate"]["predictions"]) == (
        begun.id, "running", 0,
    )  # fmt: skip
    with_looks = pb.ShowRolloutRequest(target=session, looks=10)
    report = await ours.rollouts.Show(with_looks, metadata=ours.metadata)
    assert ("looks" in shown, type(json.loads(report.report_json)["looks"])) == (False, list)
    with pytest.raises(grpc.aio.AioRpcError, match="0 to 600; got 601"):
        await ours.rollouts.Show(pb.ShowRolloutRequest(target=session, looks=601), metadata=ours.metadata)
    listed = await ours.rollouts.List(pb.ListRolloutsRequest(), metadata=ours.metadata)
    assert begun.id in {rollout.id for rollout in listed.rollouts}

    steps = (ours.rollouts.Pause, ours.rollouts.Resume, ours.rollouts.Abort)
    states = [(await call(step(target, author="bob"), metadata=ours.metadata)).state for call in steps]
    assert states == [pb.ROLLOUT_STATE_PAUSED, pb.ROLLOUT_STATE_RUNNING, pb.ROLLOUT_STATE_ROLLED_BACK]
    watching = ours.rollouts.Watch(pb.WatchRolloutRequest(target=session), metadata=ours.metadata)
    events = await first(watching, 5)
    watching.cancel()
    assert [pb.RolloutEventKind.Name(event.kind)[19:] for event in events] == [
        "STARTED", "STAGE", "PAUSED", "RESUMED", "ROLLED_BACK",
    ]  # fmt: skip
    assert [event.author for event in events] == [
        "all (says: ann)", "controller", *["releaser (says: bob)"] * 3
    ]  # fmt: skip
    assert (events[0].reason, events[-1].reason, events[-1].rollout.share) == ("warmer answers", "look", 0.0)
    later = pb.WatchRolloutRequest(target=session, after=events[-2].position)
    watching = ours.rollouts.Watch(later, metadata=ours.metadata)
    assert await first(watching, 1) == events[-1:]
    watching.cancel()
    status, kind, _ = await refused(ours.rollouts.Pause(step(session), metadata=ours.metadata))
    assert (status, kind) == ("FAILED_PRECONDITION", "RolloutStateError")


async def test_a_step_under_the_same_request_id_is_taken_once(client: Client) -> None:
    session, begun = await started(client)
    once = step(session, "enough", request_id=fresh("id"))
    advanced = [await client.rollouts.Advance(once, metadata=client.metadata) for _ in range(3)]
    assert [(rollout.state, rollout.sequence) for rollout in advanced] == [
        (pb.ROLLOUT_STATE_PROMOTED, begun.sequence + 1)
    ] * 3  # fmt: skip
    other = step(session, "other", request_id=once.request_id)
    assert (await refused(client.rollouts.Advance(other, metadata=client.metadata)))[1] == "RequestIdConflictError"
    start = pb.StartRolloutRequest(target=session, values_json=b'{"temp": 0.5}', request_id=fresh("id"))
    first_try, second_try = [await client.rollouts.Start(start, metadata=client.metadata) for _ in range(2)]
    assert first_try.id == second_try.id != begun.id


async def test_a_programs_label_is_staged(play: Stage, client: Client) -> None:
    for warmth in (0.1, 0.2):
        play.fleet.register("staged", dspy.Predict("question -> answer"), bindings={"max_tokens": f"tokens{warmth}"})
    play.fleet.label("staged", "prod", 1)
    request = pb.StartRolloutRequest(target="staged@prod", version=2, author="ann", reason="longer")
    rollout = await client.rollouts.Start(request, metadata=client.metadata)
    assert (rollout.target, rollout.candidate.partition(":")[0]) == ("program:staged@prod", "2")
    releaser = client.with_token("releaser")
    for call in (
        releaser.rollouts.Abort(step("staged@prod"), metadata=releaser.metadata),
        releaser.rollouts.Show(pb.ShowRolloutRequest(target="program:staged@prod"), metadata=releaser.metadata),
    ):
        assert (await refused(call))[1] == "NotGrantedError", "a label is of all sessions"
    listed = await releaser.rollouts.List(pb.ListRolloutsRequest(), metadata=releaser.metadata)
    assert rollout.target not in {each.target for each in listed.rollouts}
    await client.rollouts.Abort(step("staged@prod"), metadata=client.metadata)


async def test_the_release_scope_and_the_session_are_needed_and_admin_implies_the_scope(client: Client) -> None:
    assert (await client.rollouts.List(pb.ListRolloutsRequest(), metadata=client.metadata)) is not None, "by admin"
    for token in ("publisher", "reader", "predictor"):
        caller = client.with_token(token)
        call = caller.rollouts.List(pb.ListRolloutsRequest(), metadata=caller.metadata)
        status, kind, fields = await refused(call)
        assert (status, kind, fields[1]) == ("PERMISSION_DENIED", "NotGrantedError", "release")
    caller = client.with_token("releaser")
    for target in ("other-1", "dspex.limits"):
        request = pb.StartRolloutRequest(target=target, values_json=b'{"a": 1}')
        assert (await refused(caller.rollouts.Start(request, metadata=caller.metadata)))[1] == "NotGrantedError"
    request = pb.StartRolloutRequest(target="user-1", values_json=b'{"dspex.on_refused": "fail"}')
    status, kind, fields = await refused(caller.rollouts.Start(request, metadata=caller.metadata))
    assert (status, fields[1]) == ("PERMISSION_DENIED", "control")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "MalformedError"),
        ({"version": 2}, "RolloutCandidateError"),
        ({"values_json": b"[1]"}, "MalformedError"),
        ({"values_json": b"{"}, "MalformedError"),
        ({"values_json": b'{"temp": 0.1}'}, "RolloutCandidateError"),
        ({"values_json": b'{"temp": 0.2}', "policy_json": b'{"stages": [{"share": 2}]}'}, "RolloutPolicyError"),
        ({"values_json": b'{"temp": 0.2}', "policy_json": b"{"}, "MalformedError"),
    ],
)
async def test_what_can_not_be_rolled_out_is_refused_by_name(client: Client, fields: dict[str, Any], kind: str) -> None:
    session = fresh("user")
    token = await client.publish(session, temp=0.1)
    request = pb.StartRolloutRequest(target=session, **fields)
    assert (await refused(client.rollouts.Start(request, metadata=client.metadata)))[:2] == ("INVALID_ARGUMENT", kind)
    assert (await client.get(session)).token == token


async def test_a_step_needs_a_reason_and_a_position_is_one(client: Client) -> None:
    session, _ = await started(client)
    assert (await refused(client.rollouts.Abort(step(session, " "), metadata=client.metadata)))[2][0] == "reason"
    watching = client.rollouts.Watch(pb.WatchRolloutRequest(target=session, after="soon"), metadata=client.metadata)
    assert (await refused(first(watching, 1)))[2][0] == "after"
    overlapping = pb.StartRolloutRequest(target=session, values_json=b'{"temp": 0.5}')
    status, kind, _ = await refused(client.rollouts.Start(overlapping, metadata=client.metadata))
    assert (status, kind) == ("FAILED_PRECONDITION", "RolloutOverlapError")


async def test_a_rollback_reaches_everybody_at_once(client: Client) -> None:
    session = fresh("user")
    oldest = await client.publish(session, temp=0.3)
    await client.publish(session, temp=0.1)
    request = pb.StartRolloutRequest(target=session, values_json=b'{"temp": 0.9}', policy_json=POLICY.encode())
    await client.rollouts.Start(request, metadata=client.metadata)
    back = pb.RollbackRequest(session=session, to=oldest, reason="as it was")
    await client.variables.Rollback(back, metadata=client.metadata)
    found = await client.get(session)
    assert not found.HasField("rollout")
    assert {each.name: each.value_json for each in found.variables}["temp"] == b"0.3"


@pytest.mark.parametrize("to", ["candidate", "baseline"])
async def test_a_rollback_to_what_is_tried_takes_the_scope_of_releases(play: Stage, client: Client, to: str) -> None:
    session, record = await staged(play, 500_000)
    publisher = client.with_token("publisher")
    back = pb.RollbackRequest(session=session, to=getattr(record, to), reason="for everybody")
    if to == "candidate":
        found = await refused(publisher.variables.Rollback(back, metadata=publisher.metadata))
        assert found[:2] == ("PERMISSION_DENIED", "NotGrantedError")
        still = (await play.fleet.store.head(session)).rollout
        assert still is not None
        assert (still.id, still.is_open) == (record.id, True), "nothing was promoted"
    else:
        await publisher.variables.Rollback(back, metadata=publisher.metadata)
        assert (await play.fleet.store.read_at(session, "latest")).value("temp") == 0.1


async def test_the_same_over_http(served: Gateway, client: Client) -> None:
    session = f"{fresh('user')}/a b"
    await client.publish(session, temp=0.1)
    async with http(served.http_address) as over_http:
        body = {"target": session, "values": {"temp": 0.9}, "policy": json.loads(POLICY), "reason": "warmer"}
        rollout = (await over_http.post("/v1/rollouts", json=body)).json()
        assert (rollout["state"], rollout["target"]) == ("new", f"session:{session}")
        url = f"/v1/rollouts/{rollout['target']}"
        async with over_http.stream("GET", f"{url}/watch") as stream:
            lines = [line async for line in until(stream.aiter_lines(), '"kind":"stage"')]
        assert json.loads(lines[1].removeprefix("data: "))["kind"] == "started"
        assert lines[0].startswith("id: ")
        assert (await over_http.get(f"{url}/report")).json()["report"]["rollout"]["id"] == rollout["id"]
        aborted = await over_http.post(f"{url}/abort", json={"reason": "not now"})
        assert (aborted.status_code, aborted.json()["state"]) == (200, "rolled_back")
        again = await over_http.post(f"{url}/abort", json={"reason": "not now"})
        assert (again.status_code, again.json()["error"]["kind"]) == (409, "RolloutStateError")
        assert (await over_http.post(f"{url}/abort", json={})).status_code == 400
        for target, expected in (("nosuch", 404), ("nosuch@prod", 404), ("n" * 600, 400)):
            assert (await over_http.get(f"/v1/rollouts/{target}/report")).status_code == expected
        listed = (await over_http.get("/v1/rollouts")).json()["rollouts"]
        assert rollout["id"] in {each["id"] for each in listed}


async def until(lines: AsyncIterator[str], part: str) -> AsyncGenerator[str]:
    """Yield lines up to the first one that has a part."""
    async for line in lines:
        yield line
        if part in line:
            return
