"""Two servers that both take publishes for a while: a token of the one is never answered with a state of the other.

A replica is promoted while the old primary still answers, and the one that goes on restarts or is replaced
again. What the other one published alone is ``RevisionLostError`` by name, or ``RevisionNotReachedError`` as
long as it could still come.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.exceptions import RevisionLostError, RevisionNotReachedError, StaleTokenError
from snakepit_bridge.protocol.messages import Requirement
from snakepit_bridge.protocol.token import Token, new_epoch
from snakepit_bridge.snapshots import MemoryStore, RedisStore
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from tests.contract.sample import declared, plain
from tests.harness.waiting import wait_until
from workers.dev.redis_server import EmbeddedRedis


class Pair:
    """A primary and its replica, and a store on each."""

    def __init__(self, old: EmbeddedRedis, new: EmbeddedRedis) -> None:
        self.old, self.new = old, new
        self.on_old, self.on_new = RedisStore(old.url), RedisStore(new.url)

    def follow(self, replica: EmbeddedRedis, primary: EmbeddedRedis) -> None:
        """Make one the replica of the other, and wait until it has what that one has."""
        # By default a primary waits five seconds for more replicas before it sends the first one its data.
        primary.cli("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        # And as it ends it waits ten seconds for a replica that isn't in step, as one that was promoted never is.
        for server in (primary, replica):
            server.cli("CONFIG", "SET", "shutdown-timeout", "0")
        replica.cli("REPLICAOF", "127.0.0.1", str(urlsplit(primary.url).port))
        wait_until(lambda: replica.cli("INFO", "replication")["master_link_status"] == "up", "the link to the primary")
        in_step(replica, primary)
        # While it writes that to its log anew, it refuses to end.
        wait_until(lambda: not is_rewriting_log(replica), "the replica to have written its log")

    def promote(self) -> None:
        """Promote the replica once it is in step; the old primary isn't told."""
        in_step(self.new, self.old)
        self.new.cli("REPLICAOF", "NO", "ONE")


def in_step(replica: EmbeddedRedis, primary: EmbeddedRedis) -> None:
    offset = primary.cli("INFO", "replication")["master_repl_offset"]
    wait_until(lambda: replica.cli("INFO", "replication")["slave_repl_offset"] >= offset, "the replica to be in step")


def is_rewriting_log(server: EmbeddedRedis) -> bool:
    state = server.cli("INFO", "persistence")
    return bool(state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncGenerator[Pair]:
    with (
        EmbeddedRedis.start(tmp_path / "old", aof=True) as old,
        EmbeddedRedis.start(tmp_path / "new", aof=True) as new,
    ):
        both = Pair(old, new)
        both.follow(new, old)
        yield both
        await both.on_old.aclose()
        await both.on_new.aclose()


async def publish(store: RedisStore, *values: int) -> list[Token]:
    return [await store.publish("s", declared(n=n)) for n in values]


async def assert_foreign(store: RedisStore, token: Token, have: Snapshot) -> None:
    """Assert that a token, and what was read under it, is nothing that the store went through."""
    with pytest.raises(RevisionLostError, match=str(token)):
        await store.read_at("s", token)
    for change in (store.rollback("s", token), store.label("s", "stable", token)):
        with pytest.raises(RevisionLostError, match=str(token)):
            await change
    with pytest.raises(StaleTokenError):
        await store.publish("s", declared(n=5), expected=token)
    present = await store.read("s")
    assert plain((await store.read("s", have)).variables) == plain(present.variables)
    with pytest.raises(RevisionLostError, match=str(token)):
        present.satisfies(token)
    replica = Replica(store, wait_s=0.1)
    for requirement in (Requirement.of(at_least=token), Requirement.of(exactly=token)):
        with pytest.raises(RevisionLostError, match=str(token)):
            await replica.snapshot("s", requirement)
    await replica.aclose()


@pytest.mark.parametrize("old_primary_first", [True, False])
@pytest.mark.parametrize("old_restarted", [True, False])
async def test_revisions_of_the_old_primary_alone_are_lost_on_the_new_one(
    pair: Pair, old_primary_first: bool, old_restarted: bool
) -> None:
    shared = await publish(pair.on_old, *range(5))
    if old_restarted:
        # So that the old primary opens an epoch of its own after the two have parted.
        pair.old.restart()
        pair.follow(pair.new, pair.old)
    pair.promote()
    if not old_primary_first:
        await publish(pair.on_new, 100)
    [alone] = await publish(pair.on_old, 777)
    if old_primary_first:
        await publish(pair.on_new, 100)
    have = await pair.on_old.read("s")
    with pytest.raises((RevisionLostError, RevisionNotReachedError), match=str(alone)):
        await pair.on_new.read_at("s", alone)

    pair.new.restart()
    await publish(pair.on_new, 101)
    await assert_foreign(pair.on_new, alone, have)
    for n, token in enumerate(shared):
        assert (await pair.on_new.read_at("s", token)).value("n") == n


async def test_a_replaced_primary_that_comes_back_reuses_no_token(pair: Pair) -> None:
    shared = await publish(pair.on_old, *range(5))
    pair.promote()
    [alone] = await publish(pair.on_old, 777)
    have = await pair.on_old.read("s")
    # The old primary becomes the replica and loses what it had alone, then takes over again: the same process.
    pair.follow(pair.old, pair.new)
    pair.old.cli("REPLICAOF", "NO", "ONE")

    [again] = await publish(pair.on_old, 100)
    assert again != alone
    assert again.epoch > alone.epoch
    await assert_foreign(pair.on_old, alone, have)
    assert (await pair.on_old.read_at("s", again)).value("n") == 100
    assert (await pair.on_old.read_at("s", shared[4])).value("n") == 4


async def test_two_servers_whose_clocks_are_behind_open_different_epochs(pair: Pair) -> None:
    await publish(pair.on_old, 1)
    ahead = 4_000_000_000_000_000
    pair.old.cli("HSET", "dspex:{s:s}:head", "epoch", str(ahead), "epochs", f"{ahead}:0", "run", "another")
    pair.follow(pair.new, pair.old)
    pair.promote()
    [first], [other] = await publish(pair.on_old, 777), await publish(pair.on_new, 100)
    assert first.epoch != other.epoch
    assert min(first.epoch, other.epoch) > ahead
    assert first.revision == other.revision == 2


async def test_heads_of_a_replaced_server_are_read_by_script(pair: Pair) -> None:
    """Heads are read and confirmed many at a time as well, by scripts of their own."""
    [before] = await publish(pair.on_old, 1)
    pair.promote()
    pair.follow(pair.old, pair.new)
    pair.old.cli("REPLICAOF", "NO", "ONE")
    assert (await pair.on_old.heads(["s"]))["s"].token.epoch > before.epoch


async def test_tokens_of_one_memory_store_are_unknown_to_another() -> None:
    first, other = MemoryStore(), MemoryStore()
    foreign = await first.publish("s", declared(n=777))
    await other.publish("s", declared(n=0))
    await other.drop("s")
    assert (await other.publish("s", declared(n=100))).epoch > foreign.epoch
    with pytest.raises(RevisionLostError):
        await other.read_at("s", foreign)
    with pytest.raises(RevisionLostError):
        (await other.read("s")).satisfies(foreign)


@given(st.integers(0, 2**53))
def test_a_new_epoch_is_larger_than_any_older_one(older: int) -> None:
    assert new_epoch(older) > older


def test_an_epoch_beyond_the_clock_is_unique() -> None:
    assert len({new_epoch(2**52) for _ in range(100)}) > 95
