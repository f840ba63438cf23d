"""A replica on every store, and what only a server can do to it: restart, lose data, hang, be left by a fork."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.exceptions import RevisionLostError, StoreUnavailableError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import RedisStore, SnapshotStore
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, OutagePolicy
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable
from tests.contract.test_redis_store import flaky, forked, log_of
from tests.harness.servers import await_log_written
from tests.harness.waiting import eventually
from workers.dev.redis_server import EmbeddedRedis

LEASE_S = 0.3


def declared(**values: Any) -> dict[str, Variable | None]:
    return {name: Variable.declare(name, value) for name, value in values.items()}


async def connected(replica: Replica, session: str = "s") -> Snapshot:
    await replica.snapshot(session)

    async def warm() -> Snapshot | None:
        return replica.peek(session)

    return await eventually(warm, "a replica that hears from its store")


async def sees(replica: Replica, token: Token, session: str = "s") -> Snapshot:
    async def there() -> Snapshot | None:
        shot = replica.peek(session)
        return shot if shot and shot.token >= token else None

    return await eventually(there, f"the replica to hold {token}")


@pytest.fixture
async def replica(store: SnapshotStore) -> AsyncGenerator[Replica]:
    replica = Replica(store, watch_lease_s=LEASE_S)
    yield replica
    await replica.aclose()


class TestOnEveryStore:
    async def test_each_requirement_is_met(self, store: SnapshotStore, replica: Replica) -> None:
        tokens = [await store.publish("s", declared(a=n, b=n)) for n in range(5)]
        await connected(replica)
        for n, token in enumerate(tokens):
            pinned = await replica.snapshot("s", Requirement.of(exactly=token))
            assert (pinned.token, pinned.value("a")) == (token, n)
            assert (await replica.snapshot("s", Requirement.of(at_least=token))).token == tokens[-1]
        assert (await replica.snapshot("s")).token == tokens[-1]

    async def test_publishes_reach_the_replica(self, store: SnapshotStore, replica: Replica) -> None:
        await store.publish("s", declared(kept=1, a=0))
        first = await connected(replica)
        token = await store.publish("s", declared(a=1))
        shot = await sees(replica, token)
        assert shot.value("a") == 1
        # What did not change is shared.
        assert shot.variables["kept"] == first.variables["kept"]

    async def test_a_writer_reads_its_writes_over_any_number_of_sessions(
        self, store: SnapshotStore, replica: Replica
    ) -> None:
        async def chain(session: str) -> None:
            for n in range(20):
                token = await store.publish(session, declared(a=n))
                assert (await replica.snapshot(session, Requirement.of(at_least=token))).value("a") == n

        await asyncio.gather(*(chain(f"s{n}") for n in range(8)))


@pytest.fixture
def server(tmp_path: Path) -> Generator[EmbeddedRedis]:
    with EmbeddedRedis.start(tmp_path, aof=True) as server:
        yield server


@pytest.fixture
async def publisher(server: EmbeddedRedis) -> AsyncGenerator[RedisStore]:
    store = RedisStore(server.url)
    yield store
    await store.aclose()


@pytest.fixture
async def follower(server: EmbeddedRedis) -> AsyncGenerator[Replica]:
    store = RedisStore(server.url, timeout_s=1.0)
    replica = Replica(store, watch_lease_s=LEASE_S)
    yield replica
    await replica.aclose()


class TestServer:
    async def test_everything_is_compared_after_a_restart(
        self, server: EmbeddedRedis, publisher: RedisStore, follower: Replica
    ) -> None:
        tokens = {name: await publisher.publish(name, declared(a=0)) for name in ("s", "t", "u")}
        for name in tokens:
            await connected(follower, name)
        await_log_written(server.url)
        server.kill()
        server.restart()
        for name, old in tokens.items():
            token = await publisher.publish(name, declared(a=1))
            assert token > old
            await sees(follower, token, name)

    async def test_revisions_in_a_lost_log_tail_are_reported_as_lost(
        self, server: EmbeddedRedis, publisher: RedisStore, follower: Replica, tmp_path: Path
    ) -> None:
        kept = await publisher.publish("s", declared(a=0))
        await_log_written(server.url)
        size = log_of(tmp_path).stat().st_size
        lost = [await publisher.publish("s", declared(a=n)) for n in (1, 2)]
        assert (await connected(follower)).token == lost[-1]
        server.kill()
        os.truncate(log_of(tmp_path), size)
        server.restart()
        new = await publisher.publish("s", declared(a=100))
        assert new.revision == lost[0].revision
        shot = await sees(follower, new)
        assert (shot.token, shot.value("a")) == (new, 100)
        assert (await follower.snapshot("s", Requirement.of(at_least=kept))).token == new
        for token in lost:
            async with asyncio.timeout(0.5):
                with pytest.raises(RevisionLostError):
                    await follower.snapshot("s", Requirement.of(at_least=token))

    async def test_a_hung_server_is_relied_on_for_one_lease_at_most(
        self, server: EmbeddedRedis, publisher: RedisStore, follower: Replica
    ) -> None:
        await publisher.publish("s", declared(a=0))
        await connected(follower)
        os.kill(server.pid, signal.SIGSTOP)
        try:

            async def alone() -> bool:
                return not follower.connected and follower.peek("s") is None

            await eventually(alone, "the lease to run out", timeout_s=LEASE_S + 1)
            with pytest.raises(StoreUnavailableError):
                await follower.snapshot("s")
            served = await follower.serve("s", policy=FreshnessPolicy(OutagePolicy.serve_stale(60)))
            assert served.store_away
        finally:
            os.kill(server.pid, signal.SIGCONT)
        token = await publisher.publish("s", declared(a=1))
        await sees(follower, token)

    async def test_a_connection_that_is_cut_is_opened_again(
        self, server: EmbeddedRedis, publisher: RedisStore, follower: Replica
    ) -> None:
        await publisher.publish("s", declared(a=0))
        await connected(follower)
        token = None
        for n in range(1, 6):
            server.cli("CLIENT", "KILL", "TYPE", "pubsub")
            token = await publisher.publish("s", declared(a=n))
            assert (await follower.snapshot("s", Requirement.of(at_least=token))).value("a") == n
        assert token is not None
        await sees(follower, token)

    async def test_a_store_that_lost_what_a_reader_has_answers_in_a_new_epoch(
        self, server: EmbeddedRedis, publisher: RedisStore, follower: Replica
    ) -> None:
        await publisher.publish("s", declared(a=0))
        before = await connected(follower)
        # A failover to a server that was behind, whose run happens to be known.
        server.cli("HSET", "dspex:{s:s}:head", "epoch", str(before.token.epoch - 10), "epochs", "1:0")
        after = await publisher.read("s", before)
        assert after.token > before.token
        assert (await follower.snapshot("s", Requirement.of(at_least=after.token))).token == after.token

    async def test_lost_replies_and_broken_connections_are_read_again(self, server: EmbeddedRedis) -> None:
        async with flaky(server.url) as (url, lose_reply):
            store = RedisStore(url)
            replica = Replica(store, watch_lease_s=30)
            for n in range(5):
                lose_reply(b"EVALSHA")
                token = await store.publish("s", declared(a=n))
                lose_reply(b"EVALSHA")
                assert (await replica.snapshot("s", Requirement.of(at_least=token))).value("a") == n
            await replica.aclose()
            await store.aclose()


def test_a_forked_child_starts_with_an_empty_cache(redis_url: str) -> None:
    replica = Replica(RedisStore(redis_url), watch_lease_s=LEASE_S)
    publisher = RedisStore(redis_url)
    run_blocking(publisher.publish("s", declared(a=1)))
    assert run_blocking(connected(replica)).value("a") == 1

    def child() -> bool:
        if replica.held_tokens():
            return False
        run_blocking(connected(replica), 10)
        token = run_blocking(publisher.publish("s", declared(a=2)), 10)
        return run_blocking(sees(replica, token), 10).value("a") == 2

    with forked(child) as succeeded:
        assert succeeded()
    assert run_blocking(sees(replica, run_blocking(publisher.publish("s", declared(a=3)))), 10).value("a") == 3
    run_blocking(replica.aclose())
