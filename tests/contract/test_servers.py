"""The forms in which a server may stand there: behind TLS or Sentinel, with users of few rights, as a cluster."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from redis import Redis, Sentinel
from redis.exceptions import ResponseError
from redis.sentinel import MasterNotFoundError

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.snapshots import RedisStore, Retention, SnapshotStore
from snakepit_bridge.snapshots.replica import Replica
from tests.contract.sample import declared, state
from tests.harness.cluster import free_ports, local_server
from tests.harness.waiting import eventually, wait_until

SECRET = "s3cret/p#ss"
# By default a primary waits five seconds for more replicas before it sends the first one its data.
AT_ONCE = ("--repl-diskless-sync-delay", "0")
# What a user of the store needs, as docs/concepts/sessions-and-revisions.md names it.
RIGHTS = (
    "+@connection", "+@scripting", "+@pubsub", "+info", "+time", "+hget", "+hset", "+hdel", "+hmget", "+hgetall",
    "+hkeys", "+hvals", "+del", "+exists", "+get", "+set", "+xadd", "+xtrim", "+xlen", "+xdel", "+xrange", "+xrevrange",
    "+pexpire", "+pttl", "+persist", "+zadd", "+zrange", "+zscore", "+zrem",
)  # fmt: skip


async def use(store: SnapshotStore) -> None:
    """Do a little of everything that a store can do."""
    first = await store.publish("s", declared(a=1, b=1))
    await store.declare_checks("s", {"few": {"maxProperties": 3}})
    await store.retain("s", Retention(5, 60, 600))
    await store.label("s", "stable", first)
    second = await store.publish("s", declared(a=2))
    await store.keep(await store.read("s"), 60)
    async with store.open_watch() as watch:
        await watch.add(["s"])
        rolled_back = await store.rollback("s", "stable")
        # On a cluster the hint of the publish before may come as late as now.
        while (moves := await watch.moves(5)).get("s") == second:
            pass
    assert moves == {"s": rolled_back}
    assert await state(store) == {"a": 1, "b": 1}
    assert await state(store, at=second) == {"a": 2, "b": 1}
    assert len(await store.history("s")) == 3
    assert await store.raise_fence("s", publisher="store") > 0
    assert list(await store.sessions()) == ["s"]
    replica = Replica(store)
    assert (await replica.snapshot("s")).value("a") == 1
    await replica.aclose()
    await store.unlabel("s", "stable")
    await store.drop("s")
    assert await store.sessions() == {}


async def test_everything_works_on_every_store(store: SnapshotStore) -> None:
    await use(store)


async def test_a_script_reads_the_clock_once(redis_url: str) -> None:
    """What one script writes bears one time, on a server whose clock goes on meanwhile as well."""
    store = RedisStore(redis_url)
    with Redis.from_url(redis_url) as client, client.monitor() as monitor:
        await use(store)
        client.echo("done")
        readings: list[int] = []
        for heard in monitor.listen():
            seen: Any = heard
            command: str = seen["command"]
            if command == "ECHO done":
                break
            if command.startswith("EVAL"):
                readings.append(0)
            elif command == "TIME" and seen["client_type"] == "lua":
                readings[-1] += 1
    await store.aclose()
    assert len(readings) > 15
    assert max(readings) == 1


class TestTLS:
    @pytest.fixture
    def certificates(self, tmp_path: Path) -> Path:
        trustme = pytest.importorskip("trustme", reason="trustme makes the certificates and isn't installed")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        server = authority.issue_cert("127.0.0.1", "localhost")
        server.private_key_pem.write_to_path(tmp_path / "key.pem")
        server.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        client = authority.issue_cert("client@example.org")
        client.private_key_pem.write_to_path(tmp_path / "client-key.pem")
        client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
        return tmp_path

    @pytest.fixture
    async def port(self, certificates: Path, redis_url: str) -> AsyncGenerator[int]:
        # The embedded server is built without TLS, so a front of its own speaks it, and asks for certificates as well.
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
        async with tls_front(context, redis_url) as port:
            yield port

    async def test_a_server_behind_tls_is_used_with_both_sides_certificates(
        self, port: int, certificates: Path, redis_url: str
    ) -> None:
        ours = f"ssl_certfile={certificates}/client.pem&ssl_keyfile={certificates}/client-key.pem"
        store = RedisStore(
            f"rediss://127.0.0.1:{port}{urlsplit(redis_url).path}?ssl_ca_certs={certificates}/ca.pem&{ours}"
        )
        await use(store)
        await store.aclose()

    async def test_a_server_with_an_untrusted_certificate_is_rejected(self, port: int) -> None:
        store = RedisStore(f"rediss://127.0.0.1:{port}/0", timeout_s=3)
        with pytest.raises(StoreUnavailableError, match="(?i)certificate"):
            await store.read("s")
        await store.aclose()


class TestUsers:
    @pytest.fixture
    def port(self, tmp_path: Path) -> Generator[int]:
        [port] = free_ports(1)
        with local_server(tmp_path / "server", "--port", str(port), port=port) as admin:
            rules = ("on", f">{SECRET}", "~dspex:*", "&dspex:*", "-@all", *RIGHTS)
            admin.execute_command("ACL", "SETUSER", "fleet", "reset", *rules)
            yield port

    async def test_a_user_with_no_more_rights_than_documented_can_do_everything(self, port: int) -> None:
        store = RedisStore(f"redis://fleet:{quote(SECRET, safe='')}@127.0.0.1:{port}/0")
        await use(store)
        await store.aclose()

    async def test_missing_rights_are_reported_without_the_password(self, port: int) -> None:
        store = RedisStore(f"redis://fleet:{quote(SECRET, safe='')}@127.0.0.1:{port}/0", namespace="other")
        with pytest.raises(StoreUnavailableError, match="(?i)permission|NOPERM") as raised:
            await store.publish("s", declared(a=1))
        assert "s3cret" not in str(raised.value) + repr(raised.value.__cause__)
        await store.aclose()


class TestSentinel:
    async def test_a_primary_is_followed_over_a_failover(self, tmp_path: Path) -> None:
        primary, standby, watching = free_ports(3)
        with (
            local_server(tmp_path / "a", "--port", str(primary), *AT_ONCE, port=primary) as first,
            local_server(
                tmp_path / "b", "--port", str(standby), "--replicaof", "127.0.0.1", str(primary), *AT_ONCE, port=standby
            ) as second,
        ):
            wait_until(lambda: in_step(second), "the replica to be in step")
            config = tmp_path / "sentinel.conf"
            config.write_text(
                f"port {watching}\nsentinel monitor fleet 127.0.0.1 {primary} 1\n"
                "sentinel down-after-milliseconds fleet 1000\nsentinel failover-timeout fleet 5000\n"
            )
            with local_server(tmp_path / "s", str(config), "--sentinel", port=watching) as asking:
                asking.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", "200", "PING-PERIOD", "100")
                sentinel = Sentinel([("127.0.0.1", watching)])
                url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{watching}/fleet/2"
                store = RedisStore(url, timeout_s=2)
                old = await store.publish("s", declared(a=1))
                await eventually(lambda: failed_over(asking, sentinel, standby), "the replica to become the primary")
                # What is written to the old one until it knows would go down with it.
                wait_until(lambda: first.info("replication")["role"] == "slave", "the old primary to know")  # type: ignore[index]

                async def published() -> object:
                    try:
                        return await store.publish("s", declared(a=2))
                    except StoreUnavailableError:
                        return None

                new = await eventually(published, "the store to find the new primary")
                assert new > old  # type: ignore[operator]
                assert new.epoch > old.epoch  # type: ignore[attr-defined]
                await use(RedisStore(url, namespace="another"))
                await store.aclose()


@asynccontextmanager
async def tls_front(context: ssl.SSLContext, url: str) -> AsyncGenerator[int]:
    """Speak TLS on a port of its own and pass everything on to a plain server."""
    place = urlsplit(url)
    handling: set[asyncio.Task[Any]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection(place.hostname, place.port)
        both = {asyncio.create_task(copy(reader, behind_writer)), asyncio.create_task(copy(behind_reader, writer))}
        handling.update(both)
        await asyncio.wait(both)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in handling:
            task.cancel()
        await asyncio.gather(*handling, return_exceptions=True)


def in_step(replica: Redis) -> bool:
    info = replica.info("replication")
    return info["master_link_status"] == "up"  # type: ignore[index]


async def failed_over(asking: Redis, sentinel: Sentinel, port: int) -> bool:
    with suppress(MasterNotFoundError):  # it takes a server that hasn't answered in time for lost
        if sentinel.discover_master("fleet")[1] == port:
            return True
    try:
        asking.execute_command("SENTINEL", "FAILOVER", "fleet")
    except ResponseError as error:
        # It says so when it doesn't know the replica yet, or is at it.
        if "NOGOODSLAVE" not in str(error) and "INPROG" not in str(error):
            raise
    return False
