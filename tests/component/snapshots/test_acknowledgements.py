"""Acknowledgements: what a process says of a revision counts while it lives, and only for the session it names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

import pytest
from redis import Redis

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import acknowledgements as module
from snakepit_bridge.snapshots.acknowledgements import HEARTBEAT_INTERVAL_S, AckReport, Acks, ProcessAck

FIRST, SECOND = Token(7, 1), Token(7, 2)


@pytest.fixture
async def acks(redis_url: str) -> AsyncIterator[Acks]:
    connection = RedisConnection(redis_url)
    yield Acks(connection)
    await connection.aclose()


@pytest.fixture
def client(redis_url: str) -> Generator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


async def says(acks: Acks, process: str, token: Token, error: str = "", *, session: str = "s") -> None:
    await acks.heartbeat(process)
    await acks.report(process, {session: AckReport(token, error)})


@pytest.mark.parametrize(
    ("at", "error", "acknowledged"),
    [
        (FIRST, "", False),
        (SECOND, "", True),
        (Token(7, 3), "", True),
        (Token(8, 0), "", True),
        (Token(6, 9), "", False),
        (SECOND, "temp is too hot", False),
        (Token(7, 3), "temp is too hot", False),
    ],
)
def test_a_process_acknowledges_what_it_applies_and_all_before(at: Token, error: str, acknowledged: bool) -> None:
    assert ProcessAck("w/1", at, error).acknowledges(SECOND) is acknowledged


async def test_a_session_without_reports_has_no_acknowledgements(acks: Acks) -> None:
    assert await acks.read_acks("s") == []


async def test_acknowledgements_are_sorted_by_process(acks: Acks) -> None:
    await says(acks, "w2@h/5", SECOND)
    await says(acks, "w1@h/9", FIRST, "Variable 'temp': größer als 2")
    assert await acks.read_acks("s") == [
        ProcessAck("w1@h/9", FIRST, "Variable 'temp': größer als 2"),
        ProcessAck("w2@h/5", SECOND, ""),
    ]


async def test_the_last_report_of_a_process_counts(acks: Acks) -> None:
    await says(acks, "w/1", FIRST, "no")
    await says(acks, "w/1", SECOND)
    assert await acks.read_acks("s") == [ProcessAck("w/1", SECOND, "")]
    # An older revision is said too: its session was rolled back with the data, and the process follows.
    await says(acks, "w/1", FIRST)
    assert await acks.read_acks("s") == [ProcessAck("w/1", FIRST, "")]


async def test_several_sessions_are_reported_at_once(acks: Acks) -> None:
    await acks.heartbeat("w/1")
    await acks.report("w/1", {"s": AckReport(FIRST), "t": AckReport(SECOND, "no"), "a:{b} c": AckReport(FIRST)})
    assert await acks.read_acks("s") == [ProcessAck("w/1", FIRST, "")]
    assert await acks.read_acks("t") == [ProcessAck("w/1", SECOND, "no")]
    assert await acks.read_acks("a:{b} c") == [ProcessAck("w/1", FIRST, "")]
    assert await acks.read_acks("other") == []


async def test_an_empty_report_sends_nothing(acks: Acks, client: Redis) -> None:
    await acks.report("w/1", {})
    await acks.forget("w/1", [])
    assert client.keys("*") == []


async def test_forgotten_reports_do_not_count(acks: Acks) -> None:
    await acks.heartbeat("w/1")
    await acks.report("w/1", {"s": AckReport(FIRST), "t": AckReport(FIRST)})
    await says(acks, "w/2", FIRST)
    await acks.forget("w/1", ["s", "never held"])
    assert [ack.process for ack in await acks.read_acks("s")] == ["w/2"]
    assert [ack.process for ack in await acks.read_acks("t")] == ["w/1"]


async def test_a_process_without_heartbeat_does_not_count(acks: Acks) -> None:
    await acks.report("w/1", {"s": AckReport(FIRST)})
    assert await acks.read_acks("s") == []
    await acks.heartbeat("w/1")
    assert await acks.read_acks("s") == [ProcessAck("w/1", FIRST, "")]


async def test_a_process_counts_until_three_missed_heartbeats(acks: Acks, client: Redis) -> None:
    await says(acks, "w/1", FIRST)
    client.zincrby("dspex:processes", -2.5 * HEARTBEAT_INTERVAL_S, "w/1")
    assert [ack.process for ack in await acks.read_acks("s")] == ["w/1"]
    client.zincrby("dspex:processes", -0.5 * HEARTBEAT_INTERVAL_S, "w/1")
    assert await acks.read_acks("s") == []
    # It was only suspended: what it said counts again as soon as it shows itself.
    await acks.heartbeat("w/1")
    assert await acks.read_acks("s") == [ProcessAck("w/1", FIRST, "")]


async def test_heartbeats_remove_dead_processes(acks: Acks, client: Redis) -> None:
    await acks.heartbeat("dead/1")
    client.zincrby("dspex:processes", -3 * HEARTBEAT_INTERVAL_S - 1, "dead/1")
    await acks.heartbeat("w/1")
    assert client.zrange("dspex:processes", 0, -1) == [b"w/1"]


async def test_all_acknowledgements_expire(acks: Acks, client: Redis) -> None:
    await says(acks, "w/1", FIRST)
    names: list[bytes] = client.keys("*")  # type: ignore[assignment]
    assert sorted(names) == [b"dspex:processes", b"dspex:{s:s}:applied"]
    for name in names:
        assert 0 < client.ttl(name) <= module._KEPT_S  # type: ignore[operator]


async def test_namespaces_keep_fleets_apart(acks: Acks, redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    other = Acks(connection, namespace="other")
    await says(other, "w/1", FIRST)
    assert await acks.read_acks("s") == []
    assert await other.read_acks("s") == [ProcessAck("w/1", FIRST, "")]
    await connection.aclose()


async def test_an_unreachable_redis_raises() -> None:
    connection = RedisConnection("redis://:hunter2@127.0.0.1:1/0", timeout_s=0.5)
    unreachable = Acks(connection)
    for call in (
        unreachable.heartbeat("w/1"), unreachable.report("w/1", {"s": AckReport(FIRST)}),
        unreachable.forget("w/1", ["s"]), unreachable.read_acks("s"),
    ):  # fmt: skip
        with pytest.raises(StoreUnavailableError) as raised:
            await call
        assert "hunter2" not in str(raised.value)
    await connection.aclose()
