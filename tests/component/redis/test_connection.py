"""The way to Redis: which URLs it takes, and what it shows of them."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

import pytest
from kombu.connection import Connection
from redis.exceptions import ResponseError

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import ConfigurationError, StoreUnavailableError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.scripts import Script
from snakepit_bridge.telemetry.metrics import REDIS_COMMANDS, REDIS_DURATION
from tests.harness.leaks import connections
from tests.harness.meter import RecordedMeter, recorded_meter
from tests.harness.waiting import eventually, wait_until
from workers.broker.transport import Transport


async def ping(connection: RedisConnection) -> None:
    await connection.wait_bounded(connection.client.ping())


async def test_a_freed_connection_is_closed(redis_url: str) -> None:
    before, connection = connections(redis_url), RedisConnection(redis_url)
    await asyncio.gather(*(ping(connection) for _ in range(3)), connection.execute("PING"))
    assert len(connections(redis_url) - before) > 1
    del connection

    async def closed() -> bool:
        gc.collect()
        return not connections(redis_url) - before

    await eventually(closed, "all of its connections to be closed")


async def test_a_database_that_isnt_there_is_named(redis_url: str) -> None:
    connection = RedisConnection(f"{redis_url.rpartition('/')[0]}/9999")
    with pytest.raises(ConfigurationError, match=r"/9999 can't be used: .*out of range.*the number at the URL's end"):
        await connection.execute("PING")
    with pytest.raises(ConfigurationError, match="the number at the URL's end"):
        Fleet(connection.url).submit("qa", {})


def test_a_connection_outlives_its_event_loop(redis_url: str) -> None:
    before, connection = connections(redis_url), RedisConnection(redis_url)
    for _ in range(3):
        asyncio.run(ping(connection))
        wait_until(lambda: not connections(redis_url) - before, "what the loop has opened to be closed with it")


def test_connections_are_opened_without_a_look_into_redis_pys_package(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look() -> str:
        raise AssertionError("redis-py's version is known")

    monkeypatch.setattr("redis.utils.get_lib_version", look)
    asyncio.run(ping(RedisConnection(redis_url)))
    with Connection(redis_url, transport=Transport) as broker:
        channel: Any = broker.default_channel
        assert channel.client.ping()


def trips(meter: RecordedMeter) -> Counter[tuple[str, str]]:
    """Return how many round trips were recorded, by operation and error."""
    return Counter((labels["db.operation.name"], labels["error.type"]) for _, labels in meter.of(REDIS_DURATION))


async def test_round_trips_and_their_commands_are_counted(redis_url: str) -> None:
    connection, script = RedisConnection(redis_url), Script("return 1")
    with recorded_meter(own_thread=True) as meter:
        await ping(connection)
        await connection.send_each([("PING",)] * 3)
        await connection.run(script, (), ())
        await connection.run_each(script, [((), ())] * 2)
        await asyncio.gather(*(connection.execute("GET", str(number)) for number in range(5)))
    await connection.aclose()
    assert trips(meter) == {("COMMAND", ""): 1, ("PIPELINE", ""): 3, ("EVALSHA", ""): 1}
    assert sum(count for count, _ in meter.of(REDIS_COMMANDS)) == 1 + 3 + 1 + 2 + 5
    assert all(0 <= seconds < 5 for seconds, _ in meter.of(REDIS_DURATION))


async def test_a_round_trip_that_fails_is_recorded_with_its_error(redis_url: str) -> None:
    connection, silent = RedisConnection(redis_url), RedisConnection(redis_url, timeout_s=0.1)
    with recorded_meter(own_thread=True) as meter:
        with pytest.raises(ResponseError):
            await connection.send_each([("LLEN",)])
        with pytest.raises(StoreUnavailableError):
            await silent.send_each([("BLPOP", "nothing", "5")])
    for each in (connection, silent):
        await each.aclose()
    assert trips(meter) == {("PIPELINE", "ResponseError"): 1, ("PIPELINE", "TimeoutError"): 1}


async def test_what_a_call_opens_after_the_close_is_closed_with_the_call(redis_url: str) -> None:
    before, connection = connections(redis_url), RedisConnection(redis_url)
    pending = asyncio.create_task(ping(connection))
    await asyncio.sleep(0)  # it has begun to connect
    await connection.aclose()
    await pending

    async def closed() -> bool:
        return not connections(redis_url) - before

    await eventually(closed, "the connection of the call to be closed")
