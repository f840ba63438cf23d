"""How long revisions and sessions are kept: by count, by age, by TTL, and past all of these where somebody asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from snakepit_bridge.exceptions import RevisionLostError, SessionNotFoundError
from snakepit_bridge.snapshots import Retention, SnapshotStore
from tests.contract.conftest import OpenStore
from tests.contract.sample import ELIXIR, declared, plain, state
from tests.harness.waiting import eventually


async def gone(store: SnapshotStore) -> bool:
    try:
        await store.head("s")
    except SessionNotFoundError:
        return True
    return False


@pytest.mark.parametrize("wrong", [{"revisions": 0}, {"age_s": 0}, {"ttl_s": -1}, {"ttl_s": float("nan")}])
def test_a_retention_that_keeps_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="keeps at least 1|is a number of seconds"):
        Retention(**wrong)


async def test_a_session_has_the_stores_retention_until_it_has_its_own(open_one: OpenStore) -> None:
    store = open_one(retention=2)
    tokens = [await store.publish("s", declared(a=n)) for n in range(4)]
    assert await store.retention("s") is None
    await store.retain("s", Retention(5))
    tokens += [await store.publish("s", declared(a=n)) for n in range(4, 9)]
    assert await store.retention("s") == Retention(5)
    assert len(await store.history("s")) == 5
    assert await state(store, at=tokens[3]) == {"a": 3}
    await store.retain("s", Retention(3, 60.0, 3600.5))
    assert await store.retention("s") == Retention(3, 60.0, 3600.5)
    assert len(await store.history("s")) == 3
    await store.retain("s", None)
    assert len(await store.history("s")) == 2
    assert await store.retention("s") is None


async def test_a_revision_is_forgotten_so_long_after_it_is_past(open_one: OpenStore) -> None:
    store = open_one(retention=Retention(age_s=0.3))
    first = await store.publish("s", declared(a=1))
    second = await store.publish("s", declared(a=2))
    assert await state(store, at=first) == {"a": 1}

    async def lost() -> bool:
        try:
            await store.read_at("s", first)
        except RevisionLostError as error:
            return error.oldest == str(second)
        return False

    third = await store.publish("s", declared(a=3))
    await eventually(lost, "the first revision to be forgotten")
    # The last change stays, and with it the state before it.
    assert [change.token for change in await store.history("s")] == [third]
    assert await state(store, at=second) == {"a": 2}
    assert await state(store) == {"a": 3}


async def test_a_session_is_forgotten_so_long_after_it_was_last_published(open_one: OpenStore) -> None:
    store = open_one(retention=Retention(ttl_s=0.4))
    old = await store.publish("s", declared(a=1))
    await store.declare_checks("s", {"few": {"maxProperties": 3}})
    await store.label("s", "stable")
    await store.publish("other", declared(a=1))
    await store.retain("other", Retention())
    await eventually(lambda: gone(store), "the session to be forgotten")
    assert list(await store.sessions()) == ["other"]
    new = await store.publish("s", declared(a=1, b=1, c=1, d=1))
    assert new.epoch > old.epoch
    assert await store.labels("s") == {}
    with pytest.raises(RevisionLostError):
        await store.read_at("s", old)


async def test_whoever_publishes_or_confirms_keeps_it_alive(open_one: OpenStore) -> None:
    store = open_one(retention=Retention(ttl_s=1.0))
    await store.publish("s", declared(a=1))
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.5
    while loop.time() < end:
        assert await state(store) == {"a": 1}
        await store.publish("s", {})
        await asyncio.sleep(0.05)
    assert not await gone(store)


async def test_a_ttl_can_be_taken_back(open_one: OpenStore) -> None:
    store = open_one(retention=Retention(ttl_s=0.5))
    await store.publish("s", declared(a=1))
    await store.label("s", "stable")
    await store.retain("s", Retention())
    await store.publish("dies", declared(a=1))

    async def died() -> bool:
        return "dies" not in await store.sessions()

    await eventually(died, "the other session to be forgotten")
    assert await state(store, at="stable") == {"a": 1}
    assert await state(store) == {"a": 1}


async def test_a_session_that_is_not_there_has_no_retention(store: SnapshotStore) -> None:
    await store.raise_fence("s", publisher=ELIXIR)
    for question in (store.retention("s"), store.retain("s", Retention(3))):
        with pytest.raises(SessionNotFoundError):
            await question


class TestKept:
    async def test_a_kept_snapshot_is_readable_after_trimming(self, open_one: OpenStore) -> None:
        store = open_one(retention=1)
        token = await store.publish("s", declared(a=1, b="x", c=[0.1, 0.2]), author="ann")
        snapshot = await store.read("s")
        await store.keep(snapshot, 60)
        for n in range(5):
            await store.publish("s", declared(a=n + 2))
        kept = await store.read_at("s", token)
        assert (kept.token, kept.digest, kept.variables) == (token, snapshot.digest, snapshot.variables)
        assert (kept.confirmed_at, kept.authority) == (snapshot.confirmed_at, snapshot.authority)

    async def test_it_outlives_its_session(self, store: SnapshotStore) -> None:
        token = await store.publish("s", declared(a=1))
        await store.keep(await store.read("s"), 60)
        await store.drop("s")
        assert plain((await store.read_at("s", token)).variables) == {"a": 1}
        await store.publish("s", declared(a=2))
        assert plain((await store.read_at("s", token)).variables) == {"a": 1}

    async def test_others_are_lost_as_before(self, open_one: OpenStore) -> None:
        store = open_one(retention=1)
        tokens = [await store.publish("s", declared(a=n)) for n in range(5)]
        await store.keep(await store.read_at("s", tokens[3]), 60)
        await store.publish("s", declared(a=9))
        await store.publish("s", declared(a=10))
        with pytest.raises(RevisionLostError):
            await store.read_at("s", tokens[0])
        assert await state(store, at=tokens[3]) == {"a": 3}

    async def test_equal_content_under_two_tokens_is_found_under_both(self, open_one: OpenStore) -> None:
        store = open_one(retention=1)
        tokens = []
        for n in (1, 2, 1):
            tokens.append(await store.publish("s", declared(a=n)))
            await store.keep(await store.read("s"), 60)
        for n in range(5):
            await store.publish("s", declared(a=n))
        assert [(await store.read_at("s", token)).token for token in tokens] == tokens
        assert [await state(store, at=token) for token in tokens] == [{"a": 1}, {"a": 2}, {"a": 1}]
