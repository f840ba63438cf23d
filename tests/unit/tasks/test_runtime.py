"""Sessions give a snapshot that meets a requirement, and never go back; a runtime knows what has ended."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from snakepit_bridge.exceptions import RevisionLost, RevisionNotReached, SessionNotFoundError
from snakepit_bridge.messages import DEFAULT_SESSION, Requirement
from snakepit_bridge.revision import Token
from snakepit_bridge.stores import MemoryStore
from snakepit_bridge.stores.connection import RedisConnection
from snakepit_bridge.variables import Variable
from tasks.runtime import Runtime, Sessions

LATEST = Requirement()


async def publish(store: MemoryStore, session: str, **values: Any) -> Token:
    return await store.publish(session, {name: Variable.declare(name, value) for name, value in values.items()})


async def test_latest_is_what_was_published_last() -> None:
    store = MemoryStore()
    sessions = Sessions(store, 0.1)
    for value in (0.1, 0.2, 0.3):
        token = await publish(store, "s", temp=value)
        snapshot = await sessions.snapshot("s", LATEST)
        assert (snapshot.token, snapshot.value("temp")) == (token, value)


async def test_exactly_is_that_revision_while_newer_ones_exist() -> None:
    store = MemoryStore()
    sessions = Sessions(store, 0.1)
    tokens = [await publish(store, "s", temp=value) for value in (0.1, 0.2, 0.3)]
    pinned = await sessions.snapshot("s", Requirement("exactly", tokens[0]))
    assert (pinned.token, pinned.value("temp")) == (tokens[0], 0.1)
    assert (await sessions.snapshot("s", LATEST)).token == tokens[-1]


async def test_at_least_waits_for_a_publish() -> None:
    store = MemoryStore()
    sessions = Sessions(store, 5.0)
    first = await publish(store, "s", temp=0.1)
    wanted = Token(first.epoch, first.revision + 1)
    waiting = asyncio.create_task(sessions.snapshot("s", Requirement("at_least", wanted)))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await publish(store, "s", temp=0.2)
    assert (await asyncio.wait_for(waiting, 2)).token == wanted


async def test_at_least_gives_up_after_the_wait_and_says_what_it_found() -> None:
    store = MemoryStore()
    first = await publish(store, "s", temp=0.1)
    wanted = Token(first.epoch, first.revision + 1)
    with pytest.raises(RevisionNotReached) as raised:
        await asyncio.wait_for(Sessions(store, 0.1).snapshot("s", Requirement("at_least", wanted)), 2)
    assert (raised.value.token, raised.value.found) == (str(wanted), str(first))
    assert 0.1 <= raised.value.waited_s < 1


async def test_a_token_that_the_session_can_no_longer_reach_is_not_waited_for() -> None:
    store = MemoryStore()
    first = await publish(store, "s", temp=0.1)
    ahead_of_a_lost_epoch = Token(first.epoch - 1, first.revision + 10)
    with pytest.raises(RevisionLost):
        await asyncio.wait_for(Sessions(store, 60).snapshot("s", Requirement("at_least", ahead_of_a_lost_epoch)), 2)


async def test_a_session_that_nobody_published_is_not_found() -> None:
    for requirement in (LATEST, Requirement("at_least", Token(1, 1)), Requirement("exactly", Token(1, 1))):
        with pytest.raises(SessionNotFoundError, match="nobodys"):
            await asyncio.wait_for(Sessions(MemoryStore(), 0.1).snapshot("nobodys", requirement), 2)


async def test_the_default_session_is_empty_until_its_first_publish() -> None:
    store = MemoryStore()
    sessions = Sessions(store, 0.1)
    empty = await sessions.snapshot(DEFAULT_SESSION, LATEST)
    assert (dict(empty.variables), empty.token) == ({}, Token(0, 0))
    with pytest.raises(SessionNotFoundError):
        await sessions.snapshot(DEFAULT_SESSION, Requirement("exactly", Token(0, 0)))
    token = await publish(store, DEFAULT_SESSION, temp=0.1)
    assert (await sessions.snapshot(DEFAULT_SESSION, LATEST)).token == token


async def test_many_readers_at_once_see_revisions_that_only_grow() -> None:
    store = MemoryStore()
    sessions = Sessions(store, 1.0)
    await publish(store, "s", temp=0.0)

    async def read() -> list[Token]:
        return [(await sessions.snapshot("s", LATEST)).token for _ in range(50) if await asyncio.sleep(0) is None]

    readers = [asyncio.create_task(read()) for _ in range(8)]
    for step in range(30):
        await publish(store, "s", temp=step / 30)
        await asyncio.sleep(0)
    for seen in await asyncio.gather(*readers):
        assert seen == sorted(seen)


def runtime_on(url: str, **fields: Any) -> Runtime:
    nothing: Any = None
    defaults: dict[str, Any] = {"limits": {}, "attempts": 3, "backoff_s": 1.0}
    parts: dict[str, Any] = {"sessions": nothing, "registry": nothing, "programs": nothing}
    return Runtime(**{**defaults, **parts, "results": RedisConnection(url), **fields})


@pytest.mark.parametrize(
    ("state", "expected"), [(None, False), ("RETRY", False), ("SUCCESS", True), ("FAILURE", True), ("REVOKED", True)]
)
async def test_a_task_has_ended_once_its_stored_state_is_final(
    redis_url: str, state: str | None, expected: bool
) -> None:
    runtime = runtime_on(redis_url)
    if state is not None:
        await runtime.results.client.set("result", json.dumps({"status": state}), ex=60)
    assert await runtime.ended("result") is expected
    await runtime.results.aclose()


async def test_a_profile_with_a_limit_has_room_for_so_many(redis_url: str) -> None:
    runtime = runtime_on(redis_url, limits={"small": asyncio.Semaphore(2)})
    running, most = 0, 0

    async def predict(profile: str) -> None:
        nonlocal running, most
        async with runtime.room(profile):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.005)
            running -= 1

    await asyncio.gather(*(predict("small") for _ in range(8)))
    assert most == 2
    most = 0
    await asyncio.gather(*(predict("unlimited") for _ in range(8)))
    assert most == 8
