"""What the tests of programs in Redis share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis import Redis

from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.redis.connection import RedisConnection


@pytest.fixture
async def registry(redis_url: str) -> AsyncIterator[ProgramRegistry]:
    """A program of three versions, of which the label ``prod`` is the first."""
    connection = RedisConnection(redis_url)
    registry = ProgramRegistry(connection)
    for lm in ("a", "b", "c"):
        spec = {"module": "Predict", "signature": "question -> answer", "lm": lm}
        await registry.register("qa", ProgramSpec.parse(spec, program="qa"))
    await registry.label("qa", "prod", 1)
    yield registry
    await connection.client.aclose()


@pytest.fixture
def client(redis_url: str) -> Redis:
    return Redis.from_url(redis_url)
