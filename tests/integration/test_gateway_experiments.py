"""The service Experiments: start, show and end experiments on sessions and on labels of programs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import dspy
import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from tests.harness.stage import fresh
from tests.integration.gateway_clients import Client, connected, gateway, grants, http, refused
from workers.gateway import Gateway

DENIED = ("PERMISSION_DENIED", "NotGrantedError")


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address) as connected_client:
        yield connected_client


async def two_revisions(client: Client) -> tuple[str, str, str]:
    """Return a session with the tokens of its two revisions."""
    session = fresh("user")
    return session, await client.publish(session, temp=0.1), await client.publish(session, temp=0.9)


def start_request(target: str, first: str, second: str, **fields: Any) -> pb.StartExperimentRequest:
    arms = [pb.ExperimentArm(name=name, weight=0.5, revision=at) for name, at in (("cold", first), ("warm", second))]
    given: dict[str, Any] = {"target": target, "name": "warmth", "arms": arms, **fields}
    return pb.StartExperimentRequest(**given)


async def start(client: Client, *args: str, **fields: Any) -> pb.Experiment:
    return await client.experiments.Start(start_request(*args, **fields), metadata=client.metadata)


async def running(client: Client, target: str) -> list[str]:
    request = pb.ListExperimentsRequest(target=target)
    return [each.name for each in (await client.experiments.List(request, metadata=client.metadata)).experiments]


async def test_an_experiment_is_started_listed_shown_and_decided(client: Client) -> None:
    session, first, second = await two_revisions(client)
    ours, segment = client.with_token("releaser"), {"required": ["plan"]}
    fields: dict[str, Any] = {
        "to_share": 0.25,
        "segment_json": json.dumps(segment).encode(),
        "author": "ann",
        "reason": "which?",
    }
    experiment = await start(ours, session, first, "latest", **fields)
    assert (experiment.target, experiment.name, experiment.state) == (
        f"session:{session}", "warmth", pb.EXPERIMENT_STATE_RUNNING,
    )  # fmt: skip
    assert [(arm.name, arm.weight, arm.revision) for arm in experiment.arms] == [
        ("cold", 0.5, first), ("warm", 0.5, second),
    ]  # fmt: skip
    assert (experiment.from_share, experiment.to_share, json.loads(experiment.segment_json)) == (0, 0.25, segment)
    listed = await ours.experiments.List(pb.ListExperimentsRequest(target=session), metadata=ours.metadata)
    assert list(listed.experiments) == [experiment]
    state = await client.sessions.Get(pb.SessionRequest(session=session), metadata=client.metadata)
    assert list(state.experiments) == [experiment]
    by_name = pb.ShowExperimentRequest(target=session, experiment="warmth")
    report = json.loads((await ours.experiments.Show(by_name, metadata=ours.metadata)).report_json)
    assert {name: arm["predictions"] for name, arm in report["arms"].items()} == {"cold": 0, "warm": 0}
    decision = pb.DecideExperimentRequest(target=session, experiment="warmth", arm="cold", reason="calmer")
    decided = await ours.experiments.Decide(decision, metadata=ours.metadata)
    assert (decided.id, decided.state, decided.winner) == (experiment.id, pb.EXPERIMENT_STATE_DECIDED, "cold")
    assert await client.values(session) == {"temp": 0.1}, "everybody has the winner's variables"
    assert await running(client, session) == []
    shown = await ours.experiments.Show(by_name, metadata=ours.metadata)
    assert shown.experiment == decided, "also once it has ended"
    events = await ours.experiments.Events(pb.ExperimentEventsRequest(target=session), metadata=ours.metadata)
    assert [(each.kind, each.author, each.reason) for each in events.events] == [
        (pb.EXPERIMENT_EVENT_KIND_STARTED, "releaser (says: ann)", "which?"),
        (pb.EXPERIMENT_EVENT_KIND_DECIDED, "releaser", "calmer"),
    ]
    behind = pb.ExperimentEventsRequest(target=session, after=events.events[0].position, limit=1)
    assert list((await ours.experiments.Events(behind, metadata=ours.metadata)).events) == list(events.events[1:])


async def test_an_experiment_ends_without_a_decision(client: Client) -> None:
    session, first, second = await two_revisions(client)
    await start(client, session, first, second)
    stop = pb.StopExperimentRequest(target=session, experiment="warmth", reason="enough")
    stopped = await client.experiments.Stop(stop, metadata=client.metadata)
    assert (stopped.state, stopped.winner) == (pb.EXPERIMENT_STATE_STOPPED, "")
    assert await client.values(session) == {"temp": 0.9}
    found = await refused(client.experiments.Stop(stop, metadata=client.metadata))
    assert found[:2] == ("NOT_FOUND", "ExperimentNotFoundError")


async def test_a_request_under_the_same_id_is_applied_once(client: Client) -> None:
    session, first, second = await two_revisions(client)
    started = [await start(client, session, first, second, request_id="start") for _ in range(2)]
    assert started[0] == started[1]
    other = start(client, session, first, second, request_id="start", reason="another request")
    assert (await refused(other))[1] == "RequestIdConflictError"
    decision = pb.DecideExperimentRequest(
        target=session, experiment="warmth", arm="cold", reason="calmer", request_id=fresh("id")
    )
    decided = [await client.experiments.Decide(decision, metadata=client.metadata) for _ in range(2)]
    assert decided[0] == decided[1]
    events = await client.experiments.Events(pb.ExperimentEventsRequest(target=session), metadata=client.metadata)
    assert len(events.events) == 2


async def test_an_experiment_on_a_programs_label_moves_the_label_and_takes_a_token_for_all(
    client: Client, redis_url: str
) -> None:
    fleet, name = Fleet(redis_url), fresh("qa")
    for output in ("answer", "reply"):
        fleet.register(name, dspy.Predict(f"question -> {output}"))
    fleet.label(name, "prod", 1)
    target = f"{name}@prod"
    experiment = await start(client, target, "1", "2")
    assert experiment.target == f"program:{target}"
    assert [arm.revision.partition(":")[0] for arm in experiment.arms] == ["1", "2"]
    releaser = client.with_token("releaser")
    decision = pb.DecideExperimentRequest(target=target, experiment="warmth", arm="warm", reason="warmer")
    for call in (
        start(releaser, target, "1", "2", name="other"),
        running(releaser, target),
        releaser.experiments.Decide(decision, metadata=releaser.metadata),
    ):
        assert (await refused(call))[:2] == DENIED, "a label is of all sessions"
    await client.experiments.Decide(decision, metadata=client.metadata)
    labelled = await client.programs.Get(pb.GetProgramRequest(reference=target), metadata=client.metadata)
    assert labelled.version == 2


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"name": "1st"}, "name"),
        ({"arms": []}, "arms"),
        ({"arms": [pb.ExperimentArm(name="only", weight=1, revision="latest")]}, "arms"),
        ({"weights": (0.5, 0.4)}, "arms"),
        ({"weights": (1.5, -0.5)}, "arms[0].weight"),
        ({"weights": (float("nan"), 0.5)}, "the whole"),
        ({"weights": (0.3333333, 0.6666667)}, "arms[0].weight"),
        ({"from_share": 0.5, "to_share": 0.5}, "the whole"),
        ({"from_share": 2.0}, "from_share"),
        ({"segment_json": b"[1]"}, "segment"),
        ({"segment_json": b'{"type": 5}'}, "segment"),
        ({"segment_json": b'{"$ref": "#"}'}, "segment"),
        ({"revision": "nothing"}, "arms[0].revision"),
        ({"revision": "1.1"}, "arms[0].revision"),
    ],
)
async def test_what_can_not_be_an_experiment_is_refused_by_name(
    client: Client, fields: dict[str, Any], where: str
) -> None:
    session, first, second = await two_revisions(client)
    request = start_request(session, fields.pop("revision", first), second)
    for arm, weight in zip(request.arms, fields.pop("weights", (0.5, 0.5)), strict=True):
        arm.weight = weight
    if "arms" in fields:
        del request.arms[:]
    request.MergeFrom(pb.StartExperimentRequest(**fields))
    status, kind, found = await refused(client.experiments.Start(request, metadata=client.metadata))
    assert (status, kind, found[1]) == ("INVALID_ARGUMENT", "ExperimentError", where)
    assert await running(client, session) == []


async def test_other_bad_requests_are_refused_and_change_nothing(client: Client) -> None:
    session, first, second = await two_revisions(client)
    broken = start(client, session, first, second, segment_json=b"{")
    assert (await refused(broken))[:2] == ("INVALID_ARGUMENT", "MalformedError")
    assert (await refused(start(client, "nowhere", first, second)))[1] == "SessionNotFoundError"
    assert (await refused(start(client, "program:x", "1", "2")))[1] == "ProgramNotFoundError"
    assert (await refused(start(client, "no@label", "1", "2")))[1] == "ProgramNotFoundError"
    await start(client, session, first, second)
    again = start(client, session, first, second, name="other")
    assert (await refused(again))[:2] == ("FAILED_PRECONDITION", "RolloutOverlapError")
    no_arm = pb.DecideExperimentRequest(target=session, experiment="warmth", arm="hot", reason="warmer")
    assert (await refused(client.experiments.Decide(no_arm, metadata=client.metadata)))[1] == "ExperimentError"
    unknown = pb.ShowExperimentRequest(target=session, experiment="colour")
    assert (await refused(client.experiments.Show(unknown, metadata=client.metadata)))[0] == "NOT_FOUND"
    soon = pb.ExperimentEventsRequest(target=session, after="soon")
    assert (await refused(client.experiments.Events(soon, metadata=client.metadata)))[2][0] == "after"
    assert await running(client, session) == ["warmth"]


async def test_the_release_scope_and_the_session_are_needed_and_control_for_what_steers_the_fleet(
    client: Client,
) -> None:
    session, first, second = await two_revisions(client)
    for token in ("publisher", "reader", "predictor"):
        found = await refused(start(client.with_token(token), session, first, second))
        assert (found[0], found[2][1]) == ("PERMISSION_DENIED", "release")
    assert (await refused(start(client.with_token("releaser"), "other-1", first, second)))[:2] == DENIED
    operator = client.with_token("operator")
    third = await operator.publish(session, **{"dspex.on_refused": "last_good"})
    await start(client, session, third, second)
    decision = pb.DecideExperimentRequest(target=session, experiment="warmth", arm="warm", reason="warmer")
    found = await refused(client.experiments.Decide(decision, metadata=client.metadata))
    assert (found[0], found[2][1]) == ("PERMISSION_DENIED", "control"), "it would take back what steers the fleet"
    assert await running(client, session) == ["warmth"]
    await operator.experiments.Decide(decision, metadata=operator.metadata)
    assert await client.values(session) == {"temp": 0.9}


async def test_the_same_over_http(served: Gateway, client: Client) -> None:
    session = f"{fresh('user')}/a b"
    tokens = [await client.publish(session, temp=value) for value in (0.1, 0.9)]
    names = zip(("cold", "warm"), tokens, strict=True)
    arms = [{"name": name, "weight": 0.5, "revision": token} for name, token in names]
    async with http(served.http_address) as over_http:
        started = await over_http.post("/v1/experiments", json={"target": session, "name": "warmth", "arms": arms})
        assert (started.status_code, started.json()["state"], started.json()["to_share"]) == (200, "running", 1.0)
        listed = (await over_http.get("/v1/experiments", params={"target": session})).json()["experiments"]
        assert listed == [started.json()]
        url = f"/v1/experiments/{started.json()['target']}"
        report = (await over_http.get(f"{url}/warmth/report")).json()
        assert set(report["report"]["arms"]) == {"cold", "warm"}
        assert (await over_http.post(f"{url}/warmth/decide", json={})).status_code == 400
        assert (await over_http.post(f"{url}/warmth/decide", json={"arm": "cold"})).status_code == 400, (
            "without a reason"
        )
        decided = await over_http.post(f"{url}/warmth/decide", json={"arm": "cold", "reason": "calmer"})
        assert decided.json()["winner"] == "cold"
        assert (await over_http.post(f"{url}/warmth/stop", json={"reason": "late"})).status_code == 404
        assert len((await over_http.get(f"{url}/events")).json()["events"]) == 2


async def test_all_that_a_grant_covers_are_listed_without_a_target(client: Client) -> None:
    session, first, second = await two_revisions(client)
    other = fresh("other")
    tokens = [await client.publish(other, temp=value) for value in (0.1, 0.9)]
    for target, revisions in ((session, (first, second)), (other, tokens)):
        await start(client, target, *revisions)
    for token, expected in (("all", {session, other}), ("releaser", {session})):
        ours = client.with_token(token)
        found = await ours.experiments.List(pb.ListExperimentsRequest(), metadata=ours.metadata)
        assert {f"session:{name}" for name in expected} == {each.target for each in found.experiments} & {
            f"session:{name}" for name in (session, other)
        }
