"""Confirming: a look that found nothing new makes a session fresher, but never beyond the moment it began."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from snakepit_bridge.exceptions import FencedError, SessionNotFoundError, SessionOwnedElsewhereError, StaleTokenError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import Confirmation, Retention, SnapshotStore
from snakepit_bridge.snapshots.snapshot import AuthoritySign
from tests.contract.conftest import OpenStore
from tests.contract.sample import ELIXIR, declared


async def test_many_sessions_are_confirmed_together(store: SnapshotStore) -> None:
    names = [f"s{n}" for n in range(1_200)]
    for name in names[:3]:
        await store.publish(name, declared(a=1), publisher=ELIXIR, age_s=100)
    now = (await store.head("s0")).now
    refused = await store.confirm({name: Confirmation(0, now - 5) for name in names}, publisher=ELIXIR)
    assert sorted(refused) == sorted(names[3:])
    assert all(isinstance(error, SessionNotFoundError) for error in refused.values())
    for head in (await store.heads(names[:3])).values():
        assert abs(head.confirmed_at - (now - 5)) < 0.001
        assert head.token.revision == 1


async def test_only_the_authority_confirms(store: SnapshotStore) -> None:
    await store.publish("other", declared(a=1))
    fence = await store.raise_fence("s", publisher=ELIXIR)
    await store.publish("s", declared(a=1), publisher=ELIXIR, fence=fence, age_s=100)
    before = (await store.head("s")).confirmed_at
    newer = await store.raise_fence("s", publisher=ELIXIR)
    now = (await store.head("s")).now
    refused = await store.confirm({"s": Confirmation(fence, now), "other": Confirmation(0, now)}, publisher=ELIXIR)
    assert {name: type(error) for name, error in refused.items()} == {
        "s": FencedError,
        "other": SessionOwnedElsewhereError,
    }
    assert (await store.head("s")).confirmed_at == before
    assert await store.confirm({"s": Confirmation(newer, now)}, publisher=ELIXIR) == {}
    assert (await store.head("s")).confirmed_at > before


async def test_a_confirmation_of_lost_content_is_rejected(store: SnapshotStore) -> None:
    first = await store.publish("s", declared(a=1), publisher=ELIXIR, age_s=100)
    second = await store.publish("s", declared(a=2), publisher=ELIXIR, age_s=100)
    before = await store.head("s")
    refused = await store.confirm({"s": Confirmation(0, before.now, first)}, publisher=ELIXIR)
    assert isinstance(refused["s"], StaleTokenError)
    assert (await store.head("s")).confirmed_at == before.confirmed_at
    assert await store.confirm({"s": Confirmation(0, before.now, second)}, publisher=ELIXIR) == {}
    assert (await store.head("s")).confirmed_at > before.confirmed_at


async def test_a_confirmation_is_of_when_the_look_began(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1))
    head = await store.head("s")
    for looked_at in (head.now - 3_600, head.confirmed_at - 1):
        await store.confirm({"s": Confirmation(0, looked_at)}, publisher="store")
        await store.publish("s", declared(a=2), looked_at=looked_at)
        assert (await store.head("s")).confirmed_at == head.confirmed_at
    await store.confirm({"s": Confirmation(0, head.now + 3_600)}, publisher="store")
    after = await store.head("s")
    assert head.confirmed_at < after.confirmed_at <= after.now


async def test_a_publish_says_when_its_look_began(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1), age_s=1_000)
    now = (await store.head("s")).now
    await store.publish("s", declared(a=2), looked_at=now - 10, age_s=0)
    assert abs((await store.head("s")).confirmed_at - (now - 10)) < 0.001


async def test_plain_and_odd_sessions_are_judged_alike_in_one_call(store: SnapshotStore) -> None:
    fence, looks = {}, {}
    for name in ("plain", "stale", "fenced", "unpublished", "ahead"):
        fence[name] = await store.raise_fence(name, publisher=ELIXIR)
        if name != "unpublished":
            token = await store.publish(name, declared(a=1), publisher=ELIXIR, fence=fence[name], age_s=100)
            looks[name] = Confirmation(fence[name], (await store.head(name)).now - 5, token)
    await store.publish("stale", declared(a=2), publisher=ELIXIR, fence=fence["stale"], age_s=100)
    await store.raise_fence("fenced", publisher=ELIXIR)
    now = (await store.head("plain")).now
    looks["unpublished"] = Confirmation(fence["unpublished"], now - 5, looks["plain"].expected)
    looks["ahead"] = replace(looks["ahead"], looked_at=now + 3_600)
    before = await store.heads([*looks])
    refused = await store.confirm(looks, publisher=ELIXIR)
    assert {name: type(error) for name, error in refused.items()} == {
        "stale": StaleTokenError,
        "fenced": FencedError,
        "unpublished": SessionNotFoundError,
    }
    after = await store.heads([*looks])
    assert abs(after["plain"].confirmed_at - (now - 5)) < 1
    assert before["ahead"].confirmed_at < after["ahead"].confirmed_at <= after["ahead"].now
    for name in ("stale", "fenced"):
        assert after[name] == before[name]


async def test_a_confirmation_gives_a_session_with_an_end_its_whole_time_again(open_one: OpenStore) -> None:
    store = open_one(retention=Retention(revisions=10, ttl_s=1.0))
    token = await store.publish("s", declared(a=1), publisher=ELIXIR)
    for _ in range(4):
        await asyncio.sleep(0.35)
        now = (await store.head("s")).now
        assert await store.confirm({"s": Confirmation(0, now, token)}, publisher=ELIXIR) == {}
    assert (await store.head("s")).token == token


async def test_a_sign_of_the_authority_is_kept_with_the_bound_of_its_silence(store: SnapshotStore) -> None:
    """By a publish and by a look, whether or not the look confirms anything, and seen by every reader."""
    fence = await store.raise_fence("s", publisher=ELIXIR)
    first, second, third = AuthoritySign(1_000.25, 12.5), AuthoritySign(1_001.0, 12.5), AuthoritySign(1_002.5, 0.25)
    token = await store.publish("s", declared(a=1), publisher=ELIXIR, fence=fence, looked_at=1_000.25, heard=first)

    async def seen() -> list[AuthoritySign | None]:
        read, head = await store.read("s"), await store.head("s")
        return [read.heard, head.heard, (await store.heads(["s"]))["s"].heard, (await store.read("s", read)).heard]

    assert await seen() == [first] * 4
    have = await store.read("s")
    for look in (
        Confirmation(fence, 1_001.0, token, second),
        Confirmation(fence, 0.0, token, third),
        Confirmation(fence, 0.0, None, first),
    ):
        assert await store.confirm({"s": look}, publisher=ELIXIR) == {}
        assert await seen() == [look.heard] * 4
        assert (await store.read("s", have)).heard == look.heard
        assert (await store.head("s")).confirmed_at == 1_001.0
    newer = await store.publish("s", declared(a=2), publisher=ELIXIR, fence=fence, looked_at=1_003.0, heard=second)
    assert ((await store.read("s", have)).token, (await store.read("s", have)).heard) == (newer, second)
    assert await store.confirm({"s": Confirmation(fence, 1_004.0, newer)}, publisher=ELIXIR) == {}
    assert await seen() == [None] * 4


async def test_a_rejected_publisher_sends_no_heartbeat(store: SnapshotStore) -> None:
    fence = await store.raise_fence("s", publisher=ELIXIR)
    heard = AuthoritySign(1_000.0, 12.5)
    token = await store.publish("s", declared(a=1), publisher=ELIXIR, fence=fence, heard=heard)
    newer = await store.raise_fence("s", publisher=ELIXIR)
    late = AuthoritySign(2_000.0, 12.5)
    for look in (Confirmation(fence, 2_000.0, token, late), Confirmation(newer, 2_000.0, _next(token), late)):
        assert list(await store.confirm({"s": look}, publisher=ELIXIR)) == ["s"]
        assert (await store.head("s")).heard == heard


def _next(token: Token) -> Token:
    return Token(token.epoch, token.revision + 1)


async def test_a_session_of_the_store_has_no_such_bound(store: SnapshotStore) -> None:
    await store.publish("s", declared(a=1))
    assert ((await store.read("s")).heard, (await store.head("s")).heard) == (None, None)
    token = await store.publish("s", declared(a=2))
    await store.rollback("s", Token(token.epoch, 1))
    assert (await store.head("s")).heard is None
