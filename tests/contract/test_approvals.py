"""Protected sessions and labels: a change waits until somebody else approves it, and is then made as requested."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from snakepit_bridge.audit.entries import AuditOutcome
from snakepit_bridge.audit.protections import Protection, ProtectionKind
from snakepit_bridge.audit.requests import ApprovalRequest
from snakepit_bridge.exceptions import (
    ApprovalError,
    ApprovalNotFoundError,
    ApprovalRequiredError,
    CheckFailedError,
    LabelMovedError,
    ProtectionError,
    SessionOwnedElsewhereError,
    StaleTokenError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent, start_experiment
from snakepit_bridge.rollouts.experiments import ExperimentPlan, encode_experiments
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.approved import apply_session_change
from tests.contract.sample import declared, state

BY: Any = {"author": "ann", "reason": "tried"}


async def protect(store: SnapshotStore, kind: ProtectionKind, pattern: str, approvals: int = 1) -> None:
    await store.change_control.protections.put(Protection(kind, pattern, approvals, "root", 1.0))


async def request_of(store: SnapshotStore, change: Awaitable[object]) -> ApprovalRequest:
    """Return the request that a refused change became."""
    with pytest.raises(ApprovalRequiredError) as refused:
        await change
    return await store.change_control.requests.get(refused.value.request)


async def approve(store: SnapshotStore, request: ApprovalRequest, by: str = "ben") -> str:
    """Approve a request and make the change."""
    approved = await store.change_control.requests.approve(request.id, by)
    assert approved.is_approved
    return await apply_session_change(store, approved)


async def test_a_publish_waits_and_is_made_as_requested(store: SnapshotStore) -> None:
    await store.publish("prod-eu", declared(a=1, b=1), author="ann")
    await protect(store, ProtectionKind.SESSION, "prod-*")
    request = await request_of(store, store.publish("prod-eu", {**declared(a=2, c=3), "b": None}, **BY))
    assert await state(store, "prod-eu") == {"a": 1, "b": 1}
    assert (request.operation, request.target, request.author, request.reason, request.rule) == (
        "publish", "session:prod-eu", "ann", "tried", "session:prod-*",
    )  # fmt: skip
    token = await approve(store, request)
    assert await state(store, "prod-eu") == {"a": 2, "c": 3}
    change = (await store.history("prod-eu"))[0]
    assert (str(change.token), change.author, change.reason) == (token, "ann", "tried")
    assert await store.change_control.requests.list() == []
    newest, requested, *_ = await store.change_control.trail.read()
    assert (newest.action, newest.outcome, newest.approval) == ("publish", AuditOutcome.DONE, request.id)
    assert (requested.outcome, requested.approval, set(requested.names)) == (
        AuditOutcome.REQUESTED, request.id, {"a", "b", "c"},
    )  # fmt: skip
    # What isn't protected, and what an Elixir server owns, goes on.
    await store.publish("dev", declared(a=1))
    await store.publish("prod-elixir", declared(a=1), publisher="host:1")


async def test_a_pattern_is_not_for_what_an_elixir_server_publishes(store: SnapshotStore) -> None:
    first = await store.publish("prod-elixir", declared(a=1), publisher="host:1")
    await protect(store, ProtectionKind.SESSION, "prod-*")
    for change in (store.publish("prod-elixir", declared(a=2), **BY), store.rollback("prod-elixir", first, **BY)):
        with pytest.raises(SessionOwnedElsewhereError, match=r"published by 'host:1'.*, or name that server"):
            await change
    assert await store.change_control.requests.list() == [], "none could be applied"
    newest = (await store.change_control.trail.read())[0]
    assert (newest.action, newest.outcome, newest.target) == ("rollback", AuditOutcome.REFUSED, "session:prod-elixir")
    await store.drop("prod-elixir", **BY)
    assert await store.heads(["prod-elixir"]) == {}


async def test_the_first_publish_and_the_end_of_a_protected_session_wait_too(store: SnapshotStore) -> None:
    await protect(store, ProtectionKind.SESSION, "s")
    await approve(store, await request_of(store, store.publish("s", declared(a=1), **BY)))
    assert await state(store) == {"a": 1}
    dropped = await request_of(store, store.drop("s", **BY))
    await approve(store, dropped)
    assert await store.heads(["s"]) == {}


async def test_a_rollback_of_a_protected_session_waits(store: SnapshotStore) -> None:
    first = await store.publish("s", declared(a=1))
    await store.publish("s", declared(a=2))
    await protect(store, ProtectionKind.SESSION, "*")
    request = await request_of(store, store.rollback("s", first, **BY))
    assert await state(store) == {"a": 2}
    await approve(store, request)
    assert await state(store) == {"a": 1}


@pytest.mark.parametrize("pattern", ["stable", "sta*", "s@stable", "*@stable"])
async def test_a_protected_label_is_moved_and_removed_only_with_approval(store: SnapshotStore, pattern: str) -> None:
    first = await store.publish("s", declared(a=1))
    second = await store.publish("s", declared(a=2))
    await store.label("s", "stable", first)
    await protect(store, ProtectionKind.LABEL, pattern)
    moved = await request_of(store, store.label("s", "stable", second, **BY))
    assert (await store.labels("s"))["stable"].token == first
    await store.label("s", "canary", second)
    assert moved.expected == str(first)
    assert await approve(store, moved) == str(second)
    assert (await store.labels("s"))["stable"].token == second
    await approve(store, await request_of(store, store.unlabel("s", "stable", **BY)))
    assert list(await store.labels("s")) == ["canary"]


async def test_an_experiment_on_a_protected_session_waits_and_may_be_stopped(store: SnapshotStore) -> None:
    first = await store.publish("s", declared(a=1))
    second = await store.publish("s", declared(a=2))
    await protect(store, ProtectionKind.SESSION, "s")
    arms = [
        {"name": "one", "weight": 0.5, "revision": str(first)},
        {"name": "two", "weight": 0.5, "revision": str(second)},
    ]
    experiment = start_experiment(ExperimentPlan.parse({"name": "prices", "arms": arms}))
    text = encode_experiments([experiment])
    started = store.change_experiments("s", "", text, ExperimentEvent("started", experiment, "ann", "tried"))
    request = await request_of(store, started)
    assert (await store.head("s")).experiments == ""
    await approve(store, request)
    assert (await store.head("s")).experiments == text
    await store.change_experiments("s", text, "", ExperimentEvent("stopped", experiment, "ann", "enough"))
    assert (await store.head("s")).experiments == ""


async def test_an_approved_change_of_what_has_moved_on_is_refused(store: SnapshotStore) -> None:
    first = await store.publish("s", declared(a=1))
    second = await store.publish("s", declared(a=2))
    await store.label("s", "stable", first)
    await protect(store, ProtectionKind.SESSION, "s")
    await protect(store, ProtectionKind.LABEL, "stable")
    older = await request_of(store, store.publish("s", declared(a=3), **BY))
    newer = await request_of(store, store.publish("s", declared(a=4), **BY))
    label = await request_of(store, store.label("s", "stable", second, **BY))
    other = await request_of(store, store.label("s", "stable", second, author="eve"))
    await approve(store, newer)
    with pytest.raises(StaleTokenError):
        await approve(store, older)
    await approve(store, label)
    with pytest.raises(LabelMovedError):
        await approve(store, other)
    assert await state(store) == {"a": 4}


async def test_of_two_approvers_at_once_one_makes_the_change(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1))
    await protect(store, ProtectionKind.SESSION, "s")
    request = await request_of(store, store.publish("s", declared(a=2), **BY))
    both = await asyncio.gather(approve(store, request, "ben"), approve(store, request, "cleo"), return_exceptions=True)
    assert {type(answer) for answer in both} <= {str, ApprovalNotFoundError, StaleTokenError, AssertionError}
    assert [type(answer) for answer in both].count(str) == 1
    assert len(await store.history("s")) == 2


async def test_a_rule_may_ask_for_several_approvals_of_different_people(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1))
    await protect(store, ProtectionKind.SESSION, "s")
    await protect(store, ProtectionKind.SESSION, "*", approvals=2)
    request = await request_of(store, store.publish("s", declared(a=2), author="ops (says: ann)"))
    requests = store.change_control.requests
    assert request.needed == 2
    for approver in ("", "  ", "ops", "ops (says: ben)"):
        with pytest.raises(ApprovalError):
            await requests.approve(request.id, approver)
    assert not (await requests.approve(request.id, "ben (says: b)")).is_approved
    with pytest.raises(ApprovalError, match="already"):
        await requests.approve(request.id, "ben (says: somebody else)")
    with pytest.raises(ApprovalNotFoundError):
        await apply_session_change(store, await requests.get(request.id))
    assert await state(store) == {"a": 1}
    await approve(store, request, "cleo")
    assert await state(store) == {"a": 2}
    assert set((await store.change_control.trail.read())[0].approvers) <= {"ben", "cleo"}


async def test_a_request_that_is_gone_can_not_be_approved_or_applied(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1))
    await protect(store, ProtectionKind.SESSION, "s")
    request = await request_of(store, store.publish("s", declared(a=2), **BY))
    again = await request_of(store, store.publish("s", declared(a=2), **BY))
    assert (again.id, again.created_at) == (request.id, request.created_at)
    assert [each.id for each in await store.change_control.requests.list()] == [request.id]
    await store.change_control.requests.remove(request.id)
    for unknown in (request.id, "nothing"):
        with pytest.raises(ApprovalNotFoundError):
            await store.change_control.requests.approve(unknown, "ben")
        with pytest.raises(ApprovalNotFoundError):
            await store.publish("s", declared(a=2), approval=unknown)
    assert await state(store) == {"a": 1}


async def test_what_can_not_be_done_anyway_becomes_no_request(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1))
    await store.declare_checks("s", {"small": {"properties": {"a": {"maximum": 5}}}})
    await protect(store, ProtectionKind.SESSION, "s")
    with pytest.raises(StaleTokenError):
        await store.publish("s", declared(a=2), expected=Token(1, 1))
    # On a cluster the rules are read before the checks.
    with pytest.raises(CheckFailedError if store.change_control.trail.in_scripts else ApprovalRequiredError):
        await store.publish("s", declared(a=9))
    if not store.change_control.trail.in_scripts:
        return
    assert await store.change_control.requests.list() == []


async def test_rules_are_listed_replaced_and_removed(store: SnapshotStore) -> None:
    rules = store.change_control.protections
    await protect(store, ProtectionKind.LABEL, "stable")
    await protect(store, ProtectionKind.SESSION, "a b:*.%[x]")
    await protect(store, ProtectionKind.LABEL, "stable", approvals=2)
    assert [(str(rule), rule.approvals, rule.author) for rule in await rules.list()] == [
        ("label:stable", 2, "root"), ("session:a b:*.%[x]", 1, "root"),
    ]  # fmt: skip
    await store.publish("a bx.%x", declared(a=1))
    await request_of(store, store.publish("a b:anything.%[x]", declared(a=1)))
    await rules.remove((await rules.list())[1])
    await store.publish("a b:anything.%[x]", declared(a=1))
    for pattern, approvals in (("", 1), ("x" * 201, 1), ("a\nb", 1), ("a", 0), ("a", 6)):
        with pytest.raises(ProtectionError):
            Protection(ProtectionKind.LABEL, pattern, approvals)
