"""A runtime knows what has ended, and how many predictions of a profile may run."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from snakepit_bridge.redis.connection import RedisConnection
from tasks.runtime import Runtime


def runtime_on(url: str, **fields: Any) -> Runtime:
    nothing: Any = None
    defaults: dict[str, Any] = {
        "concurrency_limits": {},
        "cancellations": nothing,
        "profiles": nothing,
        "cache": nothing,
        "rollouts": nothing,
        "metrics": nothing,
    }
    parts: dict[str, Any] = {
        "sessions": nothing,
        "registry": nothing,
        "binder": nothing,
        "payloads": nothing,
        "store": nothing,
        "keep_s": 60.0,
    }
    own: dict[str, Any] = {"results": RedisConnection(url), **fields}
    return Runtime(**{**defaults, **parts, **own})


@pytest.mark.parametrize(
    ("state", "expected"), [(None, False), ("RETRY", False), ("SUCCESS", True), ("FAILURE", True), ("REVOKED", True)]
)
async def test_a_task_has_ended_once_its_stored_state_is_final(
    redis_url: str, state: str | None, expected: bool
) -> None:
    runtime = runtime_on(redis_url)
    if state is not None:
        await runtime.results.client.set("result", json.dumps({"status": state}), ex=60)
    assert await runtime.ended("result") is expected
    await runtime.results.aclose()


async def test_a_profile_with_a_limit_has_room_for_so_many(redis_url: str) -> None:
    runtime = runtime_on(redis_url, concurrency_limits={"small": asyncio.Semaphore(2)})
    running, most = 0, 0

    async def predict(profile: str) -> None:
        nonlocal running, most
        async with runtime.concurrency_slot(profile):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.005)
            running -= 1

    await asyncio.gather(*(predict("small") for _ in range(8)))
    assert most == 2
    most = 0
    await asyncio.gather(*(predict("unlimited") for _ in range(8)))
    assert most == 8
