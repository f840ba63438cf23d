"""What only a server can do to a store: restart, lose data, lose a reply, go away."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from snakepit_bridge.exceptions import (
    RevisionLostError,
    RevisionNotReachedError,
    SessionNotFoundError,
    StoreUnavailableError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.records import POLICY_VARIABLE
from snakepit_bridge.snapshots import RedisStore, Retention
from snakepit_bridge.variables import Variable
from tests.harness.servers import await_log_written
from tests.harness.waiting import PATIENCE_S, Stopwatch, eventually
from workers.dev.redis_server import EmbeddedRedis

SECRET = "s3cret/p#ss"
QUOTED = "s3cret%2Fp%23ss"


def declared(**values: Any) -> dict[str, Variable | None]:
    return {name: Variable.declare(name, value) for name, value in values.items()}


@pytest.fixture
async def store(redis_url: str) -> AsyncGenerator[RedisStore]:
    store = RedisStore(redis_url)
    yield store
    await store.aclose()


@pytest.fixture
def durable(tmp_path: Path) -> Generator[EmbeddedRedis]:
    with EmbeddedRedis.start(tmp_path, aof=True) as server:
        yield server


@pytest.fixture
def forgetful() -> Generator[EmbeddedRedis]:
    with EmbeddedRedis.start() as server:
        yield server


def log_of(folder: Path) -> Path:
    """The file that the server appends each change to."""
    return next((folder / "appendonlydir").glob("*.incr.aof"))


class TestRestart:
    @pytest.mark.parametrize("kill", [False, True])
    async def test_revisions_go_on_when_the_data_is_whole(self, durable: EmbeddedRedis, kill: bool) -> None:
        store = RedisStore(durable.url)
        tokens = [await store.publish("s", declared(a=n)) for n in range(3)]
        have = await store.read("s")
        if kill:
            await_log_written(durable.url)
            durable.kill()
        durable.restart()
        shot = await store.read("s", have)
        assert shot.token.revision == 3
        assert shot.token.epoch > have.token.epoch
        assert shot.variables["a"] is have.variables["a"]
        assert all(shot.satisfies(token) for token in (*tokens, shot.token))
        assert [(await store.read_at("s", token)).value("a") for token in tokens] == [0, 1, 2]
        assert (await store.publish("s", declared(a=3), expected=tokens[2])).revision == 4
        assert [change.token for change in await store.history("s")][1:] == tokens[::-1]
        await store.aclose()

    async def test_revisions_in_a_lost_log_tail_are_reported_as_lost(
        self, durable: EmbeddedRedis, tmp_path: Path
    ) -> None:
        store = RedisStore(durable.url)
        kept = [await store.publish("s", declared(a=n)) for n in range(3)]
        await_log_written(durable.url)
        size = log_of(tmp_path).stat().st_size
        lost = [await store.publish("s", declared(a=n, gone=n)) for n in range(3, 5)]
        have = await store.read("s")
        durable.kill()
        os.truncate(log_of(tmp_path), size)
        durable.restart()

        new = await store.publish("s", declared(a=100))
        assert (new.revision, new.epoch > lost[0].epoch) == (4, True)
        shot = await store.read("s", have)
        assert {name: variable.value for name, variable in shot.variables.items()} == {"a": 100}
        for token in lost:
            with pytest.raises(RevisionLostError):
                await store.read_at("s", token)
            with pytest.raises(RevisionLostError):
                shot.satisfies(token)
        assert [(await store.read_at("s", token)).value("a") for token in kept] == [0, 1, 2]
        assert all(shot.satisfies(token) for token in kept)
        await store.aclose()

    async def test_a_server_without_data_begins_a_larger_epoch(self, forgetful: EmbeddedRedis) -> None:
        store = RedisStore(forgetful.url)
        old = [await store.publish("s", declared(a=n)) for n in range(3)]
        have = await store.read("s")
        forgetful.restart()
        with pytest.raises(SessionNotFoundError):
            await store.read("s", have)
        new = await store.publish("s", declared(b=1))
        assert new.epoch > old[0].epoch
        assert new.revision == 1
        shot = await store.read("s", have)
        assert list(shot.variables) == ["b"]
        started = Stopwatch()
        for token in old:
            with pytest.raises(RevisionLostError):
                await store.read_at("s", token)
        assert started.elapsed_s < 1
        assert list(await store.sessions()) == ["s"]
        await store.aclose()

    async def test_a_flushed_server_begins_a_larger_epoch_too(self, forgetful: EmbeddedRedis) -> None:
        store = RedisStore(forgetful.url)
        old = await store.publish("s", declared(a=1))
        forgetful.cli("FLUSHALL")
        new = await store.publish("s", declared(a=2))
        assert new.epoch > old.epoch
        with pytest.raises(RevisionLostError):
            await store.read_at("s", old)
        await store.aclose()

    async def test_a_head_that_is_gone_takes_its_session_with_it(self, store: RedisStore, redis_url: str) -> None:
        await store.publish("s", declared(a=1))
        await store.publish("s", declared(b=1))
        with Redis.from_url(redis_url) as client:
            client.delete("dspex:{s:s}:head")
        await store.publish("s", declared(c=1))
        assert list((await store.read("s")).variables) == ["c"]

    async def test_epochs_grow_past_a_clock_that_was_set_back(self, store: RedisStore, redis_url: str) -> None:
        await store.publish("s", declared(a=1))
        ahead = 4_000_000_000_000_000
        with Redis.from_url(redis_url) as client:
            client.hset("dspex:{s:s}:head", mapping={"epoch": ahead, "epochs": f"{ahead}:0", "run": "another"})
        after = (await store.head("s")).token
        assert (after.epoch > ahead, after.revision) == (True, 1)
        await store.drop("s")
        begun = await store.publish("s", declared(a=1))
        assert (begun.epoch > after.epoch, begun.revision) == (True, 1)

    async def test_a_confirmation_in_the_future_does_not_outlive_the_clock_that_made_it(
        self, store: RedisStore, redis_url: str
    ) -> None:
        await store.publish("s", declared(a=1))
        confirmed_at = (await store.head("s")).confirmed_at
        with Redis.from_url(redis_url) as client:
            client.hset("dspex:{s:s}:head", "confirmed_at", 4_000_000_000_000_000)
        await store.publish("s", declared(a=1))
        assert confirmed_at < (await store.head("s")).confirmed_at < confirmed_at + 60

    async def test_a_session_remembers_a_bounded_number_of_epochs(self, store: RedisStore, redis_url: str) -> None:
        tokens = [await store.publish("s", declared(a=0))]
        with Redis.from_url(redis_url) as client:
            for n in range(1, 80):
                client.hset("dspex:{s:s}:head", "run", f"run {n}")
                tokens.append(await store.publish("s", declared(a=n)))
        shot = await store.read("s")
        assert len(shot.lineage.epochs) == 64
        assert tokens == sorted(tokens)
        assert all(shot.satisfies(token) for token in tokens[16:])
        with pytest.raises(RevisionLostError):
            shot.satisfies(tokens[15])


class TestLostReply:
    async def test_a_publish_whose_reply_is_lost_is_committed_once(self, redis_url: str) -> None:
        async with flaky(redis_url) as (url, lose_reply):
            store = RedisStore(url)
            first = await store.publish("s", declared(a=1))
            lose_reply(b"EVALSHA")
            # Run twice, the second would find another revision than the expected one.
            second = await store.publish("s", declared(a=2), expected=first)
            assert lose_reply.lost == 1
            assert second.revision == 2
            lose_reply(b"EVALSHA")
            third = await store.rollback("s", first, expected=second)
            assert (third.revision, lose_reply.lost) == (3, 2)
            lose_reply(b"EVALSHA")
            assert await store.label("s", "stable", third, expected=Token(0, 0)) == third
            lose_reply(b"EVALSHA")
            await store.declare_checks("s", {"few": {"maxProperties": 3}})
            assert lose_reply.lost == 4
            assert [change.token.revision for change in await store.history("s")] == [3, 2, 1]
            await store.aclose()

    async def test_request_markers_expire(self, store: RedisStore, redis_url: str) -> None:
        await store.publish("s", declared(a=1))
        with Redis.from_url(redis_url) as client:
            [request] = client.keys("dspex:*:request:*")  # type: ignore[misc]
            assert 0 < client.ttl(request) <= 300  # type: ignore[operator]


class TestAway:
    async def test_an_address_without_server_fails_at_once(self) -> None:
        store = RedisStore("redis://127.0.0.1:1/0", timeout_s=2)
        started = Stopwatch()
        for question in (store.read("s"), store.publish("s", declared(a=1)), store.sessions(), store.drop("s")):
            with pytest.raises(StoreUnavailableError, match=r"Redis at redis://127\.0\.0\.1:1/0 is away: "):
                await question
        assert started.elapsed_s < 4 * 2.5

    async def test_a_hung_server_fails_within_the_timeout(self, forgetful: EmbeddedRedis) -> None:
        patient, store = RedisStore(forgetful.url), RedisStore(forgetful.url, timeout_s=0.3)
        await patient.publish("s", declared(a=1))
        os.kill(forgetful.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailableError, match=r"no answer within 0\.3 s"):
                await asyncio.wait_for(store.read("s"), PATIENCE_S)
        finally:
            os.kill(forgetful.pid, signal.SIGCONT)
        await patient.head("s")

        async def heard() -> bool:
            with suppress(StoreUnavailableError):
                # An answer that came too late must not be taken for that of the next question.
                assert (await store.head("s")).token.revision == 1
                assert (await store.read("s")).value("a") == 1
                return True
            return False

        await eventually(heard, "the server to answer in time")
        await patient.aclose()
        await store.aclose()

    async def test_a_read_only_server_is_reported(self, forgetful: EmbeddedRedis) -> None:
        store = RedisStore(forgetful.url)
        forgetful.cli("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreUnavailableError, match="maxmemory"):
            await store.publish("s", declared(a=1))
        await store.aclose()

    @pytest.mark.parametrize(
        "url",
        [
            f"redis://:{QUOTED}@127.0.0.1:1/0",
            f"redis://user:{QUOTED}@127.0.0.1:1/0",
            f"redis://127.0.0.1:1/0?password={QUOTED}",
            f"valkey://:{QUOTED}@127.0.0.1:1",
        ],
    )
    async def test_a_password_is_in_no_error_and_no_repr(self, url: str) -> None:
        store = RedisStore(url, timeout_s=1)
        with pytest.raises(StoreUnavailableError) as raised:
            await store.read("s")
        seen = (
            str(raised.value),
            repr(raised.value),
            repr(raised.value.__cause__),
            repr(store),
            str(raised.value.args),
        )
        for text in seen:
            assert "s3cret" not in text
        assert "127.0.0.1:1" in str(raised.value)

    async def test_a_password_that_the_server_refuses_is_not_shown(self, forgetful: EmbeddedRedis) -> None:
        forgetful.cli("CONFIG", "SET", "requirepass", "another")
        try:
            store = RedisStore(forgetful.url.replace("redis://", f"redis://:{QUOTED}@"))
            with pytest.raises(StoreUnavailableError) as raised:
                await store.read("s")
            assert "s3cret" not in str(raised.value) + repr(raised.value.__cause__)
        finally:
            with Redis.from_url(forgetful.url, password="another") as client:
                client.config_set("requirepass", "")


class TestServer:
    async def test_scripts_are_reloaded_after_a_script_flush(self, store: RedisStore, redis_url: str) -> None:
        await store.publish("s", declared(a=1))
        with Redis.from_url(redis_url) as client:
            client.script_flush()
            assert (await store.publish("s", declared(a=2))).revision == 2
            client.script_flush()
            assert len(await store.sessions()) == 1

    async def test_each_new_revision_is_announced_and_nothing_else(self, store: RedisStore, redis_url: str) -> None:
        async with AsyncRedis.from_url(redis_url) as client, client.pubsub() as pubsub:
            await pubsub.subscribe(store.channel("s"))
            assert await pubsub.get_message(timeout=PATIENCE_S)
            first = await store.publish("s", declared(a=1))
            await store.publish("s", declared(a=1))
            await store.publish("other", declared(a=1))
            second = await store.rollback("s", await store.publish("s", declared(a=1, b=2)))
            await store.drop("s")
            messages: list[Any] = [await pubsub.get_message(timeout=PATIENCE_S) or {} for _ in range(3)]
            announced = [message["data"].decode() for message in messages]
            assert announced == [str(first), str(second), ""]

    async def test_a_read_by_an_up_to_date_reader_is_one_small_command(self, store: RedisStore, redis_url: str) -> None:
        await store.publish("s", declared(**{f"v{n}": n for n in range(500)}))
        have = await store.read("s")
        with Redis.from_url(redis_url) as client:
            before: Any = client.info("stats")
            for _ in range(100):
                assert await store.read("s", have) is have
            after: Any = client.info("stats")
        commands = after["total_commands_processed"] - before["total_commands_processed"]
        sent = after["total_net_output_bytes"] - before["total_net_output_bytes"]
        # Commands inside of a script count too: EVALSHA, HMGET, INFO.
        assert commands <= 3 * 100 + 5
        assert sent < 100 * 60 + 10_000

    async def test_a_publish_is_one_command_once_its_session_is_there(self, store: RedisStore, redis_url: str) -> None:
        await store.publish("s", declared(a=0))
        await store.declare_checks("replaced", {"few": {"maxProperties": 3}})
        await store.publish("replaced", declared(a=0))
        with Redis.from_url(redis_url) as client:
            client.config_resetstat()
            for n in range(1, 51):
                await store.publish("s", declared(a=n))
                await store.publish("replaced", declared(a=n), replace=True)
            stats: Any = client.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 100
        assert "cmdstat_zadd" not in stats

    async def test_everything_of_a_session_expires_with_it(self, redis_url: str) -> None:
        store = RedisStore(redis_url, retention=Retention(ttl_s=600))
        await store.publish("s", declared(a=1))
        await store.label("s", "stable")
        await store.declare_checks("s", {"few": {"maxProperties": 3}})
        await store.keep(await store.read("s"), 100)
        await store.raise_fence("never published", publisher="elixir")
        await store.declare_checks("never published", {"few": {}}, publisher="elixir")
        with Redis.from_url(redis_url, decode_responses=True) as client:
            names: Any = client.keys("*}:*")
            ends: Any = {name: client.ttl(name) for name in names}
        kinds = {name.rpartition("}:")[2].partition(":")[0] for name in names}
        lasting = {"head", "variables", "history", "labels", "labelled", "checks"}
        assert kinds == lasting | {"floor", "request", "pin", "state"}
        assert [name for name, left in ends.items() if left < 0] == []
        await store.aclose()

    async def test_names_without_a_session_leave_the_index_in_time(self, store: RedisStore, redis_url: str) -> None:
        for name in ("lives", "long gone", "just gone"):
            await store.publish(name, declared(a=1))
        await store.drop("long gone")
        await store.drop("just gone")
        with Redis.from_url(redis_url, decode_responses=True) as client:
            client.zadd("dspex:sessions", {"lives": 1, "long gone": 1})
            assert list(await store.sessions()) == ["lives"]
            assert set(client.zrange("dspex:sessions", 0, -1)) == {"lives", "just gone"}  # type: ignore[arg-type]
        await store.publish("long gone", declared(a=1))
        assert list(await store.sessions()) == ["lives", "long gone"]

    async def test_what_is_staged_is_found_without_its_index_and_leaves_it_in_time(
        self, store: RedisStore, redis_url: str
    ) -> None:
        policy = Variable.declare(POLICY_VARIABLE, '{"stages": [{"share": 0.1}]}')
        for number in (1, 2):
            await store.publish("s", {**declared(a=number), POLICY_VARIABLE: policy})
        with Redis.from_url(redis_url, decode_responses=True) as client:
            client.delete("dspex:staged")
            assert list(await store.staged_sessions()) == ["s"], "all sessions are looked at"
            client.config_resetstat()
            await store.publish("s", declared(a=3))
            assert "cmdstat_zadd" not in client.info("commandstats"), "a rollout that goes on is in the index already"
            client.zadd("dspex:staged", {"s": 1, "ended long ago": 1, "not begun yet": time.time()})
            assert list(await store.staged_sessions()) == ["s"]
            assert set(client.zrange("dspex:staged", 0, -1)) == {"s", "not begun yet"}  # type: ignore[arg-type]
            client.delete("dspex:staged")
            assert await store.staged_sessions() == {}, "the index is trusted"
            assert 0 < client.ttl("dspex:staged:complete") <= 600  # type: ignore[operator]

    async def test_a_snapshot_is_kept_once_for_many_results(self, store: RedisStore, redis_url: str) -> None:
        await store.publish("s", declared(a=1))
        snapshot = await store.read("s")
        await store.keep(snapshot, 3_600)
        with Redis.from_url(redis_url) as client:
            client.config_resetstat()
            for _ in range(50):
                await store.keep(snapshot, 3_600)
            stats: Any = client.info("commandstats")
            assert "cmdstat_set" not in stats
            await store.keep(snapshot, 36_000)
            [state] = client.keys("dspex:*:state:*")  # type: ignore[misc]
            assert client.ttl(state) > 36_000 - 60  # type: ignore[operator]

    async def test_namespaces_are_isolated(self, store: RedisStore, redis_url: str) -> None:
        other = RedisStore(redis_url, namespace="other*")
        await store.publish("s", declared(a=1))
        assert await other.sessions() == {}
        await other.publish("s", declared(a=2))
        assert (await store.read("s")).value("a") == 1
        await other.drop("s")
        assert list(await store.sessions()) == ["s"]
        await other.aclose()

    async def test_all_keys_of_a_session_share_one_hash_tag(self, store: RedisStore, redis_url: str) -> None:
        await store.publish("a}b", declared(a=1))
        await store.drop("a}b")
        await store.publish("a}b", declared(a=1))
        with Redis.from_url(redis_url, decode_responses=True) as client:
            keys: Any = client.keys("*")
        tags = {key[key.index("{") : key.index("}")] for key in keys if "{" in key}
        assert tags == {"{s:a"}
        assert len(keys) == 8  # the index, the audit trail; head, variables, history, floor; two requests

    def test_a_forked_child_uses_its_own_connections(self, redis_url: str) -> None:
        store = RedisStore(redis_url)
        with asyncio.Runner() as runner:
            runner.run(store.publish("s", declared(a=1)))
            with forked(lambda: asyncio.run(store.read("s")).value("a") == 1) as succeeded:
                assert [runner.run(store.read("s")).value("a") for _ in range(20)] == [1] * 20
                assert succeeded()
            runner.run(store.publish("s", declared(a=2)))
            assert runner.run(store.read("s")).value("a") == 2
            runner.run(store.aclose())

    async def test_a_token_ahead_of_the_store_is_not_lost(self, store: RedisStore) -> None:
        token = await store.publish("s", declared(a=1))
        with pytest.raises(RevisionNotReachedError):
            await store.read_at("s", Token(token.epoch * 1_000, 1))


class LoseReply:
    """Armed with a word, the connection that sends it next is cut before the answer gets through."""

    def __init__(self) -> None:
        self.word: bytes | None = None
        self.lost = 0

    def __call__(self, word: bytes) -> None:
        self.word = word


@asynccontextmanager
async def flaky(url: str) -> AsyncGenerator[tuple[str, LoseReply]]:
    """A way to the server that can lose a reply after the server has done what it was asked."""
    lose = LoseReply()
    host, _, database = url.removeprefix("redis://").partition("/")
    server_host, _, server_port = host.partition(":")
    handling: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handling.add(task)
        upstream_reader, upstream_writer = await asyncio.open_connection(server_host, int(server_port))
        try:
            while question := await reader.read(65_536):
                losing = lose.word is not None and lose.word in question
                upstream_writer.write(question)
                answer = await upstream_reader.read(65_536)
                if losing:
                    lose.word, lose.lost = None, lose.lost + 1
                    return
                writer.write(answer)
        finally:
            upstream_writer.close()
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"redis://127.0.0.1:{port}/{database}", lose
    finally:
        server.close()
        for task in handling:
            task.cancel()
        await asyncio.gather(*handling, return_exceptions=True)


@contextmanager
def forked(check: Any) -> Generator[Any]:
    """Run a check in a fork; yield what waits for its answer."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    yield lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
