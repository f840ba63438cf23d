"""A followed session is read once for all who ask, and every first call knows what it says."""

from __future__ import annotations

import asyncio

import pytest

from snakepit_bridge.snapshots import MemoryStore
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable
from tasks import followed_session
from tasks.followed_session import FollowedSession
from tests.harness.waiting import eventually


def warmth(snapshot: Snapshot) -> float:
    return float(snapshot.value("warmth"))


async def publish(store: MemoryStore, value: float) -> None:
    await store.publish("settings", {"warmth": Variable.declare("warmth", value)})


async def test_calls_at_the_same_time_all_know_what_the_session_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_session, "_REFRESH_S", 0.01)
    store = MemoryStore()
    await publish(store, 0.5)
    followed = FollowedSession(store, "settings", warmth, 0.0, what="settings")
    assert await asyncio.gather(*(followed.read() for _ in range(5))) == [0.5] * 5
    await publish(store, 0.75)

    async def has_changed() -> bool:
        return await followed.read() == 0.75

    await eventually(has_changed, "the change to be read")
    await store.drop("settings")

    async def is_gone() -> bool:
        return await followed.read() == 0.0

    await eventually(is_gone, "a session that is gone to say nothing")
    await followed.aclose()


async def test_a_session_that_was_never_published_says_the_default() -> None:
    followed = FollowedSession(MemoryStore(), "settings", warmth, 0.25, what="settings")
    assert await followed.read() == 0.25
    await followed.aclose()


async def test_what_can_not_be_read_holds_calls_up_for_a_moment_in_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(followed_session, "_FIRST_WAIT_S", 0.05)
    store = MemoryStore()
    await publish(store, 0.5)

    def fail(snapshot: Snapshot) -> float:
        raise ValueError(f"{snapshot.session} is broken")

    followed = FollowedSession(store, "settings", fail, 0.25, what="settings")
    assert await followed.read() == 0.25
    async with asyncio.timeout(0.04):  # no call waits any more
        assert [await followed.read() for _ in range(100)] == [0.25] * 100
    assert "Can't read the settings" in caplog.text
    await followed.aclose()
