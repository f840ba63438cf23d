"""What the tests of datasets in Redis share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis import Redis

from snakepit_bridge.redis.connection import RedisConnection


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(redis_url)
    yield connection
    await connection.aclose()


@pytest.fixture
def client(redis_url: str) -> Redis:
    return Redis.from_url(redis_url)
