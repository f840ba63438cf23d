"""The way to Redis: which URLs it takes, and what it shows of them."""

from __future__ import annotations

import asyncio
import gc

from snakepit_bridge.redis.connection import RedisConnection
from tests.harness.leaks import connections
from tests.harness.waiting import eventually, wait_until


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


def test_a_connection_outlives_its_event_loop(redis_url: str) -> None:
    before, connection = connections(redis_url), RedisConnection(redis_url)
    for _ in range(3):
        asyncio.run(ping(connection))
        wait_until(lambda: not connections(redis_url) - before, "what the loop has opened to be closed with it")
