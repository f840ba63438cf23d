"""The service Sessions: where sessions stand, who applies them, and their labels, checks and retention."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import open_store
from snakepit_bridge.snapshots.acknowledgements import AckReport, Acks
from tests.integration.gateway_clients import Client, connected, gateway, grants, http, refused
from workers.gateway import Gateway

DENIED = ("PERMISSION_DENIED", "NotGrantedError")
COLD = b'{"properties": {"temp": {"maximum": 1}}}'


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address, "operator") as connected_client:
        yield connected_client


@pytest.fixture
async def acks(redis_url: str) -> AsyncGenerator[Acks]:
    connection = RedisConnection(redis_url)
    yield Acks(connection)
    await connection.aclose()


async def apply(acks: Acks, process: str, session: str, token: str, error: str = "") -> None:
    """Report a revision as a live worker process does."""
    await acks.heartbeat(process)
    await acks.report(process, {session: AckReport(Token.parse(token), error)})


async def listed(client: Client, **fields: Any) -> pb.ListSessionsResponse:
    return await client.sessions.List(pb.ListSessionsRequest(**fields), metadata=client.metadata)


async def test_sessions_are_listed_in_pages_by_prefix_as_far_as_the_token_covers_them(client: Client) -> None:
    names = [f"user-{number}" for number in range(5)]
    for name in (*names, "other-1"):
        await client.publish(name, temp=0.1)
    found, page_token = list[str](), ""
    while True:
        page = await listed(client, prefix="user-", page_size=2, page_token=page_token)
        found += [session.name for session in page.sessions]
        assert len(page.sessions) <= 2
        if not (page_token := page.next_page_token):
            break
    assert found == names
    assert [each.name for each in (await listed(client)).sessions] == ["other-1", *names]
    assert [each.name for each in (await listed(client.with_token("other"))).sessions] == ["other-1"]
    assert (await refused(listed(client.with_token("predictor"))))[:2] == DENIED


async def test_a_session_that_was_dropped_is_not_listed(client: Client, redis_url: str) -> None:
    await client.publish("gone", temp=0.1)
    await client.publish("here", temp=0.1)
    store = open_store(redis_url)
    await store.drop("gone")
    await store.aclose()
    assert [each.name for each in (await listed(client)).sessions] == ["here"]


async def test_a_session_shows_where_it_stands_and_which_process_applies_it(client: Client, acks: Acks) -> None:
    first, second = [await client.publish("user-1", temp=value) for value in (0.1, 0.2)]
    await apply(acks, "worker@a 1", "user-1", second)
    await apply(acks, "worker@b 2", "user-1", first, "temp is refused")
    found = await client.sessions.Get(pb.SessionRequest(session="user-1"), metadata=client.metadata)
    assert (found.name, found.token, found.authority, found.staleness_s) == ("user-1", second, "store", 0.0)
    assert [(each.process, each.token, each.error) for each in found.acknowledgements] == [
        ("worker@a 1", second, ""), ("worker@b 2", first, "temp is refused"),
    ]  # fmt: skip
    assert (await listed(client)).sessions[0].acknowledgements == found.acknowledgements
    missing = client.sessions.Get(pb.SessionRequest(session="nowhere"), metadata=client.metadata)
    assert (await refused(missing))[:2] == ("NOT_FOUND", "SessionNotFoundError")


async def test_a_label_is_set_moved_listed_and_removed(client: Client) -> None:
    first, second = [await client.publish("user-1", temp=value) for value in (0.1, 0.2)]

    async def set_label(**fields: Any) -> pb.Label:
        request = pb.SetLabelRequest(session="user-1", label="stable", **fields)
        return await client.sessions.SetLabel(request, metadata=client.metadata)

    label = await set_label(at=first, author="ann", reason="it was good")
    assert (label.name, label.token, label.author, label.reason) == (
        "stable", first, "operator (says: ann)", "it was good",
    )  # fmt: skip
    assert (await refused(set_label(expected=second)))[:2] == ("ABORTED", "LabelMovedError")
    assert (await set_label(expected=first)).token == second, "the newest revision where none is named"
    by_label = await client.sessions.SetLabel(
        pb.SetLabelRequest(session="user-1", label="live", at="stable"), metadata=client.metadata
    )
    assert by_label.token == second
    labels = await client.sessions.ListLabels(pb.SessionRequest(session="user-1"), metadata=client.metadata)
    assert [(each.name, each.token) for each in labels.labels] == [("live", second), ("stable", second)]
    for _ in range(2):
        gone = pb.RemoveLabelRequest(session="user-1", label="live")
        assert await client.sessions.RemoveLabel(gone, metadata=client.metadata) == pb.RemoveLabelResponse()
    labels = await client.sessions.ListLabels(pb.SessionRequest(session="user-1"), metadata=client.metadata)
    assert [each.name for each in labels.labels] == ["stable"]


async def test_a_promotion_waits_for_every_process_and_names_the_one_that_refuses(client: Client, acks: Acks) -> None:
    first, second = [await client.publish("user-1", temp=value) for value in (0.1, 0.2)]

    async def promote(wait_s: float, at: str = "") -> pb.Label:
        request = pb.PromoteRequest(session="user-1", label="stable", at=at, wait_s=wait_s, author="ann")
        return await client.sessions.Promote(request, metadata=client.metadata)

    status, kind, fields = await refused(promote(0))
    assert (status, kind) == ("FAILED_PRECONDITION", "RevisionNotAppliedError")
    assert "no worker process holds the session" in fields[2]
    await apply(acks, "worker@a 1", "user-1", first)
    promoting = asyncio.create_task(promote(20))
    await apply(acks, "worker@a 1", "user-1", second)
    label = await promoting
    assert (label.token, label.author, label.reason) == (second, "operator (says: ann)", "promoted")
    await apply(acks, "worker@a 1", "user-1", second, "temp is refused")
    assert "temp is refused" in (await refused(promote(20, at=second)))[2][2]
    for label in ("", "latest", "a b"):
        request = pb.PromoteRequest(session="user-1", label=label, wait_s=20)
        status, _, _ = await refused(client.sessions.Promote(request, metadata=client.metadata))
        assert status == "INVALID_ARGUMENT", "before it waits"


async def test_two_revisions_differ_in_variables_with_both_sides(client: Client) -> None:
    first = await client.publish("user-1", temp=0.1, tone="dry")
    await client.publish("user-1", temp=0.2)
    await client.publish("user-1", more=1)
    found = await client.variables.Diff(pb.DiffRequest(session="user-1", before=first), metadata=client.metadata)
    sides = [(each.name, each.before.value_json, each.after.value_json) for each in found.changes]
    assert sides == [("more", b"", b"1"), ("temp", b"0.1", b"0.2")]
    assert not found.changes[0].HasField("before")
    same = pb.DiffRequest(session="user-1", before=first, after=first)
    assert not (await client.variables.Diff(same, metadata=client.metadata)).changes


async def test_checks_are_declared_enforced_listed_and_removed(client: Client) -> None:
    async def declare(**fields: Any) -> pb.ListChecksResponse:
        return await client.sessions.DeclareChecks(
            pb.DeclareChecksRequest(session="user-1", **fields), metadata=client.metadata
        )

    declared = await declare(checks=[pb.Check(name="cold", schema_json=COLD)])
    assert [(each.name, json.loads(each.schema_json)) for each in declared.checks] == [("cold", json.loads(COLD))]
    assert (await refused(client.publish("user-1", temp=2)))[:2] == ("INVALID_ARGUMENT", "CheckFailedError")
    await client.publish("user-1", temp=1)
    colder = pb.Check(name="colder", schema_json=b'{"properties": {"temp": {"maximum": 0}}}')
    assert (await refused(declare(checks=[colder])))[1] == "CheckFailedError", "the present state fails it"
    unknown = pb.Check(name="low", function="nobody registered it")
    assert (await refused(declare(checks=[unknown], remove=["cold"])))[1] == "CheckFailedError"
    listed_checks = await client.sessions.ListChecks(pb.SessionRequest(session="user-1"), metadata=client.metadata)
    assert listed_checks == declared, "all or none of them"
    assert not (await declare(remove=["cold"])).checks
    await client.publish("user-1", temp=2)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"checks": [pb.Check(name="x")]},
        {"checks": [pb.Check(name="x", schema_json=b"{")]},
        {"checks": [pb.Check(name="x", schema_json=b"[1]")]},
        {"checks": [pb.Check(name="x", schema_json=b'{"type": 5}')]},
        {"checks": [pb.Check(name="x", schema_json=b'{"pattern": "(a+)+$"}')], "remove": ["x"]},
        {"checks": [pb.Check(schema_json=b"{}")]},
        {"remove": ["x", "x"]},
    ],
)
async def test_what_can_not_be_a_check_is_refused(client: Client, fields: dict[str, Any]) -> None:
    await client.publish("user-1", temp=0.1)
    request = pb.DeclareChecksRequest(session="user-1", **fields)
    found = await refused(client.sessions.DeclareChecks(request, metadata=client.metadata))
    assert found[:2] == ("INVALID_ARGUMENT", "MalformedError")
    checks = await client.sessions.ListChecks(pb.SessionRequest(session="user-1"), metadata=client.metadata)
    assert not checks.checks


async def test_a_check_that_refers_to_itself_fails_instead_of_running_for_ever(client: Client) -> None:
    await client.publish("user-1", temp=0.1)
    endless = pb.Check(name="x", schema_json=b'{"$ref": "#"}')
    request = pb.DeclareChecksRequest(session="user-1", checks=[endless])
    status, _, _ = await refused(client.sessions.DeclareChecks(request, metadata=client.metadata))
    assert status == "INVALID_ARGUMENT"


async def test_the_retention_is_set_and_the_default_restored(client: Client) -> None:
    tokens = [await client.publish("user-1", temp=number) for number in range(5)]

    async def retain(**fields: Any) -> pb.Retention:
        return await client.sessions.SetRetention(
            pb.SetRetentionRequest(session="user-1", **fields), metadata=client.metadata
        )

    by_name = pb.SessionRequest(session="user-1")
    default = await client.sessions.GetRetention(by_name, metadata=client.metadata)
    assert (default.revisions, default.is_default, default.HasField("age_s")) == (1_000, True, False)
    kept = await retain(revisions=2, ttl_s=3_600)
    assert (kept.revisions, kept.ttl_s, kept.is_default, kept.HasField("age_s")) == (2, 3_600.0, False, False)
    assert await client.sessions.GetRetention(by_name, metadata=client.metadata) == kept
    assert (await refused(client.get("user-1", exactly=tokens[0])))[:2] == ("OUT_OF_RANGE", "RevisionLostError")
    assert await retain() == default
    for bad in ({"age_s": 0.0}, {"ttl_s": -1.0}, {"ttl_s": float("nan")}, {"age_s": 1e10}):
        assert (await refused(retain(**bad)))[0] == "INVALID_ARGUMENT"
    assert await client.sessions.GetRetention(by_name, metadata=client.metadata) == default


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"label": ""}, "MalformedError"),
        ({"label": "latest"}, "MalformedError"),
        ({"label": "a b"}, "MalformedError"),
        ({"label": "x" * 65}, "MalformedError"),
        ({"label": "x", "expected": "soon"}, "MalformedError"),
        ({"label": "x", "at": "1.x"}, "MalformedError"),
        ({"label": "x", "at": "nothing"}, "LabelNotFoundError"),
        ({"label": "x", "at": "9999999999999999.1"}, "RevisionNotReachedError"),
    ],
)
async def test_what_can_not_be_a_label_is_refused(client: Client, fields: dict[str, Any], kind: str) -> None:
    await client.publish("user-1", temp=0.1)
    request = pb.SetLabelRequest(session="user-1", **fields)
    assert (await refused(client.sessions.SetLabel(request, metadata=client.metadata)))[1] == kind
    labels = await client.sessions.ListLabels(pb.SessionRequest(session="user-1"), metadata=client.metadata)
    assert not labels.labels


async def test_what_changes_a_session_takes_its_scope_and_the_session(client: Client) -> None:
    await client.publish("user-1", temp=0.1)
    await client.publish("dspex.fleet", n=1)
    label, session = pb.SetLabelRequest(session="user-1", label="x"), pb.SessionRequest(session="user-1")
    publisher, releaser, other = map(client.with_token, ("publisher", "releaser", "other"))
    for scope, caller, calls in (
        (
            "release",
            publisher,
            (
                (publisher.sessions.SetLabel, label),
                (publisher.sessions.RemoveLabel, pb.RemoveLabelRequest(session="user-1", label="x")),
                (publisher.sessions.Promote, pb.PromoteRequest(session="user-1", label="x")),
            ),
        ),
        ("read", releaser, ((releaser.sessions.Get, session), (releaser.sessions.ListLabels, session))),
        (
            "control",
            releaser,
            (
                (releaser.sessions.DeclareChecks, pb.DeclareChecksRequest(session="user-1", remove=["x"])),
                (releaser.sessions.SetRetention, pb.SetRetentionRequest(session="user-1")),
            ),
        ),
    ):
        for stub, request in calls:
            status, _, fields = await refused(stub(request, metadata=caller.metadata))
            assert (status, fields[1]) == ("PERMISSION_DENIED", scope)
    assert (await refused(other.sessions.Get(session, metadata=other.metadata)))[:2] == DENIED
    everything = client.with_token("all")
    of_the_fleet = pb.SetLabelRequest(session="dspex.fleet", label="x")
    found = await refused(everything.sessions.SetLabel(of_the_fleet, metadata=everything.metadata))
    assert found[:2] == DENIED, "what steers the fleet takes the control scope"
    assert await client.sessions.SetLabel(of_the_fleet, metadata=client.metadata)


async def test_the_same_over_http(served: Gateway) -> None:
    session = "user-1/a b"
    async with http(served.http_address, "operator") as over_http:
        url = f"/v1/sessions/{session}"
        published = await over_http.post(f"{url}/publish", json={"changes": [{"name": "temp", "value": 0.5}]})
        token = published.json()["token"]
        found = (await over_http.get("/v1/sessions", params={"prefix": "user-"})).json()
        assert [(each["name"], each["token"]) for each in found["sessions"]] == [(session, token)]
        assert (await over_http.get(f"{url}/state")).json()["acknowledgements"] == []
        label = await over_http.post(f"{url}/labels", json={"label": "stable", "reason": "good"})
        assert (label.status_code, label.json()["token"]) == (200, token)
        assert (await over_http.post(f"{url}/labels", json={})).status_code == 400
        assert (await over_http.get(f"{url}/diff", params={"before": "stable"})).json() == {"changes": []}
        promoted = await over_http.post(f"{url}/labels/stable/promote", json={"wait_s": 0})
        assert (promoted.status_code, promoted.json()["error"]["kind"]) == (409, "RevisionNotAppliedError")
        assert (await over_http.post(f"{url}/labels/stable/remove")).json() == {}
        assert (await over_http.get(f"{url}/labels")).json() == {"labels": []}
        checks = {"checks": [{"name": "cold", "schema": json.loads(COLD)}]}
        assert (await over_http.post(f"{url}/checks", json=checks)).json() == checks
        assert (await over_http.get(f"{url}/checks")).json() == checks
        both = {"checks": [{"name": "cold", "schema": {}, "function": "f"}]}
        assert (await over_http.post(f"{url}/checks", json=both)).status_code == 400
        kept = await over_http.post(f"{url}/retention", json={"revisions": 7})
        assert kept.json() == {"revisions": 7, "is_default": False}
        assert (await over_http.post(f"{url}/retention")).json()["is_default"] is True
