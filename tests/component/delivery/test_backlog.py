"""What waits in a fleet, counted on a real server."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.backlog import read_fleet_backlog
from snakepit_bridge.delivery.backlog import Backlog, read_backlog
from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.redis.connection import RedisConnection
from tests.harness.broker import channel, put, take
from tests.harness.servers import on_each_server
from workers.broker.lease_keeper import LeaseKeeper
from workers.broker.lease_settings import LeaseSettings
from workers.broker.leases import LeaseTable

pytest_generate_tests = on_each_server
pytestmark = pytest.mark.keeps_keys(".*")

QUEUE, CODE = "predictions", "predictions.code"
KEYS = DeliveryKeys()


@pytest.fixture
async def connection(redis_url: str) -> AsyncGenerator[RedisConnection]:
    connection = RedisConnection(redis_url)
    yield connection
    await connection.aclose()


@pytest.fixture
def client(redis_url: str) -> Generator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


async def read(connection: RedisConnection) -> Backlog:
    return await read_backlog(connection, [QUEUE, CODE])


def ages(backlog: Backlog, queue: str = QUEUE) -> dict[str, float | None]:
    return {depth.priorities: depth.oldest_s for depth in backlog.queues if depth.queue == queue}


async def test_an_empty_fleet_has_no_backlog(connection: RedisConnection) -> None:
    backlog = await read(connection)
    assert (backlog.held, backlog.delayed, backlog.dead, backlog.expired) == (0, 0, 0, 0)
    assert backlog.by_priority(QUEUE) == {"9": 0, "6 to 8": 0, "3 to 5": 0, "0 to 2": 0}
    assert set(ages(backlog).values()) == {0.0}


async def test_messages_count_by_queue_and_priority(redis_url: str, connection: RedisConnection) -> None:
    with channel(redis_url) as sent:
        for priority in (2, 2, 0, 9, 5):
            put(sent, [], priority=priority)
        put(sent, [], CODE, priority=7)
    backlog = await read(connection)
    assert backlog.by_priority(QUEUE) == {"9": 1, "6 to 8": 0, "3 to 5": 1, "0 to 2": 3}
    assert backlog.by_priority(CODE) == {"9": 0, "6 to 8": 1, "3 to 5": 0, "0 to 2": 0}


async def test_the_age_is_that_of_the_message_that_is_next(redis_url: str, connection: RedisConnection) -> None:
    now = time.time()
    with channel(redis_url) as sent:
        for seconds in (90, 60, 30):
            put(sent, ["x" * 10_000], priority=2, headers={"sent_at": now - seconds, "text": '"sent_at": 1'})
    assert 90 <= (ages(await read(connection))["0 to 2"] or 0) < 100
    with channel(redis_url) as consumer:
        take(consumer)
        assert 60 <= (ages(await read(connection))["0 to 2"] or 0) < 70


async def test_a_message_of_another_client_has_no_age(client: Redis, connection: RedisConnection) -> None:
    client.lpush(QUEUE, json.dumps({"body": "", "headers": {"id": "1"}, "properties": {}}))
    client.lpush(KEYS.waiting(QUEUE, 9), b"\xff no message")
    backlog = await read(connection)
    assert (ages(backlog)["0 to 2"], ages(backlog)["9"]) == (None, None)
    assert sum(backlog.by_priority(QUEUE).values()) == 2


async def test_held_delayed_and_dead_messages_are_counted(
    redis_url: str, client: Redis, connection: RedisConnection
) -> None:
    with channel(redis_url, delivery_key=KEYS.base) as first, channel(redis_url, delivery_key=KEYS.base) as second:
        for _ in range(5):
            put(first, [])
        for _ in range(2):
            take(first)
        take(second)
        client.zadd(KEYS.delayed, {"a": 1, "b": 2})
        client.zadd(KEYS.dead, {"c": 1})
        backlog = await read(connection)
        assert (backlog.held, backlog.delayed, backlog.dead) == (3, 2, 1)


def hold(client: Redis, worker: str, number: int, waited_in: str = QUEUE) -> None:
    message = {"body": "e30=", "headers": {"id": f"id-{number}"}, "properties": {"delivery_info": {}}}
    client.hset(KEYS.held(worker), f"{worker}.{number}", f"{waited_in}\n{json.dumps(message)}")
    client.hsetnx(KEYS.workers, worker, "0")  # type: ignore[arg-type]


async def test_messages_of_a_lost_worker_count_as_expired_leases(client: Redis, connection: RedisConnection) -> None:
    for number in range(3):
        hold(client, "lost", number)
    keepers = [LeaseKeeper(LeaseTable(KEYS, LeaseSettings()), lambda: client) for _ in range(2)]
    for keeper in keepers:  # the second finds nothing any more
        keeper._reap(keeper._get_scripts(), "lost", "0")
    backlog = await read(connection)
    assert (backlog.expired, backlog.held, sum(backlog.by_priority(QUEUE).values())) == (3, 0, 3)


async def test_demand_is_what_waits_and_what_workers_hold_by_queue(client: Redis, connection: RedisConnection) -> None:
    client.lpush(QUEUE, "a", "b")
    client.lpush(KEYS.waiting(CODE, 6), "c")
    for number in range(3):
        hold(client, "asyncio", number)
    hold(client, "code", 1, KEYS.waiting(CODE, 6))
    backlog = await read(connection)
    assert [(depth.queue, depth.held) for depth in backlog.queues if depth.held] == [(QUEUE, 3), (CODE, 1)]
    assert backlog.demand() == {QUEUE: 5, CODE: 2}


@pytest.mark.parametrize("parked_in", ["dspex:{limits}:messages", "dspex:{lm-batches}:parked", KEYS.delayed])
async def test_what_is_put_aside_needs_one_worker_that_moves_it(
    client: Redis, connection: RedisConnection, parked_in: str
) -> None:
    assert (await read(connection)).demand() == {QUEUE: 0, CODE: 0}
    for number in range(3):
        if parked_in == KEYS.delayed:
            client.zadd(parked_in, {str(number): 1})
        else:
            client.hset(parked_in, str(number), f"{CODE}\nmessage")
    assert (await read(connection)).demand() == {QUEUE: 1, CODE: 0}
    client.lpush(QUEUE, "a", "b")
    assert (await read(connection)).demand() == {QUEUE: 2, CODE: 0}


async def test_the_cost_does_not_grow_with_the_queue(client: Redis, connection: RedisConnection) -> None:
    """It looks at one message of a list, and asks for lengths."""
    client.lpush(QUEUE, *[json.dumps({"headers": {"sent_at": 1.0}, "body": "x" * 100})] * 5_000)
    client.config_resetstat()
    assert (await read(connection)).by_priority(QUEUE)["0 to 2"] == 5_000
    stats: Any = client.info("commandstats")
    called = {name.removeprefix("cmdstat_"): found["calls"] for name, found in stats.items()}
    assert called["lindex"] == called["llen"] == 8
    assert not {"lrange", "hgetall", "hvals", "zrange", "keys", "scan"} & called.keys()


async def test_a_fleet_on_redis_reads_it_from_there(redis_url: str) -> None:
    with channel(redis_url) as sent:
        put(sent, [], priority=2)
    fleet = Fleet(redis_url)
    assert (await read_fleet_backlog(fleet, [fleet.queue])).by_priority(QUEUE)["0 to 2"] == 1
    await fleet.connection.aclose()
