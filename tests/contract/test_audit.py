"""The audit trail: every change of a session is recorded with who made it, why, and what it led from and to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from snakepit_bridge.audit.entries import AuditEntry, AuditFilter, AuditOutcome
from snakepit_bridge.exceptions import CheckFailedError, SessionOwnedElsewhereError, StaleTokenError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.records import POLICY_VARIABLE
from snakepit_bridge.snapshots import Retention, SnapshotStore
from tests.contract.sample import declared

BY: Any = {"author": "ann", "reason": "tried"}


async def read(store: SnapshotStore, **chosen: Any) -> list[AuditEntry]:
    """Return the entries, oldest first."""
    return (await store.change_control.trail.read(AuditFilter(**chosen)))[::-1]


async def test_each_change_of_a_session_is_recorded(store: SnapshotStore) -> None:
    first = await store.publish("s", declared(a=1, b=2), **BY)
    second = await store.publish("s", declared(a=3), expected=first, **BY)
    third = await store.rollback("s", first, **BY)
    await store.label("s", "stable", first, **BY)
    await store.label("s", "stable", second, **BY)
    await store.unlabel("s", "stable", **BY)
    await store.unlabel("s", "stable", **BY)
    await store.declare_checks("s", {"small": {"type": "object"}}, **BY)
    await store.retain("s", Retention(10), **BY)
    await store.drop("s", **BY)
    found = await read(store)
    assert [(e.action, e.target, e.before, e.after) for e in found] == [
        ("publish", "session:s", found[0].before, str(first)),
        ("publish", "session:s", str(first), str(second)),
        ("rollback", "session:s", str(second), str(third)),
        ("label", "session:s@stable", found[3].before, str(first)),
        ("label", "session:s@stable", str(first), str(second)),
        ("unlabel", "session:s@stable", str(second), found[5].after),
        *((action, "session:s", found[at].before, found[at].after)
          for at, action in enumerate(("declare_checks", "retain", "drop_session"), 6)),
    ]  # fmt: skip
    assert {(e.actor, e.reason, e.source, e.outcome) for e in found} <= {
        ("ann", "tried", "client", AuditOutcome.DONE),
        ("ann", "rollback to " + str(first), "client", AuditOutcome.DONE),
    }
    assert [set(e.names) for e in found[:2]] == [{"a", "b"}, {"a"}]
    assert [e.changes for e in found[:2]] == [2, 1]
    assert [e.at for e in found] == sorted(e.at for e in found)
    assert all(entry.position for entry in found)


async def test_a_publish_that_changes_nothing_and_a_race_that_was_lost_are_not_recorded(store: SnapshotStore) -> None:
    token = await store.publish("s", declared(a=1), **BY)
    assert await store.publish("s", declared(a=1), **BY) == token
    with pytest.raises(StaleTokenError):
        await store.publish("s", declared(a=2), expected=Token(1, 1))
    assert [entry.after for entry in await read(store)] == [str(token)]


async def test_what_a_check_or_an_authority_refuses_is_recorded_without_values(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1), **BY)
    await store.declare_checks("s", {"small": {"properties": {"a": {"maximum": 5}}}})
    with pytest.raises(CheckFailedError):
        await store.publish("s", declared(a=98765), **BY)
    await store.publish("elixir", declared(a=1), publisher="host:1")
    with pytest.raises(SessionOwnedElsewhereError):
        await store.publish("elixir", declared(a=2), **BY)
    refused = await read(store, outcome=AuditOutcome.REFUSED)
    assert [(e.action, e.target, e.problem) for e in refused] == [
        ("publish", "session:s", "CheckFailedError"),
        ("publish", "session:elixir", "SessionOwnedElsewhereError"),
    ]
    assert "98765" not in str(await read(store))


async def test_a_rollout_that_a_publish_begins_and_a_rollback_ends_is_recorded(store: SnapshotStore) -> None:
    base = await store.publish("s", declared(a=1, **{POLICY_VARIABLE: "{}"}), **BY)
    tried = await store.publish("s", declared(a=2), **BY)
    await store.rollback("s", base, **BY)
    if not store.change_control.trail.in_scripts:
        pytest.skip("on a cluster the publish and the rollback are recorded, and not what their scripts staged by them")
    steps = await read(store, action="rollout")
    assert [(e.action, e.before, e.after) for e in steps] == [
        ("rollout.started", str(base), str(tried)),
        ("rollout.superseded", str(base), str(tried)),
    ]


async def test_entries_are_selected_by_session_actor_action_and_time(store: SnapshotStore) -> None:
    await store.publish("shop", declared(a=1), author="ops (says: ann)")
    await store.label("shop", "stable", author="ben")
    await store.publish("shop-2", declared(a=1), author="ops")
    assert [e.target for e in await read(store, session="shop")] == ["session:shop", "session:shop@stable"]
    assert [e.target for e in await read(store, actor="ops")] == ["session:shop", "session:shop-2"]
    assert [e.target for e in await read(store, actor="ops (says: ann)")] == ["session:shop"]
    assert [e.actor for e in await read(store, action="label")] == ["ben"]
    trail = store.change_control.trail
    newest = (await trail.read(limit=1))[0]
    assert newest.target == "session:shop-2"
    assert [e.target for e in await trail.read(limit=1, before=newest.position)] == ["session:shop@stable"]
    assert await trail.read(since=newest.at + 60) == []


async def test_following_yields_what_is_recorded_from_then_on(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1))
    followed = store.change_control.trail.follow(AuditFilter(session="s"))
    waiting = asyncio.ensure_future(anext(followed))
    await asyncio.sleep(0)
    await store.publish("other", declared(a=1))
    token = None
    # The follower may begin after the first of them.
    for n in range(2, 200):
        token = await store.publish("s", declared(a=n))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        if done:
            break
    entry = await waiting
    assert (entry.action, entry.target) == ("publish", "session:s")
    assert token is not None
    assert entry.after <= str(token)
    await followed.aclose()
