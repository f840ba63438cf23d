"""Watching a session: what is told, and what is seen although nothing was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import MemoryStore, Moves, RedisStore, SnapshotStore, Watch
from snakepit_bridge.variables import Variable
from tests.harness.waiting import PATIENCE_S, eventually
from workers.dev.redis_server import EmbeddedRedis


def declared(**values: Any) -> dict[str, Variable | None]:
    return {name: Variable.declare(name, value) for name, value in values.items()}


@asynccontextmanager
async def watching(store: SnapshotStore, session: str = "s", **options: float) -> AsyncGenerator[AsyncIterator[Token]]:
    seen = store.watch(session, **options)
    yield seen
    await seen.aclose()


async def soon(tokens: AsyncIterator[Token], timeout_s: float = 5) -> Token:
    async with asyncio.timeout(timeout_s):
        return await anext(tokens)


async def expect(watch: Watch, expected: Moves) -> None:
    """Return once exactly these moves were told, together or not: each node of a cluster tells in its own time."""
    seen: dict[str, Token | None] = {}
    async with asyncio.timeout(PATIENCE_S):
        while seen != expected:
            seen |= await watch.moves()
            assert seen.keys() <= expected.keys()


class TestWatch:
    async def test_publishes_after_the_confirmation_are_announced(self, store: SnapshotStore) -> None:
        async with store.open_watch() as watch:
            await watch.add(["s", "other"])
            first = await store.publish("s", declared(a=1))
            await store.publish("nobody asked", declared(a=1))
            other = await store.publish("other", declared(a=1))
            await expect(watch, {"s": first, "other": other})

    async def test_only_the_newest_of_many_moves_is_kept(self, store: SnapshotStore) -> None:
        async with store.open_watch() as watch:
            await watch.add(["s"])
            tokens = [await store.publish("s", declared(a=n)) for n in range(50)]
            await expect(watch, {"s": tokens[-1]})

    async def test_an_equal_state_is_no_move_and_a_drop_is_one(self, store: SnapshotStore) -> None:
        async with store.open_watch() as watch:
            await watch.add(["s"])
            await expect(watch, {"s": await store.publish("s", declared(a=1))})
            await store.publish("s", declared(a=1))
            await watch.ping()
            assert await watch.moves(0.05) == {}
            await store.drop("s")
            assert await watch.moves(5) == {"s": None}

    async def test_a_discarded_session_is_not_announced(self, store: SnapshotStore) -> None:
        async with store.open_watch() as watch:
            await watch.add(["s", "kept"])
            await watch.discard(["s"])
            await store.publish("s", declared(a=1))
            kept = await store.publish("kept", declared(a=1))
            assert await watch.moves(5) == {"kept": kept}

    async def test_any_text_names_a_watched_session(self, store: SnapshotStore) -> None:
        names = ["", "a b", "ünï🎈", "a}b", "*", "x" * 300]
        async with store.open_watch() as watch:
            await watch.add(names)
            tokens = {name: await store.publish(name, declared(a=1)) for name in names}
            await expect(watch, tokens)

    async def test_a_closed_watch_says_so(self, store: SnapshotStore) -> None:
        async with store.open_watch() as watch:
            await watch.add(["s"])
        for question in (watch.add(["t"]), watch.ping(), watch.moves(1)):
            with pytest.raises(StoreUnavailableError, match="the watch was closed"):
                await question


class TestTokens:
    async def test_the_token_of_now_comes_first_and_then_each_newer_one(self, store: SnapshotStore) -> None:
        tokens = [await store.publish("s", declared(a=0))]
        async with watching(store) as seen:
            assert await soon(seen) == tokens[0]
            for n in range(1, 4):
                assert await store.publish("s", declared(a=n)) == await soon(seen)

    async def test_a_session_that_is_not_there_yet_is_waited_for(self, store: SnapshotStore) -> None:
        async with watching(store) as seen:
            waiting = asyncio.ensure_future(anext(seen))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            assert await store.publish("s", declared(a=1)) == await waiting

    async def test_a_session_that_was_dropped_goes_on_with_its_successor(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=1))
        async with watching(store) as seen:
            first = await soon(seen)
            await store.drop("s")
            second = await store.publish("s", declared(a=1))
            assert await soon(seen) == second > first

    async def test_lost_notifications_are_found_at_the_next_interval(self, store: SnapshotStore) -> None:
        await store.publish("s", declared(a=0))
        async with watching(Deaf(store), interval_s=0.05) as seen:
            await soon(seen)
            assert await store.publish("s", declared(a=1)) == await soon(seen)


class TestServer:
    @pytest.fixture
    def server(self, tmp_path: Any) -> Any:
        with EmbeddedRedis.start(tmp_path, aof=True) as server:
            yield server

    async def test_tokens_go_on_over_a_restart(self, server: EmbeddedRedis) -> None:
        store = RedisStore(server.url)
        first = await store.publish("s", declared(a=0))
        async with watching(store) as seen:
            assert await soon(seen) == first
            server.kill()
            server.restart()
            after = await soon(seen)
            assert (after.revision, after.epoch > first.epoch) == (1, True)
            assert await store.publish("s", declared(a=1)) == await soon(seen)
        await store.aclose()

    async def test_a_lost_connection_ends_the_watch_and_every_wait(self, server: EmbeddedRedis) -> None:
        store = RedisStore(server.url)
        async with store.open_watch() as watch:
            await watch.add(["s"])
            waiting = asyncio.create_task(watch.moves())
            await asyncio.sleep(0)
            server.kill()
            for question in (waiting, watch.ping(), watch.add(["t"]), watch.discard(["s"])):
                with pytest.raises(StoreUnavailableError, match=r"Redis at redis://127\.0\.0\.1"):
                    await asyncio.wait_for(question, PATIENCE_S)
        await store.aclose()

    async def test_a_store_that_stays_unreachable_raises(self, server: EmbeddedRedis) -> None:
        store = RedisStore(server.url, timeout_s=0.5)
        await store.publish("s", declared(a=0))
        async with watching(store, patience_s=0.2) as seen:
            await soon(seen)
            server.kill()
            with pytest.raises(StoreUnavailableError):
                await soon(seen)
        await store.aclose()

    async def test_a_watch_leaves_no_connection_behind(self, redis_url: str) -> None:
        store = RedisStore(redis_url)
        with Redis.from_url(redis_url) as client:

            def subscribers() -> int:
                return len(client.client_list(_type="pubsub"))

            before = subscribers()
            async with store.open_watch() as watch:
                await watch.add(["s"])
                assert subscribers() == before + 1

            async def left() -> bool:
                return subscribers() == before

            await eventually(left, "the connection to go")
        await store.aclose()


class Deaf(MemoryStore):
    """Another store's sessions, without its hints."""

    def __init__(self, store: SnapshotStore) -> None:
        super().__init__()
        self._store = store

    async def head(self, session: str) -> Any:
        return await self._store.head(session)

    def open_watch(self) -> Watch:
        return _Silent(super().open_watch())


class _Silent(Watch):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def add(self, sessions: Iterable[str]) -> None:
        pass

    async def discard(self, sessions: Iterable[str]) -> None:
        pass

    async def ping(self) -> None:
        await self._watch.ping()

    async def moves(self, timeout_s: float | None = None) -> Any:
        return await self._watch.moves(timeout_s)

    async def __aenter__(self) -> Any:
        await self._watch.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._watch.__aexit__(*error)
