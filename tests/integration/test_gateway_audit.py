"""The services Audit, Protections and Approvals: the token's name counts, whatever a client declares."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from tests.harness.waiting import eventually
from tests.integration.gateway_clients import Client, connected, gateway, http, refused
from workers.gateway import Gateway, Grants, hash_token

TOKENS = {
    "ops": "publish read admin",
    "lead": "read approve",
    "auditor": "audit",
    "app": "publish read",
}


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    tables = [
        f"[tokens.{name}]\nsha256 = '{hash_token(name)}'\nscopes = {scopes.split()}\nsessions = ['*']\n"
        for name, scopes in TOKENS.items()
    ]
    async with gateway(redis_url, grants=Grants.parse("\n".join(tables))) as running:
        yield running


@pytest.fixture
async def ops(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address, "ops") as client:
        yield client


async def audited(client: Client, **chosen: Any) -> list[pb.AuditEntry]:
    caller = client.with_token("auditor")
    found = await caller.audit.List(pb.ListAuditRequest(**chosen), metadata=caller.metadata)
    return list(found.entries)


async def approve(client: Client, token: str, id: str, author: str = "") -> pb.Approval:
    caller = client.with_token(token)
    return await caller.approvals.Approve(pb.ApproveRequest(id=id, author=author), metadata=caller.metadata)


async def test_a_change_is_requested_by_one_token_and_approved_by_another(ops: Client) -> None:
    await ops.publish("prod", price=1)
    await ops.protections.Protect(pb.ProtectRequest(kind="session", pattern="prod"), metadata=ops.metadata)
    status, kind, fields = await refused(ops.publish("prod", price=2))
    assert (status, kind, fields[1]) == ("FAILED_PRECONDITION", "ApprovalRequiredError", "session:prod")
    [waiting] = (await ops.approvals.List(pb.ListApprovalsRequest(), metadata=ops.metadata)).requests
    assert (waiting.id, waiting.author, waiting.arguments_json) == (fields[0], "ops", b"")
    shown = await ops.approvals.Get(pb.ApprovalRequestRequest(id=waiting.id), metadata=ops.metadata)
    assert b'"price"' in shown.arguments_json
    # Whatever it says besides, a token is one person.
    status, kind, _ = await refused(approve(ops, "ops", waiting.id, "ben"))
    assert (status, kind) == ("PERMISSION_DENIED", "ApprovalError")
    status, kind, _ = await refused(approve(ops, "app", waiting.id))
    assert (status, kind) == ("PERMISSION_DENIED", "NotGrantedError")
    done = await approve(ops, "lead", waiting.id)
    assert done.applied
    answer = await ops.variables.Get(pb.GetVariablesRequest(session="prod"), metadata=ops.metadata)
    assert (answer.token, answer.variables[0].value_json) == (done.result, b"2")
    assert (await refused(approve(ops, "lead", waiting.id)))[:2] == ("NOT_FOUND", "ApprovalNotFoundError")
    found = await audited(ops, of_session="prod", limit=3)
    assert [(e.action, e.actor, e.source, e.outcome, list(e.approvers)) for e in found] == [
        ("publish", "ops", "gateway", "done", ["lead"]),
        ("approve", "lead", "gateway", "done", ["lead"]),
        ("publish", "ops", "gateway", "requested", []),
    ]


async def test_a_rollback_waits_as_a_rollback_and_an_outdated_one_is_withdrawn(ops: Client) -> None:
    first = await ops.publish("prod", price=1)
    await ops.publish("prod", price=2)
    await ops.protections.Protect(pb.ProtectRequest(kind="session", pattern="pr*"), metadata=ops.metadata)
    _, _, (back, *_) = await refused(
        ops.variables.Rollback(pb.RollbackRequest(session="prod", to=first), metadata=ops.metadata)
    )
    _, _, (other, *_) = await refused(ops.publish("prod", price=3))
    assert (await approve(ops, "lead", back)).applied
    status, kind, _ = await refused(approve(ops, "lead", other))
    assert (status, kind) == ("ABORTED", "ApprovalOutdatedError")
    actions = [entry.action for entry in await audited(ops, of_session="prod", outcome="done")]
    assert actions.count("rollback") == 1
    _, _, (third, *_) = await refused(ops.publish("prod", price=4))
    lead = ops.with_token("lead")
    rejected = await lead.approvals.Reject(pb.RejectRequest(id=third, reason="no"), metadata=lead.metadata)
    assert rejected.id == third


async def test_a_label_is_protected_too_and_rules_are_kept_by_administrators(ops: Client) -> None:
    await ops.publish("shop", price=1)
    app = ops.with_token("app")
    rule = pb.ProtectRequest(kind="label", pattern="stable", approvals=2)
    assert (await refused(app.protections.Protect(rule, metadata=app.metadata)))[0] == "PERMISSION_DENIED"
    assert (await ops.protections.Protect(rule, metadata=ops.metadata)).approvals == 2
    [found] = (await app.protections.List(pb.ListProtectionsRequest(), metadata=app.metadata)).protections
    assert (found.kind, found.pattern, found.author) == ("label", "stable", "ops")
    label = pb.SetLabelRequest(session="shop", label="stable")
    _, kind, fields = await refused(ops.sessions.SetLabel(label, metadata=ops.metadata))
    assert (kind, fields[1:]) == ("ApprovalRequiredError", ["session:shop@stable", "label:stable", 2])
    gone = pb.UnprotectRequest(kind="label", pattern="stable")
    _, kind, _ = await refused(ops.protections.Unprotect(gone, metadata=ops.metadata))
    assert kind == "ApprovalRequiredError"
    bad = pb.ProtectRequest(kind="program", pattern="x")
    status, kind, _ = await refused(ops.protections.Protect(bad, metadata=ops.metadata))
    assert (status, kind) == ("INVALID_ARGUMENT", "ProtectionError")


async def test_the_audit_is_read_by_its_own_scope_and_over_http(ops: Client, served: Gateway) -> None:
    await ops.publish("shop", price=1)
    app = ops.with_token("app")
    request = pb.ListAuditRequest()
    assert (await refused(app.audit.List(request, metadata=app.metadata)))[0] == "PERMISSION_DENIED"
    assert (await ops.audit.List(request, metadata=ops.metadata)).entries
    assert len(await audited(ops, since_s=3600, limit=1)) == 1
    assert await audited(ops, outcome="refused") == []
    auditor = ops.with_token("auditor")
    for invalid in (
        pb.ListAuditRequest(outcome="maybe"),
        pb.ListAuditRequest(before="x"),
        pb.ListAuditRequest(since_s=-1.0),
    ):
        status, _, _ = await refused(auditor.audit.List(invalid, metadata=auditor.metadata))
        assert status == "INVALID_ARGUMENT"
    async with http(served.http_address, "auditor") as over_http:
        found = (await over_http.get("/v1/audit", params={"action": "publish", "limit": 1})).json()
        assert [entry["target"] for entry in found["entries"]] == ["session:shop"]


async def test_denied_calls_are_in_the_trail_without_their_tokens(ops: Client, served: Gateway) -> None:
    await ops.publish("prod", price=1)
    app = ops.with_token("app")
    rule = pb.ProtectRequest(kind="label", pattern="stable")
    await refused(app.protections.Protect(rule, metadata=app.metadata))
    stranger = ops.with_token("dspex_guessed")
    for _ in range(3):
        await refused(stranger.publish("prod", price=2))
    async with http(served.http_address, "dspex_guessed") as over_http:
        assert (await over_http.get("/v1/sessions/prod/variables")).status_code == 401

    async def found() -> list[tuple[str, str, str]]:
        return sorted((e.action, e.target, e.actor) for e in await audited(ops, outcome="denied"))

    expected = {
        ("Protections.Protect", "gateway", "app"),
        ("Variables.Get", "session:prod", ""),
        ("Variables.Publish", "gateway", ""),
    }
    await eventually(lambda: holds(found, expected), "the denied calls to be written")
    entries = await audited(ops, outcome="denied")
    publishes = [entry for entry in entries if entry.action == "Variables.Publish"]
    assert sum(entry.changes for entry in publishes) == 3
    assert {entry.problem for entry in publishes} == {
        "The call's token is unknown to this gateway; it came from 127.0.0.1"
    }
    assert {entry.source for entry in entries} == {"gateway"}
    assert "dspex_guessed" not in str(entries)


async def holds(read: Callable[[], Awaitable[list[tuple[str, str, str]]]], expected: set[tuple[str, str, str]]) -> bool:
    return expected <= set(await read())
